"""Follows the rows of a batch through a graph, to find ops that join them before an output. Runs nothing.

A row's answer must not depend on the rows beside it. Sample rows show many such models, but not all: `tf.cond` on the
brightest of all pictures may branch for none of the samples. So each tensor is given a `Flow`, which says where the
rows of the batch are in it. Ops without a rule keep the rows in their dimension, as far as the static shapes allow it;
where they do not, the flow is unknown, and the signature is served one request at a time. An op that may cut or join rows for some sizes, such
as `reshape(x, [-1, 4])` of rows of an open size, is a doubt: samples must tell for several sizes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum, auto
from typing import Any, NamedTuple

import numpy as np

from darkroom.models.graph.decoding_ops import CONVOLUTIONS, readers_of
from darkroom.models.graph.inline import first_outputs
from darkroom.models.graph.reachability import functions_of, node_name
from darkroom.models.runtime.tensorflow import attr_value_pb2, tf

Shape = tuple[int | None, ...] | None  # None: the rank is unknown

_NO_ATTR = attr_value_pb2.AttrValue()
_ROUNDS = 6  # of a loop until its flows no longer change; each flow can change three times
MAX_DEPTH = 50  # guess: functions in functions; the flow of a deeper one is unknown


class Kind(IntEnum):
    """Where the rows of the batch are in a tensor. Where two flows meet, the larger one stays."""

    FREE = auto()  # the same for all rows: constants, the number of rows, sizes that all rows share
    ONE = auto()  # inside a loop over the rows: of one row alone
    ROWS = auto()  # `axis` is the batch
    LIST = auto()  # a TensorList or TensorArray; once it is stacked, `axis` is the batch
    UNKNOWN = auto()
    MIXED = auto()  # what one row has here depends on other rows; `reason` says how


class Flow(NamedTuple):
    """The flow of one tensor."""

    kind: Kind
    axis: int = 0
    reason: str = ""


FREE, ONE, UNKNOWN, BATCH = Flow(Kind.FREE), Flow(Kind.ONE), Flow(Kind.UNKNOWN), Flow(Kind.ROWS)

_REDUCE = frozenset(
    {"All", "Any", "ArgMax", "ArgMin", "EuclideanNorm", "Max", "Mean", "Min", "Prod", "Sum"}
    | {"Cumprod", "Cumsum", "CumulativeLogsumexp", "ReverseV2"}
)
_KEEP_RANK = frozenset({"Cumprod", "Cumsum", "CumulativeLogsumexp", "ReverseV2"})
_LAST_AXIS = frozenset({"InTopK", "InTopKV2", "LogSoftmax", "NthElement", "Softmax", "TopK", "TopKV2"})
_JOIN_ALL = frozenset({"L2Loss", "BiasAddGrad", "HistogramFixedWidth"})  # they reduce every dimension but the last
_SHAPES = frozenset({"Rank", "Shape", "ShapeN", "Size"})
_PASS = frozenset(
    {"Identity", "RefIdentity", "StopGradient", "PreventGradient", "EnsureShape", "Snapshot"}
) | frozenset({"Enter", "Exit", "LoopCond", "NextIteration", "RefEnter", "RefExit", "RefNextIteration"})
_BRANCHES = frozenset({"Case", "If", "StatelessCase", "StatelessIf"})
_LOOPS = frozenset({"StatelessWhile", "While"})
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_GATHERS = frozenset({"Gather", "GatherV2", "ResourceGather"})
_STRING_TESTS = frozenset(
    {"All", "Any", "Const", "DecodeBase64", "Equal", "Identity", "LogicalAnd", "LogicalNot", "LogicalOr", "NotEqual"}
    | {"Placeholder", "RegexFullMatch", "StaticRegexFullMatch", "Substr"}
)
_PART_OF_SHAPE = frozenset({"StridedSlice", "Slice", "Gather", "GatherV2"})  # of a vector; input 1 says where
_LEADS = frozenset({"Identity", "Cast", "Pack", "ConcatV2"})  # the first element is that of the first input
# They may change how many rows there are, or their order; not if input 1 has this for the dimension of the rows.
_MOVES_ROWS = {
    **dict.fromkeys(("MirrorPad", "Pad", "PadV2"), 0),
    **dict.fromkeys(("BatchToSpace", "BatchToSpaceND", "SpaceToBatch", "SpaceToBatchND"), None),
    "Tile": 1,
    "BroadcastTo": None,
    "CropAndResize": None,
}
# The shape of their outputs depends on the values of their inputs.
_SHAPED_BY_VALUES = frozenset({"Bincount", "DenseBincount", "RaggedBincount", "Where", "ListDiff", "EditDistance"})
_SHAPED_BY_VALUES_PREFIXES = (
    *("Sparse", "Ragged", "Unique", "DynamicPartition", "DynamicStitch", "StringSplit", "Unicode", "CTC", "Segment"),
    *(
        "UnsortedSegment",
        "DenseTo",
        "ParseSequenceExample",
        "TensorListConcat",
        "PyFunc",
        "EagerPyFunc",
    ),
)
# Inputs that say how large an output is, or which part of the input it has.
_SIZES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("BroadcastTo", "MirrorPad", "Pad", "PadV2", "Reshape", "Tile", "OneHot", "TopKV2"), (1,)),
    **dict.fromkeys(("ResizeArea", "ResizeBicubic", "ResizeBilinear", "ResizeNearestNeighbor"), (1,)),
    **dict.fromkeys(("BatchToSpaceND", "SpaceToBatchND", "Slice", "ScaleAndTranslate"), (1, 2)),
    **dict.fromkeys(("LinSpace", "Range"), (0, 1, 2)),
    "CropAndResize": (3,),
    "Fill": (0,),
    "StridedSlice": (1, 2, 3),
    "Conv2DBackpropInput": (0,),
}


class Flows(NamedTuple):
    """The flows of a signature, and what the graph alone cannot tell."""

    outputs: dict[str, Flow]
    predicates: set[str]  # the flows are right if the branches that these choose give the same rows,
    doubts: list[str]  # and if these ops keep rows apart for every size; each in words


def find_flows(graph_def: Any, graph: Any, feeds: Iterable[str], fetches: Mapping[str, str]) -> Flows:
    """Returns the flow of each output, and what it depends on.

    A predicate looks only at the strings that are fed: an exported recipe decodes faster if all pictures of a batch
    are of one format. Whether both branches answer alike can be tried with pictures of every format.

    Args:
        graph_def: a GraphDef whose calls are inlined as far as possible.
        graph: the same as a tf.Graph, which knows static shapes.
        feeds: tensor names of the inputs; each has the batch as its first dimension.
        fetches: output → tensor name.
    """

    def shape_of(name: str, index: int) -> Shape:
        shape = graph.get_operation_by_name(name).outputs[index].shape
        return None if shape.rank is None else tuple(shape.as_list())

    def value_of(tensor: str) -> Any:
        return tf.get_static_value(graph.get_tensor_by_name(tensor if ":" in tensor else f"{tensor}:0"))

    functions = {function.signature.name: function for function in graph_def.library.function}
    scope = _Scope(graph_def.node, functions, shape_of, value_of)
    scope.known |= {scope.place(feed): BATCH for feed in feeds}
    scope.fed |= scope.known.keys()
    scope.settle(map(node_name, feeds))
    outputs = {output: scope.flow(tensor) for output, tensor in fetches.items()}
    return Flows(outputs, scope.predicates, sorted(scope.doubts))


class _Scope:
    """The flows of one graph, or of the body of one function for one set of arguments."""

    def __init__(
        self,
        nodes: Iterable[Any],
        functions: Mapping[str, Any],
        shape_of: Callable[[str, int], Shape],
        value_of: Callable[[str], Any],
        *,
        depth: int = 0,
        loops: int = 0,
    ) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.functions = functions
        self.fed: set[tuple[str, int]] = set()
        self.known: dict[tuple[str, int], Flow] = {}  # (node or argument, output); what is missing is free
        self.predicates: set[str] = (
            set()
        )  # tensors that choose a branch for the whole batch by the strings that are fed
        self.doubts: set[str] = set()  # ops that may cut or join rows for some sizes, in words
        self.depth = depth  # functions around it
        self.loops = loops  # and those that are bodies of loops
        self._shape_of = shape_of
        self._value_of = value_of
        self._first: dict[str, dict[str, int]] = {}

    def flow(self, tensor: str) -> Flow:
        """The flow of `node`, `node:1`, or of a function's `node:output:1`."""
        name, index = self.place(tensor)
        return self.known.get((name, index)) or self.known.get((name, 0), FREE)

    def place(self, tensor: str) -> tuple[str, int]:
        """The node or argument of a tensor, and the number of the output."""
        name, _, rest = tensor.partition(":")
        if not rest or rest.isdigit():
            return name, int(rest or 0)
        if name not in self._first:
            self._first[name] = first_outputs(self.nodes[name], self.functions)
        output, _, index = rest.partition(":")
        return name, self._first[name][output] + int(index or 0)

    def shape(self, tensor: str) -> Shape:
        """The static shape; in a function it is not known."""
        return self._shape_of(*self.place(tensor))

    def output_shape(self, node: Any) -> Shape:
        """The static shape of the first output."""
        return self._shape_of(node.name, 0)

    def constant(self, tensor: str) -> Any:
        """The value of a constant as an array; None if it is none."""
        for _ in range(MAX_DEPTH):
            node = self.nodes.get(node_name(tensor))
            if node is None:
                return None
            if node.op == "Const":
                return tf.make_ndarray(_attr(node, "value").tensor)
            if node.op not in {"Identity", "Enter"}:
                return self._value_of(tensor)
            tensor = node.input[0]
        return None

    def doubt(self, node: Any, *, unless: bool) -> None:
        """Notes that the op keeps rows apart for some sizes, as far as the graph shows, and not for all."""
        if not unless:
            self.doubts.add(f"{node.op} ({node.name})"[:200])

    def keeps_row_size(self, node: Any) -> bool:
        """Whether a Reshape of rows gives as many rows, each with as many elements."""
        before, after = self.shape(node.input[0]), self.output_shape(node)
        if before and after and None not in (*before[1:], *after[1:]):
            return bool(np.prod([n or 0 for n in before[1:]]) == np.prod([n or 0 for n in after[1:]]))
        return self.counts_rows(node.input[1])

    def counts_rows(self, tensor: str) -> bool:
        """Whether a scalar, or the first element of a vector, is the number of rows, as `tf.shape(x)[0]` is."""
        for _ in range(MAX_DEPTH):
            node = self.nodes.get(node_name(tensor))
            if node is None or node.op == "Shape":
                return node is not None and self.flow(node.input[0]) == BATCH
            if node.op in _PART_OF_SHAPE:
                at = self.constant(node.input[1])
                if at is None or np.size(at) == 0 or np.ravel(at)[0] != 0 or _attr(node, "begin_mask").i > 1:
                    return False
            elif node.op not in _LEADS:
                return False
            tensor = node.input[0]
        return False

    def reads_strings_only(self, tensor: str) -> bool:
        """Whether a predicate is computed from strings by comparing parts of them."""
        waiting, seen = [node_name(tensor)], set()
        while waiting:
            name = waiting.pop()
            node = self.nodes.get(name)
            if node is None or node.op not in _STRING_TESTS:
                return False
            if name not in seen and (name, 0) not in self.fed:
                seen.add(name)
                waiting += map(node_name, node.input)
        return True

    def settle(self, starts: Iterable[str]) -> None:
        """Gives a flow to every node that depends on `starts`; repeats it for loops of Enter and Exit."""
        order = self._order(starts)
        for _ in range(_ROUNDS):
            changed = False
            for node in order:
                for index, flow in enumerate(_visit(node, self)):
                    place = node.name, index
                    joined = meet([self.known.get(place, FREE), flow])
                    changed = changed or joined != self.known.get(place, FREE)
                    self.known[place] = joined
            if not changed:
                return

    def _order(self, starts: Iterable[str]) -> list[Any]:
        """The nodes behind `starts`, each behind those that it reads, where no loop forbids it."""
        readers = readers_of(self.nodes)
        seen: set[str] = set()
        done: list[Any] = []
        waiting = [(name, False) for name in starts]
        while waiting:
            name, is_left = waiting.pop()
            if is_left:
                done.append(self.nodes[name])
            elif name not in seen:
                seen.add(name)
                if name in self.nodes:
                    waiting.append((name, True))
                waiting += [(reader, False) for reader in readers.get(name, ()) if reader not in seen]
        given = {place[0] for place in self.known}
        return [node for node in reversed(done) if node.name not in given]


