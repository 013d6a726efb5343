"""`--load=lazy` for the clients of every dialect: whoever asks for a model that is not in memory gets its answer."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from zlib import crc32

import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from darkroom.service.api.grpc.protos import message
from tests.grpc.calls import INFER, PREDICT, TIMEOUT_S, ask, channel, digests, infer, predict
from tests.pictures import picture, standard
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from darkroom.service.server import Server

NAMES = ("default", "a", "b", "c")
LIMIT = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Four fakes, of which two may be loaded, and one that can't be."""
    path = tmp_path_factory.mktemp("config") / "models.json"
    listed = [{"name": name, "base_path": "fake", "version_labels": {"stable": 1}} for name in NAMES]
    (path.parent / "broken" / "1").mkdir(parents=True)
    (path.parent / "broken" / "1" / "saved_model.pb").write_bytes(b"junk")
    listed.append({"name": "broken", "base_path": str(path.parent / "broken")})
    path.write_text(json.dumps({"model_config_list": listed}))
    with running(
        model_config_file=path, load="lazy", max_loaded_models=LIMIT, grpc_port=0, reload_interval_ms=50
    ) as made:
        yield made


def _loads(url: str, name: str) -> float:
    return metric(url, "darkroom_model_load_seconds_count", model=name)


def _post(server: Server, path: str, body: Any) -> Any:
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=TIMEOUT_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _simple(server: Server, name: str, data: bytes) -> Any:
    return _post(server, "/", {"model_name": name, "data": {"images": [standard(data)]}})["digest"]


def _predict(server: Server, name: str, data: bytes, middle: str = "") -> Any:
    body = {"instances": [{"b64": standard(data)}]}
    return [each["digest"] for each in _post(server, f"/v1/models/{name}{middle}:predict", body)["predictions"]]


def _labelled(server: Server, name: str, data: bytes) -> Any:
    return _predict(server, name, data, "/labels/stable")


def _infer(server: Server, name: str, data: bytes) -> Any:
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [standard(data)]}
    answer = _post(server, f"/v2/models/{name}/versions/1/infer", {"inputs": [tensor]})
    assert answer["model_name"] == name
    return next(each["data"] for each in answer["outputs"] if each["name"] == "digest")


def _grpc_predict(server: Server, name: str, data: bytes) -> Any:
    with channel(server.grpc_address) as made:
        answer = ask(made, PREDICT, predict(data, model=name))
    assert answer.model_spec.name == name
    return digests(answer)


def _grpc_infer(server: Server, name: str, data: bytes) -> Any:
    with channel(server.grpc_address) as made:
        answer = ask(made, INFER, infer(data, model=name, is_raw=False))
    assert answer.model_name == name
    return list(next(each.contents.int64_contents for each in answer.outputs if each.name == "digest"))


def _large(server: Server, name: str, data: bytes) -> Any:
    """A body that a thread reads."""
    large = data + bytes(1 << 20)
    assert _simple(server, name, large) == [crc32(large)]
    return [crc32(data)]


ASKS: tuple[Callable[[Server, str, bytes], Any], ...] = (
    _simple, _predict, _labelled, _infer, _grpc_predict, _grpc_infer, _large,
)  # fmt: skip


def test_clients_of_every_dialect_get_their_answers_while_models_come_and_go(server: Server) -> None:
    chance = random.Random(1)  # noqa: S311 - no secret
    asked = [(each, chance.choice(NAMES), picture(number)) for number in range(20) for each in ASKS]
    before = metric(server.url, "darkroom_model_unloads_total", reason="limit")
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda each: each[0](server, each[1], each[2]), asked))
    assert answers == [[crc32(data)] for _, _, data in asked]
    assert metric(server.url, "darkroom_model_unloads_total", reason="limit") > before
    assert metric(server.url, "darkroom_models_loaded") == LIMIT
    assert metric(server.url, "darkroom_load_waiting_requests") == 0


def test_a_status_says_that_a_model_takes_requests_and_loads_nothing(server: Server) -> None:
    for name in ("a", "b"):
        assert _simple(server, name, picture()) == [crc32(picture())]
    before = _loads(server.url, "c")

    def get(path: str) -> httpx.Response:
        return httpx.get(f"{server.url}{path}", timeout=TIMEOUT_S)

    said = "it is not loaded yet; the first request loads it"
    assert get("/health").text == "healthy"
    assert get("/v2/health/ready").status_code == get("/v2/models/c/ready").status_code == 200
    assert get("/v2/models/c/versions/7/ready").status_code == 404
    state = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": said}}
    described = get("/v1/models/c").json()
    assert (described["ready"], described["model_version_status"]) == (True, [state])
    index = httpx.post(f"{server.url}/v2/repository/index", json={"ready": True}, timeout=TIMEOUT_S).json()
    assert {"name": "c", "version": "1", "state": "READY", "reason": said} in index
    with channel(server.grpc_address) as made:
        check = health_pb2_grpc.HealthStub(made).Check(health_pb2.HealthCheckRequest(service="c"), timeout=TIMEOUT_S)
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        asked = message("tensorflow.serving.GetModelStatusRequest")(model_spec={"name": "c"})
        (status,) = ask(made, "tensorflow.serving.ModelService/GetModelStatus", asked).model_version_status
        assert (status.state, status.status.error_code, status.status.error_message) == (30, 0, said)
        ready = message("inference.ModelReadyRequest")(name="c")
        assert ask(made, "inference.GRPCInferenceService/ModelReady", ready).ready
    assert _loads(server.url, "c") == before


@pytest.mark.parametrize(
    "path",
    ["/v2/models/c", "/v2/models/c/config", "/v1/models/c/metadata", "/v1/models/c/labels", "/v1/models/c/gen_json"],
)
def test_what_only_a_loaded_model_knows_loads_it(server: Server, path: str) -> None:
    for name in ("a", "b"):
        _simple(server, name, picture())
    before = _loads(server.url, "c")
    assert httpx.get(f"{server.url}{path}", timeout=TIMEOUT_S).status_code == 200
    assert _loads(server.url, "c") == before + 1


def test_metadata_over_grpc_loads_the_model(server: Server) -> None:
    with channel(server.grpc_address) as made:
        for service, sent in (
            ("inference.GRPCInferenceService/ModelMetadata", message("inference.ModelMetadataRequest")(name="c")),
            ("inference.GRPCInferenceService/ModelConfig", message("inference.ModelConfigRequest")(name="c")),
            (
                "tensorflow.serving.PredictionService/GetModelMetadata",
                message("tensorflow.serving.GetModelMetadataRequest")(
                    model_spec={"name": "c"}, metadata_field=["signature_def"]
                ),
            ),
        ):
            for name in ("a", "b"):
                _simple(server, name, picture())
            before = _loads(server.url, "c")
            ask(made, service, sent)
            assert _loads(server.url, "c") == before + 1


def test_a_model_that_can_not_be_loaded_tells_its_own_clients_why(server: Server) -> None:
    for _ in range(2):  # the second one does not wait
        answer = httpx.post(f"{server.url}/", json={"model_name": "broken", "data": {"images": []}}, timeout=TIMEOUT_S)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "version 1 is END: saved_model.pb is damaged" in answer.json()["error"]
    assert httpx.get(f"{server.url}/v2/models/broken/ready", timeout=TIMEOUT_S).status_code == 503
    assert httpx.get(f"{server.url}/v2/health/ready", timeout=TIMEOUT_S).status_code == 200
    assert _simple(server, "c", picture()) == [crc32(picture())]
