"""Where the strings of an input go in a graph: into DecodeBase64, into a picture decoder, or elsewhere. Runs nothing.

A string is followed through the ops that only carry it (TF1's TensorArray loops, TF2's TensorList loops, MapDefun,
function calls), in both forms in which it may arrive: as fed, and as DecodeBase64 gave it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from darkroom.models.graph.reachability import functions_of, node_name

# What each decoder of TensorFlow 2.21 takes, tried one by one with each format. All of them classify the bytes
# themselves; a WebP that reaches any but DecodeImage comes out with a rank too many, and an animated one without alpha
# aborts the process where channels=0 (tried: SIGABRT), so it is left out wherever it is not decoded well.
PICTURE_OPS = {
    "DecodeJpeg": frozenset({"jpeg", "png", "gif"}),
    "DecodePng": frozenset({"jpeg", "png", "gif"}),
    "DecodeGif": frozenset({"jpeg", "png", "gif"}),
    "DecodeBmp": frozenset({"bmp"}),
    "DecodeImage": frozenset({"jpeg", "png", "gif", "bmp", "webp"}),
    "DecodeAndCropJpeg": frozenset({"jpeg"}),
    "DecodeWebP": frozenset({"webp"}),
}
ANIMATION_OPS = frozenset({"DecodeGif", "DecodeImage"})

# Ops that carry strings: the positions of the inputs that come out, and the positions of the outputs they come out of.
_EVERY = tuple(range(64))
_CARRIERS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    **dict.fromkeys(("Identity", "Reshape", "ExpandDims", "Squeeze", "EnsureShape", "Snapshot"), ((0,), (0,))),
    **dict.fromkeys(("StopGradient", "StridedSlice", "Slice", "Gather", "GatherV2", "GatherNd"), ((0,), (0,))),
    **dict.fromkeys(("Enter", "Exit", "NextIteration", "PreventGradient"), ((0,), (0,))),
    **dict.fromkeys(("TensorListFromTensor", "TensorListGetItem", "TensorListStack"), ((0,), (0,))),
    **dict.fromkeys(("Unpack", "SplitV"), ((0,), _EVERY)),
    "Split": ((1,), _EVERY),
    "Switch": ((0,), (0, 1)),
    "Merge": (_EVERY, (0,)),
    "Pack": (_EVERY, (0,)),
    "TensorArrayScatterV3": ((2,), (0,)),  # (handle, indices, value, flow) → flow: a read is known by the flow it takes
    "TensorArrayReadV3": ((2,), (0,)),
    "TensorArrayGatherV3": ((2,), (0,)),
}
# Ops that make a string of it: what comes out may still be a picture, though what goes in cannot be exchanged any more.
_ALTERERS = frozenset(
    {"ConcatV2", "RegexReplace", "Select", "SelectV2", "StaticRegexReplace", "StringJoin", "StringStrip", "Substr"}
)
_SHAPE_ONLY = frozenset({"Rank", "Shape", "ShapeN", "Size", "TensorListLength", "TensorListElementShape"})
_LOOPS = frozenset({"StatelessWhile", "While"})
_BRANCHES = frozenset({"Case", "If", "StatelessCase", "StatelessIf"})
_CALLS = _LOOPS | _BRANCHES | {"BatchFunction", "MapDefun", "PartitionedCall", "StatefulPartitionedCall"}

Tensor = tuple[str, str, int]  # function ("" is the graph itself), node or argument, output


class Mark(NamedTuple):
    """What a tensor carries: strings of an input, as they were fed or as DecodeBase64 gave them."""

    source: str
    decoded: bool


@dataclass(slots=True)
class Flow:
    """Where each input's strings went."""

    marks: dict[Tensor, set[Mark]] = field(default_factory=lambda: defaultdict(set))
    decoders: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))  # DecodeBase64: sources
    pictures: dict[Mark, list[Any]] = field(default_factory=lambda: defaultdict(list))  # the Decode* nodes reached
    elsewhere: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # source: ops that read it raw

    def hoistable(self, wanted: Iterable[str]) -> dict[str, str]:
        """Of the inputs `wanted`, those whose DecodeBase64 cannot be taken out, with the reason.

        The others can all be taken out at once: nothing but DecodeBase64 reads their strings, and it reads only theirs.
        """
        left = set(wanted)
        reasons: dict[str, str] = {}
        while found := {source: reason for source in left if (reason := self._not_hoistable(source, left))}:
            reasons |= found
            left -= found.keys()
        return reasons

    def _not_hoistable(self, source: str, left: set[str]) -> str:
        mine = [sources for sources in self.decoders.values() if source in sources]
        if not mine:
            return "its strings do not reach DecodeBase64"
        if self.elsewhere[source]:
            return f"its strings also reach {', '.join(sorted(self.elsewhere[source]))}"
        if any(sources - left for sources in mine):
            return "its DecodeBase64 serves another input too"
        return ""


def trace(graph_def: Any, sources: Sequence[str], fetches: Iterable[str] = ()) -> Flow:
    """Where the strings of the tensors `sources` go; a fetched tensor counts as read elsewhere."""
    tracer = _Tracer(graph_def)
    for source in sources:
        tracer.flow.marks["", node_name(source), _index(source)].add(Mark(source, decoded=False))
    tracer.settle()
    for fetch in fetches:
        tracer.read_by("the outputs", tracer.flow.marks.get(("", node_name(fetch), _index(fetch)), ()))
    return tracer.flow


