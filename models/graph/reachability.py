"""Finds the part of a graph that a signature's outputs need, and whether it keeps state or can be frozen. Runs nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darkroom.models.errors import quote
from darkroom.models.runtime.tensorflow import graph_pb2, op_def_registry

# TensorFlow marks these ops as stateful although no caller can see a state. They read variables, exist only during a run
# (TensorArray, Stack), check, print, or only call functions, whose ops are examined themselves.
_READS = frozenset(
    {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VarHandleOp", "VarIsInitializedOp"}
    | {"Variable", "VariableShape", "VariableV2", "DisableCopyOnRead"}
)
_WITHIN_A_RUN = frozenset(
    {"DeviceIndex", "Empty", "GuaranteeConst", "MapDefun", "Case", "If", "While", "StatefulPartitionedCall"}
    | {"RemoteCall"}
    | {"CudnnRNN", "CudnnRNNV2", "CudnnRNNV3"}
    | {"IsVariableInitialized", "RefEnter", "RefExit", "RefIdentity", "RefMerge", "RefNextIteration", "RefSelect"}
    | {"RefSwitch"}
)
_CHECKS_OR_PRINTS = frozenset({"Assert", "CheckNumerics", "CheckNumericsV2", "Print", "PrintV2"})
_WITHIN_A_RUN_PREFIXES = ("TensorArray", "Stack")
_TABLES = frozenset(
    {"HashTable", "HashTableV2", "LookupTableExportV2", "LookupTableFindV2", "LookupTableSizeV2"}
    | {"MutableDenseHashTable", "MutableDenseHashTableV2", "MutableHashTable", "MutableHashTableOfTensors"}
    | {"MutableHashTableOfTensorsV2", "MutableHashTableV2", "LookupTableFind", "LookupTableExport", "LookupTableSize"}
)
# What they compute has the shape of their operands, broadcast, whatever that is. A graph of nothing else may be fed other
# shapes than its signature declares, as clients of TensorFlow Serving do with `half_plus_two`. Anything else may abort.
_ELEMENTWISE = frozenset(
    {"Const", "Identity", "IdentityN", "NoOp", "Placeholder", "PlaceholderWithDefault", "ReadVariableOp", "VarHandleOp"}
    | {"Variable", "VariableV2", "PartitionedCall", "StatefulPartitionedCall", "StopGradient", "DisableCopyOnRead"}
    | {"Add", "AddV2", "Sub", "Mul", "Div", "RealDiv", "Maximum", "Minimum", "SquaredDifference", "Cast", "Neg", "Abs"}
    | {"Square", "Sqrt", "Rsqrt", "Exp", "Log", "Tanh", "Sigmoid", "Relu", "Relu6", "Round", "Floor", "Ceil", "Sign"}
)
_PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})  # tf.py_function and tf.numpy_function
# Ops that end the process (a CHECK of TensorFlow 2.21) where their input has another rank, and that rank.
_RANKS = {"Conv2D": 4, "DepthwiseConv2dNative": 4, "Conv3D": 5, "MaxPool3D": 5, "AvgPool3D": 5}
_RESOURCE = 20  # DT_RESOURCE, tensorflow/core/framework/types.proto


@dataclass(frozen=True, slots=True)
class GraphTraits:
    """What the nodes that a signature needs do. Each text is a reason in words; it is empty where it does not apply."""

    stateful: str = ""  # two calls may answer differently, or a call changes something
    mutates: str = ""  # it changes a variable or a table that other signatures may read
    unfreezable: str = ""  # it reads a resource that no constant can stand for
    missing: tuple[str, ...] = ()  # ops that this TensorFlow does not know
    elementwise: bool = False  # it takes any shape
    rank: int = 0  # the one that its convolutions take; 0: it has none, or of several kinds


def find_traits(graph_def: Any, outputs: Sequence[str], inputs: Sequence[str] = ()) -> GraphTraits:
    """Examines the nodes that computing `outputs` (tensor names) may run, including those of called functions.

    What computes `inputs`, which are fed, does not count for the shapes that the graph takes.
    """
    stateful = mutates = unfreezable = ""
    missing: set[str] = set()
    functions = {function.signature.name for function in graph_def.library.function}
    for node in reachable_nodes(graph_def, outputs):
        op_def = op_def_registry.get(node.op)
        if op_def is None:
            if node.op not in functions:
                missing.add(node.op)
        elif node.op in _TABLES:
            unfreezable = unfreezable or f"it reads a lookup table ({node.op} {node.name})"
        elif _is_harmless(node.op):
            continue
        # An input that is a resource or a TF1 variable's reference, of an op that may change it.
        elif any((arg.type == _RESOURCE and op_def.is_stateful) or arg.is_ref for arg in op_def.input_arg):
            stateful = mutates = mutates or f"it changes a resource ({node.op} {node.name})"
        elif op_def.is_stateful:
            stateful = stateful or f"it keeps state ({node.op} {node.name})"
    ops = {node.op for node in reachable_nodes(graph_def, outputs, inputs)}
    ranks = {_RANKS[op] for op in ops & _RANKS.keys()}
    rank = ranks.pop() if len(ranks) == 1 else 0
    return GraphTraits(stateful, mutates, unfreezable, tuple(sorted(missing)), ops <= _ELEMENTWISE, rank)


def why_not_runnable(graph_def: Any, inputs: Sequence[str], outputs: Sequence[str]) -> str:
    """Returns why no process can compute `outputs` from `inputs` (tensor names), in words; empty: nothing is known."""
    if not outputs:
        return "it has no output"
    nodes = {node.name for node in graph_def.node}
    for tensor in (*inputs, *outputs):
        if node_name(tensor) not in nodes:
            return f"the graph has no tensor {quote(tensor)!r}"
    python = next((node for node in reachable_nodes(graph_def, outputs) if node.op in _PYTHON), None)
    return f"it calls Python code ({python.op}), which a SavedModel does not contain" if python is not None else ""


def reachable_nodes(graph_def: Any, outputs: Sequence[str], fed: Sequence[str] = ()) -> Iterator[Any]:
    """Yields, once each, the NodeDefs that computing `outputs` may run, including those of called functions."""
    nodes, functions = reachable_names(graph_def, outputs, fed)
    yield from (node for node in graph_def.node if node.name in nodes)
    for function in graph_def.library.function:
        if function.signature.name in functions:
            yield from function.node_def


def reachable_names(graph_def: Any, outputs: Sequence[str], fed: Sequence[str] = ()) -> tuple[set[str], set[str]]:
    """Returns the names of the nodes, and of the functions, that computing `outputs` (tensor names) may run.

    The tensors `fed` are given, so that nothing runs to compute them.
    """
    nodes = {node.name: node for node in graph_def.node}
    functions = {function.signature.name: function for function in graph_def.library.function}
    seen: set[str] = set()
    called: set[str] = set()
    given = {*fed, *(name.removesuffix(":0") for name in fed)}  # a graph writes `a` for `a:0`
    waiting = [output for output in outputs if output not in given]
    while waiting:
        name = node_name(waiting.pop())
        if name not in seen and name in nodes:
            seen.add(name)
            waiting.extend(each for each in nodes[name].input if each not in given)
            called.update(functions_of(nodes[name], functions))
    entered: set[str] = set()
    while called:
        name = called.pop()
        entered.add(name)
        called.update(*(set(functions_of(node, functions)) - entered for node in functions[name].node_def))
    return seen, entered


def prune(graph_def: Any, outputs: Sequence[str]) -> Any:
    """Returns a copy of the graph without the nodes and functions that `outputs` (tensor names) do not need."""
    nodes, functions = reachable_names(graph_def, outputs)
    pruned = graph_pb2.GraphDef(versions=graph_def.versions)
    pruned.node.extend(node for node in graph_def.node if node.name in nodes)
    pruned.library.function.extend(each for each in graph_def.library.function if each.signature.name in functions)
    return pruned


def functions_of(node: Any, functions: Any) -> list[str]:
    """Returns the functions that a node calls, by its op's name and by its attributes."""
    names = [node.op] if node.op in functions else []
    for attr in node.attr.values():
        kind = attr.WhichOneof("value")
        if kind == "func":
            names.append(attr.func.name)
        elif kind == "list":
            names.extend(func.name for func in attr.list.func)
    return [name for name in names if name in functions]


def node_name(tensor: str) -> str:
    """Returns the node of a tensor or of a control input: `a` for `a:1` and for `^a`."""
    return tensor.lstrip("^").split(":")[0]


def has_effect(node: Any, functions: Mapping[str, Any]) -> bool:
    """Whether a node does more than compute its outputs: it may fail on purpose, print, or keep state."""
    if called := functions_of(node, functions):
        return any(has_effect(each, functions) for name in called for each in functions[name].node_def)
    op_def = op_def_registry.get(node.op)
    return op_def is None or node.op in _CHECKS_OR_PRINTS or (op_def.is_stateful and not _is_harmless(node.op))


def _is_harmless(op: str) -> bool:
    return op in _READS or op in _WITHIN_A_RUN or op in _CHECKS_OR_PRINTS or op.startswith(_WITHIN_A_RUN_PREFIXES)
