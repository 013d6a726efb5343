"""Reads the body of an infer request: its JSON, the binary tensors after it, and the input columns in both."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from darkroom.models.errors import InvalidInput
from darkroom.models.spec import numpy_dtype
from darkroom.service.api.open_inference import tensors
from darkroom.service.errors import CodecError, quote
from darkroom.service.predict import codec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from darkroom.models.rows import Column
    from darkroom.models.spec import SignatureSpec, TensorSpec

    Decode = Callable[[Sequence[str], str, tuple[int, ...]], list[bytes]]  # texts, input, sizes of a row → pictures

LENGTH = "Inference-Header-Content-Length"


class Body(NamedTuple):
    """A body in two parts: its JSON object, and the binary tensors after it in the order of the inputs, if there are any."""

    fields: dict[str, Any]
    tail: memoryview | None


class Sent(NamedTuple):
    """One input as it was sent: its fields, its parameters and those of the request, and its place for messages."""

    item: Mapping[str, Any]
    parameters: Mapping[str, Any]
    common: Mapping[str, Any]
    where: str

    @property
    def is_base64(self) -> bool:
        """Whether strings in JSON are base64, by `content_type`; that of the input counts before that of the request."""
        said: object = self.parameters.get("content_type", self.common.get("content_type"))
        return said == "base64"


def parse_body(body: bytes, length: str | None) -> Body:
    """Cuts a body at `length`, the value of the header, and parses the JSON before it.

    Raises:
        CodecError: the header is no length within the body, or the JSON is not an object.
    """
    if length is None:
        return Body(_fields(body), None)
    digits = length.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and int(digits) <= len(body)):
        raise CodecError(f"{LENGTH}: expected a length within the body's {len(body)} bytes, got {quote(length)}")
    return Body(_fields(body[: int(digits)]), memoryview(body)[int(digits) :])


def read_inputs(body: Body, spec: SignatureSpec, decode: Decode, remedy: str = "") -> dict[str, Column]:
    """The column of each input, with pictures as encoded bytes; `decode` makes them from base64 strings in JSON.

    It is given the name of the input and the sizes of its rows. `remedy` ends the error for strings that are sent to an input of numbers.

    Raises:
        CodecError, InvalidInput: not exactly the signature's inputs, each once; or the data does not match its fields.
    """
    inputs = body.fields.get("inputs", None if spec.inputs else [])  # a signature without inputs needs no such field
    if not isinstance(inputs, list):
        raise CodecError(f"inputs: expected a list, got {type(inputs).__name__}")
    wanted = {tensor.name: tensor for tensor in spec.inputs}
    common = as_object(body.fields.get("parameters"), "parameters")
    columns: dict[str, Column] = {}
    at = 0
    for index, item in enumerate(inputs):
        where = f"inputs[{index}]"
        name, parameters = read_named(item, where)
        if name not in wanted or name in columns:
            listed = ", ".join(wanted) or "none"
            raise InvalidInput(f"{where}: {quote(name)} is no input, or came before; there are: {listed}")
        sent = Sent(item, parameters, common, where)
        chunk = _chunk(sent, body.tail, at)
        at += len(chunk or b"")
        columns[name] = _column(sent, wanted[name], chunk, decode if spec.decodes(name) else None, remedy)
    if missing := [name for name in spec.required if name not in columns]:
        raise InvalidInput(f"inputs: {missing[0]!r} is missing", input_name=missing[0])
    if at < len(body.tail or b""):
        raise CodecError(f"the body ends in {len(body.tail or b'') - at} bytes that no binary_data_size takes")
    return columns


def read_raw(body: bytes, spec: SignatureSpec) -> dict[str, Column]:
    """The column of a body that is only the data of the one input: one element of BYTES, or whole rows of numbers.

    Raises:
        InvalidInput: the signature has several inputs, or the bytes do not fill whole rows.
    """
    if len(spec.inputs) != 1:
        names = ", ".join(tensor.name for tensor in spec.inputs) or "none"
        raise InvalidInput(f"a raw body is one tensor; signature {spec.name!r} has the inputs {names}")
    tensor = spec.inputs[0]
    inner = [size or 0 for size in (tensor.shape or (0, 0))[1:]]
    if tensor.dtype == "string":
        return {
            tensor.name: tensors.shaped([body], (1,) * (1 if tensor.shape is None else len(tensor.shape)), tensor.name)
        }
    row_bytes = prod(inner) * numpy_dtype(tensor.dtype).itemsize
    if not tensor.has_batch_dimension or not row_bytes or len(body) % row_bytes:
        raise InvalidInput(f"{tensor.name}: {len(body)} bytes don't fill whole rows of {_wants(tensor)}")
    return {tensor.name: tensors.read_binary(body, tensor.dtype, (len(body) // row_bytes, *inner), tensor.name)}


def as_object(value: object, where: str) -> dict[str, Any]:
    """The object itself; an empty one for None.

    Raises:
        CodecError: something else.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CodecError(f"{where}: expected an object, got {type(value).__name__}")
    return value