class _Tracer:
    """Carries marks along until none moves any more, then looks for places where marked and other strings mix."""

    def __init__(self, graph_def: Any) -> None:
        self.flow = Flow()
        self._functions = {function.signature.name: function for function in graph_def.library.function}
        self._scopes: dict[str, Any] = {"": graph_def.node}
        self._scopes.update((name, function.node_def) for name, function in self._functions.items())
        self._moved = True

    def settle(self) -> None:
        while self._moved:
            self._moved = False
            for scope, nodes in self._scopes.items():
                for node in nodes:
                    self._visit(scope, node)
        for scope, nodes in self._scopes.items():
            for node in nodes:
                self._check_mixing(scope, node)

    def read_by(self, reader: str, marks: Iterable[Mark]) -> None:
        for mark in marks:
            if not mark.decoded:
                self.flow.elsewhere[mark.source].add(reader)

    def _visit(self, scope: str, node: Any) -> None:
        inputs = self._inputs(scope, node)
        if not any(inputs):
            return
        if node.op == "DecodeBase64":
            self.flow.decoders[scope, node.name].update(mark.source for mark in inputs[0] if not mark.decoded)
            self._put((scope, node.name, 0), {Mark(mark.source, decoded=True) for mark in inputs[0]})
        elif node.op in _CARRIERS:
            self._carry(scope, node, inputs)
        elif (called := functions_of(node, self._functions)) and (node.op in _CALLS or node.op in self._functions):
            self._call(scope, node, inputs, called)
        elif node.op not in _SHAPE_ONLY:
            self._read(scope, node, inputs)

    def _read(self, scope: str, node: Any, inputs: list[set[Mark]]) -> None:
        marks = set[Mark]().union(*inputs)
        self.read_by(node.op, marks)
        if node.op in _ALTERERS:
            self._put((scope, node.name, 0), marks)
        if node.op in PICTURE_OPS:
            for mark in inputs[0]:
                if not any(node is known for known in self.flow.pictures[mark]):
                    self.flow.pictures[mark].append(node)

    def _carry(self, scope: str, node: Any, inputs: list[set[Mark]]) -> None:
        taken, given = _CARRIERS[node.op]
        for position, marks in enumerate(inputs):
            if position in taken:
                for output in given:
                    self._put((scope, node.name, output), marks)
            elif marks:
                self.read_by(node.op, marks)

    def _call(self, scope: str, node: Any, inputs: list[set[Mark]], called: list[str]) -> None:
        skip = 1 if node.op in _BRANCHES else 0
        for name in called:
            args = self._functions[name].signature.input_arg
            for arg, marks in zip(args, inputs[skip:], strict=False):
                self._put((name, arg.name, 0), marks)
            if node.op in _LOOPS and name == node.attr["cond"].func.name:
                continue
            for output, ret in enumerate(self._returned(name)):
                self._put((scope, node.name, output), ret)
                if node.op in _LOOPS:
                    self._put((name, args[output].name, 0), ret)

    def _check_mixing(self, scope: str, node: Any) -> None:
        """A carrier or a function's argument with marked and unmarked values: its DecodeBase64 has other work too."""
        inputs = self._inputs(scope, node)
        if node.op in _CARRIERS:
            taken = [marks for position, marks in enumerate(inputs) if position in _CARRIERS[node.op][0]]
            self._check_alike(node, taken)
            return
        if node.op == "DecodeBase64" and len(_stages(inputs[0])) > 1:
            self.read_by("DecodeBase64 beside other strings", inputs[0])
        skip = 1 if node.op in _BRANCHES else 0
        for name in functions_of(node, self._functions):
            for arg, marks in zip(self._functions[name].signature.input_arg, inputs[skip:], strict=False):
                self._check_alike(node, [self.flow.marks.get((name, arg.name, 0), set()), marks])
        self._check_returned(node)

    def _check_alike(self, node: Any, places: Sequence[set[Mark]]) -> None:
        """Values that meet come all from the inputs, and are all decoded or all not."""
        if len({_stages(marks) for marks in places}) > 1:
            self.read_by(f"{node.op} beside other strings", set[Mark]().union(*places))

    def _check_returned(self, node: Any) -> None:
        """A branch, or the next round of a loop, that gives other strings in the place of marked ones."""
        if node.op in _BRANCHES:
            columns = zip(*map(self._returned, functions_of(node, self._functions)), strict=False)
        elif node.op in _LOOPS:
            name = node.attr["body"].func.name
            args = self._functions[name].signature.input_arg
            before = [self.flow.marks.get((name, arg.name, 0), set()) for arg in args]
            columns = zip(before, self._returned(name), strict=False)
        else:
            return
        for given in columns:
            self._check_alike(node, given)

    def _returned(self, name: str) -> list[set[Mark]]:
        function = self._functions[name]
        return [
            self.flow.marks.get(_tensor(name, function.ret[out.name]), set()) for out in function.signature.output_arg
        ]

    def _inputs(self, scope: str, node: Any) -> list[set[Mark]]:
        return [self.flow.marks.get(_tensor(scope, name), set()) for name in node.input if not name.startswith("^")]

    def _put(self, tensor: Tensor, marks: set[Mark]) -> None:
        if marks and not marks <= self.flow.marks[tensor]:
            self.flow.marks[tensor] |= marks
            self._moved = True


def _stages(marks: Iterable[Mark]) -> frozenset[bool]:
    return frozenset(mark.decoded for mark in marks)


def _tensor(scope: str, name: str) -> Tensor:
    """In a function `node:output_name:i` is an output; a carrier has one output name, or (Switch) equal outputs."""
    return scope, node_name(name), _index(name)


def _index(name: str) -> int:
    last = name.rpartition(":")[2]
    return int(last) if last.isdigit() and ":" in name else 0
