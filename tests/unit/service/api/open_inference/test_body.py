"""The body of an infer request: columns of the signature's inputs, or a refusal in the house's words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.models.engines.fakes import ECHO
from darkroom.models.errors import InvalidInput
from darkroom.models.spec import SignatureSpec, TensorSpec, np_shape
from darkroom.service.api.open_inference.body import parse_body, read_inputs, read_raw
from darkroom.service.errors import CodecError

NUMBERS = SignatureSpec("serving_default", (TensorSpec("x", "float32", (None, 2)),), ())
TEXTS = SignatureSpec("serving_default", (TensorSpec("text", "string", (None, None)), *NUMBERS.inputs), ())

ODD: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([]) | st.just({})
)
SIZES = st.lists(st.integers(0, 3), max_size=3)
VALUES = st.recursive(st.floats() | st.text(max_size=4), lambda inner: st.lists(inner, max_size=3), max_leaves=6)
INPUT = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["images", "x", "text"]) | ODD,
        "datatype": st.sampled_from(["BYTES", "FP32", "FP16", "INT64", "BOOL"]) | ODD,
        "shape": SIZES | ODD,
        "data": VALUES | ODD,
        "parameters": ODD
        | st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.integers(-1, 20) | ODD, "content_type": st.just("base64") | ODD}
        ),
    },
)
FIELDS = st.fixed_dictionaries({"inputs": st.lists(INPUT, max_size=3) | ODD}, optional={"parameters": ODD})


@given(FIELDS, st.binary(max_size=20), st.integers(-2, 30) | st.none(), st.sampled_from([ECHO, NUMBERS, TEXTS]))
def test_any_body_becomes_the_columns_of_the_signature_or_is_refused(
    fields: Any, tail: bytes, offset: int | None, spec: SignatureSpec
) -> None:
    head = json.dumps(fields).encode()
    length = None if offset is None else str(len(head) + offset)
    try:
        columns = read_inputs(
            parse_body(head + tail, length), spec, lambda texts, *_: [text.encode() for text in texts]
        )
    except (CodecError, InvalidInput):
        return
    assert set(columns) == {tensor.name for tensor in spec.inputs}
    assert all(tensor.takes(np_shape(columns[tensor.name])) for tensor in spec.inputs)


@given(st.binary(max_size=40))
def test_a_raw_body_is_one_picture_or_whole_rows_of_numbers(body: bytes) -> None:
    assert read_raw(body, ECHO) == {"images": [body]}
    if len(body) % 8:
        with pytest.raises(InvalidInput, match="whole rows of"):
            read_raw(body, NUMBERS)
    else:
        column = read_raw(body, NUMBERS)["x"]
        assert isinstance(column, np.ndarray)
        assert (column.shape, column.tobytes()) == ((len(body) // 8, 2), body)


@pytest.mark.parametrize(
    "shape", [(3,), (None, None), (None, 0), None, ()], ids=["fixed", "two open", "no value", "unknown rank", "scalar"]
)
def test_a_raw_body_of_numbers_needs_the_batch_and_nothing_else_open(shape: tuple[int | None, ...] | None) -> None:
    spec = SignatureSpec("serving_default", (TensorSpec("x", "float32", shape),), ())
    with pytest.raises(InvalidInput, match="whole rows of"):
        read_raw(b"\x00" * 12, spec)
