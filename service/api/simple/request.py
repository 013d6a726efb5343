"""What Simple TensorFlow Serving's clients send: JSON, form-data, or (new here) one raw picture as the body."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from darkroom.models.errors import InvalidInput, UnknownSignature
from darkroom.service.api.tensorflow_serving.request import decode_strings
from darkroom.service.errors import MAX_QUOTED_CHARS, CodecError, UnsupportedContent, quote
from darkroom.service.predict import codec
from darkroom.service.predict.partial import wants_per_image
from darkroom.service.predict.predictor import first_values
from darkroom.service.serving.registry import DEFAULT_MODEL, DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from darkroom.models.rows import Rows
    from darkroom.service.predict.image_guard import ImageGuard
    from darkroom.service.predict.partial import PartialResult
    from darkroom.service.predict.predictor import Call
    from darkroom.service.predict.request import PredictRequest
    from darkroom.service.serving.registry import Registry, Target

_NAMING = frozenset({"model_name", "model_version", "signature_name"})


class Simple:
    """Reads the requests of STS's clients into asks."""

    def __init__(self, catalogue: Registry, door: ImageGuard) -> None:
        self._catalogue = catalogue
        self._door = door

    def read(self, ask: PredictRequest, call: Call) -> None:
        """Fills `ask` from a call, whichever way its pictures come.

        Raises:
            CodecError, InvalidInput, UnknownVersion: the request can't be served; each says why.
        """
        kind = content_kind(call.headers.get("content-type", ""))
        if kind == "json":
            self.read_json(ask, call.body)
        elif kind == "form":
            self.read_form(ask, *call.form())
        else:
            self.read_picture(ask, call.body, call.query)

    def read_json(self, ask: PredictRequest, body: bytes) -> None:
        """Fills `ask` from `{"data": {input: nested list}, "model_name", "model_version", "signature_name", …}`.

        Raises:
            CodecError, InvalidInput, UnknownVersion: the request can't be served; each says why.
        """
        fields = codec.parse_json(body)
        ask.lap("parse")
        if not isinstance(fields, dict):
            raise CodecError(f"Invalid json data: expected an object, got {type(fields).__name__}")
        ask.target = target = self._find(fields)
        for name in ("preprocess", "postprocess"):
            if fields.get(name):
                raise CodecError(
                    f"{name}: code out of a model's folder is not run; do this in the graph or in the client"
                )
        data = fields.get("data")
        if not data:
            raise CodecError("Inference with empty data, please check the request JSON")
        _set_answer(ask, target, fields)
        self._take_data(ask, target, data, is_base64=fields.get("base64_decode") is True)

    def read_form(
        self, ask: PredictRequest, files: Mapping[str, Sequence[Any]], fields: Mapping[str, Sequence[str]]
    ) -> None:
        """Fills `ask` from form-data: the first file `image`, then every file `images`, in their order.

        Raises:
            CodecError, InvalidInput, UnknownVersion: the request can't be served; each says why.
        """
        named = first_values(fields)
        ask.target = target = self._find(named)
        pictures = [file.body for file in (*files.get("image", ())[:1], *files.get("images", ()))]
        if not pictures:
            raise CodecError("form-data: no file called 'image' or 'images'")
        _set_answer(ask, target, named)
        ask.lap("parse")
        self._take_raw(ask, target, pictures)

    def read_picture(self, ask: PredictRequest, body: bytes, query: Mapping[str, str]) -> None:
        """Fills `ask` from a body that is one picture; what a form has as fields stands in the query.

        Raises:
            CodecError, InvalidInput, UnknownVersion: the request can't be served; each says why.
        """
        ask.target = target = self._find(query)
        _set_answer(ask, target, query)
        ask.lap("parse")
        self._take_raw(ask, target, [body])

    def _take_data(self, ask: PredictRequest, target: Target, data: object, *, is_base64: bool) -> None:
        """The inputs of the signature out of STS's `data`."""
        spec = target.spec
        named = data if isinstance(data, dict) else {}
        for tensor in spec.inputs:
            if tensor.name not in named:
                has = quote(sorted(named)) if named else "no names"
                message = f"Input op name '{tensor.name}' does not exist in input data, which has {has}"
                raise InvalidInput(f"{message}, please check the request JSON")
        field = spec.image_input
        if field is not None and len(spec.inputs) == 1:
            values = named[field]
            if not isinstance(values, list):
                raise InvalidInput(f"{field}: expected a list of base64 strings, got {type(values).__name__}")
            pictures = ask.decode_pictures(target, values, self._door)
            ask.lap("decode")
            ask.take_pictures(target, pictures, self._door)
            return
        raw = decode_strings({tensor.name: named[tensor.name] for tensor in spec.inputs}, spec)
        if is_base64:
            raw |= {
                tensor.name: _decode_texts(raw[tensor.name], tensor.name)
                for tensor in spec.inputs
                if tensor.name != field
            }
        ask.lap("decode")
        ask.take_inputs(target, raw, self._door, strict=False)

    def _take_raw(self, ask: PredictRequest, target: Target, pictures: list[bytes]) -> None:
        """Raw pictures into the one string input of the signature, whatever it is called."""
        spec = target.spec
        if len(spec.inputs) != 1 or spec.inputs[0].dtype != "string":
            wants = ", ".join(f"{tensor.name} ({tensor.dtype})" for tensor in spec.inputs)
            raise InvalidInput(f"signature {spec.name!r} takes no picture: its inputs are {wants}")
        ask.take_pictures(target, pictures, self._door)

    def _find(self, fields: Mapping[str, object]) -> Target:
        """The target that the fields name, with STS's own words where there is none."""
        usual = self._catalogue.usual
        if usual is not None and _NAMING.isdisjoint(fields):
            return usual
        model = fields.get("model_name", DEFAULT_MODEL)
        signature = fields.get("signature_name", DEFAULT_SIGNATURE)
        if not isinstance(model, str) or model not in self._catalogue:
            available = list(self._catalogue.models())
            name = model[:MAX_QUOTED_CHARS] if isinstance(model, str) else quote(model)
            raise CodecError(f"Invalid model name: {name}, available models: {available}")
        try:
            version = _parse_version(fields.get("model_version"))
            return self._catalogue.find(model, version, signature if isinstance(signature, str) else "")
        except UnknownSignature as err:
            raise CodecError(
                f"Fail to request the signature name: {quote(signature)}, please check the request JSON; "
                f"there are: {', '.join(err.available)}"
            ) from err


