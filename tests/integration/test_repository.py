"""A folder of models under the real command: Triton's documented layout and TensorFlow Serving's, by Triton's clients."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from tritonclient import http, utils

from tests import savedmodels
from tests.serving import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow
CLIENTS = Path(__file__).parents[2] / ".bench/grpc-clients/bin/python"
CONFIG = """
name: "half_plus_two"
platform: "tensorflow_savedmodel"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] label_filename: "labels.txt" } ]
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
instance_group [ { count: 1 kind: KIND_CPU } ]
model_warmup [ { name: "zeros" batch_size: 2 inputs { key: "x" value { dims: [ 1 ] zero_data: true } } } ]
"""
ASK_BY_GRPC = """
import json, sys
import tritonclient.grpc as triton
client = triton.InferenceServerClient(sys.argv[1])
config = client.get_model_config("half_plus_two", as_json=True)["config"]
stats = client.get_inference_statistics("half_plus_two", as_json=True)["model_stats"]
print(json.dumps([config["max_batch_size"], config["instance_group"][0]["kind"], [each["version"] for each in stats]]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "1"
    return savedmodels.half_plus_two(folder)


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """Two versions in Triton's layout, a model in TensorFlow Serving's, and one of another framework."""
    folder = tmp_path / "models"
    for version in ("1", "2"):
        shutil.copytree(built, folder / "half_plus_two" / version / "model.savedmodel")
    (folder / "half_plus_two" / "config.pbtxt").write_text(CONFIG)
    (folder / "half_plus_two" / "labels.txt").write_text("half\n")
    shutil.copytree(built, folder / "plain" / "1")
    (folder / "onnx" / "1").mkdir(parents=True)
    (folder / "onnx" / "config.pbtxt").write_text('platform: "onnxruntime_onnx"')
    return folder


@pytest.fixture
def server(root: Path) -> Iterator[Process]:
    process = Process(f"--model_repository={root}", "--grpc_port=0", "--reload_interval_ms=100", "--log_format=text")
    process.wait_ready()
    yield process
    process.stop()


def infer(client: Any, model: str) -> list[bytes]:
    """The class of one number."""
    x = http.InferInput("x", [1, 1], "FP32")
    x.set_data_from_numpy(np.array([[3.0]], np.float32))
    answer = client.infer(model, [x], outputs=[http.InferRequestedOutput("y", class_count=1)])
    return answer.as_numpy("y").ravel().tolist()  # type: ignore[no-any-return]  # of an array of objects


def until(is_so: Callable[[], bool]) -> None:
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come within a minute")


def states(client: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in client.get_model_repository_index():
        found.setdefault(each["name"], []).append(each["state"])
    return found


def test_a_repository_is_served_as_triton_serves_it_and_its_models_come_and_go(server: Process, root: Path) -> None:
    with http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert states(client) == {"half_plus_two": ["READY"], "onnx": ["UNAVAILABLE"], "plain": ["READY"]}
        assert client.get_model_metadata("half_plus_two")["versions"] == ["2"]  # the newest, as in Triton
        assert client.get_model_config("half_plus_two")["max_batch_size"] == 8
        assert infer(client, "half_plus_two") == [b"3.500000:0:half"]
        assert infer(client, "plain") == [b"3.500000:0"]
        assert httpx.get(f"{server.url}/v1/models").json() == {"models": ["half_plus_two", "onnx", "plain"]}
        described = httpx.get(f"{server.url}/v1/models/half_plus_two").json()
        assert (described["name"], described["ready"]) == ("half_plus_two", True)

        shutil.copytree(root / "plain", root / "other")
        shutil.rmtree(root / "plain")
        (root / "half_plus_two" / "config.pbtxt").write_text(CONFIG.replace('platform: "tensorflow_savedmodel"', ""))
        (root / "half_plus_two" / "config.pbtxt").write_text(CONFIG.replace("batch_size: 8", "batch_size: 16"))
        until(lambda: states(client).get("other") == ["READY"] and "plain" not in states(client))
        until(lambda: client.get_model_config("half_plus_two")["max_batch_size"] == 16)
        assert infer(client, "other") == [b"3.500000:0"]
        with pytest.raises(utils.InferenceServerException, match="unknown model 'plain'"):
            infer(client, "plain")
        (reason,) = [each["reason"] for each in client.get_model_repository_index() if each["name"] == "onnx"]
        assert "no other framework is" in reason
    if CLIENTS.exists():
        address = next(line.split()[-1] for line in server.lines if "gRPC on" in line)
        done = subprocess.run([CLIENTS, "-c", ASK_BY_GRPC, address], capture_output=True, text=True, timeout=120)  # noqa: PLW1510 - below
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [16, "KIND_CPU", ["2"]]
