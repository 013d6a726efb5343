"""One client's connection as Sanic serves it, with an end to what a slow or greedy client can hold."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sanic.exceptions import RequestTimeout
from sanic.http import Http
from sanic.http.constants import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

if TYPE_CHECKING:
    import asyncio

LINGER_S = 2.0  # precedent: nginx's lingering_timeout is 5; time for a client to read why its body was not
FULL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"


class _Http(Http):
    """Sanic's HTTP, which builds its answer to a bad URL around that URL, and then has none to give."""

    def create_empty_request(self) -> None:
        """A request to answer to where none could be read."""
        self.url = None
        super().create_empty_request()


class Connection(HttpProtocol):
    """Sanic's protocol, bounded.

    Sanic's own timeouts start anew with every byte. Here a request has to be whole within `REQUEST_TIMEOUT`, however
    steadily it trickles. A connection over `MAX_CONNECTIONS` takes the place of an idle one, or is refused. A client
    that is answered before it has sent all of its body can read the answer: closing at once would reset it away.
    """

    HTTP_CLASS = _Http

    __slots__ = ("_has_unread", "_is_lingering", "_since_s")

    def __init__(self, *, app: Any, **kwargs: Any) -> None:
        super().__init__(app=app, **kwargs)
        self._since_s = 0.0  # when the request that is being read began
        self._has_unread = self._is_lingering = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # Sanic leaves it untyped
        """A client came."""
        self._since_s = time.monotonic()
        is_full = len(self.connections) >= self.app.config.MAX_CONNECTIONS
        if is_full and not any(other.close_if_idle() for other in list(self.connections)):
            transport.write(FULL)
            transport.close()
        else:
            super().connection_made(transport)  # type: ignore[no-untyped-call] # Sanic types in parts

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left; one that was refused had no place to give up."""
        if self.conn_info is not None:
            super().connection_lost(exc)  # type: ignore[no-untyped-call] # Sanic types in parts

    def data_received(self, data: bytes) -> None:
        """Bytes came: of a request, or of a body that nobody reads any more."""
        if self._is_lingering:
            return
        if self.http is not None and self.http.stage is Stage.IDLE and not self.recv_buffer:
            self._since_s = time.monotonic()
        super().data_received(data)

    def check_timeouts(self) -> None:
        """Sanic's, which comes by every few seconds; ends a request that takes too long to arrive."""
        http, now = self.http, time.monotonic()
        is_reading = http.stage is Stage.REQUEST or (http.stage is Stage.HANDLER and bool(http.request_body))
        if not is_reading:
            self._since_s = now
        elif now - self._since_s > self.request_timeout and self._task is not None:
            http.exception = RequestTimeout("the request was not whole in time")
            self._task.cancel()
            return
        super().check_timeouts()  # type: ignore[no-untyped-call] # Sanic types in parts

    def close_if_idle(self) -> bool:
        """Closes the connection unless there is a request on it; says whether it did."""
        if self.transport is None or self.transport.is_closing():
            return False
        if self._is_lingering:
            self.transport.abort()
            return True
        return super().close_if_idle() is True

    def leave_unread(self) -> None:
        """Notes that the request in hand is answered though it was not read to its end."""
        self._has_unread = True

    def close(self, timeout: float | None = None) -> None:
        """Closes; a client that is still sending is given the time to read its answer."""
        transport = self.transport
        if not self._has_unread or transport is None or transport.is_closing() or not transport.can_write_eof():
            super().close(timeout)
        elif not self._is_lingering:
            self._is_lingering = True
            transport.write_eof()
            transport.resume_reading()
            self.loop.call_later(LINGER_S, transport.abort)
