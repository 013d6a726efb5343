"""TensorFlow Serving's REST dialect: predict, classify and regress; encoded images and form-data at the same paths."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from darkroom.models.errors import InvalidInput, quote
from darkroom.service.api.tensorflow_serving import paths
from darkroom.service.api.tensorflow_serving.request import (
    as_list,
    decode_strings,
    inputs_to_columns,
    parse_examples,
    parse_object,
    rows_to_columns,
)
from darkroom.service.api.tensorflow_serving.response import dump_classes, dump_columns, dump_regressions, dump_rows
from darkroom.service.api.tensorflow_serving.wording import explain
from darkroom.service.errors import CodecError
from darkroom.service.http.middleware import predict_response
from darkroom.service.predict import codec
from darkroom.service.predict.call import first_values
from darkroom.service.predict.forms import shape_answer
from darkroom.service.predict.partial import wants_per_image
from darkroom.service.predict.request import Route
from darkroom.service.serving.registry import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sanic.request import Request
    from sanic.response import HTTPResponse

    from darkroom.models.spec import SignatureSpec
    from darkroom.service.api.tensorflow_serving.paths import Address
    from darkroom.service.http.middleware import App
    from darkroom.service.parts import Darkroom
    from darkroom.service.predict.call import AnswerBody, Call
    from darkroom.service.predict.image_guard import ImageGuard
    from darkroom.service.predict.request import PredictRequest
    from darkroom.service.serving.registry import Registry
    from darkroom.service.serving.servable import Target

MISSING = 'Serving signature name: "{}" not found in signature def'
MISSING_METHOD = "No signature was found with the name: {}"
ONE_FORM = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
NO_FORM = "Missing 'inputs' or 'instances' key"


class TensorFlowServing:
    """Reads the calls of one server's TensorFlow Serving clients into predict requests."""

    def __init__(self, registry: Registry, guard: ImageGuard) -> None:
        self._registry = registry
        self._guard = guard

    def read_predict(self, address: Address, request: PredictRequest, call: Call) -> None:
        """Fills `request` from JSON in row or columnar form, from form-data with images, or from a body that is one image.

        The body decides, not its Content-Type: clients send JSON under any type, among them curl's default.

        Raises:
            CodecError, InvalidInput: the call cannot be served; the message says why.
        """
        body = call.body
        if not body.startswith(b"{"):
            kind = call.headers.get("content-type", "").lower()
            if kind.startswith("multipart/form-data"):
                # The files `image` and `images`, as STS's forms have them; the keys of the JSON form are fields.
                files, values = call.form()
                pictures = [file.body for file in (*files.get("image", ())[:1], *files.get("images", ()))]
                if not pictures:
                    raise CodecError("form-data: no file called 'image' or 'images'")
                self._take_raw(address, request, pictures, call, first_values(values))
                return
            if kind.startswith("image/") or codec.begins_as_picture(body):
                self._take_raw(address, request, [body], call, call.query)
                return
        fields = parse_object(body)
        request.end_stage("parse")
        request.target = target = self.find(address, fields.get("signature_name", ""), request.headers)
        self._take_json(request, target, fields)
        if "output_filter" in fields:
            request.select_outputs(filtered(fields["output_filter"], target.spec))
        shape_answer(request, fields, call.headers.get("accept", ""))

    def read_examples(self, address: Address, request: PredictRequest, call: Call) -> None:
        """Fills `request` from the JSON of `:classify` and `:regress`, with serialized tf.Examples.

        Raises:
            CodecError, InvalidInput: the call cannot be served; the message says why.
        """
        fields = parse_object(call.body)
        examples, context = parse_examples(fields)
        request.end_stage("parse")
        request.target = target = self.find(
            address, fields.get("signature_name", ""), request.headers, missing=MISSING_METHOD
        )
        asked = outputs_of(target.spec, address.act)
        from darkroom.models.saved_model.tf_example import serialize  # noqa: PLC0415 - TensorFlow's protobufs; a fake model runs without them

        serialized = serialize(examples, context, floats=target.spec.float_features)
        request.end_stage("decode")
        request.take_inputs(target, {"inputs": serialized}, self._guard, strict=True)
        request.select_outputs(asked)
        dump = dump_classes if address.act == "classify" else dump_regressions
        request.render = partial(dump, count=len(serialized))

    def match(self, path: str) -> Route | None:
        """The route of a POST to `path`; None if it is not of this dialect, or if its version is no int64."""
        try:
            address = paths.posted(path)
        except CodecError:
            return None
        if address is None:
            return None
        read = self.read_predict if address.act == "predict" else self.read_examples
        return Route(address.template, partial(read, address), has_error_code=False)

    def find(
        self, address: Address, signature: object, headers: Mapping[str, str], *, missing: str = MISSING
    ) -> Target:
        """The target of an address, a `signature_name` and a request's headers; `missing`: the message for an unknown name."""
        if not isinstance(signature, str):
            raise CodecError("Not formatted correctly. 'signature_name' key must be a string value.")
        name = signature or DEFAULT_SIGNATURE
        targets = paths.lookup(self._registry, address, headers)
        target = targets.get(name)
        if target is None:
            reason = next(iter(targets.values())).model.refused.get(name, "")
            raise CodecError(missing.format(quote(name)) + (reason and f"; it can't be served: {reason}"))
        return target

    def _take_json(self, request: PredictRequest, target: Target, fields: Mapping[str, Any]) -> None:
        """Makes the inputs in the JSON the rows of `request`."""
        spec = target.spec
        names = [tensor.name for tensor in spec.inputs]
        is_row = "instances" in fields
        if is_row == ("inputs" in fields):
            raise CodecError(ONE_FORM if is_row else NO_FORM)
        if is_row:
            columns: dict[str, Any] = rows_to_columns(fields["instances"], names, spec.required)
            _set_answer(request, target, fields, dump_rows)
        else:
            columns = inputs_to_columns(fields["inputs"], names, spec.required)
            _set_answer(request, target, fields, dump_columns)
        is_list = len(names) == 1 and (spec.inputs[0].shape is None or len(spec.inputs[0].shape) == 1)
        if spec.image_input is not None and is_list:
            values = columns[names[0]]
            if not isinstance(values, list):
                values = as_list(values, wraps=spec.inputs[0].holds_one)
            if not isinstance(values, list):
                raise CodecError(f"{names[0]}: expected a list of base64 strings, got {type(values).__name__}")
            pictures = request.decode_pictures(target, values, self._guard)
            request.end_stage("decode")
            request.take_pictures(target, pictures, self._guard)
            return
        columns = decode_strings(columns, spec)
        request.end_stage("decode")
        try:
            request.take_inputs(target, columns, self._guard, strict=True)
        except InvalidInput as err:
            if words := explain(columns, spec, is_row=is_row):
                raise InvalidInput(f"{words}; {err}", input_name=err.input_name, index=err.index) from err
            raise

    def _take_raw(
        self, address: Address, request: PredictRequest, pictures: list[bytes], call: Call, fields: Mapping[str, str]
    ) -> None:
        """Gives encoded pictures to the one string input of the signature; the answer is in row form."""
        request.end_stage("parse")
        request.target = target = self.find(address, fields.get("signature_name", ""), request.headers)
        spec = target.spec
        if len(spec.inputs) != 1 or spec.inputs[0].dtype != "string":
            raise target.refuse_pictures()
        _set_answer(request, target, fields, dump_rows)
        request.take_pictures(target, pictures, self._guard)
        if "output_filter" in fields:
            request.select_outputs(filtered(fields["output_filter"].split(","), spec))
        shape_answer(request, fields, call.headers.get("accept", ""))


