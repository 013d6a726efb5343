"""Reads what clients of Simple TensorFlow Serving send: JSON, form-data or, new here, one image as the body."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from darkroom.models.errors import InvalidInput, UnknownSignature
from darkroom.service.api.tensorflow_serving.request import as_list, decode_strings
from darkroom.service.errors import MAX_QUOTED_BYTES, CodecError, NotFound, UnsupportedContent, quote
from darkroom.service.predict import codec
from darkroom.service.predict.call import first_values
from darkroom.service.predict.forms import shape_answer
from darkroom.service.predict.partial import wants_per_image
from darkroom.service.serving.registry import DEFAULT_MODEL, DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from darkroom.models.rows import Rows
    from darkroom.service.predict.call import AnswerBody, Call
    from darkroom.service.predict.image_guard import ImageGuard
    from darkroom.service.predict.partial import PartialResult
    from darkroom.service.predict.request import PredictRequest
    from darkroom.service.serving.registry import Registry
    from darkroom.service.serving.servable import Target

_NAMING = frozenset({"model_name", "model_version", "signature_name"})


class Simple:
    """Reads the calls of one server's STS clients into predict requests."""

    def __init__(self, registry: Registry, guard: ImageGuard) -> None:
        self._registry = registry
        self._guard = guard

    def read(self, request: PredictRequest, call: Call) -> None:
        """Fills `request` from a call, in whichever form its images come.

        Raises:
            CodecError, InvalidInput, UnknownVersion: the call cannot be served; the message says why.
        """
        content_type = call.headers.get("content-type", "")
        # The first test is a short cut: nearly every client sends exactly this.
        kind = "json" if content_type == "application/json" else content_kind(content_type)
        fields: Mapping[str, object]
        if kind == "json":
            fields = self.read_json(request, call.body)
        elif kind == "form":
            # The first file `image`, then every file `images`, in their order.
            files, values = call.form()
            fields = first_values(values)
            target = self._find(request, fields)
            pictures = [file.body for file in (*files.get("image", ())[:1], *files.get("images", ()))]
            if not pictures:
                raise CodecError("form-data: no file called 'image' or 'images'")
            self._take_pictures(request, target, pictures, fields)
        else:  # what a form has as fields stands in the query
            fields = call.query
            self._take_pictures(request, self._find(request, fields), [call.body], fields)
        shape_answer(request, fields, call.headers.get("accept", ""))

    def read_json(self, request: PredictRequest, body: bytes) -> dict[str, object]:
        """Fills `request` from `{"data": {input: nested list}, "model_name", "model_version", "signature_name", …}`.

        Returns:
            The fields of the body.

        Raises:
            CodecError, InvalidInput, UnknownVersion: the call cannot be served; the message says why.
        """
        fields = codec.parse_json(body)
        request.end_stage("parse")
        if not isinstance(fields, dict):
            raise CodecError(f"Invalid json data: expected an object, got {type(fields).__name__}")
        target = self._find(request, fields)
        for name in ("preprocess", "postprocess"):
            if fields.get(name):
                raise CodecError(
                    f"{name}: code out of a model's folder is not run; do this in the graph or in the client"
                )
        data = fields.get("data")
        if not data and target.spec.inputs:
            raise CodecError("Inference with empty data, please check the request JSON")
        if "top_k" in fields or "on_error" in fields:
            _set_answer(request, target, fields)
        self._take_data(request, target, data, is_base64=fields.get("base64_decode") is True)
        return fields

    def _take_data(self, request: PredictRequest, target: Target, data: object, *, is_base64: bool) -> None:
        """Reads the inputs of the signature from STS's `data`."""
        spec = target.spec
        inputs = data if isinstance(data, dict) else {}
        for tensor in spec.inputs:
            if tensor.name not in inputs and tensor.default is None:
                has = quote(sorted(inputs)) if inputs else "no names"
                message = f"Input op name '{tensor.name}' does not exist in input data, which has {has}"
                raise InvalidInput(f"{message}, please check the request JSON")
        field = spec.image_input
        if field is not None and len(spec.inputs) == 1 and len(spec.inputs[0].shape or ()) < 2:
            values = inputs[field]
            if not isinstance(values, list):
                values = as_list(values, wraps=spec.inputs[0].holds_one)
            if not isinstance(values, list):
                raise InvalidInput(f"{field}: expected a list of base64 strings, got {type(values).__name__}")
            pictures = request.decode_pictures(target, values, self._guard)
            request.end_stage("decode")
            request.take_pictures(target, pictures, self._guard)
            return
        columns = decode_strings(
            {tensor.name: inputs[tensor.name] for tensor in spec.inputs if tensor.name in inputs}, spec
        )
        if is_base64:
            columns |= {name: _decode_texts(columns[name], name) for name in columns if name != field}
        request.end_stage("decode")
        request.take_inputs(target, columns, self._guard, strict=False)

    def _take_pictures(
        self, request: PredictRequest, target: Target, pictures: list[bytes], fields: Mapping[str, object]
    ) -> None:
        """Gives encoded pictures to the one string input of the signature, whatever it is called."""
        _set_answer(request, target, fields)
        request.end_stage("parse")
        spec = target.spec
        if len(spec.inputs) != 1 or spec.inputs[0].dtype != "string":
            raise target.refuse_pictures()
        request.take_pictures(target, pictures, self._guard)

    def _find(self, request: PredictRequest, fields: Mapping[str, object]) -> Target:
        """The target that the fields name, set in `request`; the errors are in STS's own words."""
        target = self._registry.usual
        if target is None or not _NAMING.isdisjoint(fields):
            target = self._look_up(fields, request.headers)
        request.target = target
        return target

    def _look_up(self, fields: Mapping[str, object], headers: Mapping[str, str]) -> Target:
        model = fields.get("model_name", DEFAULT_MODEL)
        signature = fields.get("signature_name", DEFAULT_SIGNATURE)
        if not isinstance(model, str) or model not in self._registry:
            available = list(self._registry.models())
            name = model[:MAX_QUOTED_BYTES] if isinstance(model, str) else quote(model)
            raise NotFound(f"Invalid model name: {name}, available models: {available}")
        version = fields.get("model_version")
        if isinstance(version, str) and version.isascii() and version.isdigit() and len(version) < 20:
            version = int(version)
        if version is not None and type(version) is not int:
            raise CodecError(f"model_version: expected a whole number, got {quote(version)}")
        try:
            return self._registry.find(model, version, signature if isinstance(signature, str) else "", headers)
        except UnknownSignature as err:
            why = err.reason and f"; it can't be served: {err.reason}"
            raise NotFound(
                f"Fail to request the signature name: {quote(signature)}, please check the request JSON{why}; "
                f"there are: {', '.join(err.available)}"
            ) from err


