"""One HTTP/2 connection (RFC 9113) as far as gRPC needs it: a state machine with no I/O of its own.

Bytes of the client go into `receive`. What the client is to get goes out by `write`. The requests are streams; the owner
of the connection makes a `Listener` for each, which is told what comes. There is no server push, and no priority.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Protocol

from hpack import Decoder, HPACKError

if TYPE_CHECKING:
    from collections.abc import Callable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20  # flags
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 5, 6, 7, 8
COMPRESSION_ERROR, CALM_ERROR = 9, 11
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE = 4, 5, 3, 6  # settings

FRAME_BYTES = 16384  # the largest frame that either side may send until told otherwise; ours stays at that
MAX_WINDOW_BYTES = (1 << 31) - 1
DEFAULT_WINDOW_BYTES = 65535
STREAM_WINDOW_BYTES = 1 << 20  # guess: what a client may send of one call before it hears from us
CONNECTION_WINDOW_BYTES = 1 << 24  # guess: of all calls of a connection
MAX_HEADERS_BYTES = 16384  # precedent: gRPC's own servers refuse metadata over 16 KB
MAX_STREAMS = 1024  # guess: calls at the same time on one connection; further ones are refused, and may be sent again

MAX_KNOWN, MAX_KNOWN_BYTES = 64, 1024  # guess: blocks that a connection remembers, and the largest of them
SIZE_UPDATES = tuple(bytes((first,)) for first in range(0x20, 0x40))  # how a block begins that resizes the table

_HEAD = Struct(">HBBBI")  # length (24 bits), type, flags, stream
_SETTING = Struct(">HI")
_NUMBER = Struct(">I")


class ProtocolFault(Exception):
    """The client broke the protocol, so that the connection has to end; `code` is HTTP/2's."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Listener(Protocol):
    """What the owner of a connection has for each stream."""

    def take(self, data: bytes) -> None:
        """The next bytes of the request's body."""

    def end(self) -> None:
        """The request is complete."""

    def leave(self) -> None:
        """The client has cancelled the request, or is gone."""


class Stream:
    """One request and its answer.

    Attributes:
        number: odd and rising, given by the client.
        has_ended: the client sends no more of it.
        is_closed: nothing of it is sent or taken any more.
        unsent: of the answer's body, held back by the client's flow control.
        window_bytes: what the client takes of this stream before it says more.
    """

    __slots__ = ("has_ended", "is_closed", "listener", "number", "taken_bytes", "trailers", "unsent", "window_bytes")

    def __init__(self, number: int, window_bytes: int) -> None:
        self.number = number
        self.window_bytes = window_bytes
        self.has_ended = self.is_closed = False
        self.listener: Listener | None = None
        self.taken_bytes = 0  # since the client was last told that it may send more
        self.unsent = bytearray()
        self.trailers: bytes | None = None  # to be sent after `unsent`


