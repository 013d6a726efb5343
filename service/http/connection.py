"""One client's connection as Sanic serves it, with limits on the time and memory that a slow or greedy client can hold."""

from __future__ import annotations

import fcntl
import json
import logging
import re
import termios
import time
from typing import TYPE_CHECKING, Any, cast

from sanic.exceptions import BadRequest, PayloadTooLarge, RequestTimeout
from sanic.http import Http
from sanic.http.constants import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

from darkroom.service.http.request_head import MAX_HEAD_BYTES, chunk_size, fault_of, is_field, is_unsafe

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

_log = logging.getLogger("darkroom.service")
MAX_CHUNK_LINE_BYTES = 1024  # guess: the size of a chunk with its extensions; clients send less than 20 bytes
PROBE_S = 0.25  # guess: most requests are answered before this
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LINGER_S = 2.0  # precedent: nginx's lingering_timeout is 5; time for a client to read why its body was refused
SMALL_BYTES = 65536  # of a request: always accepted, so that small pictures do not suffer from large ones
IDLE_S = 1.0  # guess: a client that has just connected, or was just answered, is about to send a request
LOOK_S = 0.1  # guess: while no connection was idle, a search through 8,192 of them (some ms) is not repeated
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding:([ \t]*chunked[ \t]*)")


def _overloaded(reason: str) -> bytes:
    """The answer to a request that is not read for lack of room."""
    body = json.dumps({"error": f"{reason}; try again"}).encode()
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\nx-darkroom-error: overloaded\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )


NO_ROOM = _overloaded("the server has as many connections as --max_connections and its open files allow")
NO_MEMORY = _overloaded("the requests that are being received are over --max_receiving_bytes")


