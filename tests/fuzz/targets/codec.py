"""JSON and base64: what Darkroom's fast parsers read is what Python's own read."""

from __future__ import annotations

import base64
import binascii
import json
from contextlib import suppress
from typing import Any

from darkroom.models.spec import SignatureSpec, TensorSpec
from darkroom.service.api.tensorflow_serving import request as serving
from darkroom.service.api.tensorflow_serving.wording import explain
from darkroom.service.errors import CodecError
from darkroom.service.predict import codec

SPEC = SignatureSpec(
    "serving_default",
    (TensorSpec("a", "string", (None,)), TensorSpec("b", "string", (None, None))),
    (),
    image_input="a",
)


def check(data: bytes) -> None:
    """Nothing but the project's errors; both parsers agree; what was decoded can be encoded again."""
    _check_base64(data)
    try:
        value = codec.parse_json(data)
    except CodecError:
        return
    with suppress(ValueError, RecursionError):
        assert _plain(json.loads(data.removeprefix(b"\xef\xbb\xbf"))) == _plain(value)
    for decode in (codec.decode_binary, codec.decode_base64_strings):
        with suppress(ValueError, RecursionError):
            decode(value)
    with suppress(CodecError):
        codec.decode_picture(value, "a", 0)
    with suppress(CodecError):
        codec.parse_k(value)
    _check_serving(data)


def _check_serving(data: bytes) -> None:
    """The rows and columns of a request in the form of TensorFlow Serving."""
    with suppress(CodecError):
        fields = serving.parse_object(data)
        for names in ([], ["a"], ["a", "b"]):
            with suppress(CodecError):
                columns = serving.rows_to_columns(fields.get("instances"), names, names)
                explain(columns, SPEC, is_row=True)
                assert list(columns) == names
            with suppress(CodecError):
                inputs = serving.inputs_to_columns(fields.get("inputs"), names, names)
                explain(inputs, SPEC, is_row=False)
                if len(names) == 2:
                    serving.decode_strings(inputs, SPEC)
        serving.parse_examples(fields)


def _check_base64(data: bytes) -> None:
    """Text that Python's strict decoder takes is decoded to the same bytes, in both alphabets and without padding."""
    inner = codec.unwrap_picture(data)
    assert inner is data or len(inner) < len(data)
    text = data.decode("latin-1")
    try:
        decoded = codec.decode_base64(text)
    except ValueError:
        decoded = None
    if text.startswith("data:"):
        return
    with suppress(binascii.Error, ValueError):
        assert base64.b64decode(text, validate=True) == decoded
    standard = base64.b64encode(data).decode()
    for form in (
        standard,
        standard.rstrip("="),
        standard.replace("+", "-").replace("/", "_"),
        f"data:;base64,{standard}",
    ):
        assert codec.decode_base64(form) == data


def _plain(value: Any) -> Any:
    """A JSON value with all numbers as floats: the two read integers over 64 bits as different types."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):
            return repr(float(value))
        return "inf"
    return value
