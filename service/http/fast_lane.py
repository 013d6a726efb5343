"""The fast lane: plain predict requests bypass Sanic's request path, on Sanic's own connections.

A connection serves one request at a time, as in Sanic. A request that is not plain (`service/http/request_head.py`) is
handed to Sanic unchanged, and so is everything after it until Sanic is done. So answers keep the order of the requests.
"""

from __future__ import annotations

import time
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from sanic.helpers import STATUS_CODES
from sanic.http.constants import Stage

from darkroom.service.http.connection import Connection
from darkroom.service.http.request_log import CLIENT_LEFT
from darkroom.service.predict.call import Call, body_size, first_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from darkroom.batching.entry import Entry
    from darkroom.service.http.auth import Auth
    from darkroom.service.http.request_head import Head, HeadReader
    from darkroom.service.http.request_log import RequestLog
    from darkroom.service.predict.call import Reply
    from darkroom.service.predict.request import Predictor, PredictRequest
    from darkroom.service.serving.lifecycle import Lifecycle

MAX_AHEAD_BYTES = 65536  # as in Sanic: when a client has sent so much before its answer, reading pauses
_NO_QUERY: Mapping[str, str] = {}


class LaneParts:
    """The parts of a server that its fast lane uses; a connection finds them at `app.ctx.darkroom.lane`."""

    __slots__ = ("auth", "heads", "lifecycle", "predictor", "request_log")

    def __init__(
        self, *, heads: HeadReader, predictor: Predictor, request_log: RequestLog, lifecycle: Lifecycle, auth: Auth
    ) -> None:
        self.heads = heads
        self.predictor = predictor
        self.request_log = request_log
        self.lifecycle = lifecycle
        self.auth = auth


