"""TensorFlow Serving's REST dialect: predict, classify, regress; raw pictures and form-data at the same addresses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from darkroom.models.errors import InvalidInput, quote
from darkroom.service.api.tensorflow_serving import paths as addresses
from darkroom.service.api.tensorflow_serving import request as instances
from darkroom.service.api.tensorflow_serving import response as predictions
from darkroom.service.errors import CodecError
from darkroom.service.http.middleware import call_of, reply_response
from darkroom.service.predict import codec
from darkroom.service.predict.partial import wants_per_image
from darkroom.service.predict.predictor import Route, first_values
from darkroom.service.serving.registry import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sanic.request import Request
    from sanic.response import HTTPResponse

    from darkroom.models.spec import SignatureSpec
    from darkroom.service.api.tensorflow_serving.paths import Address
    from darkroom.service.app import Darkroom
    from darkroom.service.http.middleware import App
    from darkroom.service.predict.image_guard import ImageGuard
    from darkroom.service.predict.predictor import Call
    from darkroom.service.predict.request import PredictRequest
    from darkroom.service.serving.registry import Registry, Target

MISSING = 'Serving signature name: "{}" not found in signature def'
MISSING_METHOD = "No signature was found with the name: {}"
ONE_FORM = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
NO_FORM = "Missing 'inputs' or 'instances' key"


class TensorFlowServing:
    """Reads the requests of TensorFlow Serving's clients into asks."""

    def __init__(self, catalogue: Registry, door: ImageGuard) -> None:
        self._catalogue = catalogue
        self._door = door

    def read_predict(self, address: Address, ask: PredictRequest, call: Call) -> None:
        """Fills `ask` from JSON in row or columnar form, a form of pictures, or a body that is one picture.

        The body decides, not its Content-Type: clients send JSON under any (curl's default among them).

        Raises:
            CodecError, InvalidInput: the request can't be served; each says why.
        """
        body = call.body
        if not body.startswith(b"{"):
            kind = call.headers.get("content-type", "").lower()
            if kind.startswith("multipart/form-data"):
                self._read_form(address, ask, call)
                return
            if kind.startswith("image/") or codec.begins_as_picture(body):
                self._take_raw(address, ask, [body], call.query)
                return
        fields = instances.parse_object(body)
        ask.lap("parse")
        ask.target = target = self._find(address, fields.get("signature_name", ""))
        self._take_json(ask, target, fields)
        if "output_filter" in fields:
            ask.ask_for(_filtered(fields["output_filter"], target.spec))

    def read_examples(self, address: Address, ask: PredictRequest, call: Call) -> None:
        """Fills `ask` with serialized tf.Examples from the JSON of `:classify` and `:regress`.

        Raises:
            CodecError, InvalidInput: the request can't be served; each says why.
        """
        fields = instances.parse_object(call.body)
        examples, context = instances.parse_examples(fields)
        ask.lap("parse")
        ask.target = target = self._find(address, fields.get("signature_name", ""), MISSING_METHOD)
        asked = _outputs_of(target.spec, address.act)
        from darkroom.models.saved_model.tf_example import serialize  # noqa: PLC0415 - TensorFlow's protobufs; a fake model comes without them

        serialized = serialize(examples, context, floats=target.spec.float_features)
        ask.lap("decode")
        ask.take_inputs(target, {"inputs": serialized}, self._door, strict=True)
        ask.ask_for(asked)
        dump = predictions.dump_classes if address.act == "classify" else predictions.dump_regressions
        ask.render = partial(dump, count=len(serialized))

    def match(self, path: str) -> Route | None:
        """The route of a POST to `path`; None where it isn't of this dialect, or its version is no int64."""
        try:
            address = addresses.posted(path)
        except CodecError:
            return None
        if address is None:
            return None
        read = self.read_predict if address.act == "predict" else self.read_examples
        return Route(address.template, partial(read, address))

    def _find(self, address: Address, signature: object, missing: str = MISSING) -> Target:
        """The target of an address and a `signature_name`; `missing` are the words where there is none of that name."""
        if not isinstance(signature, str):
            raise CodecError("Not formatted correctly. 'signature_name' key must be a string value.")
        name = signature or DEFAULT_SIGNATURE
        target = addresses.lookup(self._catalogue, address).get(name)
        if target is None:
            raise CodecError(missing.format(quote(name)))
        return target

    def _take_json(self, ask: PredictRequest, target: Target, fields: Mapping[str, Any]) -> None:
        """Makes the JSON's inputs the rows of `ask`."""
        spec = target.spec
        names = [tensor.name for tensor in spec.inputs]
        if not names:
            raise CodecError(f"Failed to get input map for signature: {spec.name}")
        is_row = "instances" in fields
        if is_row == ("inputs" in fields):
            raise CodecError(ONE_FORM if is_row else NO_FORM)
        if is_row:
            columns: dict[str, Any] = instances.rows_to_columns(fields["instances"], names)
            _set_answer(ask, target, fields, predictions.dump_rows)
        else:
            columns = instances.inputs_to_columns(fields["inputs"], names)
            _set_answer(ask, target, fields, predictions.dump_columns)
        if spec.image_input is None or len(names) > 1 or not _is_flat(spec):
            self._take_columns(ask, target, columns, is_row=is_row)
            return
        values = columns[names[0]]
        if not isinstance(values, list):
            raise CodecError(f"{names[0]}: expected a list of base64 strings, got {type(values).__name__}")
        pictures = ask.decode_pictures(target, values, self._door)
        ask.lap("decode")
        ask.take_pictures(target, pictures, self._door)

    def _take_columns(self, ask: PredictRequest, target: Target, columns: dict[str, Any], *, is_row: bool) -> None:
        raw = instances.decode_strings(columns, target.spec)
        ask.lap("decode")
        try:
            ask.take_inputs(target, raw, self._door, strict=True)
        except InvalidInput as err:
            if is_row and (odd := instances.odd_row(raw)):
                raise InvalidInput(odd, input_name=err.input_name, index=err.index) from err
            raise

    def _read_form(self, address: Address, ask: PredictRequest, call: Call) -> None:
        """The files `image` and `images`, as STS's forms have them; what JSON has as keys are fields."""
        files, fields = call.form()
        pictures = [file.body for file in (*files.get("image", ())[:1], *files.get("images", ()))]
        if not pictures:
            raise CodecError("form-data: no file called 'image' or 'images'")
        self._take_raw(address, ask, pictures, first_values(fields))

    def _take_raw(
        self, address: Address, ask: PredictRequest, pictures: list[bytes], fields: Mapping[str, str]
    ) -> None:
        """Raw pictures into the one string input of the signature, answered in row form."""
        ask.lap("parse")
        ask.target = target = self._find(address, fields.get("signature_name", ""))
        spec = target.spec
        if len(spec.inputs) != 1 or spec.inputs[0].dtype != "string":
            wants = ", ".join(f"{tensor.name} ({tensor.dtype})" for tensor in spec.inputs)
            raise InvalidInput(f"signature {spec.name!r} takes no picture: its inputs are {wants}")
        _set_answer(ask, target, fields, predictions.dump_rows)
        ask.take_pictures(target, pictures, self._door)
        if "output_filter" in fields:
            ask.ask_for(_filtered(fields["output_filter"].split(","), spec))


