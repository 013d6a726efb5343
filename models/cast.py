"""From what a client sent to a column: two manners of casting, and the check that the values are rectangular.

`lenient` is Simple TensorFlow Serving's manner, which is numpy's: "1.5" is a number, 1.7 becomes the integer 1,
99999999999 wraps round in an int32 (recorded from it). `exact` is TensorFlow Serving's: a value must be of the input's
kind, and fit.
"""

from itertools import chain
from typing import Any

import numpy as np

from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Column

_EXACT = {"b": frozenset({bool}), "i": frozenset({int}), "u": frozenset({int}), "f": frozenset({int, float})}
_WORDS = {"b": "a boolean", "i": "an integer", "u": "an integer", "f": "a number"}
_NUMBERS = frozenset({bool, int, float})
_STRINGS = frozenset({bytes, str})
_INFINITIES = frozenset({float("inf"), float("-inf")})
_REFUSED = (ValueError, TypeError, OverflowError, RecursionError)


def numpy_dtype(dtype: str) -> "np.dtype[Any]":
    """The numpy dtype of a TensorFlow dtype's name; bfloat16 comes from ml_dtypes, which TensorFlow brings."""
    if dtype == "string":
        return np.dtype(object)
    try:
        return np.dtype(dtype)
    except TypeError:
        import ml_dtypes  # noqa: PLC0415 - only for models that need it

        return np.dtype(getattr(ml_dtypes, dtype))  # type: ignore[no-any-return]  # the class of its scalars


def lenient(raw: object, dtype: str, name: str) -> Column:
    """`raw` as a column of `dtype`, cast as numpy casts.

    Raises:
        InvalidInput: ragged, or a value that numpy cannot cast.
    """
    if dtype == "string":
        return _strings(raw, name)
    target = numpy_dtype(dtype)
    with np.errstate(all="ignore"):
        try:
            return np.array(raw, dtype=target, ndmin=0)
        except OverflowError:
            return _wrap(raw, target, name)
        except _REFUSED as err:
            raise _refusal(raw, name, dtype, str(err)) from err


def exact(raw: object, dtype: str, name: str) -> Column:
    """`raw` as a column of `dtype`, each value already of that kind.

    Raises:
        InvalidInput: ragged, a value of another kind, or one that does not fit; it names the value's index.
    """
    if dtype == "string":
        return _strings(raw, name)
    target = numpy_dtype(dtype)
    if isinstance(raw, np.ndarray):
        if raw.dtype != target and not np.can_cast(raw.dtype, target, "safe"):
            raise InvalidInput(f"input {name!r} is {dtype}, not {raw.dtype}", input_name=name)
        return raw.astype(target, copy=False)
    kind = "f" if target.kind == "V" else target.kind  # ml_dtypes' floats call themselves void
    leaves, _ = _check_kinds(raw, _EXACT[kind], name, _WORDS[kind])
    with np.errstate(all="ignore"):
        try:
            column = np.array(raw, dtype=target)
        except _REFUSED as err:
            raise _refusal(raw, name, dtype, str(err)) from err
    infinite = int(np.count_nonzero(np.isinf(column))) if kind == "f" else 0
    if infinite and infinite != sum(leaf in _INFINITIES for leaf in leaves):
        raise InvalidInput(f"input {name!r}: a value is out of range for {dtype}", input_name=name)
    return column


def _wrap(raw: object, target: "np.dtype[Any]", name: str) -> Column:
    """Integers too large for `target` keep their low bits, as numpy's astype does."""
    try:
        wide = np.asarray(raw)
    except _REFUSED as err:
        raise _refusal(raw, name, str(target), str(err)) from err
    if wide.dtype.kind not in "iu":
        raise InvalidInput(f"input {name!r}: a value is out of range for {target}", input_name=name)
    return wide.astype(target)


def _strings(raw: object, name: str) -> Column:
    """A flat list stays a list (of bytes); any other rank becomes an object array."""
    if isinstance(raw, np.ndarray):
        raw = raw.tolist()
    if isinstance(raw, list) and not (raw and isinstance(raw[0], list)):
        kinds = set(map(type, raw))
        if kinds == {bytes} or not kinds:
            return raw
        _check_kinds(raw, _STRINGS, name, "a string")
        return [_encode(value, name, index) for index, value in enumerate(raw)]
    leaves, shape = _check_kinds(raw, _STRINGS, name, "a string")
    column = np.empty(len(leaves), dtype=object)
    column[:] = [_encode(value, name, None) for value in leaves]
    try:
        return column.reshape(shape)
    except ValueError as err:
        raise _ragged(name) from err


def _encode(value: Any, name: str, index: int | None) -> bytes:
    try:
        return value if isinstance(value, bytes) else value.encode()
    except UnicodeEncodeError as err:
        where = name if index is None else f"{name}[{index}]"
        raise InvalidInput(f"{where} is not UTF-8 text", input_name=name, index=index) from err


def _check_kinds(raw: object, allowed: frozenset[type], name: str, word: str) -> tuple[list[Any], tuple[int, ...]]:
    """The leaves of nested lists, in order, and the shape that the first of each level has."""
    leaves: list[Any] = [raw]
    shape: list[int] = []
    while leaves and isinstance(leaves[0], list):
        shape.append(len(leaves[0]))
        if not set(map(type, leaves)) <= {list}:
            raise _ragged(name)
        leaves = list(chain.from_iterable(leaves))
    if not set(map(type, leaves)) <= allowed:
        at = next(at for at, leaf in enumerate(leaves) if type(leaf) not in allowed)
        if isinstance(leaves[at], list):
            raise _ragged(name)
        where, index = _where(name, at, shape)
        raise InvalidInput(f"{where}: expected {word}, got {type(leaves[at]).__name__}", input_name=name, index=index)
    return leaves, tuple(shape)


def _where(name: str, at: int, shape: list[int]) -> tuple[str, int | None]:
    """The place of leaf number `at`, written as an index, and its row."""
    if not shape:
        return name, None
    place = [int(index) for index in np.unravel_index(at, shape)] if at < int(np.prod(shape)) else [at]
    return name + "".join(f"[{index}]" for index in place), place[0]


def _ragged(name: str) -> InvalidInput:
    return InvalidInput(f"input {name!r} is ragged: every row must have one shape", input_name=name)


def _refusal(raw: object, name: str, dtype: str, cause: str) -> InvalidInput:
    """What numpy refused, in our words and with its place: numpy quotes the value, which may be a megabyte of it."""
    if "inhomogeneous" in cause or "sequence" in cause:
        return _ragged(name)
    if "too large" in cause or "out of" in cause:
        return InvalidInput(f"input {name!r}: a value is out of range for {dtype}", input_name=name)
    try:
        _check_kinds(raw, _NUMBERS, name, f"a value for {dtype}")
    except InvalidInput as refusal:
        return refusal
    return InvalidInput(f"input {name!r}: a value cannot be read as {dtype}", input_name=name)
