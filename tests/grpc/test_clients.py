"""The clients that people have, unmodified, each in a process of its own: they register the same messages as TensorFlow does.

`make test` installs them: tensorflow-serving-api without its requirement of a second TensorFlow, and tritonclient with the
older protobuf that it needs, in an environment of its own. KServe's SDK has 68 packages, so it is asked for by `make
.bench/kserve.done`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.models.engines.open import load_model
from tests import savedmodels
from tests.echo import TensorEcho
from tests.grpc.calls import served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.service.server import Server

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "tests/images/rocket.jpg"
API = ROOT / ".bench/tensorflow-serving-api"
TRITON = ROOT / ".bench/grpc-clients/bin/python"
KSERVE = ROOT / ".bench/kserve/bin/python"
DIGEST = crc32(PICTURE.read_bytes())
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    half = load_model(
        savedmodels.half_plus_two(tmp_path_factory.mktemp("model") / "1"), name="half_plus_two", version=1
    )
    with served(fake_model(name="default"), fake_model(TensorEcho(), name="tensors"), half) as (server, _):
        yield server


@pytest.fixture
def address(running: Server) -> str:
    return running.grpc_address


def told(python: str | Path, script: str, address: str, *more: str, **environment: str) -> Any:
    """What a client's program printed."""
    command = [python, Path(__file__).parent / "scripts" / script, address, PICTURE, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | environment)  # noqa: PLW1510 - below
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not API.is_dir(), reason="tensorflow-serving-api is not installed; `make test` does it")
def test_the_documented_client_of_tensorflow_serving_works_as_it_is(address: str) -> None:
    got = told(sys.executable, "tensorflow_serving_client.py", address, PYTHONPATH=str(API))
    assert got["digest"] == [DIGEST]
    assert got["doubles"] == [2.5, 3.0, 4.5]
    assert got["state"]
    assert {"serving_default", "classify_x_to_y", "regress_x_to_y"} <= set(got["signatures"])
    assert got["dtype"] == 1
    assert got["classes"] == [["", 12.0]]
    assert got["regressions"] == [42.0, 3.0]


@pytest.mark.skipif(
    not (ROOT / ".bench/grpc-clients.done").exists(), reason="tritonclient[grpc] is not installed; `make test` does it"
)
def test_tritons_clients_work_as_they_are(address: str) -> None:
    assert told(TRITON, "triton_client.py", address) == {
        "live": [True, True, True],
        "name": "darkroom",
        "inputs": ["x", "text"],
        "index": ["default", "half_plus_two", "tensors"],
        "digest": [DIGEST],
        "many": [DIGEST, "default", 32, [True]],
        "config": ["tensorflow_savedmodel", "tensorflow", [["x", [-1]], ["text", []]]],
        "classes": ["300000000549775575777803994281145270272.000000:2", "0.100000:0"],
        "statistics": ["default", "half_plus_two", "tensors"],
        "succeeded": [True],
        "length": [PICTURE.stat().st_size],
        "no digest": True,
        "same": True,
        "id": "7",
        "refusal": ["StatusCode.NOT_FOUND", "unknown model 'nosuch'; there are: default, tensors, half_plus_two"],
    }


@pytest.mark.skipif(
    not (ROOT / ".bench/kserve.done").exists(),
    reason="KServe's SDK is not installed; `make .bench/kserve.done` does it",
)
def test_kserves_client_works_as_it_is(running: Server) -> None:
    assert told(KSERVE, "kserve_client.py", running.grpc_address, running.url) == {
        "v1": [True, [DIGEST]],
        "v2": [True, True, True, [DIGEST]],
        "ready": [True, True, True],
        "id": "7",
        "digest": [DIGEST],
        "x": [0.5, 2.0],
    }
