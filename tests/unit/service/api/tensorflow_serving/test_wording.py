from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.models.errors import InvalidInput
from darkroom.models.spec import Numbers, SignatureSpec, TensorSpec
from darkroom.service.api.tensorflow_serving.wording import explain

DTYPES = ("float32", "float64", "int32", "uint8", "bool", "string", "bfloat16")
LEAVES = st.none() | st.booleans() | st.integers(-300, 300) | st.floats(width=16) | st.text(max_size=3)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


def spec(dtype: str, name: str = "x") -> SignatureSpec:
    return SignatureSpec("serving_default", (TensorSpec(name, dtype, None),), ())


@pytest.mark.parametrize(
    ("dtype", "rows", "words"),
    [
        ("float32", [1, "a"], '1 key: x of {}Error: JSON Value: "a" Type: String is not of expected type: float'),
        ("float64", [None], "0 key: x of {}Error: JSON Value: null Type: Null is not of expected type: double"),
        ("float32", [[True]], "0 key: x of {}Error: JSON Value: true Type: True is not of expected type: float"),
        ("float32", [{"a": 1}], '0 key: x of {}Error: JSON Value: {{"a":1}} Type: Object is not of expected type: float'),
        ("int32", [1, 1.5], "1 key: x of {}Error: JSON Value: 1.5 Type: Number is not of expected type: int32"),
        ("uint8", [1, 300], "1 key: x of {}Error: JSON Value: 300 Type: Number is not of expected type: uint8"),
        ("bool", [0], "0 key: x of {}Error: JSON Value: 0 Type: Number is not of expected type: bool"),
        ("string", ["a", 1], "1 key: x of {}Error: JSON Value: 1 Type: Number is not of expected type: string"),
        ("float32", [[1, 2, 3], [1, 2]], "1 key: x of {}Error: Expecting tensor size: 3 but got: 2"),
        ("float32", [[[1], [2]], [[1, 2]]], "1 key: x of {}Error: Expecting shape [2,1] but got: [1,2]"),
        ("float32", [[[1, 2], [3]]], "0 key: x of {}Error: Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ("float32", [[1, [2]]], "0 key: x of {}Error: Encountered list at unexpected level: 1 expected < 1"),
        (
            "float32", [[[1], 2]],
            "0 key: x of {}Error: JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
    ],
)  # fmt: skip
def test_the_words_are_those_of_tensorflow_serving(dtype: str, rows: list[Any], words: str) -> None:
    wanted = "Failed to process element: " + words.format("'instances' list. ")
    assert explain({"x": rows}, spec(dtype), is_row=True) == wanted
    if "Expecting" not in words:
        assert explain({"x": rows}, spec(dtype), is_row=False) or dtype == "float32"


def test_numbers_that_no_list_holds_are_told_like_those_in_lists() -> None:
    array = Numbers(np.array([[1.0, 2.0], [3.0, 4.5]]), 3)
    for value in (array, [[1, 2], [3, 4.5]]):
        told = explain({"x": value}, spec("int32"), is_row=True)
        assert told.endswith(
            "element: 1 key: x of 'instances' list. Error: JSON Value: 4.5 Type: Number is not of expected type: int32"
        )
        assert explain({"x": value}, spec("float32"), is_row=True) == ""


@given(st.lists(VALUES, min_size=1, max_size=4), st.sampled_from(DTYPES), st.booleans())
def test_what_the_signature_takes_is_not_explained_and_words_are_short(
    rows: list[Any], dtype: str, is_row: bool
) -> None:
    told = explain({"x": json.loads(json.dumps(rows))}, spec(dtype), is_row=is_row)
    assert len(told) < 600
    try:
        spec(dtype).accept({"x": rows}, strict=True)
    except InvalidInput:
        return
    assert told == ""


def test_lists_that_are_nested_deeper_than_a_tensor_are_not_looked_into() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    assert explain({"x": deep}, spec("float32"), is_row=False) == ""
