"""Calls by grpcio's client, with messages of our own descriptions."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from darkroom.models.spec import DTYPES
from darkroom.service.api.grpc.protos import message
from darkroom.service.api.grpc.tensor_proto import write_tensor
from darkroom.service.config.protobuf import POOL
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from darkroom.models.engine import LoadedModel
    from darkroom.service.server import Server

PREDICT = "tensorflow.serving.PredictionService/Predict"
INFER = "inference.GRPCInferenceService/ModelInfer"
TIMEOUT_S = 60.0


@contextmanager
def channel(address: str, *options: tuple[str, Any]) -> Iterator[grpc.Channel]:
    """A channel of its own: connections are not shared with other channels."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), *options]) as made:
        yield made


@contextmanager
def served(*models: LoadedModel, **settings: Any) -> Iterator[tuple[Server, grpc.Channel]]:
    """A server of its own and a channel to it."""
    with running(*models, grpc_port=0, **settings) as server, channel(server.grpc_address) as made:
        yield server, made


def stub(made: Any, path: str, *, kind: str = "unary_unary") -> Any:
    """The callable of a method."""
    service, _, name = path.partition("/")
    method = POOL.FindServiceByName(service).methods_by_name[name]
    answer = message(method.output_type.full_name)
    return getattr(made, kind)(
        f"/{path}", request_serializer=lambda sent: sent.SerializeToString(), response_deserializer=answer.FromString
    )


def ask(made: Any, path: str, sent: Any, **options: Any) -> Any:
    """The answer to a call."""
    return stub(made, path)(sent, **{"timeout": TIMEOUT_S} | options)


def refusal(made: Any, path: str, sent: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
    """The status and the text with which a call is refused."""
    try:
        answer = ask(made, path, sent, **options)
    except grpc.RpcError as err:
        return err.code(), err.details() or ""
    raise AssertionError(answer)


def predict(*pictures: bytes, model: str = "default", name: str = "images", **spec: Any) -> Any:
    """A PredictRequest with pictures in `string_val`."""
    sent = message("tensorflow.serving.PredictRequest")(model_spec={"name": model, **spec})
    write_tensor(list(pictures), sent.inputs[name])
    return sent


def infer(*pictures: bytes, model: str = "default", is_raw: bool = True, **fields: Any) -> Any:
    """A ModelInferRequest with pictures, raw or in their typed field."""
    sent = message("inference.ModelInferRequest")(model_name=model, **fields)
    tensor = sent.inputs.add(name="images", datatype="BYTES", shape=[len(pictures)])
    if is_raw:
        sent.raw_input_contents.append(b"".join(len(data).to_bytes(4, "little") + data for data in pictures))
    else:
        tensor.contents.bytes_contents.extend(pictures)
    return sent


def digests(answer: Any) -> list[int]:
    """The digests in a PredictResponse of an echo."""
    return list(answer.outputs["digest"].int64_val)


def tensor_of(dtype: str, shape: Sequence[int], **fields: Any) -> Any:
    """A TensorProto with any fields."""
    made = message("tensorflow.TensorProto")(dtype=DTYPES[dtype][0], **fields)
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made
