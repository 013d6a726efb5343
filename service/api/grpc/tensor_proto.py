"""Converts TensorFlow's TensorProto to a column and back, in each form in which its values may stand.

Values are either bytes in `tensor_content` or a list in the field of their type. If a list is shorter than the shape, its
last value stands for the rest; an empty one stands for zeros. Strings are never made objects of numpy.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.models.spec import DTYPES, np_shape, numpy_dtype
from darkroom.service.api.grpc.http2 import varint
from darkroom.service.api.open_inference import tensors
from darkroom.service.errors import CodecError, TooLarge

if TYPE_CHECKING:
    from darkroom.models.rows import Column

NAMES = {number: dtype for dtype, (number, _) in DTYPES.items()}
# Where the values of a type stand. The small types share int_val, and the halves stand in half_val as their bits.
FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "float16": "half_val",
    "bfloat16": "half_val",
    "string": "string_val",
} | dict.fromkeys(("int32", "int16", "int8", "uint8", "uint16"), "int_val")
# Floats on the wire are the same bytes as in numpy, after the tag of their field: number << 3 | 2.
_PACKED = {"float32": b"\x2a", "float64": b"\x32"}


def read_tensor(tensor: Any, name: str, max_bytes: int) -> Column:
    """The column of a TensorProto; `max_bytes` bounds what a short list of values may stand for.

    Raises:
        CodecError: the type is not served, the shape has unknown or negative sizes, or the values do not fit it.
        TooLarge: values that stand for others would take more than `max_bytes`.
    """
    dtype = NAMES.get(tensor.dtype)
    if dtype is None:
        raise CodecError(f"{name}: dtype {tensor.dtype} is not served; there are: {', '.join(DTYPES)}")
    if tensor.tensor_shape.unknown_rank:
        raise CodecError(f"{name}: its shape is unknown")
    shape = tensors.parse_shape([dim.size for dim in tensor.tensor_shape.dim], name)
    if tensor.tensor_content and dtype != "string":
        return tensors.read_binary(tensor.tensor_content, dtype, shape, name)
    values = getattr(tensor, FIELDS[dtype])
    count = prod(shape)
    if len(values) > count:
        raise CodecError(f"{name}: {len(values)} values were sent for shape {list(shape)}")
    if len(values) < count and count * (8 if dtype == "string" else numpy_dtype(dtype).itemsize) > max_bytes:
        raise TooLarge(f"{name}: {len(values)} values stand for {count}, over --max_body_bytes={max_bytes}")
    if dtype == "string":
        texts = list(values)
        texts += [texts[-1] if texts else b""] * (count - len(texts))
        return tensors.shaped(texts, shape, name)
    column = _numbers(values, dtype, name)
    if column.size < count:
        column = np.append(column, np.full(count - column.size, column[-1] if column.size else 0, column.dtype))
    return column.reshape(shape)


def write_tensor(column: Column, tensor: Any, *, as_content: bool = False) -> None:
    """Fills an empty TensorProto; numbers and texts stand in the field of their type, as TensorFlow Serving writes them.

    With `as_content` numbers stand in `tensor_content`, as bytes.
    """
    dtype = "string" if isinstance(column, list) else _name(column.dtype)
    tensor.dtype = DTYPES[dtype][0]
    dims = tensor.tensor_shape.dim
    for size in np_shape(column):
        dims.add(size=size)
    if isinstance(column, list):
        tensor.string_val.extend(column)
    elif as_content and dtype != "string":
        tensor.tensor_content = column.tobytes()
    elif dtype in _PACKED:
        raw = column.tobytes()
        tensor.MergeFromString(_PACKED[dtype] + varint(len(raw)) + raw)
    else:
        column = column.view(np.uint16) if FIELDS[dtype] == "half_val" else column
        getattr(tensor, FIELDS[dtype]).extend(column.ravel().tolist())


@lru_cache(64)  # numpy takes 2 us to name a dtype
def _name(dtype: np.dtype[Any]) -> str:
    return "string" if dtype.kind == "O" else dtype.name


def _numbers(values: Any, dtype: str, name: str) -> np.ndarray[Any, Any]:
    """The values of a list as an array.

    Raises:
        CodecError: a value does not fit the type, as 300 in a uint8.
    """
    kind = numpy_dtype(dtype)
    field = FIELDS[dtype]
    if field not in {"int_val", "half_val"}:
        return np.array(values, kind)
    wide = np.array(values, np.int64)
    narrow = np.dtype(np.uint16) if field == "half_val" else kind
    column = wide.astype(narrow)
    if not np.array_equal(wide, column):
        index = int(np.flatnonzero(wide != column)[0])
        raise CodecError(f"{name}: value {index} does not fit {dtype}")
    return column.view(kind)
