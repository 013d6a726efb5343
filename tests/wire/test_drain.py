"""A stop loses no request of a client that keeps to the protocol, whatever of its request is there at that moment."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING
from zlib import crc32

import httpx
import numpy as np
import pytest

from darkroom.models.engines.fakes import EchoEngine, SlowEngine, fake_model
from darkroom.models.rows import Rows
from tests.held import wait_for
from tests.pictures import picture, standard
from tests.serving import running
from tests.sockets import client
from tests.wire.test_fastlane import HEALTH, chunked, digest, post

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.service.server import Server
    from tests.sockets import Client

DELAY_MS = 300
DATA = picture(3)
SENT = post(DATA)
HEAD, BODY = SENT[: -len(DATA)], DATA
EXPECTS = post(DATA, "Expect: 100-continue")[: -len(DATA)]
OLD = post(DATA, "Connection: keep-alive", version="1.0")


class WideEngine(EchoEngine):
    """An echo with 800 KB beside it, where that is asked for by the number of rows."""

    def run(self, rows: Rows) -> Rows:
        """The digests, and more if there are several."""
        found = super().run(rows)
        wide = np.zeros((len(rows), 100_000 if len(rows) > 1 else 1), np.float32)
        return Rows(found.columns | {"wide": wide})


class Stage:
    """A server whose engine waits for `go_on`, and clients that are connected before it stops."""

    def __init__(self, stack: ExitStack, **settings: object) -> None:
        self.go_on, self.is_running = threading.Event(), threading.Event()
        self.clients: list[Client] = []
        self._stack = stack
        model = fake_model(SlowEngine(WideEngine(), float, sleep=self._hold), name="default")
        self.server: Server = stack.enter_context(running(model, max_inflight_batches=1, **settings))

    def _hold(self, _: float) -> None:
        self.is_running.set()
        self.go_on.wait(60)

    def connect(self, sent: bytes = b"", receive_bytes: int = 0) -> Client:
        """A connection that the server has, on which this was sent."""
        made = self._stack.enter_context(client(self.server.url, receive_bytes=receive_bytes))
        made.send(HEALTH)
        assert made.answer().status == 200
        made.send(sent)
        return made

    def stop(self) -> None:
        """As SIGTERM does; returns once it has begun."""
        self.server.loop.call_soon_threadsafe(self.server.stop)
        wait_for(lambda: self.server.darkroom.lifecycle.is_draining)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        made = Stage(stack, drain_delay_ms=DELAY_MS)
        stack.callback(made.go_on.set)
        yield made


def check_last(peer: Client) -> None:
    """The next answer is the picture's and says that the connection ends, which it does."""
    answer = peer.answer()
    assert (digest(answer), answer.headers["connection"]) == (crc32(DATA), "close")
    assert peer.is_closed()


def test_every_request_that_has_begun_or_comes_during_the_delay_is_answered(stage: Stage) -> None:
    stage.go_on.set()
    half_body, half_head = stage.connect(SENT[:-9]), stage.connect(SENT[:40])
    half_chunk = stage.connect(chunked(DATA)[:-12])
    told_to_go_on = stage.connect(EXPECTS)
    assert told_to_go_on.answer().status == 100
    idle, old, expects, quiet = (stage.connect() for _ in range(4))
    stage.stop()
    with httpx.Client(base_url=stage.server.url) as new:
        assert new.post("/", content=DATA, headers={"Content-Type": "image/png"}).headers["connection"] == "close"
    idle.send(SENT)
    old.send(OLD)
    expects.send(EXPECTS)
    assert expects.answer().status == 100
    expects.send(BODY)
    for peer in (idle, old, expects):
        check_last(peer)
    time.sleep(1.5 * DELAY_MS / 1000)  # the delay is over
    half_body.send(SENT[-9:])
    half_head.send(SENT[40:])
    half_chunk.send(chunked(DATA)[-12:])
    told_to_go_on.send(BODY)
    for peer in (half_body, half_head, half_chunk, told_to_go_on):
        check_last(peer)
    assert quiet.is_closed()


def test_a_body_that_comes_byte_by_byte_across_the_end_of_the_delay_is_answered(stage: Stage) -> None:
    stage.go_on.set()
    slow = stage.connect(HEAD)
    stage.stop()
    for place in range(len(BODY)):
        slow.send(BODY[place : place + 1])
        time.sleep(2 * DELAY_MS / 1000 / len(BODY))
    check_last(slow)


@pytest.mark.parametrize(
    "rest", [SENT, SENT * 3, SENT * 20_000, HEALTH * 9], ids=["one", "three", "megabytes", "others"]
)
def test_of_pipelined_requests_the_first_is_answered_whole_and_says_that_no_other_will_be(
    stage: Stage, rest: bytes
) -> None:
    body = b'{"data": {"images": ["%b", "%b"]}}' % ((standard(DATA).encode(),) * 2)
    peer = stage.connect(post(body, kind="application/json"), receive_bytes=4096)
    assert stage.is_running.wait(60)
    sender = threading.Thread(target=_send, args=(peer, rest))
    sender.start()
    sender.join(0.2)  # it has been sent, or as much as the server takes
    stage.stop()
    stage.go_on.set()
    time.sleep(DELAY_MS / 1000)  # what the system does not take of the answer waits, and the server ends meanwhile
    answer = peer.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert len(answer.body) == int(answer.headers["content-length"]) > 800_000
    sender.join()
    assert peer.is_closed()


def _send(peer: Client, data: bytes) -> None:
    with suppress(OSError):  # the server closes, as it says
        peer.send(data)
