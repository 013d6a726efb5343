"""What a signature wants and gives, and how the values of a request are cast to it. Imports no TensorFlow.

There are two ways of casting. `lenient` casts as Simple TensorFlow Serving does, which is numpy's way: "1.5" is a
number, 1.7 becomes the integer 1, and 99999999999 wraps round in an int32 (recorded from that server). `exact` casts as
TensorFlow Serving does: a value must be of the input's kind and must fit its dtype.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np

from darkroom.models.errors import InvalidInput, quote
from darkroom.models.rows import Column, Rows

# TensorFlow's DataType enum: dtype name → (number, TensorFlow's name). From tensorflow/core/framework/types.proto.
DTYPES = {
    "float32": (1, "DT_FLOAT"),
    "float64": (2, "DT_DOUBLE"),
    "int32": (3, "DT_INT32"),
    "uint8": (4, "DT_UINT8"),
    "int16": (5, "DT_INT16"),
    "int8": (6, "DT_INT8"),
    "string": (7, "DT_STRING"),
    "int64": (9, "DT_INT64"),
    "bool": (10, "DT_BOOL"),
    "bfloat16": (14, "DT_BFLOAT16"),
    "uint16": (17, "DT_UINT16"),
    "float16": (19, "DT_HALF"),
    "uint32": (22, "DT_UINT32"),
    "uint64": (23, "DT_UINT64"),
}
REF_OFFSET = 100  # DT_FLOAT_REF is DT_FLOAT + 100, and likewise for every other type

_EXACT = {"b": frozenset({bool}), "i": frozenset({int}), "u": frozenset({int}), "f": frozenset({int, float})}
_WORDS = {"b": "a boolean", "i": "an integer", "u": "an integer", "f": "a number"}
_NUMBERS = frozenset({bool, int, float})
_STRINGS = frozenset({bytes, str})
_INFINITIES = frozenset({float("inf"), float("-inf")})
_REFUSED = (ValueError, TypeError, OverflowError, RecursionError)
MAX_ELEMENTS = (1 << 31) - 1  # of one tensor: kernels of TensorFlow index with an int32, and abort beyond it
MAX_RANK = 8  # of a tensor whose rank the graph leaves open: TensorFlow's broadcasting ends at 9


class Numbers:
    """Numbers of a JSON body, nested to one shape, as an array: made where the body is read, not by an object a number.

    Attributes:
        array: float64, or the smallest signed integers that hold them where all are whole.
        first_float: the place of the first that is not whole, or is written as if it were not, in row-major order; -1:
            there is none.
    """

    __slots__ = ("array", "first_float")

    def __init__(self, array: "np.ndarray[Any, np.dtype[Any]]", first_float: int) -> None:
        self.array = array
        self.first_float = first_float

    def __len__(self) -> int:
        return len(self.array)

    def sample(self) -> Any:
        """The first number alone, in as many lists: for messages of inputs that take no numbers."""
        return self.array[(slice(0, 1),) * self.array.ndim].tolist()


class Binary(bytes):
    """A value of an output that JSON writes as `{"b64": text}`, whatever its bytes are."""

    __slots__ = ()


class Wire(StrEnum):
    """The form of picture that the graph's image input takes."""

    BASE64 = "base64"  # URL-safe base64 text; the graph runs DecodeBase64
    BYTES = "bytes"  # raw picture bytes; the graph runs a Decode* op on them
    TENSOR = "tensor"  # there is no image input


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a signature.

    `dtype` is a key of DTYPES. A size of None in `shape` is unknown; a `shape` of None is an unknown rank.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    source: str = ""  # the tensor's name in the graph, for metadata
    is_ref: bool = False  # exported by TF1 as a reference type
    activation: str = ""  # of an output: softmax, sigmoid, tanh, linear (any numbers) or, not known, empty
    ranks: tuple[int, ...] = ()  # those that the graph takes, where the signature leaves the rank open; empty: any
    default: Any = None  # of an input, as lists: what is fed where a request leaves it out; None: none may

    @property
    def enum(self) -> int:
        """TensorFlow's number of the dtype, including the offset of a reference type."""
        return DTYPES[self.dtype][0] + (REF_OFFSET if self.is_ref else 0)

    @property
    def enum_name(self) -> str:
        """TensorFlow's name of the dtype, such as `DT_FLOAT`."""
        return DTYPES[self.dtype][1] + ("_REF" if self.is_ref else "")

    @property
    def has_batch_dimension(self) -> bool:
        """Whether the first dimension is unknown, so that it can be the batch."""
        return self.shape is None or (len(self.shape) > 0 and self.shape[0] is None)

    @property
    def holds_one(self) -> bool:
        """Whether it takes one string and no list of them: a scalar, or a list with room for one."""
        return self.dtype == "string" and self.shape is not None and all(size == 1 for size in self.shape)

    def fit_one(self, column: Column) -> Column:
        """Returns a column of one string in this tensor's shape, where that has room for one; any other one unchanged."""
        if not self.holds_one or np_shape(column) == self.shape or prod(np_shape(column)) != 1:
            return column
        array = np.empty(1, dtype=object)
        array[0] = (column if isinstance(column, list) else column.ravel().tolist())[0]
        return [array[0]] if self.shape == (1,) else array.reshape(self.shape)

    @property
    def has_open_sizes(self) -> bool:
        """Whether rows may have several shapes."""
        return self.shape is None or None in self.shape[1:]

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether an array of this `shape` may be fed: the rank and all known sizes are equal."""
        if self.shape is None:
            return not self.ranks or len(shape) in self.ranks
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, shape, strict=True)
        )

    def refusal(self, shape: Sequence[int], why: str = "") -> InvalidInput:
        """Returns the error for an array of this `shape`, with the shape that the signature wants."""
        ranks = f"a rank of {', '.join(map(str, self.ranks))}" if self.ranks else "any"
        want = ranks if self.shape is None else tuple(-1 if size is None else size for size in self.shape)
        message = f"input {self.name!r} has shape {tuple(shape)}, the signature wants {want}"
        return InvalidInput(message + (f": {why}" if why else ""), input_name=self.name)

    def empty(self) -> Column:
        """Returns a column of 0 rows; unknown inner sizes are 0."""
        shape = self.shape or (0,)
        if self.dtype == "string" and len(shape) == 1:
            return []
        return np.empty((0, *(size or 0 for size in shape[1:])), dtype=numpy_dtype(self.dtype))


class PictureFit(NamedTuple):
    """How a decode front lays a picture into the model's input: `size` is its height and width, `fit` as in `Recipe`."""

    size: tuple[int, int] = (1, 1)
    fit: str = "stretch"
    orient: bool = False  # the picture is turned first as its EXIF orientation says


