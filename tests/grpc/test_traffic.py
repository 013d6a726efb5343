"""`--traffic` for the clients of both services."""

from __future__ import annotations

from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from darkroom.models.engines.fakes import BrokenEngine
from darkroom.models.errors import PredictFailed
from tests.echo import scores_model
from tests.grpc.calls import INFER, PREDICT, TIMEOUT_S, infer, predict, served, stub
from tests.held import wait_for
from tests.pictures import picture
from tests.serving import metric

KEYS = [f"user-{number}" for number in range(20)]


def test_a_key_in_the_metadata_meets_one_version_and_who_names_one_gets_it() -> None:
    rule = {"split": {"1": 1, "2": 1}, "sticky": "X-User", "shadow": {"version": 3}}
    models = [scores_model(version) for version in (1, 2)]
    broken = scores_model(3, wrap=lambda engine: BrokenEngine(engine, PredictFailed("it is broken")))
    with served(*models, broken, traffic={"default": rule}) as (server, channel):

        def ask(path: str, sent: Any, *metadata: tuple[str, str]) -> int:
            answer, call = stub(channel, path).with_call(sent, metadata=metadata, timeout=TIMEOUT_S)
            version = int(answer.model_spec.version.value if path == PREDICT else answer.model_version)
            assert dict(call.trailing_metadata()).get("x-darkroom-version", str(version)) == str(version)
            return version

        first = [ask(PREDICT, predict(picture()), ("x-user", key)) for key in KEYS]
        assert set(first) == {1, 2}
        assert [ask(INFER, infer(picture()), ("x-user", key)) for key in KEYS] == first
        assert {ask(INFER, infer(picture())) for _ in range(40)} == {1, 2}
        assert ask(INFER, infer(picture(), model_version="2")) == 2
        assert ask(PREDICT, predict(picture(), version={"value": 1}), ("x-user", KEYS[first.index(2)])) == 1
        wait_for(lambda: metric(server.url, "darkroom_shadow_images_total", outcome="failed") > 0)
        check = health_pb2_grpc.HealthStub(channel).Check
        status = check(health_pb2.HealthCheckRequest(service="default"), timeout=TIMEOUT_S).status
        assert status == health_pb2.HealthCheckResponse.SERVING