def meet(flows: Iterable[Flow]) -> Flow:
    """Returns the flow of a tensor that is any of these."""
    first = FREE
    for flow in flows:
        if flow == first or flow.kind is Kind.FREE:
            continue
        if first.kind is Kind.FREE:
            first = flow
        elif Kind.MIXED in {first.kind, flow.kind}:
            first = first if first.kind is Kind.MIXED else flow
        else:
            first = UNKNOWN
    return first


def _mixed(node: Any, what: str = "joins the rows of the batch") -> Flow:
    return Flow(Kind.MIXED, reason=f"{node.op} ({node.name}) {what}"[:200])


def _visit(node: Any, scope: _Scope) -> Sequence[Flow]:  # noqa: C901, PLR0911 - a case for each kind of op
    """Returns the flows of the node's outputs."""
    names = [name for name in node.input if not name.startswith("^")]
    ins = [scope.flow(name) for name in names]
    if node.op == "Const":  # in a branch of a TF1 tf.cond it is chosen by a control input
        ins = [scope.flow(name[1:]) for name in node.input if _is_pivot(name[1:], scope)]
        return [meet(flow for flow in ins if flow.kind is Kind.MIXED)]
    if node.op == "IdentityN":
        return ins
    if node.op in _PASS:
        return ins[:1]
    if node.op in {"Merge", "RefMerge"}:
        joined, is_loop = meet(ins), any(scope.nodes[node_name(name)].op.endswith("NextIteration") for name in names)
        return [UNKNOWN if is_loop and joined.kind is Kind.ONE else joined, FREE]
    if node.op in {"Switch", "RefSwitch"}:
        return [_chosen(ins[1], ins[:1], node)] * 2
    if node.op in _LOOPS:
        return _loop(node, ins, scope)
    if node.op in _BRANCHES:
        branches = [_call(name, ins[1:], scope) for name in functions_of(node, scope.functions)]
        predicate = ins[0]
        if predicate.kind is Kind.MIXED and scope.depth == 0 and scope.reads_strings_only(names[0]):
            scope.predicates.add(names[0])
            predicate = FREE
        return [_chosen(predicate, flows, node) for flows in zip(*branches, strict=True)]
    if (node.op in _CALLS or node.op in scope.functions) and (called := functions_of(node, scope.functions)):
        return _call(called[0], ins, scope)
    if node.op == "MapDefun":
        (called_name,) = functions_of(node, scope.functions)
        return [_stacked(flow) for flow in _call(called_name, [_element(flow) for flow in ins], scope, loops=1)]
    return [_data_flow(node, names, ins, scope)]  # of all its outputs


