"""Finds the part of a graph that judges what clients sent: picture decoders, base64, Examples. Runs nothing.

A failed call names no row. The ops found here, run for one row alone and without the layers behind them, do.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from darkroom.models.graph.reachability import functions_of, names_in_reach, node_name, nodes_in_reach
from darkroom.models.graph.string_flow import PICTURE_OPS

JUDGES = frozenset(PICTURE_OPS) | frozenset(
    {"DecodeBase64", "DecodeCSV", "DecodeCompressed", "DecodeJSONExample", "DecodePaddedRaw", "DecodeRaw", "DecodeWav"}
    | {"ParseExample", "ParseExampleV2", "ParseSequenceExample", "ParseSequenceExampleV2", "ParseSingleExample"}
    | {"ParseTensor", "StringToNumber"}
)
_CONVOLUTIONS = frozenset({"Conv2D", "Conv3D", "DepthwiseConv2dNative"})
_LAYERS = _CONVOLUTIONS | {"BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "MatMul"}


def find_cut(graph_def: Any, feeds: Sequence[str], fetches: Sequence[str]) -> tuple[str, ...]:
    """The nodes that run every judge of the strings fed to `feeds`, and no layer; all are tensor names.

    Raises:
        ValueError: there is no such cut; says why.
    """
    wanted, _ = names_in_reach(graph_def, fetches)
    nodes = {node.name: node for node in graph_def.node if node.name in wanted}
    readers = readers_of(nodes)
    fed = downstream(map(node_name, feeds), readers)
    functions = {function.signature.name: function for function in graph_def.library.function}
    judges = [name for name in nodes if name in fed and _reaches(nodes[name], functions, JUDGES)]
    if not judges:
        raise ValueError("no op of the graph judges its strings")
    cut = _outside_loops(judges, nodes, readers)
    if layers := layers_before(graph_def, sorted(cut)):
        raise ValueError(f"its strings are judged behind {', '.join(sorted(layers))}, or by a function that holds it")
    return tuple(sorted(cut))


def layers_before(graph_def: Any, tensors: Sequence[str]) -> set[str]:
    """The ops of the layers that computing `tensors` runs. In a function a MatMul is none: there it makes grey."""
    in_front, _ = names_in_reach(graph_def, tensors)
    layers = {node.op for node in graph_def.node if node.name in in_front} & _LAYERS
    return layers | {node.op for node in nodes_in_reach(graph_def, tensors)} & _CONVOLUTIONS


def readers_of(nodes: Mapping[str, Any]) -> Mapping[str, list[str]]:
    """By name, the names of the nodes that read a node: one as often as it does so."""
    readers: dict[str, list[str]] = defaultdict(list)
    for node in nodes.values():
        for name in node.input:
            readers[node_name(name)].append(node.name)
    return readers


def downstream(starts: Iterable[str], readers: Mapping[str, list[str]]) -> set[str]:
    """The names of the nodes that something of `starts` reaches, and `starts`."""
    seen: set[str] = set()
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += readers.get(name, ())
    return seen


def _reaches(node: Any, functions: Mapping[str, Any], ops: frozenset[str]) -> bool:
    """Whether it is one of `ops`, or calls a function that reaches one."""
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


def _outside_loops(judges: Sequence[str], nodes: Mapping[str, Any], readers: Mapping[str, list[str]]) -> set[str]:
    """The judges themselves, and for one in a TF1 loop the loop's exits: what stands inside cannot be run alone."""
    depths = _depths(nodes, readers)
    cut: set[str] = set()
    seen: set[str] = set()
    waiting = list(judges)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if depths.get(name, 0) == 0:
            cut.add(name)
        else:
            waiting += readers.get(name, ())
    return cut


def _depths(nodes: Mapping[str, Any], readers: Mapping[str, list[str]]) -> Mapping[str, int]:
    """How many TF1 loops each node stands in: an Enter is in one more than its input, an Exit in one less."""
    depths: dict[str, int] = {}
    waiting = deque((name, 0) for name, node in nodes.items() if not node.input)
    while waiting:
        name, outer = waiting.popleft()
        if name in depths or name not in nodes:
            continue
        depths[name] = outer + {"Enter": 1, "Exit": -1}.get(nodes[name].op, 0)
        waiting += ((reader, depths[name]) for reader in readers.get(name, ()))
    return depths
