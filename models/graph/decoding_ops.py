"""Finds the nodes of a graph that decode what clients sent: pictures, base64, Examples. Runs nothing.

A failed call does not say which row is invalid. These nodes do: they can be run for one row, without the layers.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from darkroom.models.graph.reachability import functions_of, node_name, reachable_names, reachable_nodes
from darkroom.models.graph.string_flow import PICTURE_OPS

# Ops that take strings and fail on an invalid one.
DECODING_OPS = frozenset(PICTURE_OPS) | frozenset(
    {"DecodeBase64", "DecodeCSV", "DecodeCompressed", "DecodeJSONExample", "DecodePaddedRaw", "DecodeRaw", "DecodeWav"}
    | {"ParseExample", "ParseExampleV2", "ParseSequenceExample", "ParseSequenceExampleV2", "ParseSingleExample"}
    | {"ParseTensor", "StringToNumber"}
)
CONVOLUTIONS = frozenset({"Conv2D", "Conv3D", "DepthwiseConv2dNative"})
_LAYERS = CONVOLUTIONS | {"BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "MatMul"}


def find_decoding_nodes(graph_def: Any, feeds: Sequence[str], fetches: Sequence[str]) -> tuple[str, ...]:
    """Returns names of nodes that run every decoding op of the strings fed to `feeds`, and no layer.

    Args:
        graph_def: the graph.
        feeds: tensor names of the string inputs.
        fetches: tensor names of the outputs; an op that they do not need is left out.

    Raises:
        ValueError: there are no such nodes; the message says why.
    """
    wanted, _ = reachable_names(graph_def, fetches)
    nodes = {node.name: node for node in graph_def.node if node.name in wanted}
    readers = readers_of(nodes)
    fed = downstream(map(node_name, feeds), readers)
    functions = {function.signature.name: function for function in graph_def.library.function}
    decoding = [name for name in nodes if name in fed and _runs_one_of(nodes[name], functions, DECODING_OPS)]
    if not decoding:
        raise ValueError("no op of the graph judges its strings")
    found = _outside_loops(decoding, nodes, readers)
    if layers := layers_before(graph_def, sorted(found)):
        raise ValueError(f"its strings are judged behind {', '.join(sorted(layers))}, or by a function that holds it")
    return tuple(sorted(found))


def layers_before(graph_def: Any, tensors: Sequence[str]) -> set[str]:
    """Returns the ops of all layers that must run to compute `tensors`.

    A MatMul inside a function does not count as a layer: there it converts colours to grey.
    """
    before, _ = reachable_names(graph_def, tensors)
    layers = {node.op for node in graph_def.node if node.name in before} & _LAYERS
    return layers | {node.op for node in reachable_nodes(graph_def, tensors)} & CONVOLUTIONS


def readers_of(nodes: Mapping[str, Any]) -> Mapping[str, list[str]]:
    """Returns, for each node by name, the nodes that read it. A node that reads it twice is listed twice."""
    readers: dict[str, list[str]] = defaultdict(list)
    for node in nodes.values():
        for name in node.input:
            readers[node_name(name)].append(node.name)
    return readers


def downstream(starts: Iterable[str], readers: Mapping[str, list[str]]) -> set[str]:
    """Returns the names of `starts` and of all nodes that depend on them."""
    seen: set[str] = set()
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += readers.get(name, ())
    return seen


def _runs_one_of(node: Any, functions: Mapping[str, Any], ops: frozenset[str]) -> bool:
    """Whether the node is one of `ops`, or calls a function that runs one of them."""
    if node.op in ops:
        return True
    seen: set[str] = set()
    waiting = functions_of(node, functions)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for each in functions[name].node_def:
            if each.op in ops:
                return True
            waiting += functions_of(each, functions)
    return False


def _outside_loops(names: Sequence[str], nodes: Mapping[str, Any], readers: Mapping[str, list[str]]) -> set[str]:
    """Returns `names`, with the loop's exits in place of a node inside a TF1 loop, which cannot be run alone."""
    depths: dict[str, int] = {}  # node → number of loops around it: Enter adds one, Exit takes one away
    unvisited = deque((name, 0) for name, node in nodes.items() if not node.input)
    while unvisited:
        name, outer = unvisited.popleft()
        if name in depths or name not in nodes:
            continue
        depths[name] = outer + {"Enter": 1, "Exit": -1}.get(nodes[name].op, 0)
        unvisited += ((reader, depths[name]) for reader in readers.get(name, ()))
    found: set[str] = set()
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if depths.get(name, 0) == 0:
            found.add(name)
        else:
            waiting += readers.get(name, ())
    return found