def _is_flat(spec: SignatureSpec) -> bool:
    """Whether the one input takes a list of strings."""
    shape = spec.inputs[0].shape
    return shape is None or len(shape) == 1


def _set_answer(ask: PredictRequest, target: Target, fields: Mapping[str, Any], dump: Callable[..., bytes]) -> None:
    """Answers by `dump`, with the k largest scores, and with the good rows alone, where the fields ask for it."""
    k = codec.parse_k(fields.get("top_k"))
    gaps = ask.keep_going(target) if wants_per_image(fields.get("on_error")) else None
    is_plain = not k and gaps is None
    ask.render = dump if is_plain else partial(dump, k=k, labels=target.model.labels, gaps=gaps)


def _filtered(outputs: object, spec: SignatureSpec) -> Sequence[str]:
    """The outputs that `output_filter` names; all of them where it is empty."""
    known = [tensor.name for tensor in spec.outputs]
    if not isinstance(outputs, list) or not all(isinstance(name, str) for name in outputs):
        raise CodecError("output_filter: expected a list of names of outputs")
    for index, name in enumerate(outputs):
        if name not in known:
            raise CodecError(
                f"output tensor alias not found in signature: {quote(name)} Outputs expected to be in the set "
                f"{{{','.join(known)}}}."
            )
        if name in outputs[:index]:
            raise CodecError(f"duplicate output tensor alias: {quote(name)}")
    return outputs


def _outputs_of(spec: SignatureSpec, act: str) -> list[str]:
    """The outputs that classify or regress answers with; TF2 exports keep their keys and lose their method names."""
    wanted = ("classes", "scores") if act == "classify" else ("outputs",)
    found = [tensor.name for tensor in spec.outputs if tensor.name in wanted]
    inputs = [(tensor.name, tensor.dtype) for tensor in spec.inputs]
    if not found or inputs != [("inputs", "string")]:
        kind, answers = (
            ("classification", "'classes' or 'scores'") if act == "classify" else ("regression", "'outputs'")
        )
        raise CodecError(
            f"Expected a {kind} signature: the input 'inputs' of strings, the output {answers}. "
            f"Was: {', '.join(name for name, _ in inputs)} and {', '.join(tensor.name for tensor in spec.outputs)}"
        )
    return found


def install(app: App, darkroom: Darkroom) -> None:
    """Adds the POSTs under `/v1/`, and the answer to what TensorFlow Serving calls malformed there."""
    dialect = TensorFlowServing(darkroom.registry, darkroom.image_guard)
    darkroom.predictor.add(dialect.match)

    async def predict(request: Request, rest: str) -> HTTPResponse:  # noqa: ARG001 - Sanic hands over what it matched
        """One predict, classify or regress request."""
        route = dialect.match(request.path)
        if route is None:
            request.ctx.template = addresses.MALFORMED
            addresses.posted(request.path)  # a version that is no int64 has words of its own
            raise addresses.malformed(request.method, request.path)
        request.ctx.template = route.template
        return reply_response(await darkroom.predictor.answer(route, call_of(request)))

    async def refuse(request: Request, rest: str) -> HTTPResponse:  # noqa: ARG001 - Sanic hands over what it matched
        """A method that nothing under /v1/ takes."""
        request.ctx.template = addresses.MALFORMED
        raise addresses.malformed(request.method, request.path)

    for method, handler in (("POST", predict), ("PUT", refuse), ("PATCH", refuse), ("DELETE", refuse)):
        darkroom.middleware.route(app, method, addresses.ANY, handler)
