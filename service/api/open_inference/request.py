"""Reads infer requests of the Open Inference Protocol: JSON, JSON followed by binary tensors, or one raw tensor."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from darkroom.models.errors import InvalidInput, UnknownVersion
from darkroom.models.spec import np_shape
from darkroom.service.api.open_inference.body import (
    LENGTH,
    Body,
    as_object,
    parse_body,
    read_inputs,
    read_named,
    read_raw,
)
from darkroom.service.api.open_inference.response import InferReply, Output
from darkroom.service.errors import CodecError, quote
from darkroom.service.predict import codec
from darkroom.service.predict.forms import shape_tensors
from darkroom.service.predict.partial import wants_per_image
from darkroom.service.serving.registry import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from darkroom.models.rows import Column, Rows
    from darkroom.models.spec import SignatureSpec
    from darkroom.service.predict.call import AnswerBody, Call, Rendered
    from darkroom.service.predict.image_guard import ImageGuard
    from darkroom.service.predict.request import PredictRequest
    from darkroom.service.serving.registry import Registry
    from darkroom.service.serving.servable import Target

MAX_ID_BYTES = 4096  # guess: of the text that is echoed; a traceparent has 55


class Infer:
    """Reads the infer calls of one server into predict requests."""

    def __init__(self, registry: Registry, guard: ImageGuard) -> None:
        self._registry = registry
        self._guard = guard

    def read(self, request: PredictRequest, call: Call, *, name: str, version: str | None) -> None:
        """Fills `request` from a call to model `name`; `version` is a number, a label, or None for the latest version.

        Raises:
            CodecError, InvalidInput, UnknownModel, UnknownVersion, UnknownSignature, NotReady: the call cannot be
                served; the message says why.
        """
        length = call.headers.get(LENGTH.lower())
        if length is None or length.strip() != "0":
            self.read_body(request, parse_body(call.body, length), name=name, version=version)
            return
        # The body is the tensor itself.
        request.target = target = find(self._registry, name, version, headers=request.headers)
        outputs = _read_outputs(None, target, is_binary=True)
        request.render = InferReply(None, target.model, outputs)
        columns = read_raw(call.body, target.spec)
        request.end_stage("decode")
        self._take(request, target, columns, outputs)

    def read_body(
        self,
        request: PredictRequest,
        body: Body,
        *,
        name: str,
        version: str | None,
        reply: Callable[..., Callable[[Rows], AnswerBody | Rendered]] = InferReply,
    ) -> None:
        """`read` for a body that is cut and parsed; `reply` makes the renderer from what `InferReply` takes."""
        request.end_stage("parse")
        fields, parameters = body.fields, as_object(body.fields.get("parameters"), "parameters")
        request.target = target = find(
            self._registry, name, version, parameters.get("signature_name"), headers=request.headers
        )
        _set_schedule(request, parameters)
        outputs = _read_outputs(fields.get("outputs"), target, is_binary=_flag(parameters, "binary_data_output"))
        partial = request.allow_partial(target) if wants_per_image(parameters.get("on_error")) else None
        request.render = reply(_read_id(fields.get("id")), target.model, outputs, partial)
        columns = read_inputs(
            body,
            target.spec,
            lambda texts, name, inner: request.decode_pictures(target, texts, self._guard, name, inner),
            target.remedy,
        )
        request.end_stage("decode")
        self._take(request, target, columns, outputs)
        if "as" in parameters or fields.get("outputs"):
            shape_tensors(request, parameters, {output.name: output.parameters for output in outputs})

    def _take(
        self, request: PredictRequest, target: Target, columns: dict[str, Column], outputs: tuple[Output, ...]
    ) -> None:
        """Sets the rows for the batcher. Rows that want every output share batches with requests of every dialect."""
        pictures = columns.get(target.field)
        if target.spec.image_input is not None and len(columns) == 1 and isinstance(pictures, list):
            request.take_pictures(target, pictures, self._guard)
        else:
            _check_same_count(target.spec, columns)
            request.take_inputs(target, columns, self._guard, strict=True)
        if len(outputs) < len(target.spec.outputs):
            request.select_outputs([output.name for output in outputs])


def find(
    registry: Registry,
    name: str,
    version: str | None,
    signature: object = None,
    headers: Mapping[str, str] | None = None,
) -> Target:
    """The target that a path names; its first signature if it has no default signature.

    Of a path without a version, `headers` choose one; see `Registry.version`.

    Raises:
        CodecError: `signature` is not text.
        UnknownModel, UnknownVersion, UnknownSignature, NotReady: there is none; the message lists what exists.
    """
    number = None
    if version is not None:
        if version.isascii() and version.isdigit() and len(version) < 20:
            number = int(version)
        elif version in registry.labels(name):
            number = registry.labelled(name, version)
        else:
            raise UnknownVersion(name, version, tuple(registry.versions(name)))
    if signature is None:
        targets = registry.version(name, number, headers)
        return targets.get(DEFAULT_SIGNATURE) or next(iter(targets.values()))
    if not isinstance(signature, str):
        raise CodecError(f"parameters.signature_name: expected text, got {quote(signature)}")
    return registry.find(name, number, signature, headers)


def _check_same_count(spec: SignatureSpec, columns: Mapping[str, Column]) -> None:
    """Returns if the inputs of a signature whose rows are independent have equally many; the protocol wants that.

    Raises:
        InvalidInput: two have not.
    """
    if not spec.batched or len(columns) < 2:
        return
    first, wanted = "", 0
    for tensor in spec.inputs:
        shape = np_shape(columns[tensor.name]) if tensor.name in columns else ()
        if not shape or not tensor.has_batch_dimension or (shape[0] == 1 and tensor.name in spec.one_row):
            continue
        if not first:
            first, wanted = tensor.name, shape[0]
        elif shape[0] != wanted:
            message = (
                f"input {tensor.name!r} has {shape[0]} rows and input {first!r} has {wanted}: both must have as many"
            )
            raise InvalidInput(message, input_name=tensor.name)


def _read_outputs(asked: object, target: Target, *, is_binary: bool) -> tuple[Output, ...]:
    """The outputs that a request wants, in its order; all if it names none. `is_binary` is the default of each output."""
    spec = target.spec
    if not asked:
        return tuple(Output(tensor.name, is_binary) for tensor in spec.outputs)
    if not isinstance(asked, list):
        raise CodecError(f"outputs: expected a list, got {type(asked).__name__}")
    outputs: dict[str, Output] = {}
    for index, item in enumerate(asked):
        where = f"outputs[{index}]"
        name, parameters = read_named(item, where)
        spec.check_outputs([name])
        if name in outputs:
            raise CodecError(f"{where}: {name!r} is asked for twice")
        classes = codec.parse_k(parameters.get("classification"), f"{where}.parameters.classification")
        is_one_binary = _flag(parameters, "binary_data", f"{where}.", default=is_binary)
        labels = target.model.labels if target.kinds[name].kind in {"scores", "numbers"} else ()
        outputs[name] = Output(name, is_one_binary, classes, labels, parameters)
    return tuple(outputs.values())


def _set_schedule(request: PredictRequest, parameters: Mapping[str, Any]) -> None:
    """Applies `timeout` (microseconds, 0 for none) and `priority` (0, none given, or 1: interactive; any other: bulk)."""
    for name in ("timeout", "priority"):
        value = parameters.get(name, 0)
        if type(value) is not int or not 0 <= value < 1 << 64:
            raise CodecError(f"parameters.{name}: expected a whole number of 0 or more, got {quote(value)}")
    if timeout_us := parameters.get("timeout"):
        request.set_timeout(timeout_us / 1e6)
    if priority := parameters.get("priority"):
        request.bulk = priority > 1


def _read_id(value: object) -> str | None:
    """The id to echo in the answer: any text, or a whole number as text."""
    if value is None or value == "":
        return None
    text = str(value) if type(value) is int else value
    if isinstance(text, str) and len(text) <= MAX_ID_BYTES:
        with suppress(UnicodeEncodeError):  # half a surrogate pair, which no JSON answer can carry
            if len(text.encode()) <= MAX_ID_BYTES:
                return text
    raise CodecError(f"id: expected at most {MAX_ID_BYTES} bytes of Unicode text, got {quote(value)}")


def _flag(parameters: Mapping[str, Any], name: str, where: str = "", *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise CodecError(f"{where}parameters.{name}: expected true or false, got {quote(value)}")
    return value
