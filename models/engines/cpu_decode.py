"""Decodes pictures on all cores of the CPU while the layers run on the device.

Without this, a call decodes its pictures one after another in the thread that made it, and a GPU waits. So the graph
is split where everything that decodes has come together. The rows of a call go through the first part, the decode
stage, in pieces, as many at once as there are cores, and through the second part in one call. Measured with TensorFlow
2.21 on an H100 and 16 cores, JPEGs a second of EfficientNet-Lite0, 64 rows and two calls at once: 536 whole, 5,416
split.

The pieces are fed to the device one by one, at a concatenation point: extra placeholders and a concat op that are added
to the graph. If Python concatenated them, one thread would copy all of it into fresh memory, and TensorFlow would copy
it again, because numpy does not align memory as TensorFlow requires. Measured as above, pictures a second of the layers
alone, 32 rows and two calls at once: 6,395 from Python's array, 9,139 with a concatenation point; from JPEGs on 3,305
and 5,101.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from darkroom.models.engine import PassReport
from darkroom.models.engines.row_prefix import find_dominators
from darkroom.models.engines.tuning import Timer, time_both
from darkroom.models.errors import InvalidInput
from darkroom.models.graph.decoding_ops import find_decoding_nodes, layers_before
from darkroom.models.graph.reachability import node_name, prune, reachable_names
from darkroom.models.rewriting.verify import EXACT, difference
from darkroom.models.rows import Rows, fill
from darkroom.models.runtime.session import Binding, SessionEngine, clean
from darkroom.models.runtime.tensorflow import graph_pb2, tf

CPU_DECODE = "front"  # the pass's name in metrics, metadata and logs
SIZES = (2, 8, 32)  # rows of the calls that are timed (guess)
MIN_GAIN = 0.95  # times as fast; less is a loss, more may be background load
ROUNDS = 5


class DecodePool:
    """Threads, one a core, that run the decode stage for all engines of a model."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decode")

    def spread(self, stage: Callable[..., Sequence[Any]], arrays: Sequence[Any]) -> list[Any]:
        """The stage's one output for all rows, in as many pieces as there are cores, or rows if those are fewer.

        Waits for every piece even if one fails, so that nothing uses the session after the return.

        Args:
            stage: takes arrays and returns one array.
            arrays: `n` rows each.

        Raises:
            Exception: what the stage raised, of the first piece for which it did.
        """
        rows = len(arrays[0])
        count = min(rows, self._count)
        edges = [rows * n // count for n in range(count + 1)]
        pieces = [[array[start:stop] for array in arrays] for start, stop in pairwise(edges)]
        running = [self._threads.submit(stage, *piece) for piece in pieces]
        wait(running)
        return [each.result()[0] for each in running]

    def close(self) -> None:
        """Ends the threads; idempotent."""
        self._threads.shutdown()


class CpuDecodeEngine:
    """One row-wise signature on a device. Calls of `min_rows` rows or more run split, smaller ones whole."""

    def __init__(self, whole: SessionEngine, split: SessionEngine, min_rows: int = SIZES[0]) -> None:
        self.spec = whole.spec
        self.passes = whole.passes
        self.min_rows = min_rows
        self._whole = whole
        self._split = split

    def run(self, rows: Rows) -> Rows:
        """The outputs of one call; see darkroom.models.engine.Engine."""
        is_split = rows.aligned and len(rows) >= self.min_rows
        return (self._split if is_split else self._whole).run(rows)

    def screen(self, rows: Rows) -> list[InvalidInput | None]:
        """What is wrong with each row; see darkroom.models.engine.Screener."""
        return self._whole.screen(rows)

    def close(self) -> None:
        """Releases the callables; idempotent. No call may be running."""
        self._whole.close()
        self._split.close()


class ConcatPoint(NamedTuple):
    """A node whose rows may be fed in up to `pieces` pieces, each `dtype[n, *shape]`, instead of being computed."""

    name: str
    dtype: Any
    shape: tuple[int, ...]
    pieces: int

    @property
    def tensors(self) -> list[str]:
        """The tensors to feed, one a piece."""
        return [f"{self.name}:0", *(f"{part}:0" for part in self._parts)]

    @property
    def end(self) -> str:
        """The node that has all rows."""
        return f"{self.name}/all_rows"

    def fill(self, pieces: Sequence[Any]) -> list[Any]:
        """A value for each of `tensors`: the pieces, then arrays without rows."""
        return [*pieces, *[self._no_rows] * (self.pieces - len(pieces))]

    def nodes(self, device: str) -> list[Any]:
        """The nodes that concatenate the pieces. Where no piece is fed, they add nothing to the rows of `name`."""
        with tf.Graph().as_default() as graph:
            first = tf.compat.v1.placeholder(self.dtype, [None, *self.shape], name=self.name)
            parts = [
                tf.compat.v1.placeholder_with_default(self._no_rows, [None, *self.shape], name=part)
                for part in self._parts
            ]
            tf.concat([first, *parts], 0, name=self.end)
        nodes = [node for node in graph.as_graph_def().node if node.name != self.name]
        for node in nodes:
            node.device = device
        return nodes

    @property
    def _parts(self) -> list[str]:
        return [f"{self.name}/piece_{place}" for place in range(1, self.pieces)]

    @property
    def _no_rows(self) -> Any:
        return np.zeros((0, *self.shape), self.dtype.as_numpy_dtype)


def concat_point(graph_def: Any, name: str, pieces: int) -> ConcatPoint | None:
    """A concatenation point behind the node `name`; None where its rows are strings or of no fixed shape."""
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(prune(graph_def, [name]), name="")
    tensor = graph.get_tensor_by_name(f"{name}:0")
    if not tensor.shape.rank or not tensor.shape[1:].is_fully_defined() or tensor.dtype == tf.string:
        return None
    return ConcatPoint(name, tensor.dtype, tuple(tensor.shape[1:]), pieces)


def concat_points(graph_def: Any, bindings: Iterable[Binding], pieces: int) -> dict[str, ConcatPoint]:
    """The concatenation points for the decode stages of a graph, by the node whose rows they take."""
    points = {}
    for binding in bindings:
        with contextlib.suppress(ValueError):
            name, _ = find_decode_stage(graph_def, binding)
            if name and (point := concat_point(graph_def, name, pieces)):
                points[name] = point
    return points


def with_concat_points(graph_def: Any, points: Iterable[ConcatPoint], device: str) -> Any:
    """A copy of the graph with the points' nodes, on `device`, in which every reader of a point's rows reads from them."""
    made = graph_pb2.GraphDef()
    made.CopyFrom(graph_def)
    ends = {name: point.end for point in points for name in (point.name, f"{point.name}:0")}
    for node in made.node:
        node.input[:] = [ends.get(name, name) for name in node.input]
    for point in points:
        made.node.extend(point.nodes(device))
    return made


def find_decode_stage(graph_def: Any, binding: Binding) -> tuple[str, set[str]]:
    """The node at which the decode stage ends, and the nodes up to it.

    All rows pass through that node, and everything that decodes is before it. Where there is no such node before the
    layers, the name is empty and the nodes are those that decode.

    Raises:
        ValueError: nothing is decoded, or it is decoded after a layer.
    """
    feeds, fetches = list(binding.feeds.values()), list(binding.fetches.values())
    cut = find_decoding_nodes(graph_def, feeds, fetches)
    awaited = {node_name(name) for name in cut}
    for name, since in find_dominators(graph_def, feeds, fetches):
        awaited -= set(since)
        if not awaited:
            if layers_before(graph_def, [name]):
                break
            return name, reachable_names(graph_def, [name])[0]
    return "", reachable_names(graph_def, cut)[0]


def with_cpu_decode(
    engines: Mapping[str, SessionEngine],
    graph_def: Any,
    bindings: Mapping[str, Binding],
    samples: Mapping[str, Sequence[Rows]],
    pool: DecodePool,
    *,
    points: Mapping[str, ConcatPoint],
    float_bytes: int = EXACT,
    timer: Timer = time_both,
) -> dict[str, CpuDecodeEngine]:
    """The signatures for which splitting is proven equal and measured to pay; for every other one the reason is added.

    Reports go into the passes of `engines`. A signature that is split owns its engine of `engines` from then on.

    Args:
        engines: the signatures, on one device.
        graph_def: the graph that they run.
        bindings: each signature's tensors in it.
        samples: single rows that each takes.
        pool: what runs the decode stages.
        points: the concatenation points of the graph, by the node whose rows they take.
        float_bytes: how exact the device is; see models/rewriting/verify.py.
        timer: what compares the two.
    """
    kept = {}
    for name, whole in engines.items():
        split = None
        try:
            split = _split(whole, graph_def, bindings[name], samples[name], pool=pool, points=points)
            min_rows, reason = _min_rows(whole, split, samples[name], float_bytes, timer)
        except Exception as err:  # noqa: BLE001 - whatever TensorFlow raises, the whole graph still serves
            min_rows, reason = 0, clean(str(err))
        whole.passes = (*whole.passes, PassReport(CPU_DECODE, min_rows > 0, reason))
        if split is not None and min_rows:
            kept[name] = CpuDecodeEngine(whole, split, min_rows)
        elif split is not None:
            split.close()
    return kept


def _split(
    whole: SessionEngine,
    graph_def: Any,
    binding: Binding,
    samples: Sequence[Rows],
    *,
    pool: DecodePool,
    points: Mapping[str, ConcatPoint],
) -> SessionEngine:
    """The signature with its decode stage in `pool`.

    Raises:
        ValueError: it cannot be split; says why.
    """
    if not (whole.spec.batched and samples):
        raise ValueError("its rows never share a call")
    name, _ = find_decode_stage(graph_def, binding)
    if not name:
        raise ValueError("no node between what decodes and the layers is passed by all rows")
    point = points.get(name)
    if point is None:
        return whole.split_at(f"{name}:0", lambda stage, arrays: [np.concatenate(pool.spread(stage, arrays))])
    first, *more = point.tensors
    return whole.split_at(first, lambda stage, arrays: point.fill(pool.spread(stage, arrays)), more)


def _min_rows(
    whole: SessionEngine, split: SessionEngine, samples: Sequence[Rows], float_bytes: int, timer: Timer
) -> tuple[int, str]:
    """The size from which on the split engine never lost; 0 where it lost or answers differently. And what was found."""
    min_rows, gain = 0, 0.0
    if reason := difference(whole, split, samples, float_bytes=float_bytes):
        return 0, reason
    for size in SIZES:
        whole_s, split_s = timer(whole.run, split.run, fill(samples, size), rounds=ROUNDS)
        gain = whole_s / split_s
        min_rows = 0 if gain < MIN_GAIN else min_rows or size
    found = f"{gain:.2f} times as fast at {SIZES[-1]} rows"
    return min_rows, f"from {min_rows} rows on; {found}" if min_rows else found
