"""Reads the inputs in the JSON of a TensorFlow Serving request, in row form and in columnar form. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from darkroom.models.errors import quote
from darkroom.models.spec import Numbers, gather
from darkroom.service.errors import CodecError, TooLarge
from darkroom.service.predict import codec

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from darkroom.models.spec import SignatureSpec


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        CodecError: the body is not JSON, or not an object.
    """
    if not body:
        raise CodecError("JSON Parse error: The document is empty")
    try:
        fields = codec.parse_json(body)
    except TooLarge:
        raise
    except CodecError as err:
        raise CodecError(f"JSON Parse error: {err.__cause__}") from err
    if not isinstance(fields, dict):
        raise CodecError(f"JSON Value: Is not object, but {type(fields).__name__}")
    return fields


def rows_to_columns(instances: object, names: Sequence[str], required: Collection[str]) -> dict[str, Any]:
    """The values of `instances` by input, one for each row: objects with these names, or at least the `required`, or bare values of one input.

    Raises:
        CodecError: not a list of at least one row, rows of both kinds, or other names; names the row.
    """
    if not names:
        raise CodecError('instances: this signature has no inputs, and so no rows; send {"inputs": {}}')
    if not isinstance(instances, (list, Numbers)):
        raise CodecError("Excepting 'instances' to be an list/array")
    if not instances:
        raise CodecError("No values in 'instances' array")
    if isinstance(instances, list) and _is_named(instances[0]):
        return _named_rows(instances, names, required)
    if len(names) > 1:
        raise CodecError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            f"tensorinfo_map: {','.join(names)}"
        )
    for index, row in enumerate(instances if isinstance(instances, list) else ()):
        if _is_named(row):
            raise CodecError(f"Expecting value/list but got object at item {index} of input list")
    return {names[0]: instances}


def inputs_to_columns(inputs: object, names: Sequence[str], required: Collection[str]) -> dict[str, Any]:
    """The values of `inputs` by input: an object with at least the `required` of these names, or the bare value of one input.

    Raises:
        CodecError: a name is missing, or a bare value is sent for several inputs.
    """
    if isinstance(inputs, dict) and _is_named(inputs):
        for name in required:
            if name not in inputs:
                raise CodecError(f"Missing named input: {name} in 'inputs' object.")
        return {name: inputs[name] for name in names if name in inputs}
    if not names:
        raise CodecError('inputs: this signature has no inputs; send an empty object: {"inputs": {}}')
    if len(names) > 1:
        raise CodecError(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            f"tensorinfo_map: {','.join(names)}"
        )
    return {names[0]: inputs}


def parse_examples(fields: dict[str, Any]) -> tuple[list[Any], Any]:
    """`examples` and `context` of a classify or regress request, with each `{"b64": text}` in them decoded to bytes.

    Raises:
        CodecError: no examples, or a value that is not base64; names the example.
    """
    examples = fields.get("examples")
    if "examples" not in fields:
        raise CodecError("When method is classify or regress, key 'examples' is expected and was not found")
    if not isinstance(examples, list):
        raise CodecError("Expecting 'examples' value to be an list/array")
    if not examples:
        raise CodecError("'examples' value is an empty array")
    decoded = [_decode_features(example, f"examples[{index}]") for index, example in enumerate(examples)]
    return decoded, _decode_features(fields.get("context"), "context")


def decode_strings(columns: dict[str, Any], spec: SignatureSpec) -> dict[str, Any]:
    """The columns with the pictures of the image input, and each `{"b64": text}` of other string inputs, decoded to bytes.

    Raises:
        CodecError: a value is not base64, or is nested too deep; names the input, and the index of a picture.
    """
    for tensor in spec.inputs:
        if tensor.dtype == "string" and tensor.name in columns:
            name = tensor.name
            try:
                if spec.decodes(name):
                    columns[name] = _nested_pictures(as_list(columns[name]), name)
                else:
                    columns[name] = codec.decode_binary(as_list(columns[name]))
            except CodecError:
                raise
            except ValueError as err:
                raise CodecError(codec.not_base64(name, err)) from err
            except RecursionError as err:
                raise CodecError(f"{name}: is nested too deep") from err
    return columns


def as_list(value: object, *, wraps: bool = False) -> object:
    """`Numbers` as a list, for inputs that take none: of the first number, which the message names.

    Other values as they are; with `wraps` in a list.
    """
    if isinstance(value, Numbers):
        return value.sample()
    return [value] if wraps else value


def _is_named(value: object) -> bool:
    """Whether this is an object of named inputs; `{"b64": text}` is a value instead."""
    return isinstance(value, dict) and not (len(value) == 1 and isinstance(value.get("b64"), str))


def _named_rows(instances: list[Any], names: Sequence[str], required: Collection[str]) -> dict[str, Any]:
    wanted = set(names)
    if wanted.issuperset(instances[0]) and instances[0].keys() >= set(required):
        wanted = set(instances[0])  # a row has what the first one has
    for index, row in enumerate(instances):
        if not _is_named(row):
            raise CodecError(f"Expecting object but got list at item {index} of input list")
        if row.keys() != wanted:
            where = f"Failed to process element: {index}"
            if extra := sorted(row.keys() - wanted):
                raise CodecError(
                    f"{where} key: {quote(extra[0])} of 'instances' list. Error: JSON object: does not have named "
                    f"input: {quote(extra[0])}; there are: {','.join(names)}"
                )
            raise CodecError(f"{where} of 'instances' list. JSON object: keys must be equal to: {','.join(names)}")
    return {name: gather([row[name] for row in instances]) for name in names if name in wanted}


def _decode_features(example: object, where: str) -> object:
    if not isinstance(example, dict):
        return example
    try:
        return {
            name: value.array.tolist() if isinstance(value, Numbers) else codec.decode_binary(value)
            for name, value in example.items()
        }
    except ValueError as err:
        raise CodecError(codec.not_base64(where, err)) from err
    except RecursionError as err:
        raise CodecError(f"{where}: is nested too deep") from err


def _nested_pictures(values: object, field: str, index: int = -1, depth: int = 0) -> object:
    """Decodes pictures in nested lists; `index` is the place in the innermost list, and `field` says where that is."""
    if isinstance(values, list):
        codec.check_depth(depth)
        where = field if index < 0 else f"{field}[{index}]"
        return [_nested_pictures(value, where, at, depth + 1) for at, value in enumerate(values)]
    return codec.decode_picture(values, field, max(0, index))