def _attr(node: Any, name: str) -> Any:
    """The attribute, or an empty one. To ask a node for what it lacks would add it."""
    return node.attr.get(name, _NO_ATTR)


def _is_pivot(name: str, scope: _Scope) -> bool:
    node = scope.nodes.get(node_name(name))
    if node is not None and node.op == "Identity":
        node = scope.nodes.get(node_name(node.input[0]))
    return node is not None and node.op == "Switch"


def _chosen(predicate: Flow, flows: Iterable[Flow], node: Any) -> Flow:
    """The flow of a value that a predicate chooses."""
    if predicate.kind is Kind.MIXED:
        return Flow(Kind.MIXED, reason=f"{node.op} ({node.name}) depends on {predicate.reason}"[:300])
    joined = meet(flows)
    if predicate.kind is Kind.FREE or joined.kind is Kind.MIXED:
        return joined
    return ONE if predicate.kind is Kind.ONE and joined.kind in {Kind.FREE, Kind.ONE} else UNKNOWN


def _element(flow: Flow) -> Flow:
    """One element along the first dimension."""
    if flow.kind not in {Kind.ROWS, Kind.LIST}:
        return flow
    return Flow(Kind.ROWS, flow.axis - 1) if flow.axis else ONE


def _stacked(flow: Flow) -> Flow:
    """Elements as one tensor, with a first dimension of their own."""
    if flow.kind is Kind.ONE:
        return BATCH
    return Flow(Kind.ROWS, flow.axis + 1) if flow.kind is Kind.ROWS else flow


