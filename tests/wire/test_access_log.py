"""The access log: which requests it tells of, and that a line explains its request, in both lanes."""

from __future__ import annotations

import json
import logging
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from darkroom.models.engines.fakes import EchoEngine, FailingEngine, fake_model
from darkroom.models.rows import Rows
from tests.held import Held, wait_for
from tests.pictures import picture, standard
from tests.serving import running
from tests.sockets import client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.models.engine import LoadedModel

GUILTY = picture(9)
PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
STAGES = {"parse_ms", "inspect_ms", "queue_ms", "collate_ms", "execute_ms", "split_ms", "serialize_ms"}


class Unwritable(EchoEngine):
    """Answers what is neither a number nor bytes, as no engine may."""

    def run(self, rows: Rows) -> Rows:
        """One for each row."""
        return Rows({"digest": np.array([object() for _ in range(len(rows))])})


class Lines:
    """The lines that a server has logged, as they come."""

    def __init__(self, url: str, caplog: pytest.LogCaptureFixture) -> None:
        self.url = url
        self._caplog = caplog

    def of(self, name: str = "darkroom.access") -> list[dict[str, Any]]:
        """The fields of the lines of a logger, in their order."""
        return [getattr(record, "fields", {}) for record in self._caplog.records if record.name == name]

    def one(self, request_id: str, name: str = "darkroom.access") -> dict[str, Any]:
        """The line of a request, once it is there: it is written after the answer."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.of(name) if line.get("request_id") == request_id]

        wait_for(lambda: bool(found()))
        (line,) = found()
        return line


@contextmanager
def logging_server(caplog: pytest.LogCaptureFixture, policy: str, *models: LoadedModel) -> Iterator[Lines]:
    """A server with this access log."""
    caplog.set_level(logging.INFO, "darkroom.access")
    models = models or (fake_model(FailingEngine(EchoEngine(), lambda data: data == GUILTY), name="default"),)
    with running(*models, access_log=policy) as server:
        yield Lines(server.url, caplog)


def test_a_line_has_the_ids_the_model_every_stage_the_batch_and_the_outcome(caplog: pytest.LogCaptureFixture) -> None:
    text = standard(picture(1))
    tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [text]}
    asks = {
        "simple": ("/", json.dumps({"data": {"images": [text]}})),
        "tensorflow_serving": ("/v1/models/default:predict", json.dumps({"instances": [{"b64": text}]})),
        "open_inference": ("/v2/models/default/infer", json.dumps({"inputs": [tensor]})),
    }
    with logging_server(caplog, "all") as lines:
        for serial, (dialect, (path, body)) in enumerate(asks.items(), 1):
            headers = JSON | {"X-Request-Id": dialect, "traceparent": PARENT}
            answer = httpx.post(lines.url + path, content=body, headers=headers)
            assert "traceresponse" not in answer.headers  # nothing is traced
            line = lines.one(dialect)
            assert line.keys() >= STAGES | {"duration_ms", "route"}
            assert sum(line[stage] for stage in STAGES) <= line["duration_ms"]
            assert {name: value for name, value in line.items() if not name.endswith("_ms") and name != "route"} == {
                "request_id": dialect,
                "trace_id": "0af7651916cd43dd8448eb211c80319c",
                "method": "POST",
                "dialect": dialect,
                "code": 200,
                "outcome": "ok",
                "model": "default",
                "version": 1,
                "signature": "serving_default",
                "images": 1,
                "pixels": 48,
                "request_bytes": len(body),
                "response_bytes": len(answer.content),
                "batch": serial,
                "batch_images": 1,
                "reason": "idle",
                "client": "127.0.0.1",
            }


def test_requests_of_one_batch_say_so_and_one_of_several_names_them(caplog: pytest.LogCaptureFixture) -> None:
    held = Held(fake_model(FailingEngine(EchoEngine(), lambda data: data == GUILTY), name="default"))
    with logging_server(caplog, "all", held.model) as lines:

        def ask(data: bytes, request_id: str) -> httpx.Response:
            return httpx.post(lines.url, content=data, headers=PNG | {"X-Request-Id": request_id}, timeout=60)

        asks = [lambda name=name, seed=seed: ask(picture(seed), name) for seed, name in ((2, "b"), (9, "guilty"))]
        held.ride(lines.url, lambda: ask(picture(1), "plug"), asks)
        assert lines.one("plug")["batch"] == 1
        good, bad = lines.one("b"), lines.one("guilty")
        assert (good["outcome"], bad["outcome"], bad["error"], bad["code"]) == (
            "ok",
            "invalid_input",
            "invalid_input",
            400,
        )
        assert good["batch"][0] == bad["batch"][0] == 2  # they shared a call, and then ran alone
        assert (good["batch_images"], bad["batch_images"], good["retries"]) == (2, 2, 1)


@pytest.mark.parametrize("policy", ["errors", "slow:60000,errors"])
def test_by_errors_only_what_went_wrong_is_told_with_its_code(caplog: pytest.LogCaptureFixture, policy: str) -> None:
    with logging_server(caplog, policy) as lines:
        assert httpx.post(lines.url, content=picture(1), headers=PNG).status_code == 200
        assert httpx.get(f"{lines.url}/v2/health/ready").status_code == 200
        asks = {
            "not a picture": ("/", b"x", "bad_image", "invalid_input"),
            "no such model": ("/v1/models/none:predict", b"{}", "not_found", "invalid_input"),
            "no such path": ("/nowhere", b"{}", "not_found", None),
        }
        for request_id, (path, body, code, outcome) in asks.items():
            answer = httpx.post(lines.url + path, content=body, headers=PNG | {"X-Request-Id": request_id})
            line = lines.one(request_id)
            assert (line["code"], line["error"], line.get("outcome")) == (answer.status_code, code, outcome)
        assert [line["request_id"] for line in lines.of()] == list(asks)


def test_slow_requests_are_told_and_a_request_without_an_id_gets_one(caplog: pytest.LogCaptureFixture) -> None:
    with logging_server(caplog, "slow:0") as lines:
        answer = httpx.post(lines.url, content=picture(1), headers=PNG)
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", answer.headers["X-Request-Id"])
        assert lines.one(answer.headers["X-Request-Id"])["code"] == 200


def test_a_client_that_left_has_a_line_with_the_model_that_it_asked(caplog: pytest.LogCaptureFixture) -> None:
    held = Held()
    with (
        logging_server(caplog, "errors", held.model) as lines,
        held.standing(lines.url, lambda: httpx.post(lines.url, content=picture(1), headers=PNG, timeout=60)),
    ):
        with client(lines.url) as leaver:
            data = picture(2)
            head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nX-Request-Id: left\r\nContent-Length: {len(data)}"
            leaver.send(head.encode() + b"\r\n\r\n" + data)
            wait_for(lambda: "darkroom_queue_images{" in (text := httpx.get(f"{lines.url}/metrics").text)
                     and re.search(r"darkroom_queue_images\{[^}]*\} 1\.0", text) is not None)  # fmt: skip
        line = lines.one("left")
        assert (line["code"], line["outcome"], line["model"], line["images"]) == (499, "cancelled", "default", 1)


def test_our_own_mistake_is_logged_with_the_id_that_its_client_got(caplog: pytest.LogCaptureFixture) -> None:
    with logging_server(caplog, "off", fake_model(Unwritable(), name="default")) as lines:
        answer = httpx.post(lines.url, content=picture(1), headers=PNG)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        line = lines.one(answer.headers["X-Request-Id"], "darkroom.service")
        assert (line["model"], line["error"], line["batch"]) == ("default", "internal", 1)
        (record,) = [each for each in caplog.records if each.message == "a request failed"]
        assert record.exc_info
        assert not lines.of()
