"""Clients that ask for large answers and do not read them: what waits for them is bounded, and others are answered."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from darkroom.models.engines.fakes import ECHO, EchoEngine, fake_model
from darkroom.models.rows import Rows
from darkroom.models.spec import TensorSpec
from darkroom.service.http.connection import SMALL_BYTES, Connection
from tests.held import wait_for
from tests.pictures import picture, standard
from tests.serving import running
from tests.sockets import client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.service.server import Server
    from tests.sockets import Client

SCORES = np.random.default_rng(3).random((1, 50_000), dtype=np.float32)  # 200 KB, 560 KB as JSON, 240 KB of it by gzip
LIMIT_BYTES = 2 << 20
ANSWER_BYTES = 600_000
TEXT = standard(picture(1))
TENSOR = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
BINARY = [{"name": "scores", "parameters": {"binary_data": True}}]


class WideEngine(EchoEngine):
    """An engine whose answers are numbers that do not compress."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(ECHO, outputs=(TensorSpec("scores", "float32", (None, SCORES.size)),))

    def run(self, rows: Rows) -> Rows:
        """The same for each row."""
        return Rows({"scores": np.repeat(SCORES, len(rows), 0)})


class Served:
    """A server, and every connection that it has."""

    def __init__(self, server: Server, connections: set[Connection]) -> None:
        self.server = server
        self.connections = connections

    def waiting(self) -> list[int]:
        """The bytes of answers that wait in the process, of each connection: not what is counted, but what there is."""

        async def look() -> list[int]:
            transports = [each.transport for each in self.connections]
            return [each.get_write_buffer_size() for each in transports if each is not None]

        return asyncio.run_coroutine_threadsafe(look(), self.server.loop).result(60)

    def check_bound(self, answer_bytes: int = ANSWER_BYTES) -> None:
        """What waits is within the limit of all, or is one answer; what the system has nearly taken aside."""
        most = max(LIMIT_BYTES, answer_bytes)
        assert sum(each for each in self.waiting() if each > SMALL_BYTES) <= most
        assert self.server.darkroom.sending.bytes <= most

    def check_others(self) -> None:
        """A client that reads is answered."""
        answer = httpx.post(self.server.url, content=picture(2), headers={"Content-Type": "image/png"}, timeout=60)
        assert len(answer.json()["scores"][0]) == SCORES.size


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    model = fake_model(WideEngine(), name="default")
    with running(model, max_sending_bytes=LIMIT_BYTES, compress_answers=True) as server:
        with httpx.Client(base_url=server.url) as caller:
            assert caller.get("/health").status_code == 200
            found = (each for each in gc.get_objects() if isinstance(each, Connection) and each.transport is not None)
            connections = next(each.connections for each in found if each.app is server.app)
        yield Served(server, connections)


def ask(target: str, body: object = None, *lines: str, kind: str = "application/json", version: str = "1.1") -> bytes:
    """A request: a GET without a body; bytes are sent as they are, and anything else as JSON."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    head = [f"{'GET' if body is None else 'POST'} {target} HTTP/{version}", "Host: x", *lines]
    if body is not None:
        head += [f"Content-Type: {kind}", f"Content-Length: {len(data)}"]
    return "\r\n".join([*head, "", ""]).encode() + data


PICTURE = ask("/", picture(1), kind="image/png")
CHUNKED = (
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
)
WAYS = {
    "a picture": PICTURE,
    "a picture in chunks": CHUNKED % (len(picture(1)), picture(1)),
    "HTTP/1.0": ask("/", picture(1), "Connection: keep-alive", kind="image/png", version="1.0"),
    "JSON": ask("/", {"data": {"images": [TEXT]}}),
    "rows": ask("/v1/models/default:predict", {"instances": [{"b64": TEXT}] * 3}),
    "columns": ask("/v1/models/default:predict", {"inputs": [{"b64": TEXT}]}),
    "tensors": ask("/v2/models/default/infer", {"inputs": [TENSOR]}),
    "binary tensors": ask("/v2/models/default/infer", {"inputs": [TENSOR | {"data": [TEXT]}], "outputs": BINARY}),
    "gzip": ask("/v1/models/default:predict", {"inputs": [{"b64": TEXT}]}, "Accept-Encoding: gzip"),
    "metrics": ask("/metrics"),
    "a script of a page": ask("/web/uplot.js"),
    "a page": ask("/image_inference"),
    "many small answers": ask("/v1/models/default"),
}
MANY = {"metrics": 400, "a script of a page": 200, "a page": 1_000, "many small answers": 4_000}


def flood(
    stack: ExitStack, served: Served, request: bytes, *, count: int, peers: int = 6, ends: bool = False
) -> list[Client]:
    """Clients that have sent as many requests, one behind the other, as the server takes of them; `ends`: and no more."""
    made = [stack.enter_context(client(served.server.url, receive_bytes=4096)) for _ in range(peers)]
    for peer in made:
        peer.socket.settimeout(0.2)
        with suppress(TimeoutError, ConnectionError):  # the server takes no more of it, or has closed, which is right
            peer.send(request * count)
        if ends:
            with suppress(OSError):
                peer.socket.shutdown(socket.SHUT_WR)
    return made


@pytest.mark.parametrize("way", WAYS)
def test_answers_that_nobody_reads_are_bounded_in_every_form(served: Served, way: str) -> None:
    with ExitStack() as stack:
        flood(stack, served, WAYS[way], count=MANY.get(way, 30), peers=1 if way in MANY else 6)
        wait_for(lambda: max(served.waiting(), default=0) > 0)
        for _ in range(3):
            served.check_others()
            served.check_bound()
    wait_for(lambda: not served.server.darkroom.sending.bytes)


@pytest.mark.parametrize("ends", [False, True], ids=["may send more", "sends no more"])
@pytest.mark.parametrize("way", ["a picture", "a picture in chunks"])
def test_clients_that_read_a_byte_now_and_then_are_bounded_too(served: Served, way: str, ends: bool) -> None:
    with ExitStack() as stack:
        peers = flood(stack, served, WAYS[way], count=30, ends=ends)
        wait_for(lambda: max(served.waiting(), default=0) > 0)
        for _ in range(5):
            for peer in peers:
                with suppress(ConnectionError):
                    assert len(peer.socket.recv(1)) <= 1
            served.check_bound()
        served.check_others()
    wait_for(lambda: not served.server.darkroom.sending.bytes)


def test_one_answer_for_each_of_fifty_clients_that_do_not_read_it(served: Served) -> None:
    many = ask(
        "/v2/models/default/infer", {"inputs": [TENSOR | {"shape": [20], "data": [TEXT] * 20}], "outputs": BINARY}
    )
    with ExitStack() as stack:  # 4 MB each, of which the system takes a part
        flood(stack, served, many, count=1, peers=50)
        for _ in range(3):
            served.check_others()
            served.check_bound(20 * SCORES.nbytes)
    wait_for(lambda: not served.server.darkroom.sending.bytes)


def test_a_client_that_reads_in_the_end_has_lost_nothing(served: Served) -> None:
    with ExitStack() as stack:
        (peer,) = flood(stack, served, PICTURE, count=30, peers=1)
        wait_for(lambda: max(served.waiting(), default=0) > 0)
        served.check_others()
        for _ in range(30):
            assert len(json.loads(peer.answer().body)["scores"][0]) == SCORES.size
