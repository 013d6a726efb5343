"""A pool of keep-alive HTTP/1.1 connections that costs the generator little.

A load generator shares the machine with the server that it measures; what it spends, the server lacks: 190 µs of CPU
a request, checking included, where httpx alone takes 1,400 µs there. It reads answers with a Content-Length,
which is all that Darkroom sends. One request at a time on a connection, no pipelining.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, cast

from loadtest.traffic.pictures import RequestBody

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)


class HttpResponse(NamedTuple):
    """One answer: its status, its header lines as they came, its body, and when its request was written.

    Status 0: the connection broke. `written_s` is of `time.perf_counter()`, None where no connection took the request.
    """

    status: int
    head: bytes
    body: bytes
    written_s: float | None


NEVER_SENT = HttpResponse(0, b"", b"", None)
Done = Callable[[HttpResponse], None]


def header(reply: HttpResponse, name: str) -> str | None:
    """One header of an answer, None where it has none."""
    found = re.search(rb"\r\n" + re.escape(name.encode()) + rb":[ \t]*([^\r]*)", reply.head, re.IGNORECASE)
    return found[1].decode("latin-1") if found else None


def retry_after_s(reply: HttpResponse) -> float | None:
    """The Retry-After of a refusal, None where it has none or a date."""
    try:
        return float(header(reply, "Retry-After") or "")
    except ValueError:
        return None


def request_bytes(host: str, body: RequestBody, headers: dict[str, str] | None = None, *, path: str = "/") -> bytes:
    """A POST with a body, whole, to be written as often as wanted."""
    lines = {"Host": host, "Content-Type": body.content_type, "Content-Length": str(len(body.data)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body.data


class ClientConnection(asyncio.Protocol):
    """One connection: idle, or waiting for the answer to one request."""

    def __init__(self, pool: "ConnectionPool") -> None:
        self._pool = pool
        self._buffer = bytearray()
        self._wanted_bytes = 0  # of head and body together; 0 while the head is not whole
        self._done: Done | None = None
        self._written_s = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands (asyncio calls this)."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not its subclasses

    def ask(self, request: bytes, done: Done) -> None:
        """Write a request; `done` hears of its answer, or of the broken connection, once."""
        self._done = done
        self._written_s = time.perf_counter()
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Bytes came (asyncio calls this); tells when an answer is whole."""
        self._buffer += data
        if not self._wanted_bytes:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self._buffer, 0, end)
            self._wanted_bytes = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) >= self._wanted_bytes:
            self._finish()

    def _finish(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        head, body = bytes(self._buffer[:end]), bytes(self._buffer[end + 4 : self._wanted_bytes])
        reply = HttpResponse(int(head[9:12]), head, body, self._written_s)
        del self._buffer[: self._wanted_bytes]
        self._wanted_bytes = 0
        done, self._done = self._done, None
        if _CLOSE.search(reply.head):
            self.close()
        else:
            self._pool.take_back(self)
        if done is not None:
            done(reply)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection is gone, asked for or not (asyncio calls this)."""
        self._transport = None
        done, self._done = self._done, None
        self._pool.forget(self)
        if done is not None:
            done(HttpResponse(0, b"", b"", self._written_s))

    def close(self) -> None:
        """Give the connection up."""
        if self._transport is not None:
            self._transport.abort()


class ConnectionPool:
    """At most `limit` connections to one server; requests beyond them wait here, in order, and their clock runs."""

    def __init__(self, host: str, port: int, *, limit: int) -> None:
        self.host, self.port, self._limit = host, port, limit
        self._idle: list[ClientConnection] = []  # the last used first: few connections stay warm, the others rest
        self._all: set[ClientConnection] = set()
        self._opening = 0
        self._waiting: deque[tuple[bytes, Done]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @property
    def waiting(self) -> int:
        """Requests that no connection has taken yet."""
        return len(self._waiting)

    def ask(self, request: bytes, done: Done) -> None:
        """Send at once where a connection is idle, else on the next one that is."""
        if self._idle:
            self._idle.pop().ask(request, done)
            return
        self._waiting.append((request, done))
        self._open_more()

    def _open_more(self) -> None:
        """One more connection where a request waits for one and the limit allows it."""
        if len(self._all) + self._opening < self._limit and self._opening < len(self._waiting):
            self._opening += 1
            task = asyncio.get_running_loop().create_task(self._open())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _open(self) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: ClientConnection(self), self.host, self.port
            )
        except OSError:
            self._opening -= 1
            if self._waiting:  # refused: this request fails, the next tries again
                self._waiting.popleft()[1](NEVER_SENT)
            return
        self._opening -= 1
        self._all.add(connection)
        self._is_empty.clear()
        self.take_back(connection)

    def take_back(self, connection: ClientConnection) -> None:
        """A connection is idle: it takes the request that has waited longest."""
        if self._waiting:
            request, done = self._waiting.popleft()
            connection.ask(request, done)
        else:
            self._idle.append(connection)

    def forget(self, connection: ClientConnection) -> None:
        """A connection is gone."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._all:
            self._is_empty.set()
        self._open_more()

    async def close(self) -> None:
        """Give up every connection and wait until all are gone; what is outstanding is told that it broke."""
        waiting, self._waiting = self._waiting, deque()
        for _, done in waiting:
            done(NEVER_SENT)
        await asyncio.gather(*self._tasks)
        for connection in list(self._all):
            connection.close()
        await self._is_empty.wait()
