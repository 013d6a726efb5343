"""One client's gRPC connection on the event loop, with limits on the time and memory that it can hold."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, cast

from darkroom.service.api.grpc.call import Exchange
from darkroom.service.api.grpc.http2 import Http2
from darkroom.service.errors import NotReady
from darkroom.service.http.connection import SMALL_BYTES

if TYPE_CHECKING:
    from darkroom.service.api.grpc.call import CallParts
    from darkroom.service.api.grpc.http2 import Stream
    from darkroom.service.http.connection import Sending

_log = logging.getLogger("darkroom.service")
SILENCE_S = 75.0  # precedent: HTTP keep-alive here; a client that was silent for so long is asked for a sign of life
PONG_S = 20.0  # precedent: gRPC's own keepalive timeout


class GrpcConnection(asyncio.Protocol):
    """One connection. A client that does not read its answers is not read from either.

    Args:
        parts: what the calls use.
        connections: the open ones of the server; this one adds and removes itself.
        sending: counts what clients do not read.
        max_connections: a further one is closed at once.
        read_timeout_s: how long a call may take to arrive, and how long a client may read nothing.
    """

    def __init__(
        self,
        parts: CallParts,
        connections: set[GrpcConnection],
        sending: Sending,
        *,
        max_connections: int,
        read_timeout_s: float,
    ) -> None:
        self._parts = parts
        self._connections = connections
        self._sending = cast("Any", sending)  # it takes whatever has a transport
        self._max_connections = max_connections
        self._read_timeout_s = read_timeout_s
        self._client = ""
        self._is_leaving = False
        self._heard_s = self._progress_s = time.monotonic()
        self._pinged_s: float | None = None
        self._unread_bytes = 0
        self._is_unread = False  # more than `SMALL_BYTES` of answers wait for the client
        self.transport: asyncio.Transport | None = None
        self._http2: Http2 | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the client, or closes if there are too many connections."""
        self.transport = transport = cast("asyncio.Transport", transport)  # uvloop's transports are not its subclasses
        if len(self._connections) >= self._max_connections:
            transport.abort()
            return
        self._client = str((transport.get_extra_info("peername") or ("",))[0])
        self._connections.add(self)
        self._http2 = Http2(transport.write, self._open)
        self._http2.start()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Withdraws what waits: the client has left."""
        self._connections.discard(self)
        self._sending.remove(self)
        http2, self._http2, self.transport = self._http2, None, None
        if http2 is not None:
            http2.leave_all()

    def data_received(self, data: bytes) -> None:
        """Takes the next bytes of the connection."""
        if self._http2 is not None:
            self._heard_s, self._pinged_s = time.monotonic(), None
            self._http2.receive(data)
            if self._is_unread:
                self._count_unread()  # the client may have taken more
            if self._http2 is not None and self._http2.is_over:
                self._http2.leave_all()
                self._close()

    def pause_writing(self) -> None:
        """The client does not read: nothing more is taken of it."""
        if self.transport is not None:
            self.transport.pause_reading()
            self._count_unread()

    def resume_writing(self) -> None:
        """The client reads again."""
        if self.transport is not None:
            self.transport.resume_reading()
            self._count_unread()

    def is_receiving(self) -> bool:
        """Whether a predict call has begun to arrive and is not complete."""
        return any(call.is_receiving for call in self._open_calls())

    def refuse_new(self) -> None:
        """Takes no more calls; closes as soon as those that it has are answered."""
        if self._http2 is not None and not self._is_leaving:
            self._is_leaving = True
            self._http2.refuse_new()
        self.close_if_idle()

    def close_if_idle(self) -> bool:
        """Ends the calls that never end by themselves; closes if no other is open. Returns whether it did."""
        if not self._is_leaving:
            return False
        calls = self._open_calls()
        for call in calls:
            call.stop()
        is_idle = self._http2 is None or not self._http2.streams
        if is_idle:
            self._close()
        return is_idle

    def abort(self) -> None:
        """Closes at once."""
        if self.transport is not None:
            self.transport.abort()

    def check(self, now: float) -> None:
        """Ends what takes too long; to be called every few seconds."""
        transport, http2 = self.transport, self._http2
        if transport is None or http2 is None:
            return
        for call in self._open_calls():
            if call.is_awaited and now - call.started_s > self._read_timeout_s:
                call.fail(NotReady("the call was not whole within --read_timeout_ms"))
        unread = self._count_unread()
        if unread != self._unread_bytes or not unread:
            self._unread_bytes, self._progress_s = unread, now
        is_silent = self._pinged_s is not None and now - self._pinged_s > PONG_S
        if is_silent or now - self._progress_s > self._read_timeout_s:
            transport.abort()
        elif self._pinged_s is None and now - self._heard_s > SILENCE_S:
            self._pinged_s = now
            http2.ping()

    def _open(self, stream: Stream, headers: dict[str, str]) -> Exchange:
        assert self._http2 is not None  # noqa: S101 - it is what calls
        call = Exchange(self._parts, self._http2, stream, headers, self._client, count_unread=self._count_unread)
        call.open()
        return call

    def _open_calls(self) -> list[Exchange]:
        streams = self._http2.streams.values() if self._http2 is not None else ()
        return [stream.listener for stream in streams if isinstance(stream.listener, Exchange)]

    def _count_unread(self) -> int:
        """Counts the bytes that the client does not read, for the limit of all connections together."""
        if self.transport is None or self._http2 is None:
            return 0
        unread: int = self._http2.unsent_bytes + self.transport.get_write_buffer_size()
        self._is_unread = unread > SMALL_BYTES
        if self._is_unread:
            self._sending.add(self, unread)
        else:
            self._sending.remove(self)
        return unread

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.close()
