"""TensorFlow Serving's gRPC services: PredictionService and ModelService."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.json_format import ParseDict

from darkroom.models.errors import InvalidInput, quote
from darkroom.service.api.admin import check_grpc_operator
from darkroom.service.api.grpc.call import Method, unary
from darkroom.service.api.grpc.protos import message, parse
from darkroom.service.api.grpc.tensor_proto import read_tensor, write_tensor
from darkroom.service.api.tensorflow_serving import paths
from darkroom.service.api.tensorflow_serving.paths import Address
from darkroom.service.api.tensorflow_serving.response import classes_of, regressions_of
from darkroom.service.api.tensorflow_serving.routes import MISSING_METHOD, TensorFlowServing, filtered, outputs_of
from darkroom.service.api.tensorflow_serving.status import describe_signatures, states_of
from darkroom.service.config.model_config import BadSettingsError, entries_of
from darkroom.service.config.tokens import Scope
from darkroom.service.errors import CodecError, Unimplemented
from darkroom.service.predict import codec
from darkroom.service.predict.request import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from darkroom.models.rows import Column, Rows
    from darkroom.models.spec import SignatureSpec
    from darkroom.service.config.model_config import ModelEntry
    from darkroom.service.parts import Darkroom
    from darkroom.service.predict.call import Call
    from darkroom.service.predict.request import PredictRequest
    from darkroom.service.serving.servable import Target

PREDICTION, MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
_PredictRequest = message("tensorflow.serving.PredictRequest")
_PredictResponse = message("tensorflow.serving.PredictResponse")
_StatusRequest = message("tensorflow.serving.GetModelStatusRequest")
_StatusResponse = message("tensorflow.serving.GetModelStatusResponse")
_ReloadRequest = message("tensorflow.serving.ReloadConfigRequest")
_ReloadResponse = message("tensorflow.serving.ReloadConfigResponse")
_MetadataRequest = message("tensorflow.serving.GetModelMetadataRequest")
_MetadataResponse = message("tensorflow.serving.GetModelMetadataResponse")
_SignatureDefMap = message("tensorflow.serving.SignatureDefMap")
# By act: the request, the answer.
_EXAMPLES = {
    act: (message(f"tensorflow.serving.{kind}Request"), message(f"tensorflow.serving.{kind}Response"))
    for act, kind in (("classify", "Classification"), ("regress", "Regression"))
}
UNKNOWN = 2  # TensorFlow's error code of a version that failed


class PredictionService:
    """Reads and answers the calls of one server's TensorFlow Serving clients."""

    def __init__(self, darkroom: Darkroom) -> None:
        self._registry = darkroom.registry
        self._guard = darkroom.image_guard
        self._dialect = TensorFlowServing(darkroom.registry, darkroom.image_guard)
        self._max_bytes = darkroom.settings.max_body_bytes
        self._as_content = darkroom.settings.grpc_tensor_content
        self._darkroom = darkroom

    def methods(self) -> dict[str, Method]:
        """The method of each path."""
        predict: dict[str, Callable[[PredictRequest, Call], None]] = {
            "Predict": self.read_predict,
            "Classify": partial(self.read_examples, "classify"),
            "Regress": partial(self.read_examples, "regress"),
        }
        routes = {PREDICTION + name: Method(Route(PREDICTION + name, read)) for name, read in predict.items()}
        return routes | {
            f"{PREDICTION}GetModelMetadata": Method(unary(self.metadata)),
            f"{PREDICTION}MultiInference": Method(unary(self.multi_inference)),
            f"{MODEL}GetModelStatus": Method(unary(self.status)),
            f"{MODEL}HandleReloadConfigRequest": Method(unary(self.reload_config), Scope.ADMIN),
        }

    def read_predict(self, request: PredictRequest, call: Call) -> None:
        """Fills `request` from a PredictRequest.

        Raises:
            CodecError, InvalidInput: the call cannot be served; the message says why.
        """
        body = parse(_PredictRequest, call.body)
        request.end_stage("parse")
        request.target = target = self._dialect.find(
            address_of(body.model_spec, "predict"), body.model_spec.signature_name, request.headers
        )
        spec = target.spec
        check_names(body.inputs, spec)
        columns = {
            tensor.name: read_tensor(body.inputs[tensor.name], tensor.name, self._max_bytes)
            for tensor in spec.inputs
            if tensor.name in body.inputs
        }
        self._take(request, target, columns)
        if body.output_filter:
            request.select_outputs(filtered(list(body.output_filter), spec))
        request.render = partial(dump_outputs, target, as_content=self._as_content)

    def read_examples(self, act: str, request: PredictRequest, call: Call) -> None:
        """Fills `request` from a ClassificationRequest or a RegressionRequest, with tf.Examples.

        Raises:
            CodecError, InvalidInput: the call cannot be served; the message says why.
        """
        body = parse(_EXAMPLES[act][0], call.body)
        request.end_stage("parse")
        spec = body.model_spec
        request.target = target = self._dialect.find(
            address_of(spec, act), spec.signature_name, request.headers, missing=MISSING_METHOD
        )
        asked = outputs_of(target.spec, act)
        kind = body.input.WhichOneof("kind")
        if kind is None:
            raise CodecError("input: expected example_list or example_list_with_context")
        given = getattr(body.input, kind)
        # Protobuf merges concatenated messages, so an example has the features of both.
        shared = given.context.SerializeToString() if kind == "example_list_with_context" else b""
        serialized = [shared + example.SerializeToString() for example in given.examples]
        if not serialized:
            raise CodecError("input: has no examples")
        request.end_stage("decode")
        request.take_inputs(target, {"inputs": serialized}, self._guard, strict=True)
        request.select_outputs(asked)
        request.render = partial(dump_results, target, act, len(serialized))

    async def metadata(self, body: bytes, _: Mapping[str, str]) -> bytes:
        """The signatures of a version."""
        asked = parse(_MetadataRequest, body)
        for field in asked.metadata_field:
            if field != "signature_def":
                raise CodecError(f"Metadata field {quote(field)} is not supported")
        if not asked.metadata_field:
            raise CodecError("GetModelMetadataRequest must specify at least one metadata_field")
        address = address_of(asked.model_spec, "metadata")
        await self._darkroom.manager.lazy_models.ensure(address.model)
        targets = paths.lookup(self._registry, address)
        model = next(iter(targets.values())).model
        described = ParseDict(
            {"signature_def": describe_signatures(model)}, _SignatureDefMap(), ignore_unknown_fields=True
        )
        answer = _MetadataResponse(model_spec={"name": model.name, "version": {"value": model.version}})
        packed = answer.metadata["signature_def"]
        packed.type_url = f"type.googleapis.com/{_SignatureDefMap.DESCRIPTOR.full_name}"
        packed.value = described.SerializeToString()
        return bytes(answer.SerializeToString())

    async def multi_inference(self, body: bytes, _: Mapping[str, str]) -> bytes:  # noqa: ARG002 - a handler
        """Not served."""
        raise Unimplemented("MultiInference is not served; send a Classify or Regress call for each of its tasks")

    async def status(self, body: bytes, _: Mapping[str, str]) -> bytes:
        """The state of a model's versions."""
        spec = parse(_StatusRequest, body).model_spec
        address = address_of(spec, "status")
        answer = _StatusResponse()
        for state in states_of(self._registry, address.model, paths.version_of(self._registry, address)):
            status = {"error_code": UNKNOWN if state.has_failed else 0, "error_message": state.message}
            answer.model_version_status.add(version=state.version, state=state.state, status=status)
        return bytes(answer.SerializeToString())

    async def reload_config(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Replaces the list of models; answers when a version of each new one is served."""
        asked = parse(_ReloadRequest, body)
        check_grpc_operator(self._darkroom.settings, headers)
        if asked.config.WhichOneof("config") != "model_config_list":
            raise CodecError(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
            )
        try:
            entries = entries_of(asked.config)
        except BadSettingsError as err:
            raise CodecError("; ".join(err.problems)) from err
        await self._darkroom.peers.apply(entries)
        self._check_labels(entries)
        answer = _ReloadResponse(status={})
        for name in asked.metric_names:  # none of TensorFlow Serving's own
            answer.metric.add(name=name, int64_value_increase=0)
        return bytes(answer.SerializeToString())

    def _check_labels(self, entries: Sequence[ModelEntry]) -> None:
        """Returns if each label leads to the version that it names.

        Raises:
            InvalidInput: one does not, because its version is not served; the message is TensorFlow Serving's.
        """
        for entry in entries:
            labels = self._registry.labels(entry.name)
            for label, version in entry.version_labels.items():
                if labels.get(label) != version:
                    raise InvalidInput(
                        f"Request to assign label to version {version} of model {entry.name}, which is not currently "
                        f"available for inference; label {label!r} is assigned as soon as it is"
                    )

    def _take(self, request: PredictRequest, target: Target, columns: dict[str, Column]) -> None:
        """Makes the columns the rows of `request`; pictures may be raw, or base64 text as for other servers' graphs."""
        spec = target.spec
        pictures = columns.get(spec.image_input) if spec.image_input is not None else None
        if isinstance(pictures, list):
            self._guard.check_count(len(pictures), target.field)
            request.refuse_early(target, len(pictures))
            pictures = [codec.unwrap_picture(data) for data in pictures]
            if len(columns) == 1:
                request.end_stage("decode")
                request.take_pictures(target, pictures, self._guard)
                return
            columns[target.field] = pictures
        request.end_stage("decode")
        request.take_inputs(target, columns, self._guard, strict=True)


def address_of(spec: Any, act: str) -> Address:
    """What a ModelSpec names.

    Raises:
        CodecError: it names no model.
    """
    if not spec.name:
        raise CodecError("Missing ModelSpec: model_spec.name is empty")
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    return Address(spec.name, version, spec.version_label if choice == "version_label" else None, act, "")


def check_names(inputs: Any, spec: SignatureSpec) -> None:
    """Returns if the inputs are exactly those of the signature.

    Raises:
        InvalidInput: one is missing, or is none; the beginning of the message is TensorFlow Serving's.
    """
    names = [tensor.name for tensor in spec.inputs]
    expected = f"Inputs expected to be in the set {{{','.join(names)}}}."
    for name in inputs:
        if name not in names:
            raise InvalidInput(f"input tensor alias not found in signature: {quote(name)}. {expected}")
    for name in spec.required:
        if name not in inputs:
            raise InvalidInput(f"input {name!r} is missing. {expected}", input_name=name)


def dump_outputs(target: Target, rows: Rows, *, as_content: bool = False) -> bytes:
    """A PredictResponse; with `as_content` numbers stand in `tensor_content`."""
    answer = _PredictResponse()
    _describe(answer.model_spec, target)
    for name, column in rows.columns.items():
        write_tensor(column, answer.outputs[name], as_content=as_content)
    return bytes(answer.SerializeToString())


def dump_results(target: Target, act: str, count: int, rows: Rows) -> bytes:
    """A ClassificationResponse or a RegressionResponse."""
    answer = _EXAMPLES[act][1]()
    _describe(answer.model_spec, target)
    if act == "regress":
        for value in np.asarray(regressions_of(rows, count=count)).tolist():
            answer.result.regressions.add(value=value)
    else:
        for row in classes_of(rows, count=count):
            classes = answer.result.classifications.add().classes
            for label, score in row:
                classes.add(label=str(label), score=float(score))
    return bytes(answer.SerializeToString())


def _describe(spec: Any, target: Target) -> None:
    spec.name, spec.version.value, spec.signature_name = target.model.name, target.model.version, target.spec.name