def _parse_version(version: object) -> int | None:
    """A version as STS takes it: a whole number or its digits; None where none is named."""
    if version is None:
        return None
    if isinstance(version, int) and not isinstance(version, bool):
        return version
    if isinstance(version, str) and version.isascii() and version.isdigit() and len(version) < 20:
        return int(version)
    raise CodecError(f"model_version: expected a whole number, got {quote(version)}")


def _decode_texts(value: object, name: str) -> object:
    """Every string of an input as the bytes that it is base64 of (`base64_decode: true`)."""
    try:
        return codec.decode_base64_strings(value)
    except ValueError as err:
        raise CodecError(f"{name}: is not base64: {err}") from err
    except RecursionError as err:
        raise CodecError(f"{name}: is nested too deep") from err


def _set_answer(ask: PredictRequest, target: Target, fields: Mapping[str, object]) -> None:
    """Answers with the k largest scores, and with the good rows alone, where the fields ask for it."""
    if "top_k" not in fields and "on_error" not in fields:
        return
    k = codec.parse_k(fields.get("top_k"))
    gaps = ask.keep_going(target) if wants_per_image(fields.get("on_error")) else None
    if k or gaps is not None:
        ask.render = partial(_render, k=k, labels=target.model.labels, gaps=gaps)


def _render(rows: Rows, *, k: int, labels: Sequence[str], gaps: PartialResult | None) -> bytes:
    """STS's columns, score vectors cut to their k largest, refused rows null and told of under `errors`."""
    columns = codec.top_k(rows, k, labels) if k else {name: codec.jsonable(c) for name, c in rows.columns.items()}
    return codec.dump_json(columns if gaps is None else gaps.answer(columns))


def content_kind(content_type: str) -> str:
    """Which reader a body goes to: `json`, `form` or `picture`.

    Raises:
        UnsupportedContent: none.
    """
    if content_type == "application/json":  # nearly always, to the byte
        return "json"
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
