"""Health and reflection by the clients of grpcio-health-checking and grpcio-reflection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from darkroom.models.engines.fakes import fake_model
from darkroom.service.api.grpc.protos import SERVICES, message
from tests.grpc.calls import ask, served, stub

if TYPE_CHECKING:
    from collections.abc import Callable

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def status(made: Any) -> Callable[[str], int]:
    check = health_pb2_grpc.HealthStub(made).Check
    return lambda name: int(check(health_pb2.HealthCheckRequest(service=name), timeout=60).status)


def test_the_server_each_model_and_each_service_have_a_status(status: Callable[[str], int], made: Any) -> None:
    assert {status(name) for name in ("", "default", "tensors", "PredictionService", *SERVICES)} == {SERVING}
    with pytest.raises(grpc.RpcError) as refused:
        status("nosuch")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    listed = health_pb2_grpc.HealthStub(made).List(health_pb2.HealthListRequest(), timeout=60).statuses
    assert {name: each.status for name, each in listed.items()} == dict.fromkeys(("", "default", "tensors"), SERVING)


def test_a_watch_tells_each_change_and_the_end() -> None:
    with served(fake_model(name="default")) as (server, made):
        watch = health_pb2_grpc.HealthStub(made).Watch
        seen = watch(health_pb2.HealthCheckRequest(service="default"), timeout=60)
        unknown = watch(health_pb2.HealthCheckRequest(service="later"), timeout=60)
        assert next(seen).status == SERVING
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        unload = message("inference.RepositoryModelUnloadRequest")(model_name="default")
        ask(made, "inference.GRPCInferenceService/RepositoryModelUnload", unload)
        assert next(seen).status == NOT_SERVING
        server.loop.call_soon_threadsafe(server.stop)
        with pytest.raises(grpc.RpcError) as ended:
            next(seen)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "stopping" in (ended.value.details() or "")


def test_reflection_lists_the_services_and_describes_their_messages(made: Any) -> None:
    database = ProtoReflectionDescriptorDatabase(made)
    assert sorted(database.get_services()) == sorted(SERVICES)
    file = database.FindFileContainingSymbol("tensorflow.serving.PredictionService")
    assert file.name == "tensorflow_serving/apis/prediction_service.proto"
    assert database.FindFileByName("tensorflow/core/framework/tensor.proto").package == "tensorflow"
    with pytest.raises(KeyError):
        database.FindFileContainingSymbol("no.such.Message")


def test_reflection_answers_in_both_versions_and_refuses_what_does_not_exist(made: Any) -> None:
    asked = message("grpc.reflection.v1.ServerReflectionRequest")
    path = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    questions = [
        asked(file_containing_symbol="inference.ModelInferRequest"),
        asked(all_extension_numbers_of_type="x"),
        asked(file_by_filename="nosuch.proto"),
    ]
    answers = list(stub(made, path, kind="stream_stream")(iter(questions), timeout=60))
    assert len(answers[0].file_descriptor_response.file_descriptor_proto) == 2  # it imports another
    assert [answer.error_response.error_code for answer in answers[1:]] == [12, 5]
