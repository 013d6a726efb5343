"""One gRPC call: its metadata and messages in, its messages and status out. Predict calls go to the predictor.

A predict call is a `Route` and costs no task. Every other call is a coroutine of the `Exchange`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import quote as percent_encoded

import orjson

from darkroom.batching.errors import DeadlineExceeded
from darkroom.service.api.grpc.http2 import CALM_ERROR, literal
from darkroom.service.config.tokens import Scope
from darkroom.service.errors import (
    ERROR_HEADER,
    GRPC_STATUSES,
    INVALID_ARGUMENT,
    UNKNOWN,
    CodecError,
    NotReady,
    TooLarge,
    Unimplemented,
    describe,
    judge,
    quote,
)
from darkroom.service.http.auth import Access
from darkroom.service.http.request_log import CLIENT_LEFT
from darkroom.service.predict.call import Call, joined
from darkroom.service.predict.compression import inflate
from darkroom.service.predict.request import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from darkroom.batching.entry import Entry
    from darkroom.service.api.grpc.http2 import Http2, Stream
    from darkroom.service.http.auth import Auth
    from darkroom.service.http.connection import Receiving
    from darkroom.service.http.request_log import RequestLog
    from darkroom.service.predict.call import Reply
    from darkroom.service.predict.request import Predictor, PredictRequest

_log = logging.getLogger("darkroom.service")
BEGIN = b"\x88" + literal("content-type", "application/grpc")  # `:status: 200`, and what every answer is
UNKNOWN_METHOD = "grpc-unknown"  # what metrics call the path of a call to no method
SMALL_BYTES = 65536  # of a message: always accepted, so that small pictures do not suffer from large ones
MAX_UNSENT_BYTES = 1 << 24  # guess: of a connection; a client that asks on without reading is cut off
PREFIX = Struct(">BI")  # of a message: whether it is compressed, its length
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PLAIN = "".join(char for char in map(chr, range(0x20, 0x7F)) if char != "%")  # of a status message

Handler: TypeAlias = "Callable[[Exchange], Coroutine[Any, Any, None]]"


class Method(NamedTuple):
    """What answers the calls of one path, for clients whose credentials cover `scope` (None: for everybody)."""

    handler: Route | Handler
    scope: Scope | None = Scope.PREDICT


class CallParts:
    """The parts of a server that its gRPC calls use."""

    __slots__ = ("auth", "max_message_bytes", "max_unread_bytes", "methods", "predictor", "receiving", "request_log")

    def __init__(
        self,
        methods: Mapping[str, Method],
        predictor: Predictor,
        request_log: RequestLog,
        receiving: Receiving,
        auth: Auth,
        *,
        max_message_bytes: int,
        max_unread_bytes: int,
    ) -> None:
        self.methods = methods
        self.predictor = predictor
        self.request_log = request_log
        self.receiving = receiving
        self.auth = auth
        self.max_message_bytes = max_message_bytes
        self.max_unread_bytes = max_unread_bytes  # of one connection's answers


class Exchange:
    """One call, from its headers to its status. It is the listener of its stream.

    Args:
        count_unread: counts the bytes of all answers that the client has not taken, and returns their number.

    Attributes:
        headers: the metadata, by name in lower case.
        handler: what answers it; None: nothing does.
        started_s: when its headers came, on the monotonic clock.
    """

    __slots__ = (
        "_client",
        "_count_unread",
        "_entered_s",
        "_held_bytes",
        "_http2",
        "_inbox",
        "_is_begun",
        "_message",
        "_need_bytes",
        "_parts",
        "_pieces",
        "_pieces_bytes",
        "_received_bytes",
        "_sent_bytes",
        "_stream",
        "_submitted",
        "_task",
        "_template",
        "_waiting_bytes",
        "handler",
        "headers",
        "started_s",
    )

    def __init__(
        self,
        parts: CallParts,
        http2: Http2,
        stream: Stream,
        headers: dict[str, str],
        client: str,
        *,
        count_unread: Callable[[], int],
    ) -> None:
        self.headers = headers
        self.started_s = time.monotonic()
        self.handler: Route | Handler | None = None
        self._parts = parts
        self._http2 = http2
        self._stream = stream
        self._client = client
        self._count_unread = count_unread
        self._template = UNKNOWN_METHOD
        self._entered_s: float | None = None  # when it was received completely
        self._pieces: list[bytes] = []  # of a message that is not whole
        self._pieces_bytes = self._received_bytes = self._sent_bytes = 0
        self._need_bytes = PREFIX.size  # of the pieces, to go on
        self._waiting_bytes = 0  # of whole messages that nobody has taken yet
        self._held_bytes = 0  # counted as being received
        self._message: bytes | None = None  # of a predict call
        self._inbox: asyncio.Queue[bytes | None] | None = None  # of any other call; None: the end
        self._is_begun = False  # the headers of the answer are sent
        self._submitted: tuple[PredictRequest, Entry | None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_receiving(self) -> bool:
        """Whether it is a predict call that is not complete."""
        return isinstance(self.handler, Route) and not self._stream.has_ended

    @property
    def is_awaited(self) -> bool:
        """Whether it goes on only when the client sends more."""
        is_partial = isinstance(self.handler, Route) or not self._received_bytes or self._pieces_bytes > 0
        return is_partial and not self._stream.has_ended

    # What the stream tells.

    def open(self) -> None:
        """Finds the method, and refuses a client that may not call it."""
        headers = self.headers
        is_grpc = headers.get("content-type", "").startswith("application/grpc") and headers.get(":method") == "POST"
        if not is_grpc:
            self._template = UNKNOWN_METHOD
            self._log(415, 0, {})
            self._http2.finish(self._stream, literal(":status", "415"))
            return
        path = headers.get(":path", "")
        method = self._parts.methods.get(path)
        if method is None:
            self.fail(Unimplemented(f"there is no method {quote(path)}; reflection lists the services"))
            return
        self._template = path
        if method.scope is not None:
            access = self._parts.auth.access(headers.get("authorization"), method.scope)
            if access is not Access.ALLOWED:
                self._refuse_access(access, method.scope)
                return
        self.handler = method.handler
        if not isinstance(method.handler, Route):
            self._inbox = asyncio.Queue()
            self._enter()
            self._task = asyncio.get_running_loop().create_task(self._run(method.handler))

    def take(self, data: bytes) -> None:
        """Takes the next bytes of the client's messages."""
        self._received_bytes += len(data)
        self._pieces.append(data)
        self._pieces_bytes += len(data)
        if self._pieces_bytes < self._need_bytes:
            self._hold()
            return
        buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        self._need_bytes = PREFIX.size
        try:
            buffer = self._split(buffer)
        except CodecError as err:
            self.fail(err)
            return
        self._pieces, self._pieces_bytes = [buffer] if buffer else [], len(buffer)
        self._hold()

    def end(self) -> None:
        """The client sends no more: a predict call begins."""
        if self._pieces_bytes:
            self.fail(CodecError(f"the message is cut off: {self._pieces_bytes} bytes of it came"))
        elif self._inbox is not None:
            self._inbox.put_nowait(None)
        elif self._message is None:
            self.fail(CodecError("the call has no message"))
        else:
            self._begin(self._message)

    def leave(self) -> None:
        """The client has cancelled the call, or is gone: what waits for the engine is withdrawn."""
        self._release()
        request = None
        if self._submitted is not None:
            request, entry = self._submitted
            self._submitted = None
            request.withdraw(entry)
        if self._task is not None:
            self._task.cancel()
        self._log(CLIENT_LEFT, 0, {}, request)

    # What a handler does.

    async def read(self) -> bytes | None:
        """The next message of the client; None if it sends no more."""
        assert self._inbox is not None  # noqa: S101 - predict calls have no handler
        message = await self._inbox.get()
        self._waiting_bytes -= len(message or b"")
        self._hold()
        return message

    async def read_only(self) -> bytes:
        """The one message of a call that has one.

        Raises:
            CodecError: it has none.
        """
        message = await self.read()
        if message is None:
            raise CodecError("the call has no message")
        return message

    def write(self, message: bytes) -> None:
        """Sends a message to the client."""
        if self._stream.is_closed:
            return
        if self._http2.unsent_bytes > MAX_UNSENT_BYTES:
            self._http2.reset(self._stream, CALM_ERROR)
            self.leave()
            return
        if not self._is_begun:
            self._is_begun = True
            self._http2.begin(self._stream, BEGIN)
        self._sent_bytes += len(message)
        self._http2.send(self._stream, PREFIX.pack(0, len(message)) + message)

    def fail(self, error: BaseException, request: PredictRequest | None = None) -> None:
        """Ends the call with the status of an exception, by the one table."""
        headers = {ERROR_HEADER: (verdict := judge(error)).code}
        self._finish(verdict.status, describe(error), headers, request)
        if verdict is UNKNOWN:
            fields = {"request_id": headers.get("X-Request-Id", "")}
            _log.error("a request failed", extra={"fields": fields}, exc_info=error)

    def stop(self) -> None:
        """Ends a call that would go on for ever, because the server stops."""
        if self._task is not None and not self._stream.is_closed:
            self.fail(NotReady("the server is stopping"))

    # Inside.

    def _refuse_access(self, access: Access, scope: Scope) -> None:
        if access is Access.UNAUTHENTICATED:
            text = "send credentials as the metadata `authorization`: Bearer or Basic"
            self._finish(401, text, {ERROR_HEADER: "unauthorized"})
        else:
            self._finish(403, f"this token's scopes don't cover this: it takes {scope}", {ERROR_HEADER: "forbidden"})

    def _split(self, buffer: bytes) -> bytes:
        """Takes the whole messages of `buffer`; returns the rest.

        Raises:
            CodecError: a message is too large, its compression is not known, or a predict call has two.
        """
        while len(buffer) >= PREFIX.size:
            is_packed, size = PREFIX.unpack_from(buffer)
            limit = self._parts.max_message_bytes
            if size > limit:
                raise TooLarge(f"the message of {size} bytes is over --max_body_bytes={limit}")
            stop = PREFIX.size + size
            if len(buffer) < stop:
                self._need_bytes = stop
                break
            message, buffer = buffer[PREFIX.size : stop], buffer[stop:]
            if is_packed:
                message = inflate(message, self.headers.get("grpc-encoding", "identity"), limit)
            self._waiting_bytes += len(message)
            if self._inbox is not None:
                self._inbox.put_nowait(message)
            elif self._message is not None:
                raise CodecError("the call has more than one message")
            else:
                self._message = message
        return buffer

    def _hold(self) -> None:
        """Counts what the call holds in memory, and refuses it if there is too much in the server."""
        receiving = self._parts.receiving
        held_bytes = self._pieces_bytes + self._waiting_bytes
        receiving.bytes += held_bytes - self._held_bytes
        self._held_bytes = held_bytes
        over = receiving.bytes - receiving.limit_bytes
        if over > 0 and (held_bytes > SMALL_BYTES or (held_bytes and over > receiving.limit_bytes)):
            self.fail(NotReady("too many bytes of incomplete requests: --max_receiving_bytes"))

    def _release(self) -> None:
        self._parts.receiving.bytes -= self._held_bytes
        self._held_bytes = 0

    def _enter(self) -> None:
        self._entered_s = self._parts.request_log.enter()

    def _begin(self, message: bytes) -> None:
        """Submits a predict call; it may be answered before this returns."""
        self._enter()
        headers = self.headers
        headers.pop("content-encoding", None)  # compression is a message's, not the call's
        headers["accept-encoding"] = headers.get("grpc-accept-encoding", "")
        # One that is malformed is without end, as gRPC's own servers take it.
        if (timeout := _TIMEOUT.fullmatch(headers.get("grpc-timeout", ""))) is not None:
            left_s = int(timeout[1]) * _UNITS_S[timeout[2]] - (time.monotonic() - self.started_s)
            if left_s <= 0:
                self.fail(DeadlineExceeded("the call's deadline was over before it had come completely"))
                return
            headers.setdefault("x-darkroom-deadline-ms", f"{left_s * 1000:.3f}")
        self._message = None
        self._release()
        assert isinstance(self.handler, Route)  # noqa: S101 - any other call has an inbox
        submitted = self._parts.predictor.begin(self.handler, Call(headers, message, {}), self._reply)
        if not self._stream.is_closed:
            self._submitted = submitted

    def _reply(self, reply: Reply, request: PredictRequest) -> None:
        """Sends the answer to a predict call."""
        if self._stream.is_closed:
            return  # the client left in this very turn of the loop
        self._submitted = None
        if reply.status != 200:
            self._finish(reply.status, orjson.loads(joined(reply.body))["error"], reply.headers, request)
            return
        headers, begin = reply.headers, BEGIN
        encoding = headers.pop("Content-Encoding", None)
        if encoding is not None:
            begin += literal("grpc-encoding", encoding)
        message = joined(reply.body)
        unread_bytes = self._count_unread()
        if unread_bytes and unread_bytes + len(message) > self._parts.max_unread_bytes:
            self.fail(NotReady("the client does not read its other answers: --max_sending_bytes"), request)
            return
        body = PREFIX.pack(encoding is not None, len(message)) + message
        self._http2.answer(self._stream, begin, body, self._trailers(0, headers))
        self._count_unread()
        self._log(200, len(body), headers, request)

    async def _run(self, handler: Handler) -> None:
        try:
            await handler(self)
        except Exception as err:  # noqa: BLE001 - the edge: every exception becomes a status, by the one table
            if not self._stream.is_closed:
                self.fail(err)
        else:
            self._finish(200, "", {})

    def _finish(self, status: int, text: str, headers: dict[str, str], request: PredictRequest | None = None) -> None:
        """Ends the call; `status` is the one that HTTP has for it, and an error code stands in the headers."""
        if self._stream.is_closed:
            return
        self._release()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        code = 0 if status == 200 else GRPC_STATUSES.get(headers.get(ERROR_HEADER, ""), INVALID_ARGUMENT)
        trailers = self._trailers(code, headers)
        if text:
            trailers += literal("grpc-message", percent_encoded(text, safe=_PLAIN))
        if "Retry-After" in headers and code == GRPC_STATUSES["queue_full"]:
            trailers += literal("grpc-retry-pushback-ms", f"{int(headers['Retry-After']) * 1000}")
        self._http2.finish(self._stream, trailers if self._is_begun else BEGIN + trailers)
        self._log(status, self._sent_bytes, headers, request)

    def _trailers(self, code: int, headers: dict[str, str]) -> bytes:
        """The status, and the headers that every answer carries."""
        self._parts.request_log.sign(self._template, self.headers, headers)
        fields = [literal(name.lower(), value) for name, value in headers.items()]
        return b"".join((literal("grpc-status", str(code)), *fields))

    def _log(
        self, status: int, sent_bytes: int, headers: dict[str, str], request: PredictRequest | None = None
    ) -> None:
        log = self._parts.request_log
        entered_s, self._entered_s = self._entered_s, None
        if entered_s is None:  # refused before it was whole
            log.enter()
            entered_s = self.started_s
        log.leave(
            self._template,
            "gRPC",
            status,
            entered_s,
            asked=self.headers,
            headers=headers,
            received=self._received_bytes,
            sent=sent_bytes,
            client=self._client,
            request=request,
        )


def unary(answer: Callable[[bytes, Mapping[str, str]], Coroutine[Any, Any, bytes]]) -> Handler:
    """The handler of calls with one message each way; `answer` makes one from the other, and sees the metadata."""

    async def handle(exchange: Exchange) -> None:
        exchange.write(await answer(await exchange.read_only(), exchange.headers))

    return handle
