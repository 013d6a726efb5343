"""The gRPC form of the Open Inference Protocol: `inference.GRPCInferenceService`, as Triton and KServe have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from darkroom.models.errors import InvalidInput
from darkroom.models.spec import exact
from darkroom.service.api.admin import check_grpc_operator
from darkroom.service.api.grpc.call import Method, unary
from darkroom.service.api.grpc.protos import message, parse
from darkroom.service.api.open_inference import tensors
from darkroom.service.api.open_inference.body import Body
from darkroom.service.api.open_inference.extensions import describe_config, statistics_of
from darkroom.service.api.open_inference.request import Infer, find
from darkroom.service.api.open_inference.response import classify
from darkroom.service.api.open_inference.routes import EXTENSIONS, describe_model, describe_state
from darkroom.service.config.tokens import Scope
from darkroom.service.errors import CodecError, NotLoaded, NotReady, Unimplemented
from darkroom.service.predict import codec
from darkroom.service.predict.request import Route

if TYPE_CHECKING:
    from collections.abc import Mapping

    from darkroom.models.rows import Rows
    from darkroom.models.spec import ModelSpec
    from darkroom.service.api.grpc.call import Exchange
    from darkroom.service.api.open_inference.response import Output
    from darkroom.service.parts import Darkroom
    from darkroom.service.predict.call import Call
    from darkroom.service.predict.partial import PartialResult
    from darkroom.service.predict.request import PredictRequest

SERVICE = "/inference.GRPCInferenceService/"
CONTENTS = {
    "bool": "bool_contents",
    "int64": "int64_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    "string": "bytes_contents",
} | {
    **dict.fromkeys(("int8", "int16", "int32"), "int_contents"),
    **dict.fromkeys(("uint8", "uint16", "uint32"), "uint_contents"),
}
_InferRequest = message("inference.ModelInferRequest")
_InferResponse = message("inference.ModelInferResponse")


class InferenceService:
    """Reads and answers the calls of one server's Open Inference clients."""

    def __init__(self, darkroom: Darkroom) -> None:
        self._darkroom = darkroom
        self._infer = Infer(darkroom.registry, darkroom.image_guard)

    def methods(self) -> dict[str, Method]:
        """The method of each path."""
        infer = Route(f"{SERVICE}ModelInfer", self.read_infer)
        answers = {
            "ServerLive": (self.live, None),
            "ServerReady": (self.ready, None),
            "ModelReady": (self.model_ready, Scope.PREDICT),
            "ServerMetadata": (self.server, Scope.PREDICT),
            "ModelMetadata": (self.model, Scope.PREDICT),
            "ModelConfig": (self.config, Scope.PREDICT),
            "ModelStatistics": (self.statistics, Scope.PREDICT),
            "RepositoryIndex": (self.index, Scope.PREDICT),
            "RepositoryModelLoad": (self.load, Scope.ADMIN),
            "RepositoryModelUnload": (self.unload, Scope.ADMIN),
        }
        methods = {f"{SERVICE}{name}": Method(unary(answer), scope) for name, (answer, scope) in answers.items()}
        stream = {f"{SERVICE}ModelStreamInfer": Method(refuse_stream)}
        return methods | stream | {f"{SERVICE}ModelInfer": Method(infer)}

    def read_infer(self, request: PredictRequest, call: Call) -> None:
        """Fills `request` from a ModelInferRequest.

        Raises:
            CodecError, InvalidInput, UnknownModel, UnknownVersion, UnknownSignature, NotReady: the call cannot be
                served; the message says why.
        """
        asked = parse(_InferRequest, call.body)
        is_raw = bool(asked.raw_input_contents)

        def reply(*settings: Any) -> GrpcInferReply:
            return GrpcInferReply(*settings, is_raw=is_raw)

        self._infer.read_body(
            request, body_of(asked), name=asked.model_name, version=asked.model_version or None, reply=reply
        )

    async def live(self, body: bytes, _: Mapping[str, str]) -> bytes:  # noqa: ARG002 - a handler
        """Liveness."""
        return _answer("ServerLiveResponse", live=not self._darkroom.lifecycle.watchdog.reason)

    async def ready(self, body: bytes, _: Mapping[str, str]) -> bytes:  # noqa: ARG002 - a handler
        """Readiness."""
        return _answer("ServerReadyResponse", ready=self._darkroom.lifecycle.is_ready)

    async def model_ready(self, body: bytes, _: Mapping[str, str]) -> bytes:
        """Whether a version takes requests; a model that is loading is not ready, one that does not exist is NOT_FOUND.

        A lazy model that is not loaded is ready: a request loads it.
        """
        asked = parse(message("inference.ModelReadyRequest"), body)
        try:
            target = find(self._darkroom.registry, asked.name, asked.version or None)
        except NotLoaded:
            return _answer("ModelReadyResponse", ready=self._darkroom.lifecycle.is_serving)
        except NotReady:
            return _answer("ModelReadyResponse", ready=False)
        is_ready = self._darkroom.lifecycle.is_serving and target.batcher.is_healthy
        return _answer("ModelReadyResponse", ready=is_ready)

    async def server(self, body: bytes, _: Mapping[str, str]) -> bytes:  # noqa: ARG002 - a handler
        """The name, the version and the extensions of this server."""
        return _answer("ServerMetadataResponse", name="darkroom", version=self._darkroom.version, extensions=EXTENSIONS)

    async def model(self, body: bytes, _: Mapping[str, str]) -> bytes:
        """The metadata of a model."""
        asked = parse(message("inference.ModelMetadataRequest"), body)
        await self._darkroom.manager.lazy_models.ensure(asked.name)
        return _answer(
            "ModelMetadataResponse", **describe_model(self._darkroom.registry, asked.name, asked.version or None)
        )

    async def config(self, body: bytes, _: Mapping[str, str]) -> bytes:
        """The configuration of a model, as Triton's extension has it."""
        asked = parse(message("inference.ModelConfigRequest"), body)
        await self._darkroom.manager.lazy_models.ensure(asked.name)
        config = describe_config(self._darkroom, asked.name, asked.version or None)
        answer = message("inference.ModelConfigResponse")()
        answer.config.CopyFrom(config)
        return bytes(answer.SerializeToString())

    async def statistics(self, body: bytes, _: Mapping[str, str]) -> bytes:
        """Counts and times of one version, of one model's versions, or of all, as Triton's extension has them."""
        asked = parse(message("inference.ModelStatisticsRequest"), body)
        found = await statistics_of(self._darkroom, asked.name or None, asked.version or None)
        return _answer("ModelStatisticsResponse", model_stats=found)

    async def index(self, body: bytes, _: Mapping[str, str]) -> bytes:
        """Every known version with its state; with `ready`, only those that are served."""
        only_ready = parse(message("inference.RepositoryIndexRequest"), body).ready
        described = [describe_state(state) for state in self._darkroom.manager.index()]
        models = [state for state in described if not only_ready or state["state"] == "READY"]
        return _answer("RepositoryIndexResponse", models=models)

    async def load(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Loads new, failed and changed versions; answers when they are served."""
        asked = parse(message("inference.RepositoryModelLoadRequest"), body)
        check_grpc_operator(self._darkroom.settings, headers)
        if asked.parameters:  # nothing from a client is written to disk
            raise InvalidInput("parameters: a model is loaded from its own folder; no file or configuration is taken")
        await self._darkroom.peers.load(asked.model_name)
        return _answer("RepositoryModelLoadResponse")

    async def unload(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Unloads the model until it is loaded again; answers when its memory is free."""
        asked = parse(message("inference.RepositoryModelUnloadRequest"), body)
        check_grpc_operator(self._darkroom.settings, headers)
        await self._darkroom.peers.unload(asked.model_name)
        return _answer("RepositoryModelUnloadResponse")


class GrpcInferReply:
    """Renders the outputs that a request wants, in its order: raw if its inputs were raw, else in their typed fields."""

    __slots__ = ("_is_raw", "_model", "_outputs", "_partial", "_request_id")

    def __init__(
        self,
        request_id: str | None,
        model: ModelSpec,
        outputs: tuple[Output, ...],
        partial: PartialResult | None,
        *,
        is_raw: bool,
    ) -> None:
        self._request_id = request_id
        self._model = model
        self._outputs = outputs
        self._partial = partial
        self._is_raw = is_raw

    def __call__(self, rows: Rows) -> bytes:
        """A ModelInferResponse."""
        model = self._model
        answer = _InferResponse(model_name=model.name, model_version=str(model.version), id=self._request_id or "")
        for name, _, classes, labels, _ in self._outputs:
            column = rows.columns[name]
            if classes:
                column = classify(column, classes, labels, name, own=model.output_labels.get(name))
            described: dict[str, Any] = tensors.describe(name, column)
            output = answer.outputs.add(**described)
            field = CONTENTS.get(tensors.DTYPES[described["datatype"]])
            if self._is_raw or field is None:  # FP16 and BF16 have no typed field
                answer.raw_output_contents.append(tensors.write_binary(column))
            else:
                values = column if isinstance(column, list) else column.ravel().tolist()
                getattr(output.contents, field).extend(values)
        if self._partial is not None:
            answer.parameters["errors"].string_param = codec.dump_json(self._partial.error_list()).decode().strip()
        return bytes(answer.SerializeToString())


async def refuse_stream(_: Exchange) -> None:
    """ModelStreamInfer: not served.

    Raises:
        Unimplemented: always.
    """
    raise Unimplemented("ModelStreamInfer is not served: no model here answers in parts. Send ModelInfer")


def body_of(asked: Any) -> Body:
    """A ModelInferRequest as the body of the same request over HTTP: its fields, and its tensors in binary form.

    Raises:
        CodecError, InvalidInput: the contents of an input do not fit its datatype; or not all inputs are raw, or none.
    """
    raw = asked.raw_input_contents
    if raw and len(raw) != len(asked.inputs):
        raise CodecError(f"raw_input_contents: {len(raw)} were sent for {len(asked.inputs)} inputs")
    inputs: list[dict[str, Any]] = []
    chunks: list[bytes] = []
    for index, sent in enumerate(asked.inputs):
        where = f"inputs[{index}]"
        if raw and sent.HasField("contents"):
            raise CodecError(f"{where}: has contents, and raw_input_contents too")
        chunks.append(raw[index] if raw else _chunk(sent, where))
        parameters = values_of(sent.parameters) | {"binary_data_size": len(chunks[-1])}
        item = {"name": sent.name, "datatype": sent.datatype, "shape": list(sent.shape), "parameters": parameters}
        inputs.append(item)
    outputs = [{"name": output.name, "parameters": values_of(output.parameters)} for output in asked.outputs]
    fields = {
        "id": asked.id,
        "parameters": values_of(asked.parameters),
        "inputs": inputs,
        "outputs": outputs,
    }
    return Body(fields, memoryview(chunks[0] if len(chunks) == 1 else b"".join(chunks)))


def values_of(parameters: Any) -> dict[str, Any]:
    """The values of parameters, by name."""
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "", None) for name, value in parameters.items()
    }


def _chunk(sent: Any, where: str) -> bytes:
    """The typed contents of an input in binary form."""
    dtype = tensors.parse_datatype(sent.datatype, where)
    field = CONTENTS.get(dtype)
    if field is None:
        raise CodecError(f"{where}: {sent.datatype} has no typed contents; send raw_input_contents")
    values: list[Any] = list(getattr(sent.contents, field))
    tensors.check_count(len(values), tuple(sent.shape), where)
    return tensors.write_binary(values if dtype == "string" else exact(values, dtype, where))


def _answer(kind: str, **fields: Any) -> bytes:
    """A message of the service, serialized."""
    return bytes(message(f"inference.{kind}")(**fields).SerializeToString())