def read_named(item: object, where: str) -> tuple[str, dict[str, Any]]:
    """The name and the parameters of an input or an output.

    Raises:
        CodecError: it has no name, its parameters are no object, or it asks for shared memory.
    """
    fields = as_object(item, where)
    name = fields.get("name")
    if not isinstance(name, str):
        raise CodecError(f"{where}.name: expected text, got {quote(name)}")
    parameters = as_object(fields.get("parameters"), f"{where}.parameters")
    if any(key.startswith("shared_memory") for key in parameters):
        raise CodecError(f"{where}.parameters: shared memory is not served; the data itself has to come and go")
    return name, parameters


def _fields(body: bytes) -> dict[str, Any]:
    fields = codec.parse_json(body)
    if not isinstance(fields, dict):
        raise CodecError(f"Invalid json data: expected an object, got {type(fields).__name__}")
    return fields


def _chunk(sent: Sent, tail: memoryview | None, at: int) -> memoryview | None:
    """The binary data of an input, which begins at `at` in the tail; None if its data is in the JSON."""
    size = sent.parameters.get("binary_data_size")
    if size is None:
        return None
    where = f"{sent.where}.parameters.binary_data_size"
    if type(size) is not int or size < 0:
        raise CodecError(f"{where}: expected a number of bytes, got {quote(size)}")
    if tail is None:
        raise CodecError(f"{where}: binary data needs the header {LENGTH}")
    if size > len(tail) - at:
        raise CodecError(f"{where}: is {quote(size)}, and {len(tail) - at} bytes are left of the body")
    return tail[at : at + size]


def _column(sent: Sent, tensor: TensorSpec, chunk: memoryview | None, decode: Decode | None, remedy: str) -> Column:
    """The values of one input; `decode` is not None for the input that takes pictures."""
    item, name = sent.item, tensor.name
    dtype = tensors.parse_datatype(item.get("datatype"), sent.where)
    if dtype != tensor.dtype and "string" in {dtype, tensor.dtype}:
        hint = remedy if dtype == "string" else ""
        wants, got = tensors.DATATYPES[tensor.dtype], tensors.DATATYPES[dtype]
        raise InvalidInput(f"{name}: datatype is {wants}, not {got}{hint}")
    shape = tensors.parse_shape(item.get("shape"), sent.where)
    if not tensor.takes(shape) and not (tensor.holds_one and prod(shape) == 1):
        raise InvalidInput(f"{name}: shape is {list(shape)}, the signature wants {_wants(tensor)}")
    if chunk is None and "data" not in item:
        raise CodecError(f"{sent.where}: has no data")
    if decode is not None:
        return _pictures(item, chunk, shape, name, decode)
    if chunk is not None:
        return tensors.read_binary(chunk, dtype, shape, name)
    if dtype == "string" and sent.is_base64:
        return tensors.read_base64(item["data"], shape, name)
    return tensors.read_json(item["data"], dtype, shape, name)


def _pictures(
    item: Mapping[str, Any], chunk: memoryview | None, shape: tuple[int, ...], name: str, decode: Decode
) -> Column:
    """Encoded pictures. In JSON they are base64; some clients also send base64 text as binary data, or base64 of base64."""
    if chunk is not None:
        pictures = tensors.split(chunk, name)
        tensors.check_count(len(pictures), shape, name)
    else:
        texts = tensors.texts(item["data"], name)
        tensors.check_count(len(texts), shape, name)
        pictures = decode(texts, name, shape[1:])
    pictures = [codec.unwrap_picture(data) for data in pictures]
    return pictures if len(shape) == 1 else tensors.shaped(pictures, shape, name)


def _wants(tensor: TensorSpec) -> list[int]:
    return [-1 if size is None else size for size in tensor.shape or ()]