def _call(name: str, ins: Sequence[Flow], scope: _Scope, *, loops: int = 0) -> list[Flow]:
    """The flows that a function returns."""
    function = scope.functions[name]
    if scope.depth > MAX_DEPTH:
        return [UNKNOWN] * len(function.signature.output_arg)
    body = _Scope(
        function.node_def,
        scope.functions,
        lambda *_: None,
        lambda _: None,
        depth=scope.depth + 1,
        loops=scope.loops + loops,
    )
    args = [arg.name for arg in function.signature.input_arg]
    body.known |= {(arg, 0): flow for arg, flow in zip(args, ins, strict=False)}
    body.settle(args)
    scope.doubts |= body.doubts
    return [body.flow(function.ret[arg.name]) for arg in function.signature.output_arg]


def _loop(node: Any, ins: Sequence[Flow], scope: _Scope) -> list[Flow]:
    """The flows after a while loop. What is carried from row to row, and not only overwritten, joins them."""
    flows, body = list(ins), node.attr["body"].func.name
    predicate = FREE
    for _ in range(_ROUNDS):
        predicate = meet(_call(node.attr["cond"].func.name, flows, scope, loops=1))
        joined = [meet(each) for each in zip(flows, _call(body, flows, scope, loops=1), strict=True)]
        for at, flow in enumerate(() if scope.loops else joined):
            if flow.kind is Kind.ONE:
                carried = _mixed(node, "carries a value from row to row")
                after = _call(body, [*joined[:at], carried, *joined[at + 1 :]], scope, loops=1)
                joined[at] = carried if after[at].kind is Kind.MIXED else UNKNOWN
        if joined == flows:
            break
        flows = joined
    return [_chosen(predicate, [flow], node) for flow in flows]