@dataclass(frozen=True, slots=True)
class SignatureSpec:
    """One signature: its tensors, its image input, and whether requests may share a call of it."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    method_name: str = "tensorflow/serving/predict"
    wire: Wire = Wire.TENSOR
    image_input: str | None = None  # name of the input whose strings the graph decodes as pictures
    other_pictures: frozenset[str] = frozenset()  # further inputs whose strings the graph decodes as pictures
    encoded_pictures: frozenset[str] = frozenset()  # those of them that it decodes from URL-safe base64 first
    formats: frozenset[str] = frozenset()  # picture formats that the graph decodes, such as "jpeg"
    one_frame: bool = False  # the graph refuses an animated GIF
    float_features: frozenset[str] = frozenset()  # features of tf.Examples that the graph parses as floats
    decodes_pictures: bool = True  # the graph has a picture decoder, whichever input it reads
    batched: bool = True  # rows of several requests may share a call
    unbatched_reason: str = ""  # why they may not
    any_shape: bool = False  # every op works element by element, so the graph takes other shapes than it declares
    same_rows: tuple[str, ...] = ()  # inputs that the graph takes with equal first dimensions only,
    one_row: tuple[str, ...] = ()  # except for those with a first dimension of 1
    front: PictureFit | None = None  # of its image input, where Darkroom put the decoding before it
    same_as: str = ""  # name of the signature that is the same function, whose engine and batcher this one shares

    @property
    def required(self) -> tuple[str, ...]:
        """The inputs without a default, which no request may leave out."""
        return tuple([tensor.name for tensor in self.inputs if tensor.default is None])

    def decodes(self, name: str) -> bool:
        """Whether the strings of an input are pictures for the graph, which requests hold as bytes or base64."""
        return name == self.image_input or name in self.other_pictures

    def encodes(self, name: str) -> bool:
        """Whether the graph takes the pictures of an input as URL-safe base64."""
        return name in self.encoded_pictures or (name == self.image_input and self.wire is Wire.BASE64)

    @property
    def row_bytes(self) -> int:
        """The bytes of one row of all inputs and outputs, as far as their shapes are known."""
        sizes = 0
        for tensor in (*self.inputs, *self.outputs):
            inner = tensor.shape[1:] if tensor.shape else ()
            sizes += prod(size or 1 for size in inner) * numpy_dtype(tensor.dtype).itemsize
        return sizes

    def accept(self, raw: Mapping[str, object], *, strict: bool = False) -> Rows:
        """Returns the rows of one request: one column of the input's dtype for each input.

        TensorFlow aborts the process on some shapes that a graph does not expect, so shapes are judged here: rank, known
        sizes, sizes of 0, and the number of elements. Only a graph of `any_shape` takes others, and only with `strict`.

        Rows whose columns differ in length, or whose shapes are not the signature's, are not `aligned`. Nor is the one
        row of a signature that is not batched and takes no encoded pictures: its first dimension may be a height. A list
        of bytes is not copied, and with `strict` neither is an array of the input's dtype.

        Args:
            raw: the values by input: nested lists, scalars or arrays, of shape `[n, ...]` as the signature says. An
                image input takes raw picture bytes. Other keys are ignored.
            strict: False casts as Simple TensorFlow Serving does (see `lenient`), True as TensorFlow Serving (`exact`).

        Raises:
            InvalidInput: an input is missing, a value cannot be cast, the rows are ragged, or a shape is wrong.
        """
        cast = exact if strict else lenient
        columns: dict[str, Column] = {}
        for tensor in self.inputs:
            value = raw.get(tensor.name, tensor.default)
            if value is None and tensor.name not in raw:
                raise InvalidInput(f"input {tensor.name!r} is missing", input_name=tensor.name)
            columns[tensor.name] = tensor.fit_one(cast(value, tensor.dtype, tensor.name))
        shapes = [np_shape(column) for column in columns.values()]
        lengths = {shape[:1] for shape in shapes}
        counts_rows = self.batched or self.image_input is not None
        check = self._check_no_rows if counts_rows and lengths == {(0,)} else self._check_shape
        fits = [check(tensor, shape, strict=strict) for tensor, shape in zip(self.inputs, shapes, strict=True)]
        if len(lengths) > 1 and self.same_rows:
            self._check_same_rows(columns)
        if not counts_rows:
            return Rows(columns, count=1, aligned=False)
        return Rows(columns, aligned=all(fits) and len(lengths) == 1 and () not in lengths)

    def _check_shape(self, tensor: TensorSpec, shape: tuple[int, ...], *, strict: bool) -> bool:
        """Whether a shape is the signature's; False: it is not, and the graph takes it all the same."""
        is_free = strict and self.any_shape and len(shape) <= MAX_RANK
        if prod(shape) > MAX_ELEMENTS:
            raise tensor.refusal(shape, f"more than {MAX_ELEMENTS} elements")
        if not tensor.takes(shape):
            if is_free:
                return False
            raise tensor.refusal(shape)
        if 0 in shape and tensor.shape is not None and not is_free:
            # A kernel may abort on a size that no model was made for.
            for at, (want, got) in enumerate(zip(tensor.shape, shape, strict=True)):
                if want is None and not got:
                    raise tensor.refusal(shape, f"dimension {at} must be 1 or more")
        return True

    def _check_same_rows(self, columns: Mapping[str, Column]) -> None:
        """Checks that inputs whose rows the graph computes with each other have equally many."""
        shapes = {name: np_shape(columns[name]) for name in self.same_rows}
        first = ""
        for tensor in self.inputs:
            name, shape = tensor.name, shapes.get(tensor.name, ())
            if not shape or (shape[0] == 1 and name in self.one_row):
                continue
            if first and shape[0] != shapes[first][0]:
                raise tensor.refusal(shape, f"input {first!r} has {shapes[first][0]} rows, and both must have as many")
            first = first or name

    def _check_no_rows(self, tensor: TensorSpec, shape: tuple[int, ...], *, strict: bool) -> bool:
        """`_check_shape` for a request without rows, which is not run. `[]` in JSON has no inner sizes."""
        if not tensor.takes(shape) and not (strict and shape == (0,) and tensor.has_batch_dimension):
            raise tensor.refusal(shape)
        return True

    def check_outputs(self, names: Sequence[str]) -> None:
        """Checks that every name is an output of this signature.

        Raises:
            InvalidInput: a name is not.
        """
        known = [tensor.name for tensor in self.outputs]
        for name in names:
            if name not in known:
                raise InvalidInput(f"unknown output {quote(name)!r}; there are: {', '.join(known)}")

    def empty(self, asked: Sequence[str] = ()) -> Rows:
        """Returns the answer to a request without rows. Such a request is not run: oneDNN raises on an empty convolution."""
        wanted = asked or [tensor.name for tensor in self.outputs]
        return Rows({tensor.name: tensor.empty() for tensor in self.outputs if tensor.name in wanted}, count=0)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One version of a model: its signatures by name, and its labels in class order (empty where it has none)."""

    name: str
    version: int
    signatures: dict[str, SignatureSpec]
    labels: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)  # signature → why it cannot be served
    output_labels: dict[str, tuple[str, ...]] = field(default_factory=dict)  # output → its own labels, if it has some
    # The signatures that are not served, refused or internal ones, as TensorFlow Serving's metadata prints a SignatureDef.
    unserved: dict[str, dict[str, Any]] = field(default_factory=dict)


def np_shape(column: Column) -> tuple[int, ...]:
    """Returns the shape of a column; a list of bytes has rank 1."""
    return (len(column),) if isinstance(column, list) else column.shape


def numpy_dtype(dtype: str) -> "np.dtype[Any]":
    """Returns the numpy dtype for a key of DTYPES. bfloat16 comes from ml_dtypes, which TensorFlow depends on."""
    if dtype == "string":
        return np.dtype(object)
    try:
        return np.dtype(dtype)
    except TypeError:
        import ml_dtypes  # noqa: PLC0415 - only for models that need it

        return np.dtype(getattr(ml_dtypes, dtype))  # type: ignore[no-any-return]  # the class of its scalars


def lenient(raw: object, dtype: str, name: str) -> Column:
    """Casts `raw` to a column of `dtype`, as numpy casts.

    Raises:
        InvalidInput: the value is ragged, or numpy cannot cast it.
    """
    if isinstance(raw, Numbers):
        return _lenient_numbers(raw, dtype, name)
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
    """Makes a column of `dtype` from values that are of that kind already, such as integers for int32.

    Raises:
        InvalidInput: the value is ragged, of another kind, or out of range. The message names its index.
    """
    if isinstance(raw, Numbers):
        return _exact_numbers(raw, dtype, name)
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
        raise _out_of_range(name, dtype)
    return column


def gather(values: list[Any]) -> object:
    """Rows as one `Numbers` where all are, and have one shape; as lists where only some are."""
    kinds = set(map(type, values))
    if Numbers not in kinds:
        return values
    if kinds == {Numbers} and len({row.array.shape for row in values}) == 1:
        size = values[0].array.size
        floats = (index * size + row.first_float for index, row in enumerate(values) if row.first_float >= 0)
        return Numbers(np.stack([row.array for row in values]), next(floats, -1))
    return [row.array.tolist() if isinstance(row, Numbers) else row for row in values]


def _lenient_numbers(raw: Numbers, dtype: str, name: str) -> Column:
    """Casts as `lenient` casts lists of the same numbers."""
    if dtype == "string":
        return _strings(raw.sample(), name)
    array, target = raw.array, numpy_dtype(dtype)
    if target.kind in "iu" and array.dtype.kind == "f" and array.size:
        if np.isnan(array).any():
            raise InvalidInput(f"input {name!r}: a value cannot be read as {dtype}", input_name=name)
        _check_range(array, target, name)
    with np.errstate(all="ignore"):
        return array.astype(target)


def _exact_numbers(raw: Numbers, dtype: str, name: str) -> Column:
    """Casts as `exact` casts lists of the same numbers."""
    array, target = raw.array, numpy_dtype(dtype)
    if target.kind in "Ob":
        return exact(raw.sample(), dtype, name)
    if target.kind in "iu":
        if raw.first_float >= 0:
            place = [int(index) for index in np.unravel_index(raw.first_float, array.shape)]
            where = name + "".join(f"[{index}]" for index in place)
            raise InvalidInput(f"{where}: expected an integer, got float", input_name=name, index=place[0])
        _check_range(array, target, name)
    with np.errstate(all="ignore"):
        column = array.astype(target, copy=False)
    if target.kind not in "iu" and np.count_nonzero(np.isinf(column)) != np.count_nonzero(np.isinf(array)):
        raise _out_of_range(name, dtype)
    return column


def _check_range(array: "np.ndarray[Any, np.dtype[Any]]", target: "np.dtype[Any]", name: str) -> None:
    limits = np.iinfo(target)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise _out_of_range(name, target.name)


def _out_of_range(name: str, dtype: str) -> InvalidInput:
    return InvalidInput(f"input {name!r}: a value is out of range for {dtype}", input_name=name)


def _wrap(raw: object, target: "np.dtype[Any]", name: str) -> Column:
    """Casts integers that are too large for `target`: the low bits are kept, as numpy's astype does."""
    try:
        wide = np.asarray(raw)
    except _REFUSED as err:
        raise _refusal(raw, name, str(target), str(err)) from err
    if wide.dtype.kind not in "iu":
        raise _out_of_range(name, str(target))
    return wide.astype(target)


