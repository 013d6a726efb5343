"""The load-time graph passes: functions GraphDef → GraphDef that do not change their argument."""

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


# (GraphDef, all signatures of it, the names of those to rewrite) → (the GraphDef, the reasons of those left unchanged).
# Signatures may share nodes, so a pass is given all of them.
Pass = Callable[[Any, Mapping[str, BoundSignature], AbstractSet[str]], tuple[Any, dict[str, str]]]


def hoist_base64(
    graph_def: Any, signatures: Mapping[str, BoundSignature], wanted: AbstractSet[str]
) -> tuple[Any, dict[str, str]]:
    """Removes DecodeBase64 of the image inputs, so that the graph takes raw picture bytes.

    The op becomes an Identity in its place: in the graph, in a TF1 while loop, in the body of a function loop or of a
    MapDefun. It is kept where its input is also read as text, or where it decodes other strings too: those of a
    constant, of another input, or of a signature that is not to be rewritten.
    """
    images = {  # signature → the tensor that its base64 pictures are fed to
        name: binding.feeds[spec.image_input] if spec.image_input and spec.wire is Wire.BASE64 else None
        for name, (spec, binding) in signatures.items()
    }
    held = {source for name, source in images.items() if name not in wanted}
    reasons = {name: "the graph decodes no base64 pictures" for name in wanted if images[name] is None}
    sources = {source for source in images.values() if source is not None} - held
    flow = trace(
        graph_def,
        sorted({tensor for each in signatures.values() for tensor in each.binding.feeds.values()}),
        [tensor for each in signatures.values() for tensor in each.binding.fetches.values()],
    )
    kept = flow.not_hoistable(sources) | {source: "another signature's input is the same" for source in held if source}
    reasons |= {name: kept[source] for name in wanted if (source := images[name]) in kept and source is not None}
    hoistable = sources - kept.keys()
    hoisted = graph_pb2.GraphDef()
    hoisted.CopyFrom(graph_def)
    functions = ((function.signature.name, function.node_def) for function in hoisted.library.function)
    for scope, nodes in (("", hoisted.node), *functions):
        for node in nodes:
            if flow.decoders.get((scope, node.name), set()) & hoistable:
                node.op = "Identity"
                node.attr.clear()
                node.attr["T"].type = _STRING
    return hoisted, reasons


def inline(
    graph_def: Any, signatures: Mapping[str, BoundSignature], wanted: AbstractSet[str]
) -> tuple[Any, dict[str, str]]:
    """Inlines the graph's function calls, for all its signatures or for none, because they may share a call."""
    if len(wanted) < len(signatures):
        return graph_def, dict.fromkeys(wanted, "another signature of the graph was taken back")
    fetches = [tensor for each in signatures.values() for tensor in each.binding.fetches.values()]
    return inline_calls(graph_def, fetches), {}


PASSES: tuple[tuple[str, Pass], ...] = (("inline", inline), ("hoist_base64", hoist_base64))
