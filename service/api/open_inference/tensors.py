"""Converts tensors of the Open Inference Protocol to columns and back: in JSON, flat or nested, and in binary form.

A binary BYTES tensor is a sequence of elements in row-major order. Each element is its length (4 bytes, little-endian) and
its bytes. A size that a client names is compared with the received bytes before it is used.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from itertools import chain
from math import prod
from struct import Struct
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pybase64

from darkroom.models.spec import MAX_ELEMENTS, Binary, Numbers, exact, np_shape, numpy_dtype
from darkroom.service.errors import CodecError, quote
from darkroom.service.predict import codec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from darkroom.models.rows import Column

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}
Buffer: TypeAlias = "bytes | memoryview"
MAX_RANK = 32  # precedent: numpy's own bound until 2.0; TensorFlow's kernels take fewer

_LENGTH = Struct("<I")


def parse_datatype(value: object, where: str) -> str:
    """The dtype, a key of DATATYPES, that a tensor's `datatype` names.

    Raises:
        CodecError: it names none of them.
    """
    if not isinstance(value, str) or value not in DTYPES:
        raise CodecError(f"{where}.datatype: expected one of {', '.join(DTYPES)}, got {quote(value)}")
    return DTYPES[value]


def parse_shape(value: object, where: str) -> tuple[int, ...]:
    """A tensor's `shape`.

    Raises:
        CodecError: not a list of at most MAX_RANK whole numbers of 0 or more; too many values; or rows without any
            value, because any number of them would take no bytes.
    """
    if not isinstance(value, list) or len(value) > MAX_RANK or any(type(n) is not int or n < 0 for n in value):
        raise CodecError(f"{where}.shape: expected a list of at most {MAX_RANK} sizes, got {quote(value)}")
    if prod(n or 1 for n in value) > MAX_ELEMENTS:
        raise CodecError(f"{where}.shape: {quote(value)} has more than {MAX_ELEMENTS} values")
    if value and value[0] and 0 in value:
        raise CodecError(f"{where}.shape: {quote(value)} has rows without a value")
    return tuple(value)


def read_json(data: object, dtype: str, shape: tuple[int, ...], name: str) -> Column:
    """The column of a `data` list, flat or nested, with values of `dtype`; strings are text.

    Raises:
        CodecError: the number of values differs from that of `shape`.
        InvalidInput: a value has another kind or does not fit, or the lists are ragged.
    """
    if isinstance(data, Numbers):
        check_count(data.array.size, shape, name)
    column = exact(data, dtype, name)
    if isinstance(column, list):
        return shaped(column, shape, name)
    check_count(column.size, shape, name)
    return shaped(column.ravel().tolist(), shape, name) if dtype == "string" else column.reshape(shape)


def read_base64(data: object, shape: tuple[int, ...], name: str) -> Column:
    """The column of a `data` list of base64 strings, in either alphabet, padded or not.

    Raises:
        CodecError: a string is not base64, or the number of strings differs from that of `shape`.
        InvalidInput: a value is not a string, or the lists are ragged.
    """
    values: list[bytes] = []
    for index, text in enumerate(texts(data, name)):
        try:
            values.append(codec.decode_base64(text))
        except ValueError as err:
            raise CodecError(f"{name}[{index}]: is not base64: {err}") from err
    return shaped(values, shape, name)


def texts(data: object, name: str) -> list[str]:
    """The strings of a `data` list, flat or nested, in row-major order.

    Raises:
        InvalidInput: a value is not a string, or the lists are ragged.
    """
    if isinstance(data, list) and set(map(type, data)) == {str}:
        return data
    column = exact(data, "string", name)
    return [value.decode() for value in (column if isinstance(column, list) else column.ravel().tolist())]


def read_binary(chunk: Buffer, dtype: str, shape: tuple[int, ...], name: str) -> Column:
    """The column of a tensor's bytes; an array is a read-only view of `chunk` if it is aligned in memory, else a copy.

    Raises:
        CodecError: the number of bytes, or of elements, differs from that of `shape`.
    """
    if dtype == "string":
        return shaped(split(chunk, name), shape, name)
    kind = numpy_dtype(dtype)
    need = prod(shape) * kind.itemsize
    if len(chunk) != need:
        wants = f"shape {list(shape)} of {DATATYPES[dtype]} takes {need}"
        raise CodecError(f"{name}: {len(chunk)} bytes were sent, {wants}")
    if dtype == "bool":  # numpy allows only 0 and 1 in a bool
        return np.not_equal(np.frombuffer(chunk, np.uint8), 0).reshape(shape)
    array = np.frombuffer(chunk, kind).reshape(shape)
    return array if array.flags.aligned else array.copy()


def split(chunk: Buffer, name: str) -> list[bytes]:
    """The elements of a BYTES tensor.

    Raises:
        CodecError: an element is longer than the rest of the chunk.
    """
    values: list[bytes] = []
    at, end = 0, len(chunk)
    while at < end:
        if end - at < _LENGTH.size:
            raise CodecError(f"{name}[{len(values)}]: {end - at} bytes are left where its length takes {_LENGTH.size}")
        (size,) = _LENGTH.unpack_from(chunk, at)
        at += _LENGTH.size
        if size > end - at:
            raise CodecError(f"{name}[{len(values)}]: says that it has {size} bytes, {end - at} are left")
        values.append(bytes(chunk[at : at + size]))
        at += size
    return values


def shaped(values: list[bytes], shape: tuple[int, ...], name: str) -> Column:
    """Elements in row-major order as a column: the list itself for rank 1, else an object array.

    Raises:
        CodecError: the number of elements differs from that of `shape`.
    """
    check_count(len(values), shape, name)
    if len(shape) == 1:
        return values
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def check_count(count: int, shape: tuple[int, ...], name: str) -> None:
    """Raises CodecError unless `count` values fill `shape`."""
    if count != prod(shape):
        raise CodecError(f"{name}: {count} values were sent for shape {list(shape)}")


def describe(name: str, column: Column) -> dict[str, object]:
    """`{"name", "datatype", "shape"}` of an output.

    Raises:
        CodecError: the protocol has no name for the type of the output.
    """
    datatype = DATATYPES["string"] if isinstance(column, list) else _datatype(column.dtype)
    if datatype is None:
        raise CodecError(f"output {name!r} is of a type for which the protocol has no name")
    return {"name": name, "datatype": datatype, "shape": list(np_shape(column))}


def write_json(column: Column) -> dict[str, object]:
    """`{"data": flat list}`; if not all strings are UTF-8, or they are `Binary`, all are base64, and `parameters` say so."""
    if not isinstance(column, list) and column.dtype != object:
        return {"data": codec.writable(column.reshape(-1))}
    values = _strings(column)
    if not (values and isinstance(values[0], Binary)):
        with suppress(UnicodeDecodeError):
            return {"data": [value.decode() for value in values]}
    data = [pybase64.b64encode(value).decode() for value in values]
    return {"data": data, "parameters": {"content_type": "base64"}}


def write_binary(column: Column) -> bytes:
    """The bytes of a tensor in row-major order; for strings see the first lines of this module."""
    if not isinstance(column, list) and column.dtype != object:
        return column.tobytes()
    return b"".join(chain.from_iterable((_LENGTH.pack(len(value)), value) for value in _strings(column)))


def view_binary(column: Column) -> Buffer:
    """As `write_binary`; of a large array, its own memory."""
    if isinstance(column, list) or column.dtype == object or column.nbytes <= codec.LARGE_BYTES:
        return write_binary(column)
    return np.ascontiguousarray(column).reshape(-1).view(np.uint8).data


@lru_cache(64)  # numpy takes 2 us to name a dtype
def _datatype(dtype: np.dtype[Any]) -> str | None:
    return DATATYPES.get("string" if dtype.kind == "O" else dtype.name)


def _strings(column: Column) -> Sequence[bytes]:
    return column if isinstance(column, list) else column.ravel().tolist()