def _strings(raw: object, name: str) -> Column:
    """Makes a column of strings: a flat list stays a list of bytes, any other rank becomes an array of objects."""
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
        raise _ragged(raw, name) from err


def _encode(value: Any, name: str, index: int | None) -> bytes:
    try:
        return value if isinstance(value, bytes) else value.encode()
    except UnicodeEncodeError as err:
        where = name if index is None else f"{name}[{index}]"
        raise InvalidInput(f"{where} is not UTF-8 text", input_name=name, index=index) from err


def _check_kinds(raw: object, allowed: frozenset[type], name: str, word: str) -> tuple[list[Any], tuple[int, ...]]:
    """Checks the types of the leaves of nested lists.

    Returns the leaves in order, and the shape according to the first list of each level.

    Raises:
        InvalidInput: a leaf is of another type, or the lists are ragged.
    """
    leaves: list[Any] = [raw]
    shape: list[int] = []
    while leaves and isinstance(leaves[0], list):
        shape.append(len(leaves[0]))
        if not set(map(type, leaves)) <= {list}:
            raise _ragged(raw, name)
        leaves = list(chain.from_iterable(leaves))
    if not set(map(type, leaves)) <= allowed:
        at = next(at for at, leaf in enumerate(leaves) if type(leaf) not in allowed)
        if isinstance(leaves[at], list):
            raise _ragged(raw, name)
        place = np.unravel_index(at, shape) if at < int(np.prod(shape)) else [at]  # () without dimensions
        where = name + "".join(f"[{int(index)}]" for index in place)
        row = int(place[0]) if len(place) else None
        raise InvalidInput(f"{where}: expected {word}, got {type(leaves[at]).__name__}", input_name=name, index=row)
    return leaves, tuple(shape)


