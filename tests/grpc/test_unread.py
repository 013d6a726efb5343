"""Clients of gRPC that ask for large answers and do not take them: what waits for them is bounded, others are answered."""

from __future__ import annotations

import contextlib
import socket
from contextlib import ExitStack
from struct import pack
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darkroom.models.engines.fakes import EchoEngine, fake_model
from darkroom.models.rows import Rows
from darkroom.service.api.grpc import http2
from darkroom.service.api.grpc.http2 import PREFACE, frame, literal
from tests.grpc.calls import PREDICT, ask, predict, served
from tests.held import wait_for
from tests.pictures import picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.service.server import Server

SCORES = np.arange(50_000, dtype=np.float32)[None]  # 200 KB
LIMIT_BYTES = 2 << 20
CALLS = 60  # of a connection: 12 MB of answers
CALL = b"".join(
    literal(name, value)
    for name, value in {
        ":method": "POST", ":scheme": "http", ":path": f"/{PREDICT}", "te": "trailers", "content-type": "application/grpc",
    }.items()
)  # fmt: skip
WIDE = (1 << 31) - 1


class WideEngine(EchoEngine):
    """An engine whose answers are 200 KB each."""

    def run(self, rows: Rows) -> Rows:
        """The same for each row."""
        return Rows({"scores": np.repeat(SCORES, len(rows), 0)})


@pytest.fixture(scope="module")
def wide() -> Iterator[tuple[Server, Any]]:
    with served(fake_model(WideEngine(), name="default"), max_sending_bytes=LIMIT_BYTES) as made:
        yield made


def unread(server: Server) -> int:
    """The bytes of answers that wait in the process: not what is counted, but what there is."""
    assert server._grpc is not None
    pairs = [(each._http2, each.transport) for each in list(server._grpc.connections)]
    return sum(
        sum(len(stream.unsent) for stream in list(state.streams.values())) + transport.get_write_buffer_size()
        for state, transport in pairs
        if state is not None and transport is not None
    )


class Peer:
    """A connection whose client takes `window_bytes` of each answer, and reads nothing by itself."""

    def __init__(self, server: Server, stack: ExitStack, *, window_bytes: int) -> None:
        host, port = server.grpc_address.split(":")
        self.socket = stack.enter_context(socket.socket())
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(60)
        self.socket.connect((host, int(port)))
        settings = frame(http2.SETTINGS, 0, 0, pack(">HI", http2.INITIAL_WINDOW_SIZE, window_bytes))
        self.socket.sendall(PREFACE + settings + frame(http2.WINDOW_UPDATE, 0, 0, pack(">I", WIDE - 65_535)))

    def call(self, first: int = 1, count: int = CALLS) -> None:
        """Makes calls, as far as the server takes them."""
        body = predict(picture(1)).SerializeToString()
        data = pack(">BI", 0, len(body)) + body
        numbers = range(first, first + 2 * count, 2)
        calls = [
            frame(http2.HEADERS, http2.END_HEADERS, number, CALL) + frame(http2.DATA, 1, number, data)
            for number in numbers
        ]
        self.socket.settimeout(0.3)
        with contextlib.suppress(TimeoutError, ConnectionError):
            self.socket.sendall(b"".join(calls))
        self.socket.settimeout(60)

    def statuses(self, count: int) -> list[bytes]:
        """The statuses of the next so many calls that end; fewer if the connection ends before."""
        got = b""
        while got.count(b"\x0bgrpc-status") < count:
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionError:
                data = b""
            if not data:
                break
            got += data
        return [part[1 : 1 + part[0]] for part in got.split(b"\x0bgrpc-status")[1:]]


def check(wide: tuple[Server, Any]) -> None:
    """Others are answered; what waits is bounded, one answer of each of the counted connections aside."""
    server, made = wide
    for _ in range(3):
        shape = ask(made, PREDICT, predict(picture(2))).outputs["scores"].tensor_shape
        assert [dim.size for dim in shape.dim] == [1, SCORES.size]
        assert unread(server) <= 2 * LIMIT_BYTES
        assert server.darkroom.sending.bytes <= LIMIT_BYTES


def test_answers_that_a_client_has_no_window_for_are_refused_above_the_limit_and_the_others_come(
    wide: tuple[Server, Any],
) -> None:
    server, _ = wide
    with ExitStack() as stack:
        peer = Peer(server, stack, window_bytes=0)
        peer.call()
        refused = peer.statuses(CALLS - LIMIT_BYTES // 200_000)
        assert set(refused) == {b"14"}  # UNAVAILABLE
        assert server.darkroom.sending.bytes > LIMIT_BYTES - 400_000
        check(wide)
        peer.socket.sendall(frame(http2.SETTINGS, 0, 0, pack(">HI", http2.INITIAL_WINDOW_SIZE, WIDE)))
        assert set(peer.statuses(CALLS - len(refused))) == {b"0"}
        wait_for(lambda: not server.darkroom.sending.bytes)


@pytest.mark.parametrize("reads", ["nothing", "a byte now and then", "nothing, and sends no more"])
@pytest.mark.parametrize("window_bytes", [0, 10_000, WIDE], ids=["no window", "a small window", "a wide window"])
def test_answers_of_many_connections_that_do_not_take_them_are_bounded_together(
    wide: tuple[Server, Any], reads: str, window_bytes: int
) -> None:
    server, _ = wide
    with ExitStack() as stack:
        peers = [Peer(server, stack, window_bytes=window_bytes) for _ in range(6)]
        for peer in peers:
            peer.call()
            if reads == "nothing, and sends no more":
                with contextlib.suppress(OSError):
                    peer.socket.shutdown(socket.SHUT_WR)
        for _ in range(3):
            if reads == "a byte now and then":
                for peer in peers:
                    with contextlib.suppress(ConnectionError):
                        peer.socket.recv(1)
            check(wide)
    wait_for(lambda: not server.darkroom.sending.bytes)


def test_a_client_that_cancels_what_it_does_not_take_has_room_again(wide: tuple[Server, Any]) -> None:
    server, _ = wide
    with ExitStack() as stack:
        peer = Peer(server, stack, window_bytes=0)
        for first in (1, 1001, 2001):
            peer.call(first, 10)
            wait_for(lambda: server.darkroom.sending.bytes > 1_900_000)
            resets = [
                frame(http2.RST_STREAM, 0, number, pack(">I", http2.CANCEL)) for number in range(first, first + 20, 2)
            ]
            peer.socket.sendall(b"".join(resets))
            wait_for(lambda: not server.darkroom.sending.bytes)
        check(wide)
