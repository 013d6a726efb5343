"""Every error answer carries its code: in the header always, in the body of every dialect except TensorFlow Serving's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from darkroom.models.engines.fakes import BrokenEngine, EchoEngine, fake_model
from darkroom.models.errors import OutOfMemory, PredictFailed
from tests.pictures import picture, standard
from tests.serving import running
from tests.sockets import client
from tests.wire.test_overload import full

if TYPE_CHECKING:
    from collections.abc import Iterator

JSON = {"Content-Type": "application/json"}
STS, TFS, V2 = "/", "/v1/models/default:predict", "/v2/models/default/infer"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    failing = BrokenEngine(EchoEngine(), PredictFailed("no"))
    memory = BrokenEngine(EchoEngine(), OutOfMemory("too little"))
    with running(
        fake_model(name="default"),
        fake_model(failing, name="failing"),
        fake_model(memory, name="memory"),
        max_images=3,
        max_body_bytes=100_000,
    ) as server:
        yield server.url


def _sts(*texts: str, **fields: object) -> bytes:
    return json.dumps({"data": {"images": list(texts)}, **fields}).encode()


def _v2(*texts: str) -> bytes:
    tensor = {"name": "images", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}
    return json.dumps({"inputs": [tensor]}).encode()


def _tfs(*texts: str) -> bytes:
    return json.dumps({"instances": [{"b64": text} for text in texts]}).encode()


def _check(answer: httpx.Response, status: int, code: str, *, in_body: bool) -> None:
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, answer.headers["x-darkroom-error"]) == (status, code), body
    assert body == {"error": body["error"]} | ({"code": code} if in_body else {})


GOOD = standard(picture())


@pytest.mark.parametrize(
    ("path", "body", "headers", "expected"),
    [
        (STS, b"{", JSON, (400, "bad_request")),
        (STS, _sts("%"), JSON, (400, "bad_image")),
        (STS, _sts(standard(b"no picture")), JSON, (400, "bad_image")),
        (STS, b"no picture", {"Content-Type": "image/png"}, (400, "bad_image")),
        (STS, b"--x\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, (400, "bad_request")),
        (STS, _sts(GOOD), {"Content-Type": "text/plain"}, (400, "unsupported_media_type")),
        (STS, _sts(GOOD, GOOD, GOOD, GOOD), JSON, (413, "too_large")),
        (STS, _sts(GOOD, model_name="no"), JSON, (400, "not_found")),
        (STS, _sts(GOOD, model_version=7), JSON, (400, "not_found")),
        (STS, _sts(GOOD, signature_name="no"), JSON, (400, "not_found")),
        (STS, b'{"data": {"x": 1}}', JSON, (400, "invalid_input")),
        (STS, _sts(GOOD), JSON | {"X-Darkroom-Deadline-Ms": "0.000001"}, (429, "predicted_late")),
        (STS, _sts(GOOD, model_name="failing"), JSON, (500, "predict_failed")),
        (STS, _sts(GOOD, model_name="memory"), JSON, (503, "out_of_memory")),
        (STS, _sts(GOOD), JSON | {"Content-Encoding": "br"}, (400, "unsupported_media_type")),
        (V2, b"{", JSON, (400, "bad_request")),
        (V2, _v2("%"), JSON, (400, "bad_image")),
        (V2, _v2(GOOD, GOOD, GOOD, GOOD), JSON, (413, "too_large")),
        ("/v2/models/no/infer", _v2(GOOD), JSON, (404, "not_found")),
        ("/v2/models/default/versions/7/infer", _v2(GOOD), JSON, (404, "not_found")),
        (TFS, b"{", JSON, (400, "bad_request")),
        (TFS, _tfs("%"), JSON, (400, "bad_image")),
        (TFS, _tfs(GOOD, GOOD, GOOD, GOOD), JSON, (413, "too_large")),
        ("/v1/models/no:predict", _tfs(GOOD), JSON, (404, "not_found")),
        ("/v1/models/failing:predict", _tfs(GOOD), JSON, (500, "predict_failed")),
        ("/v1/nonsense", _tfs(GOOD), JSON, (400, "bad_request")),
        ("/nowhere", b"1", JSON, (404, "not_found")),
        ("/health", b"1", JSON, (405, "method_not_allowed")),
        (STS, b"1" * 100_001, JSON, (413, "too_large")),
    ],
)
def test_a_refused_post_carries_the_code_of_its_cause(
    url: str, path: str, body: bytes, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    answer = httpx.post(url + path, content=body, headers=headers)
    _check(answer, *expected, in_body=not path.startswith("/v1/"))


@pytest.mark.parametrize(
    ("path", "status", "code", "in_body"),
    [
        ("/v1/models/no", 404, "not_found", False),
        ("/v1/models/default/versions/7", 404, "not_found", False),
        ("/v2/models/no", 404, "not_found", True),
        ("/web/no", 404, "not_found", True),
    ],
)
def test_a_refused_get_carries_the_code_of_its_cause(
    url: str, path: str, status: int, code: str, *, in_body: bool
) -> None:
    _check(httpx.get(url + path), status, code, in_body=in_body)


@pytest.mark.parametrize(("path", "body"), [(STS, _sts(GOOD)), (V2, _v2(GOOD)), (TFS, _tfs(GOOD))])
def test_a_full_queue_is_told_in_every_dialect(path: str, body: bytes) -> None:
    with full() as server:
        answer = httpx.post(server.url + path, content=body, headers=JSON)
        _check(answer, 429, "queue_full", in_body=path != TFS)


def test_answers_without_a_json_body_carry_the_code_in_the_header() -> None:
    with running(fake_model(name="default"), enable_auth=True, auth_password="x") as server:
        for path in ("/", "/metrics", "/v1/models"):
            answer = httpx.get(server.url + path)
            assert (answer.status_code, answer.headers["x-darkroom-error"]) == (401, "unauthorized")
        assert "x-darkroom-error" not in httpx.get(server.url + "/health").headers


def test_a_connection_too_many_is_told_that_the_server_is_overloaded() -> None:
    started = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n1"
    with running(fake_model(name="default"), max_connections=1) as server, client(server.url) as busy:
        busy.send(started)
        assert busy.answer().status == 100  # the server waits for the rest of the body, so this connection is busy
        with client(server.url) as other:
            answer = other.answer()
        assert (answer.status, answer.headers["x-darkroom-error"]) == (503, "overloaded")


def test_an_answer_that_is_no_error_carries_no_code(url: str) -> None:
    for path, body in ((STS, _sts(GOOD)), (V2, _v2(GOOD)), (TFS, _tfs(GOOD))):
        answer = httpx.post(url + path, content=body, headers=JSON)
        assert answer.status_code == 200
        assert "x-darkroom-error" not in answer.headers