def _data_flow(node: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:  # noqa: C901, PLR0911 - as above
    """The flow of the outputs of an op that calls no function."""
    op = node.op
    meeting = meet(ins)
    if meeting.kind in {Kind.FREE, Kind.MIXED}:
        return meeting
    if op in _SHAPES or op in {"TensorListLength", "TensorArraySizeV3", "TensorListElementShape"}:
        return meet(flow for flow in ins if flow.kind in {Kind.ONE, Kind.UNKNOWN})
    if op == "RaggedTensorToTensor" and meeting.kind is not Kind.ONE:
        shape = scope.constant(names[0])
        is_fixed = shape is not None and np.ndim(shape) == 1 and bool(np.all(shape[1:] >= 0))
        return UNKNOWN if is_fixed else _mixed(node, "pads to the longest of the batch")
    if meeting.kind is Kind.ONE:
        is_added = op.startswith(("TensorListSetItem", "TensorArrayWrite", "TensorListPush"))
        return Flow(Kind.LIST) if is_added and scope.loops < 2 else ONE  # deeper: a loop over parts of a row
    if op.startswith(("TensorList", "TensorArray")):
        return _list_flow(op, ins)
    if op.startswith("ParseExample"):
        return BATCH if ins[0] == BATCH and _is_dense(node) else UNKNOWN
    if op in _SHAPED_BY_VALUES or op.startswith(_SHAPED_BY_VALUES_PREFIXES):
        return UNKNOWN
    if any(ins[at].kind is not Kind.FREE for at in _SIZES.get(op, ()) if at < len(ins)):
        return UNKNOWN
    rule = _RULES.get(op)
    if rule is not None and all(flow.kind in {Kind.FREE, Kind.ROWS} for flow in ins):
        return rule(node, names, ins, scope)
    if op in _LAST_AXIS and ins[0].kind is Kind.ROWS:
        shape = scope.shape(names[0])
        return _mixed(node) if shape is not None and ins[0].axis == len(shape) - 1 else ins[0]
    if ins[0].kind is Kind.ROWS and ins[0].axis and (op in CONVOLUTIONS or op.endswith(("Pool", "PoolV2", "Pool3D"))):
        return _mixed(node, "runs along the batch")
    is_trained = op.startswith("FusedBatchNorm") and bool(
        _attr(node, "is_training").b
    )  # by the batch's mean and variance
    if op in _JOIN_ALL or op.startswith("NonMaxSuppression") or (is_trained and ins[0].kind is Kind.ROWS):
        return _mixed(node) if meeting.kind is Kind.ROWS else UNKNOWN
    return _same_axis(node, names, ins, scope)


def _list_flow(op: str, ins: Sequence[Flow]) -> Flow:
    """The flow of an op on a TensorList or a TensorArray that has something of the batch."""
    lists = meet(flow for flow in ins if flow.kind in {Kind.LIST, Kind.UNKNOWN})
    tensors = [flow for flow in ins if flow.kind in {Kind.ROWS, Kind.ONE}]
    if op in {"TensorListFromTensor", "TensorArrayScatterV3", "TensorArrayUnpackV3"}:
        return meet([lists, *(Flow(Kind.LIST, flow.axis) for flow in tensors)])
    if op in {"TensorListSetItem", "TensorArrayWriteV3", "TensorListPushBack"}:
        stacked = [_stacked(flow) for flow in tensors]
        return meet([lists, *(Flow(Kind.LIST, flow.axis) for flow in stacked)])
    if tensors or lists.kind is not Kind.LIST:
        return UNKNOWN
    if op in {"TensorListGetItem", "TensorArrayReadV3"}:
        return _element(lists)
    if op in {"TensorListStack", "TensorArrayGatherV3", "TensorArrayPackV3"}:
        return Flow(Kind.ROWS, lists.axis)
    return lists if op in {"TensorListResize", "TensorListReserve"} else UNKNOWN


def _same_axis(node: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    """The rows stay in their dimension, if the static shape of the output has an open size there."""
    rows = {flow.axis for flow in ins if flow.kind is not Kind.FREE}
    if len(rows) > 1 or any(flow.kind not in {Kind.FREE, Kind.ROWS} for flow in ins):
        return UNKNOWN
    axis = rows.pop()
    ranks = {
        len(shape)
        for name, flow in zip(names, ins, strict=True)
        if flow.kind is Kind.ROWS and (shape := scope.shape(name)) is not None
    }
    if len(ranks) > 1 and len(set(names)) > 1 and node.op in _BROADCASTS:
        return UNKNOWN  # [n] beside [n, k]: they are aligned at the last dimension
    scope.doubt(node, unless=node.op not in _BROADCASTS or not _may_widen(names, ins, axis, scope))
    if node.op in _MOVES_ROWS:
        sizes = scope.constant(names[1])
        is_kept = sizes is not None and np.all(np.atleast_1d(sizes)[axis] == _MOVES_ROWS[node.op])
        scope.doubt(node, unless=bool(is_kept))
    shape = scope.output_shape(node)
    if shape is not None and (axis >= len(shape) or shape[axis] is not None):
        return UNKNOWN
    return Flow(Kind.ROWS, axis)


_BROADCASTS = frozenset(
    {"Add", "AddV2", "Sub", "Mul", "Div", "DivNoNan", "RealDiv", "FloorDiv", "FloorMod", "Maximum", "Minimum", "Pow"}
    | {"SquaredDifference", "Greater", "GreaterEqual", "Less", "LessEqual", "Equal", "NotEqual", "LogicalAnd"}
    | {"LogicalOr", "SelectV2", "Xdivy", "Xlogy", "Atan2", "BitwiseAnd", "BitwiseOr"}
)


def _may_widen(names: Sequence[str], ins: Sequence[Flow], axis: int, scope: _Scope) -> bool:
    """Whether what all rows share may be broadcast along the rows: one row would become several."""
    rank = min(len(scope.shape(name) or ()) for name, flow in zip(names, ins, strict=True) if flow.kind is Kind.ROWS)
    behind = rank - axis  # the place of the rows, from the last dimension
    for name in (name for name, flow in zip(names, ins, strict=True) if flow.kind is Kind.FREE):
        if (shape := scope.shape(name)) is None and (value := scope.constant(name)) is not None:
            shape = np.shape(value)
        if shape != () and (shape is None or len(shape) > rank or (len(shape) >= behind and shape[-behind] != 1)):
            return True
    return False


def _reduce(node: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    data, axes, shape = ins[0], scope.constant(names[1]), scope.shape(names[0])
    if data.kind is not Kind.ROWS or (axes is None and scope.depth):
        return UNKNOWN
    if axes is None:
        return _mixed(node, "may join the rows of the batch: its dimensions are computed")
    found = {int(axis) for axis in np.ravel(axes)}
    if shape is not None:
        found = {axis % len(shape) for axis in found}
    if data.axis in found:
        return _mixed(node)
    if any(axis < 0 for axis in found):
        return data if data.axis == 0 and _attr(node, "keep_dims").b else UNKNOWN
    if node.op in _KEEP_RANK or _attr(node, "keep_dims").b:
        return data
    return Flow(Kind.ROWS, data.axis - sum(axis < data.axis for axis in found))


def _roll(node: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    axes, shape = scope.constant(names[2]), scope.shape(names[0])
    if axes is None or shape is None or ins[0].axis in {int(axis) % len(shape) for axis in np.ravel(axes)}:
        return _mixed(node)
    return ins[0]


def _transpose(_: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    permutation = scope.constant(names[1])
    if permutation is None or ins[0].kind is not Kind.ROWS:
        return UNKNOWN
    return Flow(Kind.ROWS, [int(axis) for axis in permutation].index(ins[0].axis))


def _expand(_: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    value, shape = scope.constant(names[1]), scope.shape(names[0])
    if value is None or ((at := int(np.ravel(value)[0])) < 0 and shape is None):
        return UNKNOWN
    place = at if at >= 0 else at + len(shape or ()) + 1
    return Flow(Kind.ROWS, ins[0].axis + (place <= ins[0].axis))


def _squeeze(node: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    dims, shape = list(_attr(node, "squeeze_dims").list.i), scope.shape(names[0])
    if any(dim < 0 for dim in dims) and shape is not None:
        dims = [dim % len(shape) for dim in dims]
    if not dims or ins[0].axis in dims or any(dim < 0 for dim in dims):
        return _same_axis(node, names, ins, scope) if ins[0].axis == 0 and 0 not in dims else UNKNOWN
    return Flow(Kind.ROWS, ins[0].axis - sum(dim < ins[0].axis for dim in dims))


def _reshape(node: Any, _: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    shape = scope.output_shape(node)
    scope.doubt(node, unless=ins[0].axis == 0 and scope.keeps_row_size(node))
    if shape is None:
        return ins[0] if ins[0].axis == 0 and scope.depth == 0 else UNKNOWN
    is_first = bool(shape) and shape[0] is None and (ins[0].axis == 0 or shape.count(None) == 1)
    return BATCH if is_first else UNKNOWN


def _pack(node: Any, _: Sequence[str], ins: Sequence[Flow], __: _Scope) -> Flow:
    first, at = meet(ins), _attr(node, "axis").i
    return UNKNOWN if at < 0 or first.kind is not Kind.ROWS else Flow(Kind.ROWS, first.axis + (at <= first.axis))


def _unpack(node: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    at, shape = _attr(node, "axis").i, scope.shape(names[0])
    if (at < 0 and shape is None) or (at := at % len(shape) if shape else at) == ins[0].axis:
        return UNKNOWN
    return Flow(Kind.ROWS, ins[0].axis - (at < ins[0].axis))


def _concat(node: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    at, shape = scope.constant(names[-1]), scope.output_shape(node)
    axes = {flow.axis for flow in ins if flow.kind is Kind.ROWS}
    if at is None or len(axes) > 1 or int(at) in axes or (shape and int(at) % len(shape) in axes):
        return UNKNOWN
    return meet(ins)


def _is_dense(node: Any) -> bool:
    """Whether an op that parses examples gives every feature one fixed shape."""
    has_others = _attr(node, "Nsparse").i or _attr(node, "num_sparse").i or _attr(node, "ragged_value_types").list.type
    shapes = _attr(node, "dense_shapes").list.shape
    return not has_others and all(
        not shape.unknown_rank and all(dim.size >= 0 for dim in shape.dim) for shape in shapes
    )


def _slice(node: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    """`x[:, 1]` and `x[..., 1]` keep the rows in front; any other slice of the batch is unknown."""
    if ins[0] != BATCH:
        return UNKNOWN
    if node.op == "Slice":
        begin, size = scope.constant(names[1]), scope.constant(names[2])
        is_whole = begin is not None and size is not None and begin[0] == 0 and size[0] == -1
        return (
            BATCH
            if is_whole
            else _same_axis(node, names, ins, scope)
            if begin is not None and not begin[0]
            else UNKNOWN
        )
    masks = {name: _attr(node, name).i & 1 for name in ("begin_mask", "end_mask", "ellipsis_mask")}
    if _attr(node, "new_axis_mask").i & 1:  # x[None]
        return Flow(Kind.ROWS, 1) if np.size(scope.constant(names[1])) == 1 else UNKNOWN
    if _attr(node, "shrink_axis_mask").i & 1:
        return ONE if scope.loops else UNKNOWN
    strides = scope.constant(names[3])
    is_whole = masks["begin_mask"] and masks["end_mask"] and strides is not None and strides[0] == 1
    return BATCH if masks["ellipsis_mask"] or is_whole else UNKNOWN


def _gather(node: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    params, indices = ins[0], ins[1]
    at = scope.constant(names[2]) if len(names) > 2 else 0
    if at is None or UNKNOWN in {params, indices}:
        return UNKNOWN
    if params.kind is Kind.FREE:
        return Flow(Kind.ROWS, int(at) + indices.axis) if int(at) >= 0 and not _attr(node, "batch_dims").i else UNKNOWN
    if params == BATCH and int(at) == 0 and indices.kind is Kind.FREE:
        return ONE if scope.loops else UNKNOWN
    if (
        params == BATCH
        and int(at) != 0
        and (indices.kind is Kind.FREE or (indices == BATCH and _attr(node, "batch_dims").i))
    ):
        return BATCH
    return UNKNOWN


def _matmul(node: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    """Rows by a matrix of constants. Rows by rows, of rank 2, join each row with all others."""
    shape = scope.shape(names[0])
    is_flat = node.op == "MatMul" or (shape is not None and len(shape) == 2)
    if ins[0].kind is ins[1].kind is Kind.ROWS:
        if is_flat:
            return _mixed(node, "multiplies the rows of the batch with each other")
        return BATCH if ins[0] == ins[1] == BATCH else UNKNOWN
    if is_flat and (_attr(node, "transpose_a").b or _attr(node, "adj_x").b or ins[0] != BATCH):
        return UNKNOWN
    return _same_axis(node, names, ins, scope)


def _einsum(node: Any, _: Sequence[str], ins: Sequence[Flow], __: _Scope) -> Flow:
    terms, _, out = _attr(node, "equation").s.decode().replace(" ", "").partition("->")
    rows = [(term, flow) for term, flow in zip(terms.split(","), ins, strict=True) if flow.kind is Kind.ROWS]
    if all(term.startswith("...") and flow.axis == 0 for term, flow in rows) and out.startswith("..."):
        return BATCH if len(rows) == 1 else UNKNOWN
    if any("." in term for term, _ in rows) or "." in out:
        return UNKNOWN
    letters = {term[flow.axis] for term, flow in rows}
    if len(letters) > 1 or not letters <= set(out):
        return _mixed(node, "multiplies or adds the rows of the batch")
    return Flow(Kind.ROWS, out.index(letters.pop()))


def _stack_of(node: Any, names: Sequence[str], ins: Sequence[Flow], scope: _Scope) -> Flow:
    """Splits one dimension into several outputs."""
    at, shape = (
        scope.constant(names[0 if node.op == "Split" else 2]),
        scope.shape(names[1 if node.op == "Split" else 0]),
    )
    data = meet(ins)
    if at is None or (int(at) < 0 and shape is None) or (int(at) % len(shape) if shape else int(at)) == data.axis:
        return UNKNOWN
    return data


_Rule = Callable[[Any, Sequence[str], Sequence[Flow], _Scope], Flow]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_REDUCE, _reduce),
    **dict.fromkeys(("Transpose", "ConjugateTranspose"), _transpose),
    **dict.fromkeys(("Slice", "StridedSlice"), _slice),
    **dict.fromkeys(_GATHERS, _gather),
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _matmul),
    **dict.fromkeys(("Split", "SplitV"), _stack_of),
    "ConcatV2": _concat,
    "Einsum": _einsum,
    "ExpandDims": _expand,
    "Pack": _pack,
    "Roll": _roll,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unpack": _unpack,
}
