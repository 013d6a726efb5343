"""Large bodies are read and large answers written by threads: the same answers and errors, and the loop goes on."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

import httpx
import numpy as np
import pytest

from darkroom.batching.errors import QueueFull
from darkroom.models.engines.fakes import fake_model
from darkroom.service.predict.codec import LARGE_BYTES
from darkroom.service.predict.off_loop import THREADS, OffLoop
from tests.echo import TensorEcho
from tests.held import wait_for
from tests.pictures import picture, standard
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.service.server import Server

LARGE = [picture(seed, kind="BMP", size=(300, 300 + seed)) for seed in range(3)]
X = np.random.default_rng(1).random((60, 1_000)).astype(np.float32)
JSON = {"Content-Type": "application/json"}

post = partial(httpx.post, timeout=60)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    models = (fake_model(name="default"), fake_model(TensorEcho(), name="echo"))
    with running(*models, max_receiving_bytes=4 << 20, compress_answers=True) as server:
        yield server


@contextmanager
def busy(server: Server) -> Iterator[None]:
    """Nothing large is read meanwhile."""
    free = threading.Event()
    threads = server.darkroom.predictor._off_loop._threads
    for _ in range(THREADS):
        threads.submit(free.wait)
    try:
        yield
    finally:
        free.set()


def pictures_in(path: str, images: list[bytes]) -> tuple[str, dict[str, Any]]:
    texts = [standard(data) for data in images]
    tensor = {"name": "images", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    bodies: dict[str, dict[str, Any]] = {
        "/": {"data": {"images": texts}, "model_name": "default"},
        "/v1/models/default:predict": {"inputs": [{"b64": text} for text in texts]},
        "/v2/models/default/infer": {"inputs": [tensor]},
    }
    return path, bodies[path]


PATHS = ["/", "/v1/models/default:predict", "/v2/models/default/infer"]


@pytest.mark.parametrize("path", PATHS)
def test_large_pictures_are_answered_as_small_ones(server: Server, path: str) -> None:
    _, body = pictures_in(path, LARGE)
    answer = post(server.url + path, content=json.dumps(body), headers=JSON).text
    assert all(str(crc32(data)) in answer for data in LARGE)


@pytest.mark.parametrize("path", PATHS)
def test_a_bad_one_among_them_is_named_and_counted(server: Server, path: str) -> None:
    before = metric(server.url, "darkroom_poison_images_total", reason="format")
    _, body = pictures_in(path, [*LARGE, b"no picture"])
    answer = post(server.url + path, content=json.dumps(body), headers=JSON)
    assert (answer.status_code, answer.json()["error"][:11]) == (400, "images[3]: ")
    assert metric(server.url, "darkroom_poison_images_total", reason="format") == before + 1


def numbers_in(form: str) -> tuple[str, dict[str, Any]]:
    text = [f"{row}" for row in range(len(X))]
    tensors = [
        {"name": "x", "shape": X.shape, "datatype": "FP32", "data": X.ravel().tolist()},
        {"name": "text", "shape": [len(X)], "datatype": "BYTES", "data": text},
    ]
    columns = {"x": X.tolist(), "text": text}
    rows = [{"x": x, "text": each} for x, each in zip(columns["x"], text, strict=True)]
    paths: dict[str, tuple[str, dict[str, Any]]] = {
        "rows": ("/v1/models/echo:predict", {"instances": rows}),
        "columns": ("/v1/models/echo:predict", {"inputs": columns}),
        "simple": ("/", {"data": columns, "model_name": "echo"}),
        "tensors": ("/v2/models/echo/infer", {"inputs": tensors}),
    }
    return paths[form]


def _data(answer: dict[str, Any]) -> object:
    outputs = answer.get("outputs")
    return outputs[0]["data"] if isinstance(outputs, list) else None


@pytest.mark.parametrize("form", ["rows", "columns", "simple", "tensors"])
def test_many_numbers_come_back_as_they_came(server: Server, form: str) -> None:
    path, body = numbers_in(form)
    sent = json.dumps(body)
    assert len(sent) > LARGE_BYTES
    answer = post(server.url + path, content=sent, headers=JSON | {"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert "serialize;dur=" in answer.headers["server-timing"]
    got = answer.json()
    if form == "rows":
        values = [row["x"] for row in got["predictions"]]
    else:
        values = {"columns": got.get("outputs"), "simple": got, "tensors": {"x": _data(got)}}[form]["x"]
    assert np.array_equal(np.array(values, np.float32).reshape(X.shape), X)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"inputs": {"x": X[:, :9].tolist(), "text": X.tolist()}}, "text[0][0]: expected a string"),
        ({"inputs": {"x": [*X.tolist(), [1.0]], "text": []}}, "x[60] is a list of 1, and x[0] is a list of 1000"),
        ({"instances": X.tolist()}, "expecting list of objects"),
        ({"inputs": {"x": [X.tolist()], "text": ["a"]}}, "the signature wants (-1, -1)"),
        ([X.tolist()], "not JSON"),
    ],
    ids=["numbers for texts", "ragged", "rows without names", "rank", "no object"],
)
def test_what_is_wrong_with_them_is_said_as_of_few(server: Server, body: object, words: str) -> None:
    answer = post(server.url + "/v1/models/echo:predict", content=json.dumps(body), headers=JSON)
    assert answer.status_code == 400
    assert words in answer.json()["error"] or words == "not JSON"


def test_the_loop_goes_on_while_a_large_body_waits_and_it_is_answered_afterwards(server: Server) -> None:
    path, body = pictures_in("/", LARGE)
    with ThreadPoolExecutor(1) as client:
        with busy(server):
            waiting = client.submit(post, server.url + path, content=json.dumps(body), headers=JSON)
            small = post(
                server.url + "/",
                content=picture(),
                headers={"Content-Type": "image/png"},
                params={"model_name": "default"},
            )
            assert small.status_code == 200
            assert not waiting.done()
        assert waiting.result().status_code == 200


def test_too_many_large_bodies_are_refused() -> None:
    async def main() -> None:
        off_loop = OffLoop(limit_bytes=100)
        off_loop.check_room(1_000)  # one always may
        ended = asyncio.Event()
        off_loop.run(60, lambda: None, lambda _: ended.set())
        off_loop.check_room(40)
        with pytest.raises(QueueFull, match="--max_receiving_bytes=100"):
            off_loop.check_room(41)
        await ended.wait()
        off_loop.check_room(1_000)

    asyncio.run(main())


def test_one_whose_time_is_over_is_not_read(server: Server) -> None:
    path, body = pictures_in("/", LARGE)
    headers = JSON | {"X-Darkroom-Deadline-Ms": "1"}
    with ThreadPoolExecutor(1) as client:
        with busy(server):
            late = client.submit(post, server.url + path, content=json.dumps(body), headers=headers)
            wait_for(lambda: late.done() or server.darkroom.predictor._off_loop._bytes > 0)
            assert httpx.get(server.url + "/health", timeout=60).status_code == 200
            time.sleep(0.01)  # longer than its deadline
        assert late.result().status_code in {429, 504}  # over before it was read, or as it was


def test_a_client_that_leaves_meanwhile_is_no_longer_read_for(server: Server) -> None:
    path, body = pictures_in("/", LARGE)
    content = json.dumps(body).encode()
    address = httpx.URL(server.url)
    with busy(server):
        peer = socket.create_connection((address.host, address.port or 0))
        peer.sendall(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
        )
        peer.sendall(content)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # it resets the connection
        peer.close()
        assert httpx.get(server.url + "/health", timeout=60).status_code == 200
    assert post(server.url + path, content=content, headers=JSON).status_code == 200
    assert metric(server.url, "darkroom_http_requests_in_flight") == 1  # the one that asks
