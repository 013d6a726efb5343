"""One client's connection as Sanic serves it, with limits on the time and memory that a slow or greedy client can hold."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sanic.exceptions import RequestTimeout
from sanic.http import Http
from sanic.http.constants import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

if TYPE_CHECKING:
    import asyncio

LINGER_S = 2.0  # precedent: nginx's lingering_timeout is 5; time for a client to read why its body was refused
SMALL_BYTES = 65536  # of a request: always accepted, so that small pictures do not suffer from large ones
# The answer over --max_connections and --max_receiving_bytes.
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n"
    b"x-darkroom-error: overloaded\r\ncontent-length: 0\r\n\r\n"
)


class Receiving:
    """The bytes of all incomplete requests of a server, and their limit."""

    __slots__ = ("bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.bytes = 0
        self.limit_bytes = limit_bytes


class _Http(Http):
    """Sanic's HTTP, except that a bad URL gets an answer: Sanic builds that answer around the URL, and fails."""

    def create_empty_request(self) -> None:
        """Makes the request that Sanic answers when it could not read one."""
        self.url = None
        super().create_empty_request()


class Connection(HttpProtocol):
    """Sanic's protocol with four limits.

    * Sanic's own timeouts restart with every byte. Here a request must be complete within `REQUEST_TIMEOUT`.
    * A connection over `MAX_CONNECTIONS` takes the place of an idle one, or is refused.
    * A client that gets its answer before it has sent its whole body has `LINGER_S` to read the answer. If the server
      closed at once, TCP would reset the connection and the answer would be lost.
    * An incomplete request is refused if all incomplete requests together are over `--max_receiving_bytes`.
    """

    HTTP_CLASS = _Http

    __slots__ = ("_has_unread", "_held_bytes", "_is_lingering", "_receiving", "_since_s")

    def __init__(self, *, app: Any, **kwargs: Any) -> None:
        super().__init__(app=app, **kwargs)
        self._since_s = 0.0  # when the current request began to arrive
        self._has_unread = self._is_lingering = False
        self._receiving: Receiving = app.ctx.darkroom.receiving
        self._held_bytes = 0  # of the current request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # Sanic leaves it untyped
        """Accepts the client, or refuses it if there are too many connections."""
        self._since_s = time.monotonic()
        is_full = len(self.connections) >= self.app.config.MAX_CONNECTIONS
        if is_full and not any(other.close_if_idle() for other in list(self.connections)):
            transport.write(FULL)
            transport.close()
        else:
            super().connection_made(transport)  # type: ignore[no-untyped-call] # Sanic types in parts

    def connection_lost(self, exc: Exception | None) -> None:
        """Releases what the connection held; a refused connection was never counted."""
        self.release()
        if self.conn_info is not None:
            super().connection_lost(exc)  # type: ignore[no-untyped-call] # Sanic types in parts

    def data_received(self, data: bytes) -> None:
        """Takes the next bytes; drops them if the request was answered before it was complete."""
        if self._is_lingering:
            return
        if self.http is not None and self.http.stage is Stage.IDLE and not self.recv_buffer:
            self._since_s = time.monotonic()
            self.release()
        if self.holds(len(data)):
            super().data_received(data)

    def holds(self, count: int) -> bool:
        """Whether `count` more bytes of an incomplete request may be kept; if not, the request is refused with 503."""
        if self._is_lingering:
            return False
        self._held_bytes += count
        self._receiving.bytes += count
        if self._receiving.bytes <= self._receiving.limit_bytes or self._held_bytes <= SMALL_BYTES:
            return True
        self.release()
        if self.transport is not None:
            self.transport.write(FULL)
        self.leave_unread()
        self.close()
        return False

    def release(self) -> None:
        """Stops counting the bytes of the request: it is complete, or gone."""
        self._receiving.bytes -= self._held_bytes
        self._held_bytes = 0

    def is_receiving(self) -> bool:
        """Whether a request has begun to arrive and is not complete."""
        http = self.http
        if self.transport is None or self.transport.is_closing() or self._is_lingering:
            return False
        is_idle = http is None or http.stage is Stage.IDLE  # else what is buffered belongs to a later request
        return _is_reading(http) or (is_idle and bool(self.recv_buffer))

    def check_timeouts(self) -> None:
        """Overrides Sanic's check, which runs every few seconds; ends a request that takes too long to arrive."""
        http, now = self.http, time.monotonic()
        if not _is_reading(http):
            self._since_s = now
        elif now - self._since_s > self.request_timeout and self._task is not None:
            http.exception = RequestTimeout("the request was not whole in time")
            self._task.cancel()
            return
        super().check_timeouts()  # type: ignore[no-untyped-call] # Sanic types in parts

    def close_if_idle(self) -> bool:
        """Closes the connection unless a request is on it; returns whether it did."""
        if self.transport is None or self.transport.is_closing():
            return False
        if self._is_lingering:
            self.transport.abort()
            return True
        return super().close_if_idle() is True

    def leave_unread(self) -> None:
        """Notes that the current request is answered although its body was not read completely."""
        self._has_unread = True

    def close(self, timeout: float | None = None) -> None:
        """Closes the connection; a client that is still sending has `LINGER_S` to read its answer."""
        transport = self.transport
        if not self._has_unread or transport is None or transport.is_closing() or not transport.can_write_eof():
            super().close(timeout)
        elif not self._is_lingering:
            self._is_lingering = True
            transport.write_eof()
            transport.resume_reading()
            self.loop.call_later(LINGER_S, transport.abort)


def _is_reading(http: Http | None) -> bool:
    """Whether Sanic is reading a request's head or body."""
    return http is not None and (
        http.stage is Stage.REQUEST or (http.stage is Stage.HANDLER and bool(http.request_body))
    )
