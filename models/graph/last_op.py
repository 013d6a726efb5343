"""Finds the op that computes an output: the one before all that only renames, reshapes or passes it on. Runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from darkroom.models.graph.inline import CALLS, first_outputs
from darkroom.models.graph.reachability import node_name

_PASSES: Final = frozenset(
    {"Cast", "EnsureShape", "ExpandDims", "Identity", "PlaceholderWithDefault", "Reshape", "Squeeze", "StopGradient"}
)
_STEPS: Final = 1_000  # guess: renames and nested calls between the output and the op


class _Called(NamedTuple):
    """The nodes of the graph or of a function that is called, and from where it is called."""

    nodes: Mapping[str, Any]
    arguments: Mapping[str, int]  # of the function: name → place
    call: Any = None
    caller: _Called | None = None


def last_op(graph_def: Any, tensor: str) -> str:
    """Returns the name of the op that computes `tensor`, such as `Softmax`; empty where it is not found.

    Calls of functions are followed, loops and branches are not.
    """
    functions = {function.signature.name: function for function in graph_def.library.function}
    scope: _Called | None = _Called({node.name: node for node in graph_def.node}, {})
    for _ in range(_STEPS):
        assert scope is not None  # noqa: S101 - an argument has a caller
        name, index = node_name(tensor), int(last) if (last := tensor.rpartition(":")[2]).isdigit() else 0
        if name in scope.arguments:
            tensor = scope.call.input[scope.arguments[name]]
            scope = scope.caller
            continue
        node = scope.nodes.get(name)
        if node is None:
            return ""
        if (called := node.attr["f"].func.name if node.op in CALLS else node.op) in functions:
            function = functions[called]
            arguments = {arg.name: place for place, arg in enumerate(function.signature.input_arg)}
            inner = {each.name: each for each in function.node_def}
            tensor = function.ret[function.signature.output_arg[_flat(node, tensor, index, functions)].name]
            scope = _Called(inner, arguments, node, scope)
        elif node.op in _PASSES or node.op == "IdentityN":
            tensor = node.input[index if node.op == "IdentityN" else 0]
        else:
            return str(node.op)
    return ""


def _flat(node: Any, tensor: str, index: int, functions: Mapping[str, Any]) -> int:
    """The place of a call's output among all of them: in a function its name is `node:argument:place`."""
    parts = tensor.split(":")
    return first_outputs(node, functions)[parts[1]] + index if len(parts) == 3 else index
