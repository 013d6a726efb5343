"""Inlines function calls: the nodes of a called function become nodes of the graph itself. Runs nothing.

Functions of loops, branches and MapDefun are kept. TensorFlow inlines calls at run time too, but only nodes of the graph
itself can be found by another pass, or be run without the rest.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from darkroom.models.graph.reachability import has_effect, node_name, prune
from darkroom.models.runtime.tensorflow import graph_pb2, op_def_registry

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_KEEP = ("_noinline", "_XlaMustCompile")
MAX_CALLS = 10_000  # guess: a graph with more calls is refused
MAX_DEPTH = 100  # guess: nested calls; names grow with each level, and a function that calls itself took 2 minutes


def inline_calls(graph_def: Any, fetches: Sequence[str]) -> Any:
    """Returns a copy of the graph with its calls inlined and only the nodes that `fetches` (tensor names) need.

    Tensors keep their names. Where a fetch or an op with a side effect refers to a call, a node of its name stays, as an
    IdentityN of the function's outputs.

    Raises:
        ValueError: a function calls itself, or there are too many calls.
    """
    functions = {function.signature.name: function for function in graph_def.library.function}
    nodes = {node.name: node for node in graph_def.node}
    renamed: dict[str, str] = {}  # output of a call → the inlined tensor
    waiting = [(node, 0) for node in graph_def.node if _can_inline(node, functions)]
    for _ in range(MAX_CALLS):
        if not waiting:
            break
        call, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError("a function calls itself")
        body = _Body(call, functions, nodes)
        inlined = list(body.nodes())
        nodes |= {node.name: node for node in inlined}
        nodes[call.name] = body.returned()
        renamed |= body.shortcuts()
        waiting += [(node, depth + 1) for node in inlined if _can_inline(node, functions)]
    else:
        raise ValueError(f"there are more than {MAX_CALLS} calls")
    flat = graph_pb2.GraphDef(versions=graph_def.versions, library=graph_def.library)
    flat.node.extend(nodes.values())
    for node in flat.node:
        for index, name in enumerate(node.input):
            tensor = name.removesuffix(":0")
            while tensor in renamed:
                tensor = renamed[tensor].removesuffix(":0")
            node.input[index] = tensor
    return prune(flat, fetches)


class _Body:
    """The nodes of a called function, renamed with the name of the call as their prefix."""

    def __init__(self, call: Any, functions: dict[str, Any], taken: dict[str, Any]) -> None:
        self._call = call
        self._function = functions[_called(call)]
        self._prefix = f"{call.name}/"
        while any(name.startswith(self._prefix) for name in taken):
            self._prefix = f"{self._prefix[:-1]}_/"
        data = [name for name in call.input if not name.startswith("^")]
        self._controls = [name for name in call.input if name.startswith("^")]
        self._args: dict[str, str] = dict(
            zip((arg.name for arg in self._function.signature.input_arg), data, strict=True)
        )
        self._first_outputs = {node.name: first_outputs(node, functions) for node in self._function.node_def}
        controls = set(self._function.control_ret.values())
        self._effects = [
            f"^{self._prefix}{node.name}"
            for node in self._function.node_def
            if node.name in controls and has_effect(node, functions)
        ]

    def nodes(self) -> Iterator[Any]:
        """The renamed nodes. A node without inputs gets the control inputs of the call."""
        for node in self._function.node_def:
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name = self._prefix + node.name
            copy.device = node.device or self._call.device
            copy.input[:] = [self._rename(name) for name in node.input]
            if all(name.startswith("^") for name in node.input):
                copy.input.extend(name for name in self._controls if name not in copy.input)
            copy.attr.pop("_class", None)  # names a node to be placed with, which is gone
            yield copy

    def returned(self) -> Any:
        """The node that replaces the call: it has the call's outputs and waits for the function's side effects."""
        outputs = self._outputs()
        node = graph_pb2.GraphDef().node.add(name=self._call.name, op="IdentityN" if outputs else "NoOp")
        node.input.extend([*outputs, *self._effects] if outputs else [*self._controls, *self._effects])
        node.device = self._call.device
        if outputs:
            node.attr["T"].list.type.extend(arg.type for arg in self._function.signature.output_arg)
        return node

    def shortcuts(self) -> dict[str, str]:
        """Maps the call's outputs to inlined tensors; empty where a reader must wait for the function's side effects."""
        if self._effects:
            return {}
        return {_tensor(self._call.name, index): output for index, output in enumerate(self._outputs())}

    def _outputs(self) -> list[str]:
        return [self._rename(self._function.ret[arg.name]) for arg in self._function.signature.output_arg]

    def _rename(self, name: str) -> str:
        """Returns the name in the graph of `node:output_name:i`, of an argument, or of a control input of the function."""
        if name.startswith("^"):
            bare = name[1:]
            return f"^{node_name(self._args[bare])}" if bare in self._args else f"^{self._prefix}{bare}"
        node, _, rest = name.partition(":")
        if not rest and node in self._args:
            return self._args[node]
        output, _, index = rest.partition(":")
        return _tensor(self._prefix + node, self._first_outputs[node][output] + int(index or 0))


def _can_inline(node: Any, functions: dict[str, Any]) -> bool:
    """Whether the node calls a function that has no attributes to fill in."""
    function = functions.get(_called(node))
    if function is None or any(key in each.attr and each.attr[key].b for each in (node, function) for key in _KEEP):
        return False
    if any(arg.number_attr or arg.type_list_attr or not arg.type for arg in _args(function)):
        return False
    return not any(attr.placeholder for each in function.node_def for attr in each.attr.values())


def _args(function: Any) -> list[Any]:
    return [*function.signature.input_arg, *function.signature.output_arg]


def _called(node: Any) -> str:
    return str(node.attr["f"].func.name if node.op in CALLS else node.op)


def first_outputs(node: Any, functions: Mapping[str, Any]) -> dict[str, int]:
    """Returns, for each named output of a node, the number of its first tensor."""
    op_def = functions[node.op].signature if node.op in functions else op_def_registry.get(node.op)
    first: dict[str, int] = {}
    at = 0
    for arg in op_def.output_arg:
        first[arg.name] = at
        if arg.number_attr:
            at += node.attr[arg.number_attr].i
        elif arg.type_list_attr:
            at += len(node.attr[arg.type_list_attr].list.type)
        else:
            at += 1
    return first


def _tensor(node: str, index: int) -> str:
    return f"{node}:{index}" if index else node
