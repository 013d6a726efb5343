"""The command `tensorflow_model_server` as a process, with its files, and the list of models that is replaced over gRPC."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.service.api.grpc.protos import message
from loadtest.measure.processes import free_port
from tests.grpc.calls import PREDICT, ask, channel, digests, predict, refusal, served
from tests.held import wait_for
from tests.pictures import picture, standard
from tests.serving import Process, certificate, running

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
API = ROOT / ".bench/tensorflow-serving-api"
RELOAD = "tensorflow.serving.ModelService/HandleReloadConfigRequest"
BATCHING = "max_batch_size { value: 16 }\nbatch_timeout_micros { value: 0 }\nmax_enqueued_batches { value: 1000 }\n"


def config(**folders: object) -> str:
    """A models.config."""
    models = "".join(
        f"  config {{ name: '{name}' base_path: '{path}' model_platform: 'tensorflow' }}\n"
        for name, path in folders.items()
    )
    return f"model_config_list {{\n{models}}}\n"


def reload(**folders: object) -> Any:
    """A ReloadConfigRequest."""
    sent = message("tensorflow.serving.ReloadConfigRequest")()
    sent.config.model_config_list.SetInParent()
    for name, path in folders.items():
        sent.config.model_config_list.config.add(name=name, base_path=str(path), model_platform="tensorflow")
    return sent


@pytest.mark.slow
def test_tensorflow_servings_command_serves_its_files_and_follows_them(tmp_path: Path) -> None:
    files = {
        "models.config": config(first="fake"),
        "batching_parameters.txt": BATCHING,
        "monitoring.config": 'prometheus_config { enable: true, path: "/monitoring/mine" }',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    port, rest_port = free_port(), free_port()
    process = Process(
        f"--port={port}", f"--rest_api_port={rest_port}", "--enable_batching", "--num_load_threads=2",
        f"--model_config_file={tmp_path / 'models.config'}", "--model_config_file_poll_wait_seconds=1",
        f"--batching_parameters_file={tmp_path / 'batching_parameters.txt'}",
        f"--monitoring_config_file={tmp_path / 'monitoring.config'}", "--max_inflight_batches=1",
        program=("darkroom.service.cli.model_server",),
    )  # fmt: skip
    try:
        url = process.wait_ready()
        assert url.endswith(f":{rest_port}")
        body = {"instances": [{"b64": standard(picture())}], "output_filter": ["digest"]}
        told = httpx.post(f"{url}/v1/models/first:predict", content=json.dumps(body)).json()
        assert httpx.get(f"{url}/monitoring/mine").status_code == 200
        with channel(f"127.0.0.1:{port}") as made:
            assert digests(ask(made, PREDICT, predict(picture(), model="first"))) == told["predictions"]
        lines = "".join(process.lines)
        for words in (
            "--enable_batching true has no effect",
            "--num_load_threads 2 has no effect",
            "becomes --max_batch_images=16, --max_queue_images=16000, --batch_linger_ms=0",
        ):
            assert lines.count(words) == 1
        (tmp_path / "models.config").write_text(config(other="fake"))
        wait_for(lambda: httpx.get(f"{url}/v1/models/first").status_code == 404)
        wait_for(lambda: httpx.get(f"{url}/v2/models/other/ready").status_code == 200)
    finally:
        assert process.stop() == 0


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(fake_model(name="first")) as (server, _):
        yield server.grpc_address


@pytest.mark.slow
@pytest.mark.skipif(not API.is_dir(), reason="tensorflow-serving-api is not installed; `make test` does it")
def test_the_documented_call_replaces_the_list_of_models(address: str, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    label = "version_labels { key: 'stable' value: 1 }"
    file.write_text(
        f"model_config_list {{ config {{ name: 'second' base_path: 'fake' model_platform: 'tensorflow' {label} }} }}"
    )
    script = Path(__file__).parent / "scripts/tensorflow_serving_reload.py"
    environment = os.environ | {"PYTHONPATH": str(API)}
    done = subprocess.run(  # noqa: PLW1510 - below
        [sys.executable, script, address, file], capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["before"] == [[30], "NOT_FOUND"]
    assert (got["status"], got["metrics"]) == (0, [["/tensorflow/serving/x", 0]])
    assert got["after"] == ["NOT_FOUND", [30]]
    assert got["predicted"] == "INVALID_ARGUMENT"
    assert got["missing"][0] == "UNAVAILABLE"
    assert "a: the model's folder cannot be listed" in got["missing"][1]
    assert got["label"][0] == "INVALID_ARGUMENT"
    assert got["label"][1].startswith(
        "Request to assign label to version 7 of model a, which is not currently available"
    )
    assert got["none"] == [
        "INVALID_ARGUMENT",
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported",
    ]
    assert got["twice"] == ["INVALID_ARGUMENT", "two models are called 'a'"]


def test_a_list_is_replaced_by_the_operator_only() -> None:
    with running(fake_model(name="a"), grpc_port=0, host="0.0.0.0") as server, channel(server.grpc_address) as made:  # noqa: S104 - what is tested
        code, text = refusal(made, RELOAD, reload(b="fake"))
        assert (code, "--host=127.0.0.1" in text) == (grpc.StatusCode.PERMISSION_DENIED, True)
        assert digests(ask(made, PREDICT, predict(picture(), model="a")))
    with served(fake_model(name="a"), enable_auth=True, auth_password="secret") as (server, made):
        assert refusal(made, RELOAD, reload(b="fake"))[0] is grpc.StatusCode.UNAUTHENTICATED
        basic = [("authorization", "Basic YWRtaW46c2VjcmV0")]
        ask(made, RELOAD, reload(b="fake"), metadata=basic)
        assert digests(ask(made, PREDICT, predict(picture(), model="b"), metadata=basic))
        listed = httpx.get(f"{server.url}/v1/models", auth=("admin", "secret")).json()
        assert [(each["model_name"], each["model_base_path"]) for each in listed] == [("b", "fake")]


def test_grpc_may_have_tls_of_its_own_that_asks_clients_for_theirs(tmp_path: Path) -> None:
    pem, key = (file.read_bytes() for file in certificate(tmp_path))
    lines = {"server_key": key, "server_cert": pem, "custom_ca": pem}
    text = "".join(f"{name}: {json.dumps(value.decode())}\n" for name, value in lines.items())
    file = tmp_path / "ssl.config"
    file.write_text(f"{text}client_verify: true\n")
    known = grpc.ssl_channel_credentials(pem, key, pem)
    stranger = grpc.ssl_channel_credentials(pem)
    with running(fake_model(name="default"), grpc_port=0, grpc_ssl_config_file=file) as server:
        assert httpx.get(f"{server.url}/health").text == "healthy"  # HTTP has none
        with grpc.secure_channel(server.grpc_address, known) as made:
            assert digests(ask(made, PREDICT, predict(picture())))
        with grpc.secure_channel(server.grpc_address, stranger) as made:
            assert refusal(made, PREDICT, predict(picture()))[0] is grpc.StatusCode.UNAVAILABLE


def test_numbers_of_answers_stand_in_tensor_content_where_that_is_wanted() -> None:
    with served(fake_model(name="default"), grpc_tensor_content=True) as (_, made):
        digest = ask(made, PREDICT, predict(picture())).outputs["digest"]
    assert not digest.int64_val
    assert len(digest.tensor_content) == 8