def _set_answer(
    request: PredictRequest, target: Target, fields: Mapping[str, Any], dump: Callable[..., AnswerBody]
) -> None:
    """Answers by `dump`; limits the answer to the k largest scores, and to the good rows, if the fields ask for it."""
    k = codec.parse_k(fields.get("top_k"))
    partial_result = request.allow_partial(target) if wants_per_image(fields.get("on_error")) else None
    is_plain = not k and partial_result is None
    request.render = (
        dump if is_plain else partial(dump, k=k, labels=target.model.labels, kinds=target.kinds, partial=partial_result)
    )


def filtered(outputs: object, spec: SignatureSpec) -> Sequence[str]:
    """The outputs that `output_filter` names; if it is empty, all of them."""
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


def outputs_of(spec: SignatureSpec, act: str) -> list[str]:
    """The outputs of a classify or regress answer, found by their names: TF2 exports lose the method names."""
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


def add_tensorflow_serving_routes(app: App, darkroom: Darkroom) -> None:
    """Adds the POSTs under `/v1/`, and the answer to requests that TensorFlow Serving calls malformed."""
    dialect = TensorFlowServing(darkroom.registry, darkroom.image_guard)
    darkroom.predictor.add(dialect.match)

    async def predict(request: Request, rest: str) -> HTTPResponse:  # noqa: ARG001 - Sanic passes what it matched
        """One predict, classify or regress request."""
        route = dialect.match(request.path)
        if route is None:
            request.ctx.template = paths.MALFORMED
            paths.posted(request.path)  # a version that is no int64 has a message of its own
            raise paths.malformed(request.method, request.path)
        request.ctx.template = route.template
        return await predict_response(darkroom.predictor, route, request)

    async def refuse(request: Request, rest: str) -> HTTPResponse:  # noqa: ARG001 - Sanic passes what it matched
        """A method that no path under /v1/ takes."""
        request.ctx.template = paths.MALFORMED
        raise paths.malformed(request.method, request.path)

    for method, handler in (("POST", predict), ("PUT", refuse), ("PATCH", refuse), ("DELETE", refuse)):
        darkroom.middleware.route(app, method, paths.ANY, handler)
