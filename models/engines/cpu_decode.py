"""The front of a graph on a device: pictures are decoded on every core of the CPU, then the layers run on the device.

A call decodes its pictures in the thread that made it, one after another, and a GPU waits for that. So the graph is
parted where all that decodes has come together; the rows of a call go through the part in front in pieces, as many at
once as there are cores, and through the part behind in one call. Measured with TensorFlow 2.21 on an H100 and 16 cores,
JPEGs a second of EfficientNet-Lite0, 64 rows and two calls at once: 536 whole, 5,416 so.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import numpy as np

from darkroom.models.engine import PassReport
from darkroom.models.engines.joint import Joint, find_joint
from darkroom.models.engines.row_prefix import find_waists
from darkroom.models.engines.tuning import in_turns
from darkroom.models.errors import InvalidInput
from darkroom.models.graph.decoding_ops import find_decoding_nodes, layers_before
from darkroom.models.graph.reachability import node_name, reachable_names
from darkroom.models.rewriting.verify import EXACT, difference
from darkroom.models.rows import Rows, fill
from darkroom.models.runtime.session import Binding, SessionEngine, clean

FRONT = "front"  # the name of the pass
SIZES = (2, 8, 32)  # rows of the calls that are timed (guess)
LOSS = 0.95  # times as fast; less is a loss, more may be what else ran
ROUNDS = 5


class Cores:
    """Threads, one a core, that run the front of all engines of a model."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="front")

    def spread(self, front: Callable[..., Sequence[Any]], arrays: Sequence[Any]) -> list[Any]:
        """The front's one output for all rows, in as many pieces as there are cores, or rows.

        Waits for every piece, whatever becomes of the others: once this is over nobody uses the session.

        Raises:
            Exception: what the front raised, of the first piece that it raised for.
        """
        rows = len(arrays[0])
        count = min(rows, self._count)
        edges = [rows * n // count for n in range(count + 1)]
        pieces = [[array[start:stop] for array in arrays] for start, stop in pairwise(edges)]
        running = [self._pool.submit(front, *piece) for piece in pieces]
        wait(running)
        return [each.result()[0] for each in running]

    def close(self) -> None:
        """Ends the threads; idempotent."""
        self._pool.shutdown()


class FrontedEngine:
    """One row-wise signature on a device, with its front on the cores of the CPU for calls of `least` rows or more."""

    def __init__(self, whole: SessionEngine, parted: SessionEngine, least: int = SIZES[0]) -> None:
        self.spec = whole.spec
        self.passes = whole.passes
        self.least = least
        self._whole = whole
        self._parted = parted

    def run(self, rows: Rows) -> Rows:
        """The outputs of one call; see darkroom.models.engine.Engine."""
        is_parted = rows.aligned and len(rows) >= self.least
        return (self._parted if is_parted else self._whole).run(rows)

    def screen(self, rows: Rows) -> list[InvalidInput | None]:
        """What is wrong with each row; see darkroom.models.engine.Screener."""
        return self._whole.screen(rows)

    def close(self) -> None:
        """Lets the callables go; idempotent. No call may be running."""
        self._whole.close()
        self._parted.close()


def find_front(graph_def: Any, binding: Binding) -> tuple[str, set[str]]:
    """The node behind which everything is decoded and through which all rows pass, and the nodes up to it.

    Where there is no such node in front of the layers the name is empty, and the nodes are those that decode.

    Raises:
        ValueError: nothing is decoded, or behind a layer.
    """
    feeds, fetches = list(binding.feeds.values()), list(binding.fetches.values())
    cut = find_decoding_nodes(graph_def, feeds, fetches)
    awaited = {node_name(name) for name in cut}
    for name, since in find_waists(graph_def, feeds, fetches):
        awaited -= set(since)
        if not awaited:
            if layers_before(graph_def, [name]):
                break
            return name, reachable_names(graph_def, [name])[0]
    return "", reachable_names(graph_def, cut)[0]


def find_joints(graph_def: Any, bindings: Iterable[Binding], pieces: int) -> dict[str, Joint]:
    """The joints that the graph should have for its fronts, by the node whose rows they take."""
    joints = {}
    for binding in bindings:
        with contextlib.suppress(ValueError):
            name, _ = find_front(graph_def, binding)
            if name and (joint := find_joint(graph_def, name, pieces)):
                joints[name] = joint
    return joints


def with_front(
    engines: Mapping[str, SessionEngine],
    graph_def: Any,
    bindings: Mapping[str, Binding],
    samples: Mapping[str, Sequence[Rows]],
    cores: Cores,
    *,
    joints: Mapping[str, Joint],
    float_bytes: int = EXACT,
) -> dict[str, FrontedEngine]:
    """The signatures for which that is proven and measured to pay; every other one is told why not in its passes.

    Args:
        engines: the signatures, on one device.
        graph_def: the graph that they run.
        bindings: where each is in it.
        samples: single rows that each takes.
        cores: who runs the fronts.
        joints: those of the graph, by the node whose rows they take.
        float_bytes: how exact the device is; see models/rewriting/verify.py.
    """
    kept = {}
    for name, whole in engines.items():
        try:
            waist = _waist(whole, graph_def, bindings[name], samples[name])
            parted = _part(whole, waist, joints.get(waist), cores)
            candidate, report = _try(whole, parted, samples[name], float_bytes)
        except Exception as err:  # noqa: BLE001 - whatever TensorFlow raises, the whole graph still serves
            candidate, report = None, PassReport(FRONT, applied=False, reason=clean(str(err)))
        whole.passes = (*whole.passes, report)
        if candidate is not None:
            candidate.passes = whole.passes
            kept[name] = candidate
    return kept


def _waist(whole: SessionEngine, graph_def: Any, binding: Binding, samples: Sequence[Rows]) -> str:
    """The node behind which the signature is parted.

    Raises:
        ValueError: it can't be; says why.
    """
    if not (whole.spec.batched and samples):
        raise ValueError("its rows never share a call")
    name, _ = find_front(graph_def, binding)
    if not name:
        raise ValueError("no node between what decodes and the layers is passed by all rows")
    return name


def _part(whole: SessionEngine, waist: str, joint: Joint | None, cores: Cores) -> SessionEngine:
    if joint is None:
        return whole.split_at(f"{waist}:0", lambda front, arrays: [np.concatenate(cores.spread(front, arrays))])
    first, *more = joint.tensors
    return whole.split_at(first, lambda front, arrays: joint.fill(cores.spread(front, arrays)), more)


def _try(
    whole: SessionEngine, parted: SessionEngine, samples: Sequence[Rows], float_bytes: int
) -> tuple[FrontedEngine | None, PassReport]:
    """The two as one engine if they answer alike and the parts are faster from some size on, and what was found."""
    least, gain = 0, 0.0
    reason = difference(whole, parted, samples, float_bytes=float_bytes)
    for size in () if reason else SIZES:
        whole_s, parted_s = in_turns(whole.run, parted.run, fill(samples, size), rounds=ROUNDS)
        gain = whole_s / parted_s
        least = 0 if gain < LOSS else least or size
    reason = reason or f"{gain:.2f} times as fast at {SIZES[-1]} rows"
    if not least:
        parted.close()
        return None, PassReport(FRONT, applied=False, reason=reason)
    return FrontedEngine(whole, parted, least), PassReport(
        FRONT, applied=True, reason=f"from {least} rows on; {reason}"
    )
