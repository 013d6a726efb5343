"""Runs the first layers of a graph row by row, where that is quicker, and the rest for all rows together.

The first layers of an image network have few weights and large activations: 4.8 MB a row of EfficientNet-Lite0. Eight
rows together send those through main memory; one row alone mostly stays in the caches. The last layers have the
weights, and gain from many rows for each time these are read. So the graph is split at a tensor through which all rows
pass. Measured with TensorFlow 2.21 in one thread, milliseconds of its CPU time, medians of one run: 8 rows 64.4 whole
and 60.3 split at a tensor of 28x28x40; 16 rows 140 and 118; one row the same.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from darkroom.models.engine import PassReport
from darkroom.models.engines.tuning import Timer, Tuning, seconds_of, time_both
from darkroom.models.graph.decoding_ops import downstream, readers_of
from darkroom.models.graph.reachability import node_name, reachable_names
from darkroom.models.rewriting.verify import difference
from darkroom.models.rows import Rows, fill
from darkroom.models.runtime.session import Binding, SessionEngine, clean

ROW_PREFIX = "row_prefix"  # the pass's name in metrics, metadata and logs
ROWS = 8  # of the call that is measured; larger ones gain more
MIN_PROMISE = 1.03  # times as fast by the ops' times; less is not worth the second call
MIN_GAIN = 1.0  # times as fast when tried: background load hides some of the gain, and larger calls gain more
MAX_SEARCH_S = 3.0  # a model that would take longer is not searched: it has to be ready some day (guess)
# Each form that is tried takes the weights once more, and TensorFlow frees none of it while the session lives. Measured on
# a ResNet50 of 102 MB: 150 MB for each callable, and 1.1 GB while it is made.
MAX_SEARCHED_BYTES = 64 << 20
CALLS, ROUNDS = 3, 5  # to find the split, and to try it: one call of a large model takes a second


def with_row_prefix(
    whole: SessionEngine, graph: Any, binding: Binding, samples: Sequence[Rows], *, timer: Timer = time_both
) -> tuple[SessionEngine, PassReport]:
    """The engine split where that gains most, if it is proven equal and measured quicker; else `whole`. Closes the other.

    Args:
        whole: a signature in a session without threads of its own.
        graph: the session's.
        binding: the signature's tensors in it.
        samples: single rows that it takes; the signature is row-wise.
        timer: what compares the two.
    """
    if not (whole.spec.batched and samples):
        return whole, PassReport(ROW_PREFIX, applied=False, reason="its rows never share a call")
    try:
        whole.run(samples[0])  # the first call makes the kernels
        call_s = 2 * ROWS * seconds_of(partial(whole.run, samples[0]))
        calls = min(CALLS, int(MAX_SEARCH_S / max(call_s, 1e-6)))
        if not calls:
            raise ValueError(f"to look for it would take {call_s:.1f} s")  # noqa: TRY301 - as of _best_split
        candidate = whole.split_at(_best_split(whole, graph, binding, samples, calls))
        reason = difference(whole, candidate, samples)
        whole_s, split_s = timer(whole.run, candidate.run, fill(samples, ROWS), rounds=ROUNDS)
    except Exception as err:  # noqa: BLE001 - whatever TensorFlow raises, the whole graph still serves
        return whole, PassReport(ROW_PREFIX, applied=False, reason=clean(str(err)))
    gain = f"{whole_s / split_s:.2f} times as fast at {ROWS} rows a core"
    if reason or whole_s < MIN_GAIN * split_s:
        candidate.close()
        return whole, PassReport(ROW_PREFIX, applied=False, reason=reason or gain)
    whole.close()
    return candidate, PassReport(ROW_PREFIX, applied=True, reason=f"rows one by one up to {candidate.split}: {gain}")


def with_known_row_prefix(
    other: SessionEngine, split_at: Callable[[str], SessionEngine], samples: Sequence[Rows], tuning: Tuning
) -> tuple[SessionEngine, PassReport]:
    """As `with_row_prefix`, by the tuning of a graph with the same key: proven again, but neither searched nor timed.

    Args:
        other: the signature in its other session, whose answers the result must give.
        split_at: makes the signature in the session without threads, split at that tensor; empty: whole.
        samples: single rows that it takes.
        tuning: what was decided.
    """
    try:
        candidate = split_at(tuning.split)
        reason = difference(other, candidate, samples) if tuning.split else ""
    except Exception as err:  # noqa: BLE001 - whatever TensorFlow raises, the whole graph still serves
        return split_at(""), PassReport(ROW_PREFIX, applied=False, reason=clean(str(err)))
    if reason:
        candidate.close()
        return split_at(""), PassReport(ROW_PREFIX, applied=False, reason=reason)
    return candidate, tuning.split_report


def _best_split(engine: SessionEngine, graph: Any, binding: Binding, samples: Sequence[Rows], calls: int) -> str:
    """The tensor up to which `ROWS` rows one by one save the most time, by the times of the ops.

    Skipped are nodes that do not run, since Grappler fused them with the next one, and tensors that are larger than an
    earlier candidate, since the whole tensor is copied at the split.

    Raises:
        ValueError: the rows would save too little.
    """

    def row_size(tensor: Any) -> float:
        """The numbers in a row; infinite where that is not known, and for tensors that no layer gives."""
        if not tensor.dtype.is_floating or not tensor.shape.rank:
            return math.inf
        return tensor.shape[1:].num_elements() or math.inf

    many_s = engine.nodes_of(fill(samples, ROWS), calls=calls)
    one_s = engine.nodes_of(samples[0], calls=ROWS * calls)
    saved_s = best_s = 0.0
    best, smallest = "", math.inf
    feeds, fetches = list(binding.feeds.values()), list(binding.fetches.values())
    for split, nodes in find_dominators(graph.as_graph_def(), feeds, fetches):
        saved_s += sum(many_s.get(name, 0.0) - ROWS * one_s.get(name, 0.0) for name in nodes)
        size = row_size(graph.get_tensor_by_name(f"{split}:0"))
        if size <= smallest and split in many_s:
            smallest = size
            if saved_s > best_s:
                best, best_s = split, saved_s
    whole_s = sum(many_s.values())
    if whole_s < MIN_PROMISE * (whole_s - best_s):
        raise ValueError(f"rows one by one would save {100 * best_s / whole_s:.0f} % of {ROWS} rows a core")
    return f"{best}:0"


def find_dominators(graph_def: Any, feeds: Sequence[str], fetches: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The nodes that dominate all outputs: every path from the inputs goes through the node's first output.

    Args:
        graph_def: a graph whose calls are inlined; a TF1 loop is walked once.
        feeds: tensor names.
        fetches: tensor names; their own nodes are never found.

    Yields:
        A node, and the nodes from the one before it up to it, in the order of the graph.
    """
    wanted, _ = reachable_names(graph_def, fetches)
    nodes = {node.name: node for node in graph_def.node if node.name in wanted}
    back = {name for name, node in nodes.items() if node.op == "NextIteration"}
    forward = {name: readers for name, readers in readers_of(nodes).items() if name not in back}
    fed = downstream(map(node_name, feeds), forward) & nodes.keys()
    ends = set(map(node_name, fetches))
    inputs = {name: [tensor for tensor in nodes[name].input if node_name(tensor) in fed - back] for name in fed}
    readers: dict[str, list[tuple[str, str]]] = defaultdict(list)  # node → its readers, and the tensor that each reads
    for name, tensors in inputs.items():
        for tensor in tensors:
            readers[node_name(tensor)].append((name, tensor))
    awaited = {name: len(tensors) for name, tensors in inputs.items()}
    ready = sorted(set(map(node_name, feeds)) & fed)
    exits: list[str] = []  # of loops: visited after all nodes of the loop
    open_edges = len(ready)  # from visited nodes to nodes that are not visited yet
    since: list[str] = []
    while ready or exits:
        name = (ready or exits).pop()
        since.append(name)
        open_edges += len(readers[name]) + (name in ends) - max(len(inputs[name]), 1)
        for reader, _ in readers[name]:
            awaited[reader] -= 1
            if not awaited[reader]:
                (exits if nodes[reader].op == "Exit" else ready).append(reader)
        if open_edges == len(readers[name]) and all(tensor in (name, f"{name}:0") for _, tensor in readers[name]):
            yield name, since
            since = []
