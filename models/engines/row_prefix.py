"""The waist of a graph: a tensor that all rows pass through, and before which they are quicker one by one.

The first layers of an image network have few weights and make much of each picture: 4.8 MB a row of EfficientNet-Lite0,
which eight rows together send through the memory, and one row alone hardly. The last layers have the weights, and want
many rows for each reading of them. Measured with TensorFlow 2.21 in one thread, milliseconds of its CPU, medians of one
run: 8 rows 64.4 whole and 60.3 with a waist of 28x28x40; 16 rows 140 and 118; one row the same.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from darkroom.models.engine import PassReport
from darkroom.models.engines.choices import Choice
from darkroom.models.engines.tuning import in_turns
from darkroom.models.graph.decoding_ops import downstream, readers_of
from darkroom.models.graph.reachability import node_name, reachable_names
from darkroom.models.rewriting.verify import difference
from darkroom.models.rows import Rows, fill
from darkroom.models.runtime.session import Binding, SessionEngine, clean

WAIST = "waist"  # the name of the pass
ROWS = 8  # of the call that is looked at; more gain more
WORTH = 1.03  # times as fast by the ops' times; less is not worth the second call
LEAST = 1.0  # times as fast when tried: what else ran hides some of the gain, and larger calls gain more
CALLS, ROUNDS = 3, 5  # to find it, and to try it: a large model takes a second for one


def with_waist(
    whole: SessionEngine, graph: Any, binding: Binding, samples: Sequence[Rows]
) -> tuple[SessionEngine, PassReport]:
    """The engine with the waist that gains most, if it is proven and measured to gain; else as it is. Closes the other.

    Args:
        whole: a signature in a session without threads of its own.
        graph: the session's.
        binding: the signature's tensors in it.
        samples: single rows that it takes; the signature is row-wise.
    """
    if not (whole.spec.batched and samples):
        return whole, PassReport(WAIST, applied=False, reason="its rows never share a call")
    try:
        candidate = whole.split_at(_best(whole, graph, binding, samples))
        reason = difference(whole, candidate, samples)
        whole_s, parts_s = in_turns(whole.run, candidate.run, fill(samples, ROWS), rounds=ROUNDS)
    except Exception as err:  # noqa: BLE001 - whatever TensorFlow raises, the whole graph still serves
        return whole, PassReport(WAIST, applied=False, reason=clean(str(err)))
    gain = f"{whole_s / parts_s:.2f} times as fast at {ROWS} rows a core"
    if reason or whole_s < LEAST * parts_s:
        candidate.close()
        return whole, PassReport(WAIST, applied=False, reason=reason or gain)
    whole.close()
    return candidate, PassReport(WAIST, applied=True, reason=f"rows one by one up to {candidate.split}: {gain}")


def with_known_waist(
    wide: SessionEngine, split_at: Callable[[str], SessionEngine], samples: Sequence[Rows], choice: Choice
) -> tuple[SessionEngine, PassReport]:
    """As `with_waist`, by what was measured of a graph of the same structure: proven here, but neither found nor timed.

    Args:
        wide: the signature in its other session, whose answers it must give.
        split_at: makes it in the session without threads of its own, with that waist; empty: whole.
        samples: single rows that it takes.
        choice: what was measured.
    """
    try:
        candidate = split_at(choice.waist)
        reason = difference(wide, candidate, samples) if choice.waist else ""
    except Exception as err:  # noqa: BLE001 - whatever TensorFlow raises, the whole graph still serves
        return split_at(""), PassReport(WAIST, applied=False, reason=clean(str(err)))
    if reason:
        candidate.close()
        return split_at(""), PassReport(WAIST, applied=False, reason=reason)
    return candidate, choice.found_waist


def _best(engine: SessionEngine, graph: Any, binding: Binding, samples: Sequence[Rows]) -> str:
    """The tensor before which `ROWS` rows one by one save most of the time of all at once, by the times of the ops.

    A node that isn't run was made one with the next, and is no place to part them; nor is one that gives more of a row
    than one before it did, since all that it gives is copied.

    Raises:
        ValueError: they save too little.
    """
    many_s = engine.nodes_of(fill(samples, ROWS), calls=CALLS)
    one_s = engine.nodes_of(samples[0], calls=ROWS * CALLS)
    saved_s = best_s = 0.0
    best, least = "", math.inf
    feeds, fetches = list(binding.feeds.values()), list(binding.fetches.values())
    for waist, nodes in find_waists(graph.as_graph_def(), feeds, fetches):
        saved_s += sum(many_s.get(name, 0.0) - ROWS * one_s.get(name, 0.0) for name in nodes)
        size = _row_size(graph.get_tensor_by_name(f"{waist}:0"))
        if size <= least and waist in many_s:
            least = size
            if saved_s > best_s:
                best, best_s = waist, saved_s
    whole_s = sum(many_s.values())
    if whole_s < WORTH * (whole_s - best_s):
        raise ValueError(f"rows one by one would save {100 * best_s / whole_s:.0f} % of {ROWS} rows a core")
    return f"{best}:0"


def _row_size(tensor: Any) -> float:
    """The numbers in a row of a tensor; infinite where that isn't known, and for what no layer gives."""
    if not tensor.dtype.is_floating or not tensor.shape.rank:
        return math.inf
    return tensor.shape[1:].num_elements() or math.inf


def find_waists(graph_def: Any, feeds: Sequence[str], fetches: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The nodes whose first output all that is fed goes through, each with the nodes from the one before it up to it.

    Args:
        graph_def: a graph whose calls are inlined; a TF1 loop is gone through once.
        feeds: tensor names.
        fetches: tensor names; none of their nodes is a waist.
    """
    wanted, _ = reachable_names(graph_def, fetches)
    nodes = {node.name: node for node in graph_def.node if node.name in wanted}
    back = {name for name, node in nodes.items() if node.op == "NextIteration"}
    forward = {name: readers for name, readers in readers_of(nodes).items() if name not in back}
    fed = downstream(map(node_name, feeds), forward) & nodes.keys()
    ends = set(map(node_name, fetches))
    inputs = {name: [tensor for tensor in nodes[name].input if node_name(tensor) in fed - back] for name in fed}
    readers: dict[str, list[tuple[str, str]]] = defaultdict(list)  # node → who reads it, and which tensor
    for name, tensors in inputs.items():
        for tensor in tensors:
            readers[node_name(tensor)].append((name, tensor))
    awaited = {name: len(tensors) for name, tensors in inputs.items()}
    ready = sorted(set(map(node_name, feeds)) & fed)
    exits: list[str] = []  # of loops: after all that is in them
    ways = len(ready)  # out of what was visited
    since: list[str] = []
    while ready or exits:
        name = (ready or exits).pop()
        since.append(name)
        ways += len(readers[name]) + (name in ends) - max(len(inputs[name]), 1)
        for reader, _ in readers[name]:
            awaited[reader] -= 1
            if not awaited[reader]:
                (exits if nodes[reader].op == "Exit" else ready).append(reader)
        if ways == len(readers[name]) and all(tensor in (name, f"{name}:0") for _, tensor in readers[name]):
            yield name, since
            since = []