class Http2:
    """The server's side of a connection.

    Args:
        write: sends bytes to the client.
        open_stream: makes the listener of a new stream from its headers, by name in lower case.

    Attributes:
        streams: those that are not closed, by number.
        unsent_bytes: of all answers, held back by the client's flow control.
        is_over: the connection has to be closed, since the client broke the protocol.
    """

    def __init__(
        self, write: Callable[[bytes], object], open_stream: Callable[[Stream, dict[str, str]], Listener]
    ) -> None:
        self.streams: dict[int, Stream] = {}
        self.unsent_bytes = 0
        self.is_over = False
        self._write = write
        self._open_stream = open_stream
        self._decoder = Decoder(max_header_list_size=4 * MAX_HEADERS_BYTES)
        self._known: dict[bytes, dict[str, str]] = {}  # headers by their block; hpack takes 13 us to decode one
        self._rest = b""  # of a frame that is not whole
        self._has_preface = False
        self._last = 0  # the largest number of a stream of the client
        self._refuses_after = MAX_WINDOW_BYTES  # streams with larger numbers are not served any more
        self._block: list[bytes] = []  # headers that are not whole, their stream and its flags
        self._block_stream = self._block_flags = 0
        self._taken_bytes = 0
        self._window_bytes = DEFAULT_WINDOW_BYTES
        self._stream_window_bytes = DEFAULT_WINDOW_BYTES

    def start(self) -> None:
        """Sends our settings, the first that a server sends."""
        settings = (
            (MAX_CONCURRENT_STREAMS, MAX_STREAMS),
            (INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES),
            (MAX_HEADER_LIST_SIZE, MAX_HEADERS_BYTES),
        )
        self._write(frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings)))
        self._write(frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(CONNECTION_WINDOW_BYTES - DEFAULT_WINDOW_BYTES)))

    def receive(self, data: bytes) -> None:
        """Takes the next bytes of the client; tells the listeners. Sets `is_over` if the client broke the protocol."""
        if self.is_over:
            return
        try:
            self._rest = self._parse(self._rest + data if self._rest else data)
        except ProtocolFault as fault:
            self.is_over = True
            self.go_away(fault.code, str(fault))

    def answer(self, stream: Stream, headers: bytes, body: bytes, trailers: bytes) -> None:
        """Sends the whole answer of a stream and closes it, as fast as the client takes it. Headers as HPACK blocks."""
        number, size = stream.number, len(body)
        if size <= min(FRAME_BYTES, self._window_bytes, stream.window_bytes):
            self._window_bytes -= size
            head = frame(HEADERS, END_HEADERS, number, headers)
            end = frame(HEADERS, END_HEADERS | END_STREAM, number, trailers)
            self._write(b"".join((head, frame(DATA, 0, number, body), end)))
            self._close(stream)
        else:
            self.begin(stream, headers)
            self.send(stream, body)
            self.finish(stream, trailers)

    def begin(self, stream: Stream, headers: bytes) -> None:
        """Sends the headers of an answer."""
        self._write(frame(HEADERS, END_HEADERS, stream.number, headers))

    def send(self, stream: Stream, body: bytes) -> None:
        """Sends a part of an answer's body, or keeps it until the client takes it."""
        stream.unsent += body
        self.unsent_bytes += len(body)
        self._flush(stream)

    def finish(self, stream: Stream, trailers: bytes) -> None:
        """Sends the last of an answer, after its body. Without a body and `begin`, it is the whole answer."""
        stream.trailers = trailers
        self._flush(stream)

    def reset(self, stream: Stream, code: int) -> None:
        """Ends a stream without an answer."""
        self._write(frame(RST_STREAM, 0, stream.number, _NUMBER.pack(code)))
        self._forget(stream)

    def refuse_new(self) -> None:
        """Tells the client to open no more streams here; those that it has opened are answered."""
        self._refuses_after = self._last
        self.go_away(NO_ERROR, "")

    def go_away(self, code: int, reason: str) -> None:
        """Tells the client why the connection ends."""
        self._write(frame(GOAWAY, 0, 0, _NUMBER.pack(self._last) + _NUMBER.pack(code) + reason.encode()))

    def ping(self) -> None:
        """Asks the client for a sign of life."""
        self._write(frame(PING, 0, 0, bytes(8)))

    def leave_all(self) -> None:
        """The client is gone: tells every listener."""
        for stream in list(self.streams.values()):
            self._cancel(stream)

    def _parse(self, data: bytes) -> bytes:
        """Handles the whole frames of `data`; returns the rest."""
        at, end = 0, len(data)
        if not self._has_preface:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise ProtocolFault(PROTOCOL_ERROR, "expected HTTP/2 with prior knowledge")
            if end < len(PREFACE):
                return data
            self._has_preface, at = True, len(PREFACE)
        while end - at >= _HEAD.size:
            high, low, kind, flags, number = _HEAD.unpack_from(data, at)
            stop = at + _HEAD.size + (high << 8 | low)
            if stop - at > FRAME_BYTES + _HEAD.size or (self._block and kind != CONTINUATION):
                raise ProtocolFault(FRAME_SIZE_ERROR, f"a frame is over {FRAME_BYTES} bytes, or amid headers")
            if stop > end:
                break
            handler = HANDLERS.get(kind)  # frames of other types are ignored, GOAWAY among them
            if handler is not None:
                handler(self, number & MAX_WINDOW_BYTES, flags, data[at + _HEAD.size : stop])
            at = stop
        return data[at:]

    def on_data(self, number: int, flags: int, payload: bytes) -> None:
        """A part of a request's body."""
        self._taken_bytes += len(payload)
        if self._taken_bytes >= CONNECTION_WINDOW_BYTES // 2:
            self._write(frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._taken_bytes)))
            self._taken_bytes = 0
        stream = self._find(number)
        if stream is None:
            return
        if stream.has_ended:
            self._fail(stream, STREAM_CLOSED)
            return
        listener = stream.listener
        if listener is None:
            return
        stream.taken_bytes += len(payload)
        if payload := unpadded(flags, payload):
            listener.take(payload)
        if flags & END_STREAM:
            self._end(stream)
        elif stream.taken_bytes >= STREAM_WINDOW_BYTES // 2 and not stream.is_closed:
            self._write(frame(WINDOW_UPDATE, 0, number, _NUMBER.pack(stream.taken_bytes)))
            stream.taken_bytes = 0

    def on_headers(self, number: int, flags: int, payload: bytes) -> None:
        """The headers of a request, or the first part of them."""
        payload = unpadded(flags, payload)
        if flags & PRIORITIZED:
            if len(payload) < 5:
                raise ProtocolFault(FRAME_SIZE_ERROR, "headers have no room for their priority")
            payload = payload[5:]
        self._block, self._block_stream, self._block_flags = [payload], number, flags
        if flags & END_HEADERS:
            self._take_headers()

    def on_continuation(self, number: int, flags: int, payload: bytes) -> None:
        """The next part of the headers."""
        if not self._block or number != self._block_stream:
            raise ProtocolFault(PROTOCOL_ERROR, "headers are continued that did not begin")
        self._block.append(payload)
        if sum(map(len, self._block)) > MAX_HEADERS_BYTES or len(self._block) > MAX_HEADERS_BYTES // 1024:
            raise ProtocolFault(CALM_ERROR, f"the headers are over {MAX_HEADERS_BYTES} bytes, or in too many frames")
        if flags & END_HEADERS:
            self._take_headers()

    def _take_headers(self) -> None:
        """Opens a stream by its headers; those of an open stream are its trailers, of which only the end counts."""
        number, flags = self._block_stream, self._block_flags
        block, self._block = b"".join(self._block), []
        headers = self._decode(block)  # those of refused streams too, or the next ones could not be read
        if number <= self._last:
            stream = self._find(number)
            if stream is not None and (stream.has_ended or not flags & END_STREAM):
                self._fail(stream, STREAM_CLOSED if stream.has_ended else PROTOCOL_ERROR)
            elif stream is not None:
                self._end(stream)
        elif not number % 2:
            raise ProtocolFault(PROTOCOL_ERROR, "a client opens odd streams")
        elif number > self._refuses_after:
            self._write(frame(RST_STREAM, 0, number, _NUMBER.pack(REFUSED_STREAM)))
        else:
            self._last = number
            self._open(Stream(number, self._stream_window_bytes), flags, headers)

    def _decode(self, block: bytes) -> dict[str, str]:
        """The headers of a block. One that has left the table as it was means the same again, until another changes it."""
        known = self._known.get(block)
        if known is not None:
            return known.copy()
        entries = self._decoder.header_table.dynamic_entries
        before, newest = len(entries), entries[0] if entries else None
        try:
            fields = self._decoder.decode(block, raw=True)
        except HPACKError as err:
            raise ProtocolFault(COMPRESSION_ERROR, f"the headers can't be decoded: {type(err).__name__}") from err
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}
        entries = self._decoder.header_table.dynamic_entries
        is_same = len(entries) == before and (entries[0] if entries else None) is newest
        if not is_same or len(self._known) >= MAX_KNOWN:
            self._known.clear()
        if is_same and len(block) <= MAX_KNOWN_BYTES and block[:1] not in SIZE_UPDATES:
            self._known[block] = headers.copy()
        return headers

    def _open(self, stream: Stream, flags: int, headers: dict[str, str]) -> None:
        if len(self.streams) >= MAX_STREAMS:
            self.reset(stream, REFUSED_STREAM)
            return
        self.streams[stream.number] = stream
        listener = self._open_stream(stream, headers)
        if not stream.is_closed:  # it may be refused by its headers
            stream.listener = listener
        if flags & END_STREAM:
            self._end(stream)

    def on_priority(self, number: int, flags: int, payload: bytes) -> None:  # noqa: ARG002 - a frame's handler
        """A wish that nothing here follows."""
        if not number or len(payload) != 5:
            raise ProtocolFault(FRAME_SIZE_ERROR, "a priority has 5 bytes and a stream")

    def on_push(self, number: int, flags: int, payload: bytes) -> None:  # noqa: ARG002 - a frame's handler
        """What only a server may send."""
        raise ProtocolFault(PROTOCOL_ERROR, "a client does not push")

    def on_reset(self, number: int, flags: int, payload: bytes) -> None:  # noqa: ARG002 - a frame's handler
        """The client cancels a request."""
        if len(payload) != 4:
            raise ProtocolFault(FRAME_SIZE_ERROR, "a reset has 4 bytes")
        stream = self._find(number)
        if stream is not None:
            self._cancel(stream)

    def on_settings(self, number: int, flags: int, payload: bytes) -> None:
        """The client's settings."""
        if number or len(payload) % _SETTING.size or (flags & ACK and payload):
            raise ProtocolFault(FRAME_SIZE_ERROR, "settings have 6 bytes each, and no stream")
        if flags & ACK:
            return
        for name, value in _SETTING.iter_unpack(payload):
            if name == INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW_BYTES:
                    raise ProtocolFault(FLOW_CONTROL_ERROR, "a window is over 2 GiB")
                for stream in self.streams.values():
                    stream.window_bytes += value - self._stream_window_bytes
                self._stream_window_bytes = value
        self._write(frame(SETTINGS, ACK, 0))
        self._flush_all()

    def on_ping(self, number: int, flags: int, payload: bytes) -> None:
        """A question for a sign of life, or the answer to ours."""
        if number or len(payload) != 8:
            raise ProtocolFault(FRAME_SIZE_ERROR, "a ping has 8 bytes, and no stream")
        if not flags & ACK:
            self._write(frame(PING, ACK, 0, payload))

    def on_window(self, number: int, flags: int, payload: bytes) -> None:  # noqa: ARG002 - a frame's handler
        """The client takes more of an answer, or of all of them."""
        if len(payload) != 4:
            raise ProtocolFault(FRAME_SIZE_ERROR, "a window update has 4 bytes")
        more = _NUMBER.unpack(payload)[0] & MAX_WINDOW_BYTES
        if not number:
            self._window_bytes += more
            if not more or self._window_bytes > MAX_WINDOW_BYTES:
                raise ProtocolFault(FLOW_CONTROL_ERROR, "a window grows by at least 1 byte, to 2 GiB at most")
            self._flush_all()
            return
        stream = self._find(number)
        if stream is not None:
            stream.window_bytes += more
            if not more or stream.window_bytes > MAX_WINDOW_BYTES:
                self._fail(stream, FLOW_CONTROL_ERROR)
            else:
                self._flush(stream)

    def _find(self, number: int) -> Stream | None:
        """The open stream of a number; None if it is closed.

        Raises:
            ProtocolFault: the client never opened it.
        """
        if not number or number > self._last:
            if number > self._refuses_after:
                return None
            raise ProtocolFault(PROTOCOL_ERROR, "a frame is of a stream that is not open")
        return self.streams.get(number)

    def _end(self, stream: Stream) -> None:
        stream.has_ended = True
        if stream.listener is not None and not stream.is_closed:
            stream.listener.end()

    def _cancel(self, stream: Stream) -> None:
        listener = stream.listener
        self._forget(stream)
        if listener is not None:
            listener.leave()

    def _fail(self, stream: Stream, code: int) -> None:
        """Ends a stream whose client broke the protocol."""
        self._write(frame(RST_STREAM, 0, stream.number, _NUMBER.pack(code)))
        self._cancel(stream)

    def _close(self, stream: Stream) -> None:
        """The answer is sent. A client that has not sent its whole request is told to stop."""
        if stream.has_ended:
            self._forget(stream)
        else:
            self.reset(stream, NO_ERROR)

    def _forget(self, stream: Stream) -> None:
        self.unsent_bytes -= len(stream.unsent)
        stream.unsent = bytearray()
        stream.is_closed, stream.listener = True, None  # no circle is left for the garbage collector
        self.streams.pop(stream.number, None)

    def _flush_all(self) -> None:
        if self.unsent_bytes:
            for stream in list(self.streams.values()):
                self._flush(stream)

    def _flush(self, stream: Stream) -> None:
        """Sends as much of an answer as the client takes, and its end after it."""
        unsent = stream.unsent
        while unsent and (size := min(len(unsent), FRAME_BYTES, self._window_bytes, stream.window_bytes)) > 0:
            self._write(frame(DATA, 0, stream.number, bytes(unsent[:size])))
            del unsent[:size]
            self._window_bytes -= size
            stream.window_bytes -= size
            self.unsent_bytes -= size
        if not unsent and stream.trailers is not None and not stream.is_closed:
            self._write(frame(HEADERS, END_HEADERS | END_STREAM, stream.number, stream.trailers))
            self._close(stream)


HANDLERS = {
    DATA: Http2.on_data,
    HEADERS: Http2.on_headers,
    PRIORITY: Http2.on_priority,
    RST_STREAM: Http2.on_reset,
    SETTINGS: Http2.on_settings,
    PUSH_PROMISE: Http2.on_push,
    PING: Http2.on_ping,
    WINDOW_UPDATE: Http2.on_window,
    CONTINUATION: Http2.on_continuation,
}


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    """A frame."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, number) + payload


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of a frame without its padding.

    Raises:
        ProtocolFault: the padding is longer than the payload.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolFault(PROTOCOL_ERROR, "the padding is longer than the frame")
    return payload[1 : len(payload) - payload[0]]


def literal(name: str, value: str) -> bytes:
    """A header field in HPACK's plainest form, which no table remembers; both in ASCII."""
    return b"".join((b"\x00", _length(len(name)), name.encode("ascii"), _length(len(value)), value.encode("ascii")))


def varint(number: int) -> bytes:
    """A number in groups of 7 bits, the lowest first, as HPACK and protobuf write it."""
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _length(size: int) -> bytes:
    """The length of a text as HPACK writes numbers with a prefix of 7 bits."""
    return bytes((size,)) if size < 127 else b"\x7f" + varint(size - 127)
