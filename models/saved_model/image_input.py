"""What a signature's graph says of it before anything is run: its image input, its wire, whether it can be batched."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from darkroom.models.graph.reachability import Reach
from darkroom.models.graph.string_flow import ANIMATION_OPS, PICTURE_OPS, Mark, trace
from darkroom.models.spec import SignatureSpec, TensorSpec, Wire

_WEBP_CHANNELS = frozenset({0, 3, 4})  # DecodeImage refuses WebP for any other number (tried with TensorFlow 2.21)


def find_wire(spec: SignatureSpec, graph_def: Any) -> SignatureSpec:
    """The spec with its image input: the first string input, by name, whose strings reach a picture decoder."""
    strings = [tensor for tensor in spec.inputs if tensor.dtype == "string"]
    flow = trace(graph_def, [tensor.source for tensor in strings])
    for tensor in strings:
        for wire, mark in ((Wire.BASE64, Mark(tensor.source, True)), (Wire.BYTES, Mark(tensor.source, False))):
            if nodes := flow.pictures.get(mark):
                return replace(
                    spec,
                    wire=wire,
                    image_input=tensor.name,
                    formats=_formats(nodes),
                    one_frame=not any(node.op in ANIMATION_OPS for node in nodes),
                )
    return spec


def judge_batching(spec: SignatureSpec, reach: Reach) -> SignatureSpec:
    """The spec with the reason why its rows can never share a call, where the graph alone shows one."""
    reason = reach.stateful or _fixed(spec.inputs, "input") or _fixed(spec.outputs, "output")
    if not spec.inputs:
        reason = reason or "it has no input"
    return unbatched(spec, reason) if reason else spec


def unbatched(spec: SignatureSpec, reason: str) -> SignatureSpec:
    """The spec of a signature that is served one request at a time."""
    return replace(spec, batched=False, unbatched_reason=reason)


def _fixed(tensors: Iterable[TensorSpec], kind: str) -> str:
    for tensor in tensors:
        if not tensor.has_batch_dimension:
            first = tensor.shape[0] if tensor.shape else "none"
            return f"the first dimension of {kind} {tensor.name!r} is {first}, not the batch"
    return ""


def _formats(nodes: Iterable[Any]) -> frozenset[str]:
    formats: set[str] = set()
    for node in nodes:
        takes = PICTURE_OPS[node.op]
        if node.op == "DecodeImage" and node.attr["channels"].i not in _WEBP_CHANNELS:
            takes -= {"webp"}
        formats |= takes
    return frozenset(formats)
