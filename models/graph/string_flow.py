"""Traces the strings of an input through a graph: to DecodeBase64, to a picture decoder, or elsewhere. Runs nothing.

A string is followed through the ops that only pass it on (TF1's TensorArray loops, TF2's TensorList loops, MapDefun,
function calls), in the two forms that it may have: as it was fed, and as DecodeBase64 returned it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from darkroom.models.graph.reachability import functions_of, node_name

# The formats that each decoder of TensorFlow 2.21 accepts; each pair was tried. All decoders detect the format themselves.
# A WebP in any decoder but DecodeImage gives a tensor of too high a rank, and an animated one without alpha aborts the
# process with channels=0 (tried: SIGABRT), so WebP is listed only where it is decoded correctly.
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

# Ops that pass strings on: the positions of the inputs that are passed on, and of the outputs that they appear in.
_EVERY = tuple(range(64))
_PASS_ON: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    **dict.fromkeys(("Identity", "Reshape", "ExpandDims", "Squeeze", "EnsureShape", "Snapshot"), ((0,), (0,))),
    **dict.fromkeys(("StopGradient", "StridedSlice", "Slice", "Gather", "GatherV2", "GatherNd"), ((0,), (0,))),
    **dict.fromkeys(("Enter", "Exit", "NextIteration", "PreventGradient"), ((0,), (0,))),
    **dict.fromkeys(("TensorListFromTensor", "TensorListGetItem", "TensorListStack"), ((0,), (0,))),
    **dict.fromkeys(("Unpack", "SplitV"), ((0,), _EVERY)),
    "Split": ((1,), _EVERY),
    "Switch": ((0,), (0, 1)),
    "Merge": (_EVERY, (0,)),
    "Pack": (_EVERY, (0,)),
    "TensorArrayScatterV3": ((2,), (0,)),  # (handle, indices, value, flow) → flow, which the reads take
    "TensorArrayReadV3": ((2,), (0,)),
    "TensorArrayGatherV3": ((2,), (0,)),
}
# Ops that make another string of it. Their output may still be a picture, but their input must stay as it is.
_ALTERERS = frozenset(
    {"ConcatV2", "RegexReplace", "Select", "SelectV2", "StaticRegexReplace", "StringJoin", "StringStrip", "Substr"}
)
_SHAPE_ONLY = frozenset({"Rank", "Shape", "ShapeN", "Size", "TensorListLength", "TensorListElementShape"})
_LOOPS = frozenset({"StatelessWhile", "While"})
_BRANCHES = frozenset({"Case", "If", "StatelessCase", "StatelessIf"})
_CALLS = _LOOPS | _BRANCHES | {"BatchFunction", "MapDefun", "PartitionedCall", "StatefulPartitionedCall"}

Tensor = tuple[str, str, int]  # function ("" is the graph itself), node or argument, output


class Origin(NamedTuple):
    """Where the strings of a tensor come from: from the fed tensor `source`, as they are or through DecodeBase64."""

    source: str
    decoded: bool


@dataclass(slots=True)
class StringFlow:
    """The result of a trace: where the strings of each fed tensor arrive."""

    origins: dict[Tensor, set[Origin]] = field(default_factory=lambda: defaultdict(set))
    decoders: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))  # DecodeBase64: sources
    pictures: dict[Origin, list[Any]] = field(default_factory=lambda: defaultdict(list))  # Decode* nodes that read it
    other_readers: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # source: ops that read it raw

    def not_hoistable(self, wanted: Iterable[str]) -> dict[str, str]:
        """Returns those of the fed tensors `wanted` whose DecodeBase64 cannot be removed, with the reason.

        All others can be removed together: only DecodeBase64 reads their strings, and it reads no other strings.
        """

        def reason(source: str) -> str:
            mine = [sources for sources in self.decoders.values() if source in sources]
            if not mine:
                return "its strings do not reach DecodeBase64"
            if self.other_readers[source]:
                return f"its strings also reach {', '.join(sorted(self.other_readers[source]))}"
            return "its DecodeBase64 serves another input too" if any(sources - left for sources in mine) else ""

        left = set(wanted)
        reasons: dict[str, str] = {}
        while found := {source: why for source in left if (why := reason(source))}:
            reasons |= found
            left -= found.keys()
        return reasons


def trace(graph_def: Any, sources: Sequence[str], fetches: Iterable[str] = ()) -> StringFlow:
    """Traces the strings of the fed tensors `sources`. A tensor in `fetches` counts as read by another reader."""
    tracer = _Tracer(graph_def)
    for source in sources:
        tracer.flow.origins["", node_name(source), _index(source)].add(Origin(source, decoded=False))
    tracer.run()
    for fetch in fetches:
        tracer.read_by("the outputs", tracer.flow.origins.get(("", node_name(fetch), _index(fetch)), ()))
    return tracer.flow


class _Tracer:
    """Propagates origins until nothing changes, then looks for places where strings of different origin meet."""

    def __init__(self, graph_def: Any) -> None:
        self.flow = StringFlow()
        self._functions = {function.signature.name: function for function in graph_def.library.function}
        self._scopes: dict[str, Any] = {"": graph_def.node}
        self._scopes.update((name, function.node_def) for name, function in self._functions.items())
        self._changed = True

    def run(self) -> None:
        while self._changed:
            self._changed = False
            for scope, nodes in self._scopes.items():
                for node in nodes:
                    self._visit(scope, node)
        for scope, nodes in self._scopes.items():
            for node in nodes:
                self._check_mixing(scope, node)

    def read_by(self, reader: str, origins: Iterable[Origin]) -> None:
        for origin in origins:
            if not origin.decoded:
                self.flow.other_readers[origin.source].add(reader)

    def _visit(self, scope: str, node: Any) -> None:
        inputs = self._inputs(scope, node)
        if not any(inputs):
            return
        if node.op == "DecodeBase64":
            self.flow.decoders[scope, node.name].update(origin.source for origin in inputs[0] if not origin.decoded)
            self._put((scope, node.name, 0), {Origin(origin.source, decoded=True) for origin in inputs[0]})
        elif node.op in _PASS_ON:
            self._pass_on(scope, node, inputs)
        elif (called := functions_of(node, self._functions)) and (node.op in _CALLS or node.op in self._functions):
            self._call(scope, node, inputs, called)
        elif node.op not in _SHAPE_ONLY:
            self._read(scope, node, inputs)

    def _read(self, scope: str, node: Any, inputs: list[set[Origin]]) -> None:
        origins = set[Origin]().union(*inputs)
        self.read_by(node.op, origins)
        if node.op in _ALTERERS:
            self._put((scope, node.name, 0), origins)
        if node.op in PICTURE_OPS:
            for origin in inputs[0]:
                if not any(node is known for known in self.flow.pictures[origin]):
                    self.flow.pictures[origin].append(node)

    def _pass_on(self, scope: str, node: Any, inputs: list[set[Origin]]) -> None:
        taken, returned = _PASS_ON[node.op]
        for position, origins in enumerate(inputs):
            if position in taken:
                for output in returned:
                    self._put((scope, node.name, output), origins)
            elif origins:
                self.read_by(node.op, origins)

    def _call(self, scope: str, node: Any, inputs: list[set[Origin]], called: list[str]) -> None:
        skip = 1 if node.op in _BRANCHES else 0
        for name in called:
            args = self._functions[name].signature.input_arg
            for arg, origins in zip(args, inputs[skip:], strict=False):
                self._put((name, arg.name, 0), origins)
            if node.op in _LOOPS and name == node.attr["cond"].func.name:
                continue
            for output, ret in enumerate(self._returned(name)):
                self._put((scope, node.name, output), ret)
                if node.op in _LOOPS:
                    self._put((name, args[output].name, 0), ret)

    def _check_mixing(self, scope: str, node: Any) -> None:
        """Notes where strings of an input meet other strings: one DecodeBase64 may then decode both."""
        inputs = self._inputs(scope, node)
        if node.op in _PASS_ON:
            taken = [origins for position, origins in enumerate(inputs) if position in _PASS_ON[node.op][0]]
            self._check_alike(node, taken)
            return
        if node.op == "DecodeBase64" and len(_stages(inputs[0])) > 1:
            self.read_by("DecodeBase64 beside other strings", inputs[0])
        skip = 1 if node.op in _BRANCHES else 0
        for name in functions_of(node, self._functions):
            for arg, origins in zip(self._functions[name].signature.input_arg, inputs[skip:], strict=False):
                self._check_alike(node, [self.flow.origins.get((name, arg.name, 0), set()), origins])
        self._check_returned(node)

    def _check_alike(self, node: Any, places: Sequence[set[Origin]]) -> None:
        """Notes a reader unless all values come from the inputs, and all of them are decoded or none is."""
        if len({_stages(origins) for origins in places}) > 1:
            self.read_by(f"{node.op} beside other strings", set[Origin]().union(*places))

    def _check_returned(self, node: Any) -> None:
        """Notes a branch, or the next iteration of a loop, that returns other strings in the same place."""
        if node.op in _BRANCHES:
            columns = zip(*map(self._returned, functions_of(node, self._functions)), strict=False)
        elif node.op in _LOOPS:
            name = node.attr["body"].func.name
            args = self._functions[name].signature.input_arg
            before = [self.flow.origins.get((name, arg.name, 0), set()) for arg in args]
            columns = zip(before, self._returned(name), strict=False)
        else:
            return
        for places in columns:
            self._check_alike(node, places)

    def _returned(self, name: str) -> list[set[Origin]]:
        function = self._functions[name]
        return [
            self.flow.origins.get(_tensor(name, function.ret[out.name]), set()) for out in function.signature.output_arg
        ]

    def _inputs(self, scope: str, node: Any) -> list[set[Origin]]:
        return [self.flow.origins.get(_tensor(scope, name), set()) for name in node.input if not name.startswith("^")]

    def _put(self, tensor: Tensor, origins: set[Origin]) -> None:
        if origins and not origins <= self.flow.origins[tensor]:
            self.flow.origins[tensor] |= origins
            self._changed = True


def _stages(origins: Iterable[Origin]) -> frozenset[bool]:
    return frozenset(origin.decoded for origin in origins)


def _tensor(scope: str, name: str) -> Tensor:
    """Parses a tensor's name. In a function it is `node:output_name:i`; ops that pass strings on have one output name."""
    return scope, node_name(name), _index(name)


def _index(name: str) -> int:
    last = name.rpartition(":")[2]
    return int(last) if last.isdigit() and ":" in name else 0
