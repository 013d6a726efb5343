"""The protocol's tensors: what goes out comes back in, to the bit; what lies about its size is refused."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, TypeVar

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from darkroom.models.errors import InvalidInput
from darkroom.models.spec import numpy_dtype
from darkroom.service.api.open_inference import tensors
from darkroom.service.errors import CodecError
from darkroom.service.predict import codec

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.models.rows import Column

Made = TypeVar("Made")
NUMBERS = sorted(set(tensors.DATATYPES) - {"string", "bfloat16"})
SHAPES = npst.array_shapes(min_dims=0, max_dims=4, max_side=4)


def _values(column: Column) -> Any:
    return column if isinstance(column, list) else column.tolist()


def _made_or_refusal(make: Callable[[], Made]) -> tuple[Made | None, str]:
    """What `make` gives, or the words with which it refuses."""
    try:
        return make(), ""
    except (CodecError, InvalidInput) as err:
        return None, str(err)


@given(st.one_of(*(npst.arrays(np.dtype(name), SHAPES) for name in NUMBERS)))
def test_an_array_comes_back_to_the_bit_in_binary(array: np.ndarray[Any, Any]) -> None:
    back = tensors.read_binary(tensors.write_binary(array), array.dtype.name, array.shape, "x")
    assert isinstance(back, np.ndarray)
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def _finite(dtype: str) -> st.SearchStrategy[Any]:
    kind = np.dtype(dtype)
    elements = npst.from_dtype(kind, allow_nan=False, allow_infinity=False) if kind.kind == "f" else None
    return npst.arrays(kind, SHAPES, elements=elements)


@given(st.one_of(*(_finite(name) for name in NUMBERS)))
def test_a_finite_array_comes_back_to_the_bit_in_json(array: np.ndarray[Any, Any]) -> None:
    data = json.loads(codec.dump_json(tensors.write_json(array)))["data"]
    back = tensors.read_json(data, array.dtype.name, array.shape, "x")
    assert isinstance(back, np.ndarray)
    assert (back.shape, back.tobytes()) == (array.shape, array.tobytes())
    nested = tensors.read_json(array.tolist(), array.dtype.name, array.shape, "x")
    assert isinstance(nested, np.ndarray)
    assert nested.tobytes() == array.tobytes()


def test_bfloat16_goes_as_two_bytes_in_binary_and_as_numbers_in_json() -> None:
    array = np.array([1.5, -2], ml_dtypes.bfloat16)
    assert tensors.describe("x", array)["datatype"] == "BF16"
    assert tensors.write_binary(array) == b"\xc0\x3f\x00\xc0"
    back = tensors.read_binary(b"\xc0\x3f\x00\xc0", "bfloat16", (2,), "x")
    assert _values(back) == [1.5, -2]
    assert codec.dump_json(tensors.write_json(array)) == b'{"data":[1.5,-2.0]}\n'


@given(st.lists(st.binary(max_size=20), max_size=8), st.booleans())
def test_strings_come_back_whatever_their_bytes(values: list[bytes], is_square: bool) -> None:
    shape = (len(values), 1) if is_square else (len(values),)
    column = tensors.shaped(values, shape, "x")
    back = tensors.read_binary(tensors.write_binary(column), "string", shape, "x")
    assert _values(back) == _values(column)
    written = tensors.write_json(column)
    if "parameters" in written:
        assert written["parameters"] == {"content_type": "base64"}
        assert _values(tensors.read_base64(written["data"], shape, "x")) == _values(column)
    else:
        assert _values(tensors.read_json(written["data"], "string", shape, "x")) == _values(column)


@given(st.binary(max_size=40), st.sampled_from(sorted(tensors.DATATYPES)), SHAPES)
def test_any_bytes_are_a_tensor_of_the_shape_or_refused(chunk: bytes, dtype: str, shape: tuple[int, ...]) -> None:
    column, words = _made_or_refusal(lambda: tensors.read_binary(chunk, dtype, shape, "x"))
    if column is None:
        assert words.startswith("x")
    else:
        described = {"name": "x", "datatype": tensors.DATATYPES[dtype], "shape": list(shape)}
        assert tensors.describe("x", column) == described


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@given(JSON, st.sampled_from(sorted(tensors.DATATYPES)), SHAPES)
def test_any_json_is_a_tensor_of_the_shape_or_refused(data: Any, dtype: str, shape: tuple[int, ...]) -> None:
    column, words = _made_or_refusal(lambda: tensors.read_json(data, dtype, shape, "x"))
    if column is None:
        assert "x" in words
    else:
        assert tensors.describe("x", column)["shape"] == list(shape)
        assert isinstance(column, list) or column.dtype == numpy_dtype(dtype)


@given(JSON)
def test_any_json_is_a_shape_that_numpy_can_make_or_refused(value: Any) -> None:
    shape, words = _made_or_refusal(lambda: tensors.parse_shape(value, "inputs[0]"))
    if shape is None:
        assert words.startswith("inputs[0].shape")
    else:
        assert list(shape) == value
        assert 0 not in shape[1:] or not shape[0]


@given(st.lists(st.integers(0, 1 << 70), max_size=40))
def test_sizes_of_any_height_are_refused_in_few_words(sizes: list[int]) -> None:
    shape, words = _made_or_refusal(lambda: tensors.parse_shape(sizes, "inputs[0]"))
    if shape is not None:
        _, words = _made_or_refusal(lambda: tensors.read_binary(b"123456789", "float64", shape, "x"))
    assert 0 < len(words) < 500


@pytest.mark.parametrize("length", [1, 5, 1 << 31, 0xFFFFFFFF])
def test_an_element_that_is_longer_than_what_is_left_is_refused_by_its_index(length: int) -> None:
    with pytest.raises(CodecError, match=rf"x\[1\]: says that it has {length} bytes, 0 are left"):
        tensors.split(struct.pack("<IcI", 1, b"a", length), "x")


def test_a_byte_that_is_not_0_is_true() -> None:
    column = tensors.read_binary(b"\x00\x01\xff", "bool", (3,), "x")
    assert _values(column) == [False, True, True]


@pytest.mark.parametrize("value", ["FLOAT", "fp32", "", None, 3, ["FP32"], "x" * 1000])
def test_a_datatype_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(CodecError, match="datatype: expected one of BOOL") as caught:
        tensors.parse_datatype(value, "inputs[0]")
    assert len(str(caught.value)) < 500


def test_a_type_that_the_protocol_has_no_name_for_is_told() -> None:
    with pytest.raises(CodecError, match="'x' is of a type"):
        tensors.describe("x", np.zeros(1, np.complex64))