def _set_answer(request: PredictRequest, target: Target, fields: Mapping[str, object]) -> None:
    """Limits the answer to the k largest scores, and to the good rows, if the fields ask for it."""
    k = codec.parse_k(fields.get("top_k"))
    partial_result = request.allow_partial(target) if wants_per_image(fields.get("on_error")) else None
    if k or partial_result is not None:
        request.render = partial(_render, k=k, target=target, partial_result=partial_result)


def _render(rows: Rows, *, k: int, target: Target, partial_result: PartialResult | None) -> AnswerBody:
    """STS's columns, score vectors cut to their k largest; refused rows are null, with their errors under `errors`."""
    if k:
        columns = codec.top_k(rows, k, target.model.labels, target.kinds)
    else:
        columns = {name: codec.writable(column) for name, column in rows.columns.items()}
    return codec.dump_answer(columns if partial_result is None else partial_result.answer(columns))


def _decode_texts(value: object, name: str) -> object:
    """Decodes every string of an input, all of them base64 (`base64_decode: true`)."""
    try:
        return codec.decode_base64_strings(value)
    except ValueError as err:
        raise CodecError(f"{name}: is not base64: {err}") from err
    except RecursionError as err:
        raise CodecError(f"{name}: is nested too deep") from err


def content_kind(content_type: str) -> str:
    """The form of a body with this Content-Type: `json`, `form` or `picture`.

    Raises:
        UnsupportedContent: none of them.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        return "json"
    if kind == "multipart/form-data":
        return "form"
    if kind.startswith("image/") or kind == "application/octet-stream":
        return "picture"
    raise UnsupportedContent(
        "Error, unsupported content type; POST / takes application/json, multipart/form-data, image/* "
        "or application/octet-stream"
    )
