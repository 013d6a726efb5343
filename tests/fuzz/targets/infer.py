"""The body of an infer request: the first byte picks the signature, the first line is the length of the JSON."""

from __future__ import annotations

import numpy as np

from darkroom.models.errors import InvalidInput
from darkroom.models.spec import SignatureSpec, TensorSpec, np_shape
from darkroom.service.api.open_inference import tensors
from darkroom.service.api.open_inference.body import parse_body, read_inputs, read_raw
from darkroom.service.errors import CodecError
from darkroom.service.predict import codec

NUMBERS = (TensorSpec("x", "float32", (None, 2)), TensorSpec("y", "int64", None), TensorSpec("z", "bool", (None,)))
SPECS = (
    SignatureSpec("pictures", (TensorSpec("x", "string", (None,)),), (), image_input="x"),
    SignatureSpec("numbers", NUMBERS, ()),
    SignatureSpec("texts", (TensorSpec("x", "string", (None, None)),), ()),
    SignatureSpec("half", (TensorSpec("x", "float16", (None, 2)),), ()),
)


def check(data: bytes) -> None:
    """Each column that is read has the shape and type of its input, and comes back from its own bytes."""
    line, _, body = data[1:].partition(b"\n")
    spec = SPECS[data[0] % len(SPECS)] if data else SPECS[0]
    length = line.decode("latin-1")
    try:
        if length == "raw":
            columns = read_raw(body, spec)
        else:
            sent = parse_body(body, length or None)
            columns = read_inputs(sent, spec, lambda texts, *_: [codec.decode_picture(text, "x", 0) for text in texts])
    except (CodecError, InvalidInput):
        return
    assert set(columns) == {tensor.name for tensor in spec.inputs}
    for tensor in spec.inputs:
        column = columns[tensor.name]
        shape = np_shape(column)
        assert tensor.takes(shape)
        if tensor.dtype == "string":
            again = tensors.read_binary(tensors.write_binary(column), "string", shape, tensor.name)
            assert np.array_equal(np.asarray(again, object), np.asarray(column, object))
