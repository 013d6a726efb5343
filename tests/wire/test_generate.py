"""The clients that the server writes run as they are and print a real answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote
from zlib import crc32

import httpx
import numpy as np
import pytest

from darkroom.models.engines.fakes import ECHO, EchoEngine, fake_model
from darkroom.models.rows import Rows
from darkroom.models.spec import TensorSpec, Wire
from tests.pictures import picture
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "service" / "api" / "web" / "clients" / "sample.jpg"
# language → (file name, the command that runs it)
PROGRAMS = {
    "bash": ("client.sh", ["bash"]),
    "python": ("client.py", [sys.executable]),
    "javascript": ("client.js", ["node"]),
    "golang": ("client.go", ["go", "run"]),
}
# A name that would end a string, a comment or a command, were it not written with care.
ODD_NAME = "it's `$(exit 3)`\"\\\n<<X>>"


class SumEngine(EchoEngine):
    """Answers the sum of each row of numbers."""

    def run(self, rows: Rows) -> Rows:
        """One sum a row."""
        return Rows({"sum": np.sum(np.asarray(rows.columns[self.spec.inputs[0].name]), axis=1)})


def _run(
    folder: Path, language: str, program: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    name, command = PROGRAMS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} on this machine")
    (folder / name).write_text(program)
    surroundings = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()} | environment
    return subprocess.run(
        [*command, name, *arguments],
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    models = [fake_model(name="default"), fake_model(name="other"), fake_model(name=ODD_NAME)]
    with running(*models) as server:
        yield server.url


def _program(url: str, language: str, name: str = "default", **headers: str) -> str:
    address = f"{url}/v1/models/{quote(name, safe='')}/gen_client"
    answer = httpx.get(address, params={"language": language}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.text


@pytest.mark.parametrize("name", ["default", "other", ODD_NAME])
@pytest.mark.parametrize("language", PROGRAMS)
def test_a_generated_client_sends_a_real_picture_and_prints_the_answer(
    url: str, tmp_path: Path, language: str, name: str
) -> None:
    done = _run(tmp_path, language, _program(url, language, name))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"digest": [crc32(SAMPLE.read_bytes())], "length": [SAMPLE.stat().st_size]}


@pytest.mark.parametrize("language", PROGRAMS)
def test_a_generated_client_sends_the_picture_that_it_is_given(url: str, tmp_path: Path, language: str) -> None:
    data = picture(7)
    (tmp_path / "a.png").write_bytes(data)
    done = _run(tmp_path, language, _program(url, language), "a.png")
    assert json.loads(done.stdout)["digest"] == [crc32(data)], done.stderr


@pytest.mark.parametrize("language", PROGRAMS)
def test_a_generated_client_of_a_model_of_numbers_sends_rows_of_its_shape(tmp_path: Path, language: str) -> None:
    spec = replace(ECHO, inputs=(TensorSpec("it's", "float32", (None, 3)),), wire=Wire.TENSOR, image_input=None)
    with running(fake_model(SumEngine(spec), name="default")) as server:
        body = httpx.get(f"{server.url}/v1/models/default/gen_json").json()
        assert body == {"data": {"it's": [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]}}
        done = _run(tmp_path, language, _program(server.url, language))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"sum": [3.0, 3.0]}


@pytest.mark.parametrize("language", PROGRAMS)
def test_a_generated_client_of_a_guarded_server_takes_its_credentials_from_the_environment(
    tmp_path: Path, language: str
) -> None:
    basic = "Basic dTpw"  # u:p
    with running(fake_model(name="default"), enable_auth=True, auth_username="u", auth_password="p") as server:
        program = _program(server.url, language, Authorization=basic)
        assert "dTpw" not in program
        done = _run(tmp_path, language, program, AUTHORIZATION=basic)
        assert done.returncode == 0, done.stderr
        refused = _run(tmp_path, language, program, AUTHORIZATION="Basic eDp4")
        assert refused.returncode in {1, 22}  # curl's status for an HTTP error
        assert "basic auth" in refused.stdout + refused.stderr


def test_the_example_body_is_answered_as_it_is(url: str) -> None:
    for path in ("gen_json", "gen_client?language=json"):
        example = httpx.get(f"{url}/v1/models/other/{path}")
        assert example.headers["content-type"] == "application/json"
        assert example.json()["model_name"] == "other"
        assert httpx.post(url, json=example.json()).status_code == 200


def test_bash_is_what_no_language_means(url: str) -> None:
    assert httpx.get(f"{url}/v1/models/default/gen_client").text.startswith("#!/usr/bin/env bash\n")


def test_the_endpoint_is_the_address_that_was_asked(url: str) -> None:
    assert f"'{url}/'" in _program(url, "bash")
    assert "'http://models.example:8500/'" in _program(url, "bash", Host="models.example:8500")
    assert "'https://models.example/'" in _program(url, "bash", Host="models.example", **{"X-Forwarded-Proto": "https"})
    assert "'http://[::1]:8500/'" in _program(url, "bash", Host="[::1]:8500", **{"X-Forwarded-Proto": "'"})


@pytest.mark.parametrize("host", ["x'; rm -rf /; '", 'a"b', "a b", "$(id)", "", "h:999999", "h/../x"])
def test_a_host_that_is_none_is_not_written_into_a_program(url: str, host: str) -> None:
    answer = httpx.get(f"{url}/v1/models/default/gen_client", headers={"Host": host})
    assert answer.status_code == 400
    assert "Host" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("nosuch/gen_json", 404, "default"),
        ("nosuch/gen_client", 404, "default"),
        ("default/gen_client?language=java", 400, "bash, python, golang, javascript, json, got 'java'"),
        ("default/gen_client?language=../python", 400, "language: "),
        ("default/gen_json?signature_name=x", 400, "serving_default"),
    ],
)
def test_an_unknown_model_language_or_signature_is_said(url: str, path: str, code: int, words: str) -> None:
    answer = httpx.get(f"{url}/v1/models/{path}")
    assert answer.status_code == code
    assert words in answer.json()["error"]
