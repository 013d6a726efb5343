"""Reads from a signature's graph, before it is run, which input takes pictures and whether rows can be batched."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from darkroom.models.graph.reachability import GraphTraits
from darkroom.models.graph.row_flow import BATCH, Flow, Flows, Kind
from darkroom.models.graph.string_flow import ANIMATION_OPS, PICTURE_OPS, Origin, trace
from darkroom.models.spec import SignatureSpec, TensorSpec, Wire

_WEBP_CHANNELS = frozenset({0, 3, 4})  # DecodeImage refuses WebP for any other number (tried with TensorFlow 2.21)


def find_image_input(spec: SignatureSpec, graph_def: Any) -> SignatureSpec:
    """Returns the spec with its image input: the first string input, by name, that a picture decoder reads.

    Without such an input, only `decodes_pictures` is set in the spec that is returned.
    """
    nodes = chain(graph_def.node, *(function.node_def for function in graph_def.library.function))
    spec = replace(spec, decodes_pictures=any(node.op in PICTURE_OPS for node in nodes))
    strings = [tensor for tensor in spec.inputs if tensor.dtype == "string"]
    flow = trace(graph_def, [tensor.source for tensor in strings])
    for tensor in strings:
        for wire, origin in ((Wire.BASE64, Origin(tensor.source, True)), (Wire.BYTES, Origin(tensor.source, False))):
            if decoders := flow.pictures.get(origin):
                formats: set[str] = set()
                for node in decoders:
                    is_without_webp = node.op == "DecodeImage" and node.attr["channels"].i not in _WEBP_CHANNELS
                    formats |= PICTURE_OPS[node.op] - ({"webp"} if is_without_webp else set())
                others = [each for each in strings if each.name != tensor.name]
                raw = {each.name for each in others if Origin(each.source, False) in flow.pictures}
                encoded = {each.name for each in others if Origin(each.source, True) in flow.pictures} - raw
                return replace(
                    spec,
                    wire=wire,
                    other_pictures=frozenset(raw | encoded),
                    encoded_pictures=frozenset(encoded),
                    image_input=tensor.name,
                    formats=frozenset(formats),
                    one_frame=not any(node.op in ANIMATION_OPS for node in decoders),
                )
    return spec


def check_batching(spec: SignatureSpec, traits: GraphTraits) -> SignatureSpec:
    """Returns the spec with what the graph alone shows: which shapes it takes, and why rows can never share a call.

    A single input of numbers whose rank is unknown gets the rank of the convolutions that it reaches: another one would
    end the process.
    """
    inputs = spec.inputs
    if traits.rank and len(inputs) == 1 and inputs[0].shape is None and inputs[0].dtype != "string":
        inputs = (replace(inputs[0], shape=(None,) * traits.rank),)
    spec = replace(spec, inputs=inputs, any_shape=traits.elementwise)
    reason = traits.stateful or _fixed_size(spec.inputs, "input") or _fixed_size(spec.outputs, "output")
    if not spec.inputs:
        reason = reason or "it has no input"
    return unbatched(spec, reason) if reason else spec


def rows_meet(spec: SignatureSpec, flows: Mapping[str, Flow]) -> str:
    """Returns how the graph lets a row change the answer to another, in words; empty where it shows no such way.

    Each output must be shown to keep its rows apart: samples may be too few, or happen to have equal shapes.
    """
    for tensor in spec.inputs if len(spec.inputs) > 1 else ():
        if tensor.shape is None and tensor.dtype != "string":  # [n] beside [n, k] is aligned at the last dimension
            return f"the rank of input {tensor.name!r} is not known, so its rows may meet other rows of other inputs"
    for tensor in spec.outputs:
        if flows[tensor.name].kind is Kind.MIXED:
            return f"output {tensor.name!r} depends on the rows beside it: {flows[tensor.name].reason}"
    for tensor in spec.outputs:
        if flows[tensor.name].kind is Kind.UNKNOWN:
            return f"output {tensor.name!r} may depend on the rows beside it: its graph has ops that cannot be followed"
        if (tensor.shape is None or None in tensor.shape[1:]) and flows[tensor.name] != BATCH:
            return f"the shape of output {tensor.name!r} may depend on the rows beside it"
    return ""


def size_doubt(spec: SignatureSpec, flows: Flows) -> str:
    """Returns why rows may meet at another inner size than that of the samples, in words; empty: they do not."""
    is_open = any(tensor.has_open_sizes for tensor in spec.inputs)
    doubts = [f"{op} may join rows at some sizes" for op in flows.doubts]
    doubts += [f"the way to output {name!r} is not known" for name, flow in flows.outputs.items() if flow != BATCH]
    return doubts[0] if doubts and is_open else ""


def unbatched(spec: SignatureSpec, reason: str) -> SignatureSpec:
    """Returns the spec of a signature that serves one request per call."""
    return replace(spec, batched=False, unbatched_reason=reason)


def _fixed_size(tensors: Iterable[TensorSpec], kind: str) -> str:
    """Returns which tensor has no batch dimension, in words; empty where all have one."""
    for tensor in tensors:
        if not tensor.has_batch_dimension:
            first = tensor.shape[0] if tensor.shape else "none"
            return f"the first dimension of {kind} {tensor.name!r} is {first}, not the batch"
    return ""
