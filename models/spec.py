"""What a signature wants and gives; it accepts or rejects one request. No TensorFlow here: the fakes run without it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from darkroom.models.cast import exact, lenient, numpy_dtype
from darkroom.models.errors import InvalidInput, quote
from darkroom.models.rows import Column, Rows, join

__all__ = ["DTYPES", "ModelSpec", "Rows", "SignatureSpec", "TensorSpec", "Wire", "join"]

# TensorFlow's DataType enum: name here → (number, name there). From tensorflow/core/framework/types.proto.
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
REF_OFFSET = 100  # DT_FLOAT_REF is DT_FLOAT + 100, and so for every type


class Wire(StrEnum):
    """What the graph's string image input takes."""

    BASE64 = "base64"  # URL-safe base64 text: the graph runs DecodeBase64
    BYTES = "bytes"  # raw picture bytes: the graph runs a Decode* op on them
    TENSOR = "tensor"  # there is no image input


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: `dtype` is a key of DTYPES; in `shape`, None is an unknown size; None: unknown rank."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    source: str = ""  # the tensor's name in the graph, for metadata
    is_ref: bool = False  # exported by TF1 as a reference type

    @property
    def enum(self) -> int:
        """TensorFlow's number of the dtype, DT_*_REF told apart."""
        return DTYPES[self.dtype][0] + (REF_OFFSET if self.is_ref else 0)

    @property
    def enum_name(self) -> str:
        """TensorFlow's name of the dtype, as `DT_FLOAT`."""
        return DTYPES[self.dtype][1] + ("_REF" if self.is_ref else "")

    @property
    def has_batch_dimension(self) -> bool:
        """Whether the first dimension is unknown, so that it can be the batch."""
        return self.shape is None or (len(self.shape) > 0 and self.shape[0] is None)

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether `shape` agrees with this one wherever this one is known."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, shape, strict=True)
        )

    def empty(self) -> Column:
        """No rows of this tensor: unknown inner sizes are 0."""
        shape = self.shape or (0,)
        if self.dtype == "string" and len(shape) == 1:
            return []
        return np.empty((0, *(size or 0 for size in shape[1:])), dtype=numpy_dtype(self.dtype))


@dataclass(frozen=True, slots=True)
class SignatureSpec:
    """One signature: its tensors, what its image input takes, and whether requests may share a call of it."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    method_name: str = "tensorflow/serving/predict"
    wire: Wire = Wire.TENSOR
    image_input: str | None = None  # the input whose strings the graph decodes as pictures
    formats: frozenset[str] = (
        frozenset()
    )  # of darkroom.service.predict.image_guard.FORMATS, those that the graph decodes
    one_frame: bool = False  # the graph refuses an animated GIF
    float_features: frozenset[str] = frozenset()  # of the tf.Examples that its graph parses, the features of floats
    batched: bool = True
    unbatched_reason: str = ""  # why rows of several requests never share a call

    def accept(self, raw: Mapping[str, object], *, strict: bool = False) -> Rows:
        """The rows of one request; keys that are no input are ignored.

        Not strict is Simple TensorFlow Serving's manner: numpy casts, and a shape that is not the signature's is
        refused. Strict is TensorFlow Serving's: values are of the input's kind, and a shape is left to the graph to
        refuse. Rows whose columns differ in length, or whose shapes are not the signature's, are not `aligned`.

        Raises:
            InvalidInput: a missing input, a value that cannot be cast, ragged rows, or (not strict) a wrong shape.
        """
        columns = {tensor.name: _column(raw, tensor, strict) for tensor in self.inputs}
        fits = self._fits(columns)
        if not (fits or strict):
            self._refuse_shapes(columns)
        counts = {_rows(column) for column in columns.values()}
        return Rows(columns, aligned=fits and len(counts) == 1 and None not in counts)

    def check_outputs(self, names: Sequence[str]) -> None:
        """Raises InvalidInput unless every name is an output of this signature."""
        known = [tensor.name for tensor in self.outputs]
        for name in names:
            if name not in known:
                raise InvalidInput(f"unknown output {quote(name)!r}; there are: {', '.join(known)}")

    def empty(self, asked: Sequence[str] = ()) -> Rows:
        """The answer to a request without rows, which is never run (oneDNN raises on an empty convolution)."""
        wanted = asked or [tensor.name for tensor in self.outputs]
        return Rows({tensor.name: tensor.empty() for tensor in self.outputs if tensor.name in wanted}, count=0)

    def _fits(self, columns: Mapping[str, Column]) -> bool:
        return all(tensor.takes(np_shape(columns[tensor.name])) for tensor in self.inputs)

    def _refuse_shapes(self, columns: Mapping[str, Column]) -> None:
        for tensor in self.inputs:
            shape = np_shape(columns[tensor.name])
            if not tensor.takes(shape):
                want = tuple(-1 if size is None else size for size in tensor.shape or ())
                message = f"input {tensor.name!r} has shape {shape}, the signature wants {want}"
                raise InvalidInput(message, input_name=tensor.name)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One version of a model: its signatures by name, and its labels in class order (empty where it has none)."""

    name: str
    version: int
    signatures: dict[str, SignatureSpec]
    labels: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)  # signature → why it cannot be served


def np_shape(column: Column) -> tuple[int, ...]:
    """The shape of a column."""
    return (len(column),) if isinstance(column, list) else column.shape


def _rows(column: Column) -> int | None:
    shape = np_shape(column)
    return shape[0] if shape else None


def _column(raw: Mapping[str, object], tensor: TensorSpec, strict: bool) -> Column:  # noqa: FBT001 - passed on by accept alone
    if tensor.name not in raw:
        raise InvalidInput(f"input {tensor.name!r} is missing", input_name=tensor.name)
    cast = exact if strict else lenient
    return cast(raw[tensor.name], tensor.dtype, tensor.name)
