"""TensorFlow Serving's words for values that a signature does not take: its clients look for them. Pure functions.

They are looked for only after a request was refused; our own words, with field and index, stand beside them.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.models.spec import Numbers, numpy_dtype
from darkroom.service.errors import CodecError, shorten
from darkroom.service.predict import codec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from darkroom.models.spec import SignatureSpec

_TYPES = {"float32": "float", "float64": "double", "float16": "half"}  # the others have numpy's names
_FLOATS = frozenset({"float32", "float64", "float16", "bfloat16"})
_KINDS = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}


def explain(columns: Mapping[str, Any], spec: SignatureSpec, *, is_row: bool) -> str:
    """What TensorFlow Serving says of the first value that it does not take; empty if it takes all.

    Args:
        columns: the values by input, with a value for each row if `is_row`.
        spec: the signature that they are for.
        is_row: they came as `instances`.
    """
    for tensor in spec.inputs:
        value = columns.get(tensor.name)
        rows = _rows(value, tensor.dtype) if is_row else [value]
        first = _shape(rows[0]) if rows else []
        for index, row in enumerate(rows):
            if words := _explain_one(row, tensor.dtype, first):
                where = f"Failed to process element: {index} key: {tensor.name} of 'instances' list. Error: "
                return where + words if is_row else words
    return ""


def _rows(value: object, dtype: str) -> list[Any]:
    """The value of each row; numbers that are written as floats are floats, those before the first of them integers."""
    if not isinstance(value, Numbers):
        return value if isinstance(value, list) else [value]
    rows: list[Any] = value.array.tolist()
    if value.first_float >= 0 and dtype not in _FLOATS:
        whole = value.array.ravel()[: value.first_float].astype(np.int64).astype(object)
        mixed = value.array.astype(object)
        mixed.ravel()[: value.first_float] = whole
        rows = mixed.tolist()
    return rows


def _explain_one(value: object, dtype: str, first: list[int]) -> str:
    """What is said of one value; `first` is the shape of the value of row 0."""
    shape = _shape(value)
    if len(shape) > codec.MAX_DEPTH:
        return ""
    words = _ragged(value, shape) or _mistyped(value, dtype)
    if words or shape == first:
        return words
    if prod(shape) != prod(first):
        return f"Expecting tensor size: {prod(first)} but got: {prod(shape)}"
    return f"Expecting shape {_dims(first)} but got: {_dims(shape)}"


def _shape(value: object) -> list[int]:
    """The sizes of the first list at each level; none for a bare value."""
    if isinstance(value, Numbers):
        return list(value.array.shape)
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _dims(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _ragged(value: object, shape: list[int], level: int = 0) -> str:
    """What is said of the first list or value that is not where the first list at each level puts it."""
    if isinstance(value, Numbers):
        return ""  # a rectangle
    if not isinstance(value, list):
        if level == len(shape):
            return ""
        where = f"found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {len(shape)}"
        return f"JSON Value: {_quote(value)} {where}"
    if level >= len(shape):
        return f"Encountered list at unexpected level: {level} expected < {len(shape)}"
    if len(value) != shape[level]:
        return f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
    return next((words for item in value if (words := _ragged(item, shape, level + 1))), "")


def _mistyped(value: object, dtype: str) -> str:
    """What is said of the first value that is of another type."""
    if isinstance(value, Numbers):
        value = _rows(value, dtype)
    if isinstance(value, list):
        return next((words for item in value if (words := _mistyped(item, dtype))), "")
    if _fits(value, dtype):
        return ""
    kind = str(value) if isinstance(value, bool) else _KINDS.get(type(value), "String")
    return f"JSON Value: {_quote(value)} Type: {kind} is not of expected type: {_TYPES.get(dtype, dtype)}"


def _fits(value: object, dtype: str) -> bool:
    """Whether a bare value is of a type, as JSON has it."""
    if dtype == "string":
        return isinstance(value, (str, bytes))
    if isinstance(value, bool) or dtype == "bool":
        return isinstance(value, bool) and dtype == "bool"
    kind = numpy_dtype(dtype)
    if kind.kind not in "iu":
        return isinstance(value, (int, float))
    return isinstance(value, int) and np.iinfo(kind).min <= value <= np.iinfo(kind).max


def _quote(value: object) -> str:
    """The JSON of a value, cut at 256 bytes."""
    try:
        return shorten(codec.dump_json(value).decode().strip())
    except (TypeError, CodecError):  # bytes, or an integer of hundreds of digits
        return shorten(repr(value)[:512])
