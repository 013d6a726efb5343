"""Takes the calls out of a graph: the nodes of a called function stand in the graph itself. Runs nothing.

Functions of loops, branches and MapDefun stay. TensorFlow inlines calls at run time too, but only what stands in the
graph can be found there by another pass, or be run without the rest.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from darkroom.models.graph.reachability import has_effect, node_name, prune
from darkroom.models.runtime.tensorflow import graph_pb2, op_def_registry

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_KEEP = ("_noinline", "_XlaMustCompile")
MAX_CALLS = 10_000  # guess: a graph with more of them is left as it is
MAX_DEPTH = 100  # guess: a call in a call in a call; names grow with each, and a graph that calls itself took 2 minutes


def inline_calls(graph_def: Any, fetches: Sequence[str]) -> Any:
    """The graph with its calls inlined, and only what `fetches` (tensor names) need; tensors keep their names.

    A call's name stays, as an IdentityN of what the function gave, where a fetch or an op with an effect asks for it.

    Raises:
        ValueError: the calls do not end, since a function calls itself, or are too many.
    """
    functions = {function.signature.name: function for function in graph_def.library.function}
    nodes = {node.name: node for node in graph_def.node}
    renamed: dict[str, str] = {}  # a call's tensor → the tensor that the function gave
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
        node.input[:] = [_resolve(name, renamed) for name in node.input]
    return prune(flat, fetches)


class _Body:
    """A function's nodes under the name of the call that they replace."""

    def __init__(self, call: Any, functions: dict[str, Any], taken: dict[str, Any]) -> None:
        self._call = call
        self._function = functions[_called(call)]
        self._prefix = _free_prefix(call.name, taken)
        data = [name for name in call.input if not name.startswith("^")]
        self._controls = [name for name in call.input if name.startswith("^")]
        self._args: dict[str, str] = dict(
            zip((arg.name for arg in self._function.signature.input_arg), data, strict=True)
        )
        self._first_outputs = {node.name: _first_outputs(node, functions) for node in self._function.node_def}
        controls = set(self._function.control_ret.values())
        self._effects = [
            f"^{self._prefix}{node.name}"
            for node in self._function.node_def
            if node.name in controls and has_effect(node, functions)
        ]

    def nodes(self) -> Iterator[Any]:
        """The nodes, renamed, each after whatever the call had to wait for."""
        for node in self._function.node_def:
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name = self._prefix + node.name
            copy.device = node.device or self._call.device
            copy.input[:] = [self._rename(name) for name in node.input]
            if _starts(node):
                copy.input.extend(name for name in self._controls if name not in copy.input)
            copy.attr.pop("_class", None)  # colocation by a name that is gone
            yield copy

    def returned(self) -> Any:
        """What takes the call's place: its outputs, after the function's effects."""
        given = self._given()
        node = graph_pb2.GraphDef().node.add(name=self._call.name, op="IdentityN" if given else "NoOp")
        node.input.extend([*given, *self._effects] if given else [*self._controls, *self._effects])
        node.device = self._call.device
        if given:
            node.attr["T"].list.type.extend(arg.type for arg in self._function.signature.output_arg)
        return node

    def shortcuts(self) -> dict[str, str]:
        """The call's tensors and what they are, where no effect has to come before they are read."""
        if self._effects:
            return {}
        return {_tensor(self._call.name, index): given for index, given in enumerate(self._given())}

    def _given(self) -> list[str]:
        return [self._rename(self._function.ret[arg.name]) for arg in self._function.signature.output_arg]

    def _rename(self, name: str) -> str:
        """`node:output_name:i`, an argument or a control input of the function, as the graph calls it."""
        if name.startswith("^"):
            bare = name[1:]
            return f"^{node_name(self._args[bare])}" if bare in self._args else f"^{self._prefix}{bare}"
        node, _, rest = name.partition(":")
        if not rest and node in self._args:
            return self._args[node]
        output, _, index = rest.partition(":")
        return _tensor(self._prefix + node, self._first_outputs[node][output] + int(index or 0))


def _can_inline(node: Any, functions: dict[str, Any]) -> bool:
    """Whether it is a call of a function without attributes of its own."""
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


def _first_outputs(node: Any, functions: dict[str, Any]) -> dict[str, int]:
    """The number of the first tensor of each of a node's named outputs."""
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


def _free_prefix(name: str, taken: dict[str, Any]) -> str:
    prefix = f"{name}/"
    while any(each.startswith(prefix) for each in taken):
        prefix = f"{prefix[:-1]}_/"
    return prefix


def _starts(node: Any) -> bool:
    """Whether nothing is fed to it."""
    return all(name.startswith("^") for name in node.input)


def _tensor(node: str, index: int) -> str:
    return f"{node}:{index}" if index else node


def _resolve(name: str, renamed: dict[str, str]) -> str:
    name = name.removesuffix(":0")
    while name in renamed:
        name = renamed[name].removesuffix(":0")
    return name
