"""The load-time graph passes: each a function GraphDef → GraphDef that leaves its argument as it was."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from darkroom.models.graph.inline import inline_calls
from darkroom.models.graph.reachability import node_name, prune
from darkroom.models.graph.string_flow import trace
from darkroom.models.runtime.session import Binding
from darkroom.models.runtime.tensorflow import convert_to_constants, deprecation, graph_pb2
from darkroom.models.spec import SignatureSpec, Wire

_STRING = 7  # DT_STRING


class Target(NamedTuple):
    """A signature and its tensors in the graph that is rewritten."""

    spec: SignatureSpec
    binding: Binding


# (GraphDef, every signature of it, the names of those to rewrite) → the GraphDef, and why not for those it leaves as
# they were. A graph may be shared by signatures, so a pass sees them all.
Pass = Callable[[Any, Mapping[str, Target], AbstractSet[str]], tuple[Any, dict[str, str]]]


def freeze(session: Any, graph_def: Any, outputs: Sequence[str]) -> Any:
    """The graph with its variables' present values as constants, and only what `outputs` (tensor names) need.

    Functions stay functions: the session inlines them itself. Inlining them here (Grappler's `function` pass, as
    convert_variables_to_constants_v2 does) made no measurable difference, on EfficientNet-Lite0 and on 28x28 models.
    """
    nodes = sorted({node_name(output) for output in outputs})
    with deprecation.silence():
        frozen = convert_to_constants.convert_variables_to_constants_from_session_graph(session, graph_def, nodes)
    return prune(frozen, outputs)


def hoist_base64(graph_def: Any, targets: Mapping[str, Target], wanted: AbstractSet[str]) -> tuple[Any, dict[str, str]]:
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


def _image_source(target: Target) -> str | None:
    """The tensor that a signature's base64 pictures are fed to."""
    if target.spec.wire is not Wire.BASE64 or target.spec.image_input is None:
        return None
    return target.binding.feeds[target.spec.image_input]


def _scopes(graph_def: Any) -> list[tuple[str, Any]]:
    functions = [(function.signature.name, function.node_def) for function in graph_def.library.function]
    return [("", graph_def.node), *functions]


def inline(graph_def: Any, targets: Mapping[str, Target], wanted: AbstractSet[str]) -> tuple[Any, dict[str, str]]:
    """The graph with its calls inlined, for every signature of it or for none: they may share a call."""
    if len(wanted) < len(targets):
        return graph_def, dict.fromkeys(wanted, "another signature of the graph was taken back")
    fetches = [tensor for target in targets.values() for tensor in target.binding.fetches.values()]
    return inline_calls(graph_def, fetches), {}


PASSES: tuple[tuple[str, Pass], ...] = (("inline", inline), ("hoist_base64", hoist_base64))