class Receiving:
    """The bytes of all incomplete requests of a server, and their limit."""

    __slots__ = ("bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.bytes = 0
        self.limit_bytes = limit_bytes


class Sending:
    """The bytes of answers that wait for clients to read them, and their limit, all connections together.

    Only answers that the system does not take at once are counted: what waits on a connection above `SMALL_BYTES`. Above
    the limit, the connection that has waited longest is closed; one that reads begins to wait again. One answer alone may
    be larger than the limit.
    """

    __slots__ = ("_waiting", "bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.bytes = 0
        self.limit_bytes = limit_bytes
        self._waiting: dict[Connection, int] = {}

    def add(self, connection: Connection, count: int) -> None:
        """Counts what waits to be sent on a connection."""
        before = self._waiting.get(connection, 0)
        if count < before:
            del self._waiting[connection]
        self._waiting[connection] = count
        self.bytes += count - before
        while self.bytes > self.limit_bytes and len(self._waiting) > 1:
            slowest = next(iter(self._waiting))
            self.remove(slowest)
            _log.warning("a connection whose client does not read its answer is closed: --max_sending_bytes is reached")
            if slowest.transport is not None:
                slowest.transport.abort()

    def remove(self, connection: Connection) -> None:
        """Stops counting: it was sent, or the connection is gone."""
        self.bytes -= self._waiting.pop(connection, 0)


class Room:
    """Makes room for one connection more than the server takes, or refuses it.

    An idle connection makes room, but not one that is just about to be used: its request would be lost. A connection that
    is refused is not closed at once either: TCP would reset it if its request has arrived, and the answer would be lost.

    Args:
        spare: so many refused connections may be open at the same time, until their clients have read the answer.
    """

    __slots__ = ("_look_at_s", "_refused", "_spare")

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._refused: dict[asyncio.Transport, None] = {}
        self._look_at_s = 0.0

    def is_made(self, connections: Iterable[Connection], now: float) -> bool:
        """Closes a connection that is idle. Returns whether there was one."""
        if now < self._look_at_s:
            return False
        if any(other.make_room(now) for other in list(connections)):
            return True
        self._look_at_s = now + LOOK_S
        return False

    def refuse(self, transport: asyncio.Transport) -> None:
        """Tells a client that there is no room. The connection stays until the client has read it and closes its side."""
        transport.write(NO_ROOM)
        if transport.can_write_eof():  # not with TLS
            transport.write_eof()
        self._refused[transport] = None
        if len(self._refused) > self._spare:
            oldest = next(iter(self._refused))
            self.leave(oldest)
            oldest.abort()

    def leave(self, transport: asyncio.Transport) -> None:
        """A refused connection is closed."""
        self._refused.pop(transport, None)


class _Http(Http):
    """Sanic's HTTP with a strict head and strict chunks (RFC 9112), trailers, and one answer at a time in memory."""

    def create_empty_request(self) -> None:
        """Makes the request that Sanic answers when it could not read one: without its URL, on which Sanic fails."""
        self.url = None
        super().create_empty_request()

    async def http1_request_header(self) -> None:
        """Waits for a whole head, and until the last answer is sent; refuses a malformed head, else lets Sanic read it."""
        buffer, protocol = self.recv_buffer, cast("Connection", self.protocol)
        if buffer.startswith(b"\r\n"):  # RFC 9112, 2.2: old clients send it after a body
            del buffer[:2]
        while (end := buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES + 4)) < 0 and len(buffer) < MAX_HEAD_BYTES + 4:
            if is_unsafe(bytes(buffer)):  # its module may be compiled, and takes bytes alone
                break
            await self._receive_more()
        head = bytes(buffer[:end]) if end >= 0 else bytes(buffer)
        is_too_long = end < 0 and not is_unsafe(head)
        if not is_too_long and (fault := fault_of(head)):
            raise BadRequest(fault)
        if not is_too_long and (found := _CHUNKED.search(head)):
            buffer[found.start(1) : found.end(1)] = b" chunked"  # the only form that Sanic knows
        await protocol.can_write()
        await super().http1_request_header()  # type: ignore[no-untyped-call] # Sanic types in parts

    async def error_response(self, exception: Exception) -> None:
        """Answers an error. Sanic then waits for the rest of the body, but a client that was too slow may never send it."""
        await super().error_response(exception)
        if isinstance(exception, RequestTimeout):
            self.request_body = None

    async def http1(self) -> None:
        """Serves one request after another."""
        http: Any = self  # Sanic's type says that there always is a request
        try:
            await super().http1()  # type: ignore[no-untyped-call] # Sanic types in parts
        except AttributeError:  # Sanic logs that a client left by the method of its request; here there is none
            if http.request is not None or self.protocol.transport is not None:
                raise

    async def read(self) -> bytes | None:
        """The next bytes of the body; None at its end. Sanic's own takes lax chunks, and no trailers."""
        http: Any = self  # Sanic types some of its fields by their first value, None
        if http.expecting_continue:
            http.expecting_continue = False
            await self._send(CONTINUE)
        if http.request_body == "chunked" and not http.request_bytes_left:
            http.request_bytes_left = await self._next_chunk()
            http.request_bytes += http.request_bytes_left
        if http.request_bytes > self.request_max_size:
            self.keep_alive = False
            raise PayloadTooLarge("the body is too large")
        if not http.request_bytes_left:
            self.request_body = None
            return None
        if not self.recv_buffer:
            await self._receive_more()
        data = bytes(self.recv_buffer[: http.request_bytes_left])
        del self.recv_buffer[: len(data)]
        http.request_bytes_left -= len(data)
        return data

    async def _next_chunk(self) -> int:
        """The size of the next chunk; 0 after the last one and its trailers, which are dropped."""
        size = (
            -1 if await self._line() else chunk_size(await self._line())
        )  # the first ends the head, or the last chunk
        if size < 0:
            raise self._bad_body("a chunk does not begin with its size in hexadecimal digits, or does not end there")
        trailer_bytes = 0
        while not size and (line := await self._line()):
            trailer_bytes += len(line)
            if trailer_bytes > MAX_HEAD_BYTES or is_unsafe(line) or not is_field(line):
                raise self._bad_body(f"its trailers are malformed, or over {MAX_HEAD_BYTES} bytes")
        return size

    async def _line(self) -> bytes:
        """The next line of a chunked body, without its CRLF."""
        buffer = self.recv_buffer
        while (end := buffer.find(b"\r\n", 0, MAX_CHUNK_LINE_BYTES)) < 0:
            if len(buffer) >= MAX_CHUNK_LINE_BYTES or b"\n" in buffer:
                raise self._bad_body(f"a line has no CRLF within {MAX_CHUNK_LINE_BYTES} bytes")
            await self._receive_more()
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        return line

    def _bad_body(self, reason: str) -> BadRequest:
        """The refusal of a chunked body; nobody knows where the next request begins, so the connection ends."""
        self.keep_alive = False
        self.request_body = None
        return BadRequest(f"Bad chunked encoding: {reason}")


class Connection(HttpProtocol):
    """Sanic's protocol with five limits.

    * Sanic's own timeouts restart with every byte. Here a request must be complete within `REQUEST_TIMEOUT`.
    * A connection over `MAX_CONNECTIONS` takes the place of one that was idle for `IDLE_S`, or is refused.
    * A client that gets its answer before it has sent its whole body has `LINGER_S` to read the answer. If the server
      closed at once, TCP would reset the connection and the answer would be lost.
    * An incomplete request is refused if all incomplete requests together are over `--max_receiving_bytes`.
    * A request begins when the answer before it is sent. A client that reads nothing of its answer for `REQUEST_TIMEOUT`
      is closed, and sooner if all such answers together are over `--max_sending_bytes`.

    A client that sends its last request and closes its side only (RFC 9112, 9.6) gets its answers. One that has left
    looks the same, until its system refuses a byte. So after `PROBE_S` it is sent interim answers, which HTTP allows.
    """

    HTTP_CLASS = _Http

    __slots__ = (
        "_has_eof",
        "_has_unread",
        "_held_bytes",
        "_is_lingering",
        "_receiving",
        "_refused",
        "_room",
        "_sending",
        "_since_s",
        "_unsent_bytes",
        "_unsent_s",
    )

    def __init__(self, *, app: Any, **kwargs: Any) -> None:
        super().__init__(app=app, **kwargs)
        self._since_s = 0.0  # when the current request began to arrive
        self._has_unread = self._is_lingering = False
        self._has_eof = False  # the client sends no more
        self._sending: Sending = app.ctx.darkroom.sending
        self._unsent_bytes, self._unsent_s = 0, 0.0  # of an answer, at the last check that found fewer than before
        self._room: Room = app.ctx.darkroom.room
        self._refused: asyncio.Transport | None = None
        self._receiving: Receiving = app.ctx.darkroom.receiving
        self._held_bytes = 0  # of the current request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # Sanic leaves it untyped
        """Accepts the client, or refuses it if there are too many connections."""
        self._since_s = time.monotonic()
        self._time = self._since_s
        is_full = len(self.connections) >= self.app.config.MAX_CONNECTIONS
        if is_full and not self._room.is_made(self.connections, self._since_s):
            self._is_lingering, self._refused = True, transport
            self._room.refuse(transport)
            self.loop.call_later(LINGER_S, transport.abort)
        else:
            super().connection_made(transport)  # type: ignore[no-untyped-call] # Sanic types in parts

    def connection_lost(self, exc: Exception | None) -> None:
        """Releases what the connection held; a refused connection was never counted."""
        self.release()
        if self._refused is not None:
            self._room.leave(self._refused)
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

    def eof_received(self) -> bool:
        """The client sends no more. Returns whether the connection stays, since answers are due; never so with TLS."""
        transport = self.transport
        if transport is None or self._is_lingering or not self._is_busy() or transport.get_extra_info("sslcontext"):
            return False
        self._has_eof = True
        if Connection._is_busy(self):  # Sanic waits for more
            self._data_received.set()
        for times in (1, 2):  # the first makes the system of a client that has left reset the connection
            self.loop.call_later(times * PROBE_S, self._probe)
        return True

    def _is_busy(self) -> bool:
        """Whether the client has sent something of a request that is not answered yet."""
        http = self.http
        return bool(self.recv_buffer) or (http is not None and http.stage is not Stage.IDLE)

    def _probe(self) -> None:
        """Sends an interim answer if an HTTP/1.1 request waits for its answer."""
        transport, version = self.transport, self._waiting_version()
        if version == "1.1" and transport is not None and not transport.is_closing():
            transport.write(CONTINUE)

    def _waiting_version(self) -> str:
        """The version of the request that waits for its answer; empty if none does."""
        http = self.http
        return http.request.version if http is not None and http.stage is Stage.HANDLER and http.request else ""

    async def receive_more(self) -> None:
        """Waits for more bytes; if the client sends no more, the connection ends and so does this task."""
        if self._has_eof:
            self.close()
            self._data_received.clear()
            await self._data_received.wait()
        await super().receive_more()  # type: ignore[no-untyped-call] # Sanic types in parts

    async def can_write(self) -> None:
        """Waits until the answer before is sent, or nearly."""
        await self._can_write.wait()

    def pause_writing(self) -> None:
        """More of an answer waits than the system and the transport take."""
        super().pause_writing()  # type: ignore[no-untyped-call] # Sanic types in parts
        if self.transport is not None:
            self._unsent_s = time.monotonic()
            self._sending.add(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The answer is sent, or nearly; or the connection is lost."""
        super().resume_writing()  # type: ignore[no-untyped-call] # Sanic types in parts
        self._sending.remove(self)

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
            self.transport.write(NO_MEMORY)
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
        if http is None:
            return  # the connection lingers; it has a time limit of its own
        if not self._can_write.is_set():
            left = self.transport.get_write_buffer_size() if self.transport is not None else 0
            if left != self._unsent_bytes:  # the client has read some of its answer
                self._unsent_bytes, self._unsent_s = left, now
            elif now - self._unsent_s > self.request_timeout and self.transport is not None:
                self.transport.abort()
                return
            self._since_s = self._time = now  # what the client has sent meanwhile waits for the server
        if not _is_reading(http):
            self._since_s = now
        elif now - self._since_s > self.request_timeout and self._task is not None:
            http.exception = RequestTimeout("the request was not whole in time")
            self._task.cancel()
            return
        super().check_timeouts()  # type: ignore[no-untyped-call] # Sanic types in parts

    def close_if_idle(self) -> bool:
        """Closes the connection unless a request is on it, or its client still reads; returns whether it did."""
        if self.transport is None or self.transport.is_closing() or self._is_lingering:
            return False
        return super().close_if_idle() is True

    def make_room(self, now: float) -> bool:
        """Closes the connection if nothing has happened on it for `IDLE_S`, and nothing has arrived; returns whether it did."""
        if now - self._time < IDLE_S or has_arrived(self.transport):
            return False
        if self._is_lingering and self.transport is not None:
            self.transport.abort()
            return True
        return self.close_if_idle()

    def leave_unread(self) -> None:
        """Notes that the current request is answered although its body was not read completely."""
        self._has_unread = True

    def close(self, timeout: float | None = None) -> None:
        """Closes the connection; a client that is still sending has `LINGER_S` to read its answer.

        So has one that has sent further requests already: TCP resets a connection that is closed before all is read.
        """
        transport = self.transport
        has_unread = self._has_unread or bool(self.recv_buffer) or has_arrived(transport)
        if not has_unread or transport is None or transport.is_closing() or not transport.can_write_eof():
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


def has_arrived(transport: asyncio.Transport | None) -> bool:
    """Whether the system holds bytes of the client that the event loop has not read yet."""
    if transport is None or transport.is_closing():
        return False
    return any(fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4)))
