"""A gRPC client that takes little CPU time: it sends frames that were written before, and reads only how a call ended.

A load generator shares the machine with the server that it measures. grpcio's own client takes as much CPU time for a call as
a server does, so this one plays its part: many calls at a time on one HTTP/2 connection.
"""

import asyncio
from collections.abc import Callable
from struct import Struct
from typing import cast

from darkroom.service.api.grpc.http2 import PREFACE, frame, literal

_HEAD = Struct(">HBBBI")  # length (24 bits), type, flags, stream
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _WINDOW = 0, 1, 3, 4, 6, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_FRAME_BYTES = 16384
_WINDOW_BYTES = (1 << 31) - 1
Done = Callable[[bool], None]


def call_frames(path: str, host: str, message: bytes) -> bytes:
    """The frames of a call, on stream 0; `GrpcPipe` sets the stream."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": host}
    fields |= {"te": "trailers", "content-type": "application/grpc"}
    block = b"".join(literal(name, value) for name, value in fields.items())
    frames = [frame(_HEADERS, _END_HEADERS, 0, block)]
    body = b"\x00" + len(message).to_bytes(4, "big") + message
    for start in range(0, len(body), _FRAME_BYTES):
        is_last = start + _FRAME_BYTES >= len(body)
        frames.append(frame(_DATA, _END_STREAM if is_last else 0, 0, body[start : start + _FRAME_BYTES]))
    return b"".join(frames)


class GrpcPipe(asyncio.Protocol):
    """One connection with any number of calls on it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._next = 1
        self._waiting: dict[int, Done] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the preface, and lets the server send without end."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not its subclasses
        settings = Struct(">HI").pack(4, _WINDOW_BYTES)
        window = (_WINDOW_BYTES - 65535).to_bytes(4, "big")
        self._transport.write(PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW, 0, 0, window))

    def ask(self, frames: bytes, done: Done) -> None:
        """Sends a call that `call_frames` wrote; `done` learns whether it was answered with status OK."""
        number, self._next = self._next, self._next + 2
        if self._transport is None:
            done(False)
            return
        self._waiting[number] = done
        self._transport.write(_on_stream(frames, number))

    def data_received(self, data: bytes) -> None:
        """Reads frames; a call is over with the headers that end its stream, or with a reset."""
        data = self._rest + data
        at = 0
        while len(data) - at >= _HEAD.size:
            high, low, kind, flags, number = _HEAD.unpack_from(data, at)
            stop = at + _HEAD.size + (high << 8 | low)
            if stop > len(data):
                break
            if kind == _HEADERS and flags & _END_STREAM:
                self._end(number, is_ok=b"grpc-status\x010" in data[at:stop])
            elif kind == _RESET:
                self._end(number, is_ok=False)
            elif kind in {_SETTINGS, _PING} and not flags & _ACK and self._transport is not None:
                self._transport.write(frame(kind, _ACK, 0, data[at + _HEAD.size : stop] if kind == _PING else b""))
            at = stop
        self._rest = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Ends every call that waits."""
        self._transport = None
        for number in list(self._waiting):
            self._end(number, is_ok=False)

    def close(self) -> None:
        """Closes the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _end(self, number: int, *, is_ok: bool) -> None:
        done = self._waiting.pop(number, None)
        if done is not None:
            done(is_ok)


def _on_stream(frames: bytes, number: int) -> bytes:
    """The same frames on a stream."""
    numbered = bytearray(frames)
    at = 0
    while at < len(numbered):
        size = int.from_bytes(numbered[at : at + 3], "big")
        numbered[at + 5 : at + 9] = number.to_bytes(4, "big")
        at += _HEAD.size + size
    return bytes(numbered)
