"""TensorProto in each of its forms, with TensorFlow itself as the judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from darkroom.models.spec import DTYPES, numpy_dtype
from darkroom.service.api.grpc.protos import message
from darkroom.service.api.grpc.tensor_proto import FIELDS, read_tensor, write_tensor
from darkroom.service.errors import CodecError, TooLarge

TensorProto = message("tensorflow.TensorProto")
NUMBERS = [dtype for dtype in DTYPES if dtype != "string"]
MAX_BYTES = 1 << 20


def tensor(dtype: str, shape: list[int], **fields: Any) -> Any:
    made = TensorProto(dtype=DTYPES[dtype][0], **fields)
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


def values(dtype: str) -> np.ndarray[Any, Any]:
    """Six numbers with the extremes of their type."""
    kind = numpy_dtype(dtype)
    if dtype == "bool":
        return np.array([[True, False, True], [False, False, True]])
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return np.array([[limits.min, limits.max, 1], [0, 7, 100]], kind)
    return np.array([[0.1, -0.0, np.inf], [1e-7, np.nan, 100]]).astype(kind)


def bits(column: Any) -> tuple[Any, ...]:
    return column.dtype, column.shape, column.tobytes()


@pytest.mark.parametrize("dtype", NUMBERS)
def test_what_tensorflow_writes_is_read_and_what_is_written_tensorflow_reads_to_the_bit(dtype: str) -> None:
    import tensorflow as tf  # noqa: PLC0415 - takes seconds

    array = values(dtype)
    theirs = tf.make_tensor_proto(array)
    assert bits(read_tensor(TensorProto.FromString(theirs.SerializeToString()), "x", MAX_BYTES)) == bits(array)
    ours = TensorProto()
    write_tensor(array, ours)
    assert not ours.tensor_content  # clients read float_val and its kin themselves
    back = tf.make_ndarray(type(tf.make_tensor_proto(0)).FromString(ours.SerializeToString()))
    assert bits(back) == bits(array)
    assert bits(read_tensor(ours, "x", MAX_BYTES)) == bits(array)


@pytest.mark.parametrize("dtype", NUMBERS)
def test_a_short_list_of_values_stands_for_more(dtype: str) -> None:
    import tensorflow as tf  # noqa: PLC0415 - takes seconds

    one = TensorProto()
    write_tensor(np.ones(1, numpy_dtype(dtype)), one)
    value = list(getattr(one, FIELDS[dtype]))
    for given in ([], value):
        short = tensor(dtype, [2, 3], **{FIELDS[dtype]: given})
        theirs = tf.make_ndarray(type(tf.make_tensor_proto(0)).FromString(short.SerializeToString()))
        assert bits(read_tensor(short, "x", MAX_BYTES)) == bits(theirs)


def test_strings_are_never_made_objects_of_numpy_unless_their_rank_asks_for_it() -> None:
    assert read_tensor(tensor("string", [2], string_val=[b"a", b"\xff\0"]), "x", MAX_BYTES) == [b"a", b"\xff\0"]
    assert read_tensor(tensor("string", [3], string_val=[b"a"]), "x", MAX_BYTES) == [b"a"] * 3
    assert read_tensor(tensor("string", [0]), "x", MAX_BYTES) == []
    matrix = read_tensor(tensor("string", [1, 2], string_val=[b"a", b"b"]), "x", MAX_BYTES)
    assert not isinstance(matrix, list)
    assert matrix.tolist() == [[b"a", b"b"]]
    for column in ([b"a", b"b"], matrix):
        written = TensorProto()
        write_tensor(column, written)
        assert list(written.string_val) == [b"a", b"b"]
        assert [dim.size for dim in written.tensor_shape.dim] == list(np.shape(column))


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (tensor("float32", [2, -1], float_val=[1, 2]), "sizes"),
        (tensor("float32", [3], float_val=[1, 2, 3, 4]), "4 values were sent for shape [3]"),
        (tensor("float32", [2], tensor_content=b"\0" * 7), "7 bytes were sent"),
        (tensor("float32", [1 << 40], float_val=[1]), "more than"),
        (tensor("float32", [1 << 62, 1 << 62], float_val=[1]), "more than"),
        (tensor("float32", [1 << 30, 0]), "without a value"),
        (tensor("float32", [1] * 40, float_val=[1]), "at most 32 sizes"),
        (tensor("uint8", [2], int_val=[1, 300]), "value 1 does not fit uint8"),
        (tensor("int8", [1], int_val=[-129]), "value 0 does not fit int8"),
        (tensor("float16", [1], half_val=[70_000]), "value 0 does not fit float16"),
        (TensorProto(dtype=20), "dtype 20 is not served"),
        (TensorProto(dtype=8), "dtype 8 is not served"),
        (TensorProto(dtype=999), "dtype 999 is not served"),
        (TensorProto(dtype=1, tensor_shape={"unknown_rank": True}), "its shape is unknown"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused_in_words(sent: Any, words: str) -> None:
    with pytest.raises(CodecError) as refusal:
        read_tensor(sent, "x", MAX_BYTES)
    assert words in str(refusal.value)
    assert str(refusal.value).startswith("x")


@pytest.mark.parametrize("dtype", ["float32", "bool", "string"])
def test_one_value_cannot_stand_for_more_memory_than_a_body(dtype: str) -> None:
    with pytest.raises(TooLarge, match="max_body_bytes"):
        read_tensor(tensor(dtype, [MAX_BYTES + 1]), "x", MAX_BYTES)
