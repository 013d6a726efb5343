"""The load-time graph passes: each a function GraphDef → GraphDef that leaves its argument as it was."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from darkroom.models.graph.inline import inline_calls
from darkroom.models.graph.string_flow import trace
from darkroom.models.runtime.session import Binding
from darkroom.models.runtime.tensorflow import graph_pb2
from darkroom.models.spec import SignatureSpec, Wire

_STRING = 7  # DT_STRING


class BoundSignature(NamedTuple):
    """A signature and its tensors in the graph that is rewritten."""

    spec: SignatureSpec
    binding: Binding


# (GraphDef, every signature of it, the names of those to rewrite) → the GraphDef, and why not for those it leaves as
# they were. A graph may be shared by signatures, so a pass sees them all.
Pass = Callable[[Any, Mapping[str, BoundSignature], AbstractSet[str]], tuple[Any, dict[str, str]]]


def hoist_base64(
    graph_def: Any, targets: Mapping[str, BoundSignature], wanted: AbstractSet[str]
) -> tuple[Any, dict[str, str]]:
    """The graph with the image inputs' DecodeBase64 taken out: it then wants the pictures' bytes.

    The op stays in its place as an Identity, wherever it stands: in the graph, in a TF1 while loop, in the body of a
    function loop or of a MapDefun. It stays as it is where what feeds it is also read as text, or where it decodes
    other strings too: those of a constant, of another input, or of a signature that is not to be rewritten.
    """
    images = {name: _image_source(target) for name, target in targets.items()}
    held = {source for name, source in images.items() if name not in wanted}
    reasons = {name: "the graph decodes no base64 pictures" for name in wanted if images[name] is None}
    sources = {source for source in images.values() if source is not None} - held
    flow = trace(
        graph_def,
        sorted({tensor for target in targets.values() for tensor in target.binding.feeds.values()}),
        [tensor for target in targets.values() for tensor in target.binding.fetches.values()],
    )
    kept = flow.hoistable(sources) | {source: "another signature's input is the same" for source in held if source}
    reasons |= {name: kept[source] for name in wanted if (source := images[name]) in kept and source is not None}
    taken = {at for at, readers in flow.decoders.items() if readers & (sources - kept.keys())}
    hoisted = graph_pb2.GraphDef()
    hoisted.CopyFrom(graph_def)
    for scope, nodes in _scopes(hoisted):
        for node in nodes:
            if (scope, node.name) in taken:
                node.op = "Identity"
                node.attr.clear()
                node.attr["T"].type = _STRING
    return hoisted, reasons


def _image_source(target: BoundSignature) -> str | None:
    """The tensor that a signature's base64 pictures are fed to."""
    if target.spec.wire is not Wire.BASE64 or target.spec.image_input is None:
        return None
    return target.binding.feeds[target.spec.image_input]


def _scopes(graph_def: Any) -> list[tuple[str, Any]]:
    functions = [(function.signature.name, function.node_def) for function in graph_def.library.function]
    return [("", graph_def.node), *functions]


def inline(
    graph_def: Any, targets: Mapping[str, BoundSignature], wanted: AbstractSet[str]
) -> tuple[Any, dict[str, str]]:
    """The graph with its calls inlined, for every signature of it or for none: they may share a call."""
    if len(wanted) < len(targets):
        return graph_def, dict.fromkeys(wanted, "another signature of the graph was taken back")
    fetches = [tensor for target in targets.values() for tensor in target.binding.fetches.values()]
    return inline_calls(graph_def, fetches), {}


PASSES: tuple[tuple[str, Pass], ...] = (("inline", inline), ("hoist_base64", hoist_base64))
