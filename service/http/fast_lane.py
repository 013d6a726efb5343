"""The fast lane: plain predict requests go past Sanic's request path, on Sanic's own connections.

One request at a time a connection, as in Sanic. Whatever isn't plain (`service/http/request_head.py`) is handed to Sanic's path as
it came, and so is all that follows it until Sanic is done with it: answers keep the order of their requests.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from sanic.helpers import STATUS_CODES
from sanic.http.constants import Stage

from darkroom.service.http.connection import Connection
from darkroom.service.http.request_log import CLIENT_LEFT
from darkroom.service.predict.predictor import Call, first_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from darkroom.batching.entry import Entry
    from darkroom.service.app import Darkroom
    from darkroom.service.http.request_head import Head
    from darkroom.service.predict.request import PredictRequest, Reply

MAX_AHEAD_BYTES = 65536  # Sanic's own mark: with so much sent ahead of an answer, reading pauses
_NO_QUERY: Mapping[str, str] = {}


class FastLane(Connection):
    """One connection, in one of four states; bytes and answers move it.

    Idle: the next bytes are looked at. Reading: `_head` is there, `_missing` bytes of its body aren't. Waiting: the
    request is with the batcher, and what else comes stays in `_ahead`. Sanic's: it has bytes, or isn't done with them.
    A new connection is idle at once: Sanic's task for it begins a turn of the loop later, often after the first bytes.
    """

    __slots__ = (
        "_ahead",
        "_asked",
        "_darkroom",
        "_had_sanic",
        "_head",
        "_is_waiting",
        "_missing",
        "_parts",
        "_raw",
        "_received_bytes",
        "_started_s",
        "_was_checked",
    )

    def __init__(self, *, app: Any, **kwargs: Any) -> None:
        super().__init__(app=app, **kwargs)
        self._darkroom: Darkroom = app.ctx.darkroom
        self._head: Head | None = None
        self._raw = b""  # its bytes
        self._parts: list[bytes] = []
        self._missing = 0
        self._is_waiting = False
        self._had_sanic = False  # bytes: it may not be done with them
        self._was_checked = False  # whether Sanic has looked for time limits yet
        self._asked: tuple[PredictRequest, Entry | None] | None = None
        self._ahead = bytearray()
        self._started_s = 0.0
        self._received_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._is_waiting:
            self._keep(data)
        elif self._had_sanic and self._is_sanics():
            super().data_received(data)
        else:
            self._had_sanic = False
            self._time = time.monotonic()
            self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left: what it waits for is withdrawn."""
        if self._is_waiting and self._head is not None:
            self._is_waiting = False
            if self._asked is not None:
                ask, entry = self._asked
                ask.withdraw(entry)
            self._leave(self._head, CLIENT_LEFT, 0)
        self._head = None
        self._parts.clear()
        super().connection_lost(exc)

    def close_if_idle(self) -> bool:
        """Closes the connection unless there is a request on it; says whether it did."""
        return False if self._head is not None else super().close_if_idle()

    def check_timeouts(self) -> None:
        """Sanic's, which comes by every few seconds; a client that is still sending is Sanic's from then on.

        An answer that takes long is not the client's silence: the request's deadline ends that wait.
        """
        if self._is_waiting:
            self._time = time.monotonic()
        is_first, self._was_checked = not self._was_checked, True  # the first is as Sanic begins
        if self._is_waiting or self._head is None or is_first:
            super().check_timeouts()
            return
        since_s, last_s, sent = self._since_s, self._time, (self._raw, *self._parts)
        self._head, self._parts, self._had_sanic = None, [], True
        super().data_received(b"".join(sent))
        self._since_s, self._time = since_s, last_s
        self.loop.call_soon(super().check_timeouts)  # once Sanic has looked at it

    def _is_sanics(self) -> bool:
        """Whether Sanic has bytes of this connection, or is not done with those it had, or with all of it."""
        http = self.http
        if http is None:
            return self._task is None or bool(self.recv_buffer)
        return http.stage is not Stage.IDLE or http.request is not None or bool(self.recv_buffer)

    def _take(self, data: bytes) -> None:
        """Begins one request after another, until one has to wait, for its body or its answer, or is Sanic's."""
        while data:
            head = self._head
            if head is None:
                head = self._head = self._read_head(data)
                if head is None:
                    self._had_sanic = True
                    super().data_received(data)
                    return
                data = data[len(self._raw) :]
            missing = self._missing
            if len(data) < missing:
                self._await_body(data)
                return
            body = data[:missing]
            if self._parts:
                body = b"".join((*self._parts, body))
                self._parts = []
            self._begin(head, body)
            data = data[missing:]
            if self._is_waiting or self.transport is None or self.transport.is_closing():
                break
        if data and self._is_waiting:
            self._keep(data)

    def _await_body(self, part: bytes) -> None:
        """Keeps a part of a body until the rest is there, unless too much is kept for all clients together."""
        if not self._parts:
            self._since_s = self._time
        if self.holds(len(part)):
            self._parts.append(part)
            self._missing -= len(part)
        else:
            self._head, self._parts = None, []

    def _read_head(self, data: bytes) -> Head | None:
        """The head of a request that is the lane's: it is plain, its caller may ask, and reads its answers."""
        darkroom = self._darkroom
        is_free = self._can_write.is_set() and not self._is_lingering
        found = darkroom.heads.read(data) if is_free else None
        if found is None or (
            darkroom.auth.is_on and not darkroom.middleware.allows(found[0].headers.get("authorization"))
        ):
            return None
        head, head_bytes, self._missing = found
        self._raw = data[:head_bytes]
        return head

    def _keep(self, data: bytes) -> None:
        """Keeps what was sent ahead of an answer, up to a mark; then TCP holds the client back."""
        self._ahead += data
        if len(self._ahead) >= MAX_AHEAD_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _begin(self, head: Head, body: bytes) -> None:
        """Sends a whole request on its way; it may be answered before this returns."""
        self._is_waiting = True
        if self._held_bytes:
            self.release()
        self._started_s = self._darkroom.request_log.enter()
        self._received_bytes = len(body)
        self._darkroom.metrics.fast_lane_requests += 1
        query = first_values(parse_qs(head.query)) if head.query else _NO_QUERY
        asked = self._darkroom.predictor.begin(head.route, Call(head.headers, body, query), self._reply)
        if self._is_waiting:
            self._asked = asked

    def _reply(self, reply: Reply) -> None:
        """Writes the answer, then goes on with what was sent ahead of it."""
        head, transport = self._head, self.transport
        if head is None or transport is None:
            return  # the client has left in this very turn
        is_kept = head.is_kept and not self._darkroom.lifecycle.is_draining
        status, body, headers, content_type = reply
        self._darkroom.request_log.sign(headers, head.headers.get("x-request-id"))
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode()
        first = _first_lines(status, content_type, is_kept)
        transport.write(b"%b%d\r\n%b\r\n%b" % (first, len(body), lines, body))
        was_asked, self._asked = self._asked, None
        self._head, self._is_waiting, self._time = None, False, time.monotonic()
        self._leave(head, status, len(body))
        if not is_kept:
            self._ahead.clear()
            self.close()
        elif was_asked and self._ahead:
            data = bytes(self._ahead)
            self._ahead.clear()
            transport.resume_reading()
            self._take(data)

    def _leave(self, head: Head, code: int, sent_bytes: int) -> None:
        visits, received, template = self._darkroom.request_log, self._received_bytes, head.route.template
        client = self.conn_info.client_ip if visits.has_access_log and self.conn_info is not None else ""
        visits.leave(template, "POST", code, self._started_s, received=received, sent=sent_bytes, client=client)


@lru_cache(256)
def _first_lines(status: int, content_type: str, is_kept: bool) -> bytes:  # noqa: FBT001 - a cache takes its key by place
    """An answer's head as far as it is always the same, up to the value of its Content-Length."""
    connection = "keep-alive" if is_kept else "close"
    reason = STATUS_CODES.get(status, b"UNKNOWN").decode()
    lines = (
        f"HTTP/1.1 {status} {reason}",
        f"connection: {connection}",
        f"content-type: {content_type}",
        "content-length: ",
    )
    return "\r\n".join(lines).encode()
