"""What becomes of connections that are more than the server takes; whole servers show it in tests/wire/test_hostile.py."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, cast

import pytest

from darkroom.service.http.connection import LOOK_S, NO_ROOM, Room, has_arrived

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator


class Pipe:
    """A transport that keeps what it was told."""

    def __init__(self, end: socket.socket | None = None, *, is_tls: bool = False) -> None:
        self.told: list[object] = []
        self._end = end
        self._is_tls = is_tls

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def can_write_eof(self) -> bool:
        return not self._is_tls

    def write_eof(self) -> None:
        self.told.append("eof")

    def abort(self) -> None:
        self.told.append("abort")

    def is_closing(self) -> bool:
        return "abort" in self.told

    def get_extra_info(self, name: str) -> object:
        return {"socket": self._end}[name]


class Peer:
    """A connection that makes room if it is idle."""

    def __init__(self, *, is_idle: bool) -> None:
        self.is_idle = is_idle
        self.asked_s: list[float] = []

    def make_room(self, now: float) -> bool:
        self.asked_s.append(now)
        return self.is_idle


def _refuse(room: Room, *pipes: Pipe) -> None:
    for pipe in pipes:
        room.refuse(cast("asyncio.Transport", pipe))


def test_a_refused_client_is_told_why_and_keeps_its_connection_until_too_many_do() -> None:
    room, first, second, third = Room(2), Pipe(), Pipe(is_tls=True), Pipe()
    _refuse(room, first, second)
    assert first.told == [NO_ROOM, "eof"]
    assert second.told == [NO_ROOM]  # TLS has no half-closed connections
    _refuse(room, third)
    assert (first.told[-1], second.told, third.told) == ("abort", [NO_ROOM], [NO_ROOM, "eof"])


def test_a_refused_client_that_has_closed_its_side_counts_no_longer() -> None:
    room, first, second, third = Room(2), Pipe(), Pipe(), Pipe()
    _refuse(room, first, second)
    room.leave(cast("asyncio.Transport", first))
    _refuse(room, third)
    assert "abort" not in first.told + second.told + third.told


def test_the_first_idle_connection_makes_room() -> None:
    busy, idle, other = Peer(is_idle=False), Peer(is_idle=True), Peer(is_idle=True)
    assert _is_made(Room(1), [busy, idle, other], 5.0)
    assert (busy.asked_s, idle.asked_s, other.asked_s) == ([5.0], [5.0], [])


def test_a_search_in_vain_is_not_repeated_at_once() -> None:
    room, busy = Room(1), Peer(is_idle=False)
    times = [5.0, 5.0 + LOOK_S / 2, 5.0 + LOOK_S]
    assert [_is_made(room, [busy], now) for now in times] == [False] * 3
    assert busy.asked_s == [times[0], times[2]]


def _is_made(room: Room, peers: list[Peer], now: float) -> bool:
    return room.is_made(cast("Any", peers), now)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_a_connection_is_not_idle_if_bytes_have_arrived_that_nobody_has_read(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    pipe = Pipe(near)
    assert not _has_arrived(pipe)
    far.sendall(b"P")
    assert _has_arrived(pipe)
    near.recv(1)
    far.shutdown(socket.SHUT_WR)  # the client sends no more
    assert not _has_arrived(pipe)
    pipe.abort()
    assert not _has_arrived(pipe)
    assert not has_arrived(None)


def _has_arrived(pipe: Pipe) -> bool:
    return has_arrived(cast("asyncio.Transport", pipe))