def _ragged(raw: object, name: str) -> InvalidInput:
    """Returns the error for lists that are no rectangle. It names the first list that differs from the first of its level."""
    level: list[Any] = [raw]
    shape: list[int] = []
    while level:
        sizes = [len(value) if isinstance(value, list) else -1 for value in level]
        at = next((at for at, size in enumerate(sizes) if size != sizes[0]), 0)
        if at:
            place = [int(index) for index in np.unravel_index(at, shape)]
            where, first = ("".join(f"[{index}]" for index in each) for each in (place, [0] * len(place)))
            odd, usual = (f"is a list of {size}" if size >= 0 else "is no list" for size in (sizes[at], sizes[0]))
            message = f"input {name!r} is ragged: {name}{where} {odd}, and {name}{first} {usual}"
            return InvalidInput(message, input_name=name, index=place[0])
        if sizes[0] < 0:
            break
        shape.append(sizes[0])
        level = list(chain.from_iterable(level))
    return InvalidInput(f"input {name!r} is ragged: every row must have one shape", input_name=name)


def _refusal(raw: object, name: str, dtype: str, cause: str) -> InvalidInput:
    """Returns the error for a value that numpy refused. numpy's own message may quote a megabyte of the value."""
    if "inhomogeneous" in cause or "sequence" in cause:
        return _ragged(raw, name)
    if "too large" in cause or "out of" in cause:
        return _out_of_range(name, dtype)
    try:
        _check_kinds(raw, _NUMBERS, name, f"a value for {dtype}")
    except InvalidInput as refusal:
        return refusal
    return InvalidInput(f"input {name!r}: a value cannot be read as {dtype}", input_name=name)