class FastLane(Connection):
    """One connection. It is in one of four states, and received bytes and answers change the state.

    * Idle: the next bytes begin a request.
    * Reading: `_head` is complete, and `_missing_bytes` of its body have not come.
    * Waiting: the request is with the batcher. Bytes that come in the meantime are kept in `_ahead`.
    * Sanic's: Sanic has bytes of this connection, or is not done with them.

    A connection that `is_leaving` closes after its next answer, so that its client comes back by another worker.

    A new connection is idle at once: Sanic's task for it starts one turn of the loop later, often after the first bytes.
    """

    __slots__ = (
        "_ahead",
        "_had_sanic",
        "_head",
        "_is_waiting",
        "_lane",
        "_missing_bytes",
        "_pieces",
        "_raw_head",
        "_received_bytes",
        "_started_s",
        "_submitted",
        "_was_checked",
        "is_leaving",
    )

    def __init__(self, *, app: Any, **kwargs: Any) -> None:
        super().__init__(app=app, **kwargs)
        self._lane: LaneParts = app.ctx.darkroom.lane
        self._head: Head | None = None
        self._raw_head = b""
        self._pieces: BytesIO | None = None  # a body that is not complete; its value is given out without a copy
        self._missing_bytes = 0
        self._is_waiting = False
        self._had_sanic = False  # bytes of this connection: it may not be done with them
        self._was_checked = False  # whether Sanic has checked its time limits yet
        self._submitted: tuple[PredictRequest, Entry | None] | None = None
        self._ahead = bytearray()
        self._started_s = 0.0
        self._received_bytes = 0
        self.is_leaving = False

    def data_received(self, data: bytes) -> None:
        """Takes the next bytes of the connection."""
        if self._is_waiting:
            self._keep_ahead(data)
        elif self._had_sanic and self._is_with_sanic():
            super().data_received(data)
        else:
            self._had_sanic = False
            self._time = time.monotonic()
            self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Withdraws the request that waits for its answer: the client has left."""
        if self._is_waiting and self._head is not None:
            self._is_waiting = False
            request = None
            if self._submitted is not None:
                request, entry = self._submitted
                request.withdraw(entry)
            self._log_end(self._head, CLIENT_LEFT, 0, {}, request)
        self._head = self._pieces = None
        super().connection_lost(exc)

    def close_if_idle(self) -> bool:
        """Closes the connection unless a request is on it; returns whether it did."""
        return False if self._head is not None else super().close_if_idle()

    def is_receiving(self) -> bool:
        """Whether a request has begun to arrive and is not complete, or is complete and a thread reads it."""
        if self._submitted is not None and self._submitted[0].is_reading:
            return True
        return (self._head is not None and not self._is_waiting) or super().is_receiving()

    def check_timeouts(self) -> None:
        """Overrides Sanic's check, which runs every few seconds; hands a request that is still being read to Sanic.

        A long wait for an answer is not the client's fault; the request's deadline ends it.
        """
        if self._is_waiting:
            self._time = time.monotonic()
        is_first, self._was_checked = not self._was_checked, True  # Sanic makes the first check as it starts
        if self._is_waiting or self._head is None or is_first:
            super().check_timeouts()
            return
        since_s, last_s, sent = self._since_s, self._time, self._raw_head
        if self._pieces is not None:
            sent += self._pieces.getvalue()[: self._pieces.tell()]
        self._head, self._pieces, self._had_sanic = None, None, True
        super().data_received(sent)
        self._since_s, self._time = since_s, last_s
        self.loop.call_soon(super().check_timeouts)  # after Sanic has read the bytes

    def _is_busy(self) -> bool:
        """Whether a request waits for its answer, or Sanic is busy."""
        return self._is_waiting or (self._head is None and super()._is_busy())

    def _waiting_version(self) -> str:
        """The version of the request that waits for its answer; empty if none does."""
        if not self._is_waiting:
            return super()._waiting_version()
        return "1.1" if b" HTTP/1.1\r\n" in self._raw_head else "1.0"

    def _is_with_sanic(self) -> bool:
        """Whether Sanic has bytes of this connection, or is not done with earlier ones, or owns the connection."""
        http = self.http
        if http is None:
            return self._task is None or bool(self.recv_buffer)
        return http.stage is not Stage.IDLE or http.request is not None or bool(self.recv_buffer)

    def _take(self, data: bytes) -> None:
        """Begins one request after another, until one waits for its body or its answer, or is Sanic's."""
        while data:
            head = self._head
            if head is None:
                head = self._head = self._read_head(data)
                if head is None:
                    self._had_sanic = True
                    super().data_received(data)
                    return
                data = data[len(self._raw_head) :]
            missing = self._missing_bytes
            if len(data) < missing:
                self._await_body(data)
                return
            body = data[:missing]
            if self._pieces is not None:
                self._pieces.write(body)
                body = self._pieces.getvalue()
                self._pieces = None
            self._begin(head, body)
            data = data[missing:]
            if self._is_waiting or self.transport is None or self.transport.is_closing():
                break
        if data and self._is_waiting:
            self._keep_ahead(data)

    def _await_body(self, piece: bytes) -> None:
        """Keeps a piece of a body until the rest comes, unless too much is kept for all clients together."""
        if self._pieces is None:
            self._since_s = self._time
            self._pieces = BytesIO(bytes(self._missing_bytes))  # the system gives the memory as it is filled
        if self.holds(len(piece)):
            self._pieces.write(piece)
            self._missing_bytes -= len(piece)
        else:
            self._head = self._pieces = None
        if self._has_eof:  # it will not come
            self.close()

    def _read_head(self, data: bytes) -> Head | None:
        """The head of a request for the fast lane: it is plain, its client may predict, and reads its answers."""
        if not self._can_write.is_set() or self._is_lingering:
            return None
        lane = self._lane
        found = lane.heads.read(data)
        if found is None:
            return None
        head, head_bytes, self._missing_bytes = found
        if lane.auth.is_on and not lane.auth.allows(head.headers.get("authorization")):
            return None
        self._raw_head = data[:head_bytes]
        return head

    def _keep_ahead(self, data: bytes) -> None:
        """Keeps what the client sent before its answer, up to a limit; then TCP makes the client wait."""
        self._ahead += data
        if len(self._ahead) >= MAX_AHEAD_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _begin(self, head: Head, body: bytes) -> None:
        """Submits a complete request; it may be answered before this returns."""
        self._is_waiting = True
        if self._held_bytes:
            self.release()
        lane = self._lane
        self._started_s = lane.request_log.enter(is_fast=True)
        self._received_bytes = len(body)
        query = first_values(parse_qs(head.query)) if head.query else _NO_QUERY
        submitted = lane.predictor.begin(head.route, Call(head.headers, body, query), self._reply)
        if self._is_waiting:
            self._submitted = submitted

    def _reply(self, reply: Reply, request: PredictRequest) -> None:
        """Writes the answer, then begins the requests that came in the meantime."""
        head, transport = self._head, self.transport
        if head is None or transport is None:
            return  # the client left in this very turn of the loop
        is_last = (self._has_eof or self.is_leaving) and not self._ahead
        is_kept = head.is_kept and not self._lane.lifecycle.is_draining and not is_last
        status, body, headers, content_type = reply
        self._lane.request_log.sign(head.route.template, head.headers, headers)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode()
        first = _first_lines(status, content_type, is_kept)
        size = body_size(body)
        if isinstance(body, bytes) and size <= MAX_AHEAD_BYTES:
            transport.write(b"%b%d\r\n%b\r\n%b" % (first, size, lines, body))
        else:  # not copied once more
            transport.write(b"%b%d\r\n%b\r\n" % (first, size, lines))
            if isinstance(body, bytes):
                transport.write(body)
            else:
                transport.writelines(body)
        was_submitted, self._submitted = self._submitted, None
        self._head, self._is_waiting, self._time = None, False, time.monotonic()
        self._log_end(head, status, size, headers, request)
        if not is_kept:
            if self._ahead:
                self.leave_unread()
                self._ahead.clear()
            self.close()
        elif was_submitted and self._ahead:
            data = bytes(self._ahead)
            self._ahead.clear()
            transport.resume_reading()
            self._take(data)

    def _log_end(
        self, head: Head, code: int, sent_bytes: int, headers: Mapping[str, str], request: PredictRequest | None
    ) -> None:
        self._lane.request_log.leave(
            head.route.template,
            "POST",
            code,
            self._started_s,
            asked=head.headers,
            headers=headers,
            received=self._received_bytes,
            sent=sent_bytes,
            client="" if self.conn_info is None else self.conn_info.client_ip,
            request=request,
        )


@lru_cache(256)
def _first_lines(status: int, content_type: str, is_kept: bool) -> bytes:  # noqa: FBT001 - a cache takes its key by place
    """The part of an answer's head that repeats, up to the value of its Content-Length."""
    connection = "keep-alive" if is_kept else "close"
    reason = STATUS_CODES.get(status, b"UNKNOWN").decode()
    lines = (
        f"HTTP/1.1 {status} {reason}",
        f"connection: {connection}",
        f"content-type: {content_type}",
        "content-length: ",
    )
    return "\r\n".join(lines).encode()
