"""The HTTP/2 state machine, fed with bytes: no socket, no loop."""

from __future__ import annotations

import random
from struct import Struct, pack
from typing import TYPE_CHECKING

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from darkroom.service.api.grpc import http2
from darkroom.service.api.grpc.http2 import Http2, Stream, frame, literal

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = Struct(">HBBBI")
REQUEST = [(":method", "POST"), (":path", "/a/B"), ("content-type", "application/grpc")]
HEADERS_END, DATA_END = http2.END_HEADERS, http2.END_STREAM


class Client:
    """The client's side of a connection, and what the server's listeners were told."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.heard: list[tuple[int, str, object]] = []
        self.streams: dict[int, Stream] = {}
        self.encoder = Encoder()
        self.server = Http2(self.sent.extend, self.open)
        self.server.start()
        self.server.receive(http2.PREFACE + frame(http2.SETTINGS, 0, 0))

    def open(self, stream: Stream, headers: dict[str, str]) -> Ear:
        self.streams[stream.number] = stream
        self.heard.append((stream.number, "open", headers))
        return Ear(self, stream.number)

    def headers(self, number: int, flags: int = HEADERS_END, fields: Sequence[tuple[str, str]] = REQUEST) -> bytes:
        return frame(http2.HEADERS, flags, number, self.encoder.encode(fields))

    def call(self, number: int, *parts: bytes) -> None:
        self.server.receive(self.headers(number))
        for place, part in enumerate(parts, 1):
            self.server.receive(frame(http2.DATA, DATA_END if place == len(parts) else 0, number, part))

    def frames(self, *kinds: int) -> list[tuple[int, int, int, bytes]]:
        """The frames that the server has sent: kind, flags, stream, payload."""
        found, at = [], 0
        while at < len(self.sent):
            high, low, kind, flags, number = HEAD.unpack_from(self.sent, at)
            size = high << 8 | low
            payload = bytes(self.sent[at + HEAD.size : at + HEAD.size + size])
            if not kinds or kind in kinds:
                found.append((kind, flags, number, payload))
            at += HEAD.size + size
        assert at == len(self.sent)
        return found

    def fault(self) -> tuple[int, str]:
        """The code and the text of the GOAWAY."""
        ((_, _, _, payload),) = self.frames(http2.GOAWAY)
        return int.from_bytes(payload[4:8], "big"), payload[8:].decode()


class Ear:
    """A listener that only notes what it is told."""

    def __init__(self, client: Client, number: int) -> None:
        self._client = client
        self._number = number

    def _note(self, what: str, told: object = None) -> None:
        self._client.heard.append((self._number, what, told))

    def take(self, data: bytes) -> None:
        self._note("take", data)

    def end(self) -> None:
        self._note("end")

    def leave(self) -> None:
        self._note("leave")


@pytest.fixture
def client() -> Client:
    return Client()


def test_a_request_is_told_in_order_and_its_answer_closes_the_stream(client: Client) -> None:
    client.call(1, b"ab", b"c")
    assert client.heard == [(1, "open", dict(REQUEST)), (1, "take", b"ab"), (1, "take", b"c"), (1, "end", None)]
    client.server.answer(client.streams[1], b"\x88", b"body", literal("grpc-status", "0"))
    assert [(kind, flags) for kind, flags, number, _ in client.frames() if number == 1] == [(1, 4), (0, 0), (1, 5)]
    assert client.server.streams == {}
    assert client.streams[1].listener is None  # no circle keeps a body alive


@given(st.lists(st.integers(1, 40), max_size=60))
def test_bytes_may_come_in_any_pieces(cuts: list[int]) -> None:
    client = Client()
    data = (
        client.headers(1) + frame(0, 0, 1, b"x" * 50) + client.headers(3) + frame(0, 1, 3, b"") + frame(0, 1, 1, b"y")
    )
    at = 0
    for cut in cuts:
        client.server.receive(data[at : at + cut])
        at += cut
    client.server.receive(data[at:])
    assert [(number, what) for number, what, _ in client.heard] == [
        (1, "open"), (1, "take"), (3, "open"), (3, "end"), (1, "take"), (1, "end"),
    ]  # fmt: skip


def test_headers_may_be_padded_continued_and_carry_a_priority(client: Client) -> None:
    block = client.encoder.encode(REQUEST)
    padded = bytes((3,)) + bytes(5) + block[:4] + bytes(3)
    client.server.receive(frame(http2.HEADERS, http2.PADDED | http2.PRIORITIZED, 1, padded))
    client.server.receive(frame(http2.CONTINUATION, HEADERS_END, 1, block[4:]))
    client.server.receive(frame(http2.DATA, http2.PADDED | DATA_END, 1, b"\x02ab\0\0"))
    assert client.heard == [(1, "open", dict(REQUEST)), (1, "take", b"ab"), (1, "end", None)]


def test_the_same_bytes_of_headers_mean_what_the_table_says_now(client: Client) -> None:
    newest = b"\xbe"  # the first entry of the dynamic table

    def told(number: int, block: bytes) -> object:
        client.server.receive(frame(http2.HEADERS, HEADERS_END, number, block))
        told = client.heard[-1][2]
        assert isinstance(told, dict)
        seen = dict(told)
        told.clear()  # what a listener does with them is its own affair
        return seen

    assert told(1, b"\x40\x01a\x011") == {"a": "1"}  # literals that the table takes in
    assert [told(number, newest) for number in (3, 5)] == [{"a": "1"}] * 2
    assert told(7, b"\x40\x01b\x012") == {"b": "2"}
    assert [told(number, newest) for number in (9, 11)] == [{"b": "2"}] * 2
    assert told(13, b"\x20" + literal("c", "3")) == {"c": "3"}  # the table is emptied
    client.server.receive(frame(http2.HEADERS, HEADERS_END, 15, newest))
    assert client.fault()[0] == http2.COMPRESSION_ERROR


def test_trailers_end_a_request(client: Client) -> None:
    client.call(1)
    client.server.receive(client.headers(1, HEADERS_END | DATA_END, [("x", "y")]))
    assert client.heard[-1] == (1, "end", None)


def test_an_answer_waits_for_the_windows_of_its_stream_and_of_the_connection(client: Client) -> None:
    client.server.receive(frame(http2.SETTINGS, 0, 0, pack(">HI", http2.INITIAL_WINDOW_SIZE, 10)))
    client.call(1, b"")
    client.server.answer(client.streams[1], b"\x88", b"x" * 70_000, b"\x88")

    def body() -> int:
        return sum(len(payload) for _, _, _, payload in client.frames(http2.DATA))

    assert (body(), client.server.unsent_bytes) == (10, 69_990)
    client.server.receive(frame(http2.WINDOW_UPDATE, 0, 1, pack(">I", 69_990)))
    assert body() == http2.DEFAULT_WINDOW_BYTES  # of the connection
    assert 1 in client.server.streams
    client.server.receive(frame(http2.WINDOW_UPDATE, 0, 0, pack(">I", 100_000)))
    assert (body(), client.server.unsent_bytes, client.server.streams) == (70_000, 0, {})
    assert max(len(payload) for _, _, _, payload in client.frames(http2.DATA)) <= http2.FRAME_BYTES


def test_a_window_may_shrink_below_nothing(client: Client) -> None:
    client.call(1, b"")
    client.server.begin(client.streams[1], b"\x88")
    client.server.send(client.streams[1], b"x" * 100)
    client.server.receive(frame(http2.SETTINGS, 0, 0, pack(">HI", http2.INITIAL_WINDOW_SIZE, 0)))
    client.server.send(client.streams[1], b"y" * 100)
    assert client.server.unsent_bytes == 100
    client.server.receive(frame(http2.WINDOW_UPDATE, 0, 1, pack(">I", 300)))
    assert client.server.unsent_bytes == 0


def test_a_client_that_sends_much_is_told_to_go_on(client: Client) -> None:
    client.call(1)
    for _ in range(http2.CONNECTION_WINDOW_BYTES // http2.FRAME_BYTES):
        client.server.receive(frame(http2.DATA, 0, 1, bytes(http2.FRAME_BYTES)))
    credit = {0: 0, 1: 0}
    for _, _, number, payload in client.frames(http2.WINDOW_UPDATE)[1:]:
        credit[number] += int.from_bytes(payload, "big")
    assert credit == {0: http2.CONNECTION_WINDOW_BYTES, 1: http2.CONNECTION_WINDOW_BYTES}


def test_cancelled_requests_are_told_once_and_leave_nothing(client: Client) -> None:
    for number in range(1, 20_001, 2):
        client.server.receive(client.headers(number) + frame(http2.RST_STREAM, 0, number, pack(">I", http2.CANCEL)))
    assert [what for _, what, _ in client.heard] == ["open", "leave"] * 10_000
    assert client.server.streams == {}
    client.server.receive(frame(http2.RST_STREAM, 0, 1, pack(">I", http2.CANCEL)))  # again: nothing happens
    assert not client.server.is_over


def test_too_many_streams_at_once_are_refused_and_may_be_sent_again(client: Client) -> None:
    for number in range(1, 2 * http2.MAX_STREAMS + 2, 2):
        client.call(number)
    ((_, _, number, payload),) = client.frames(http2.RST_STREAM)
    assert (number, int.from_bytes(payload, "big")) == (2 * http2.MAX_STREAMS + 1, http2.REFUSED_STREAM)


def test_after_refuse_new_open_streams_are_answered_and_new_ones_refused(client: Client) -> None:
    client.call(1)
    client.server.refuse_new()
    client.call(3, b"late")
    client.server.receive(frame(http2.DATA, DATA_END, 1, b"a"))
    client.server.answer(client.streams[1], b"\x88", b"", b"\x88")
    assert client.fault()[0] == http2.NO_ERROR
    assert [number for _, _, number, _ in client.frames(http2.RST_STREAM)] == [3]
    assert [what for number, what, _ in client.heard if number == 1] == ["open", "take", "end"]
    assert 3 not in client.streams


def test_pings_are_answered_and_settings_acknowledged(client: Client) -> None:
    client.server.receive(frame(http2.PING, 0, 0, b"12345678"))
    client.server.receive(frame(http2.PING, http2.ACK, 0, b"12345678") + frame(http2.SETTINGS, http2.ACK, 0))
    assert client.frames(http2.PING) == [(http2.PING, http2.ACK, 0, b"12345678")]
    assert (http2.SETTINGS, http2.ACK, 0, b"") in client.frames()


def test_an_answer_before_the_request_is_complete_stops_the_client(client: Client) -> None:
    client.call(1)
    client.server.finish(client.streams[1], b"\x88")
    client.server.receive(frame(http2.DATA, 0, 1, b"more") + frame(http2.DATA, DATA_END, 1, b""))
    ((_, _, number, payload),) = client.frames(http2.RST_STREAM)
    assert (number, int.from_bytes(payload, "big")) == (1, http2.NO_ERROR)
    assert [what for _, what, _ in client.heard] == ["open"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(http2.DATA, 0, 1, b"x"), http2.PROTOCOL_ERROR),  # of no stream
        (frame(http2.DATA, 0, 0, b"x"), http2.PROTOCOL_ERROR),
        (frame(http2.HEADERS, HEADERS_END, 2, b"\x88"), http2.PROTOCOL_ERROR),  # even
        (frame(http2.HEADERS, HEADERS_END, 0, b"\x88"), http2.PROTOCOL_ERROR),
        (frame(http2.HEADERS, HEADERS_END, 1, b"\xff\xff\xff\xff\xff"), http2.COMPRESSION_ERROR),
        (frame(http2.HEADERS, HEADERS_END | http2.PADDED, 1, b"\x05\x88"), http2.PROTOCOL_ERROR),
        (frame(http2.HEADERS, HEADERS_END | http2.PRIORITIZED, 1, b"\x88"), http2.FRAME_SIZE_ERROR),
        (frame(http2.HEADERS, 0, 1, b"\x88") + frame(http2.PING, 0, 0, bytes(8)), http2.FRAME_SIZE_ERROR),
        (frame(http2.HEADERS, 0, 1, b"\x88") + frame(http2.CONTINUATION, 4, 3, b""), http2.PROTOCOL_ERROR),
        (frame(http2.HEADERS, 0, 1, b"") + 40 * frame(http2.CONTINUATION, 0, 1, b""), http2.CALM_ERROR),
        (frame(http2.HEADERS, 0, 1, b"") + 2 * frame(http2.CONTINUATION, 0, 1, bytes(16_000)), http2.CALM_ERROR),
        (frame(http2.CONTINUATION, HEADERS_END, 1, b"\x88"), http2.PROTOCOL_ERROR),
        (frame(http2.PUSH_PROMISE, 0, 1, bytes(4)), http2.PROTOCOL_ERROR),
        (frame(http2.PING, 0, 0, bytes(7)), http2.FRAME_SIZE_ERROR),
        (frame(http2.PRIORITY, 0, 1, bytes(4)), http2.FRAME_SIZE_ERROR),
        (frame(http2.RST_STREAM, 0, 1, bytes(4)), http2.PROTOCOL_ERROR),
        (frame(http2.RST_STREAM, 0, 1, bytes(3)), http2.FRAME_SIZE_ERROR),
        (frame(http2.SETTINGS, 0, 0, bytes(5)), http2.FRAME_SIZE_ERROR),
        (frame(http2.SETTINGS, 0, 0, pack(">HI", 4, 1 << 31)), http2.FLOW_CONTROL_ERROR),
        (frame(http2.WINDOW_UPDATE, 0, 0, bytes(4)), http2.FLOW_CONTROL_ERROR),
        (frame(http2.WINDOW_UPDATE, 0, 0, pack(">I", (1 << 31) - 1)), http2.FLOW_CONTROL_ERROR),
        (frame(http2.WINDOW_UPDATE, 0, 0, bytes(3)), http2.FRAME_SIZE_ERROR),
        (b"\x00\x40\x01" + bytes(6), http2.FRAME_SIZE_ERROR),  # a byte over the largest frame
    ],
)
def test_a_broken_frame_ends_the_connection_with_its_code(client: Client, data: bytes, code: int) -> None:
    client.server.receive(data)
    assert client.server.is_over
    assert client.fault()[0] == code
    client.server.receive(client.headers(1))  # what comes after it is not read
    assert client.heard == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(http2.WINDOW_UPDATE, 0, 1, bytes(4)), http2.FLOW_CONTROL_ERROR),
        (frame(http2.WINDOW_UPDATE, 0, 1, pack(">I", (1 << 31) - 1)), http2.FLOW_CONTROL_ERROR),
        (frame(http2.DATA, DATA_END, 1, b"") + frame(http2.DATA, 0, 1, b"x"), http2.STREAM_CLOSED),
        (frame(http2.HEADERS, HEADERS_END, 1, b"\x88"), http2.PROTOCOL_ERROR),  # trailers that do not end
    ],
)
def test_a_fault_of_one_stream_ends_only_this_one(client: Client, data: bytes, code: int) -> None:
    client.call(1)
    client.call(3)
    client.server.receive(data)
    ((_, _, number, payload),) = client.frames(http2.RST_STREAM)
    assert (number, int.from_bytes(payload, "big")) == (1, code)
    assert client.heard[-1] == (1, "leave", None)
    assert list(client.server.streams) == [3]


def test_a_client_that_does_not_speak_http2_is_told() -> None:
    sent = bytearray()
    server = Http2(sent.extend, lambda _stream, _headers: pytest.fail("no stream"))
    server.receive(b"POST / HTTP/1.1\r\n")
    assert server.is_over
    assert b"prior knowledge" in sent


@pytest.mark.parametrize("seed", range(40))
def test_random_frames_never_raise(seed: int) -> None:
    client, chance = Client(), random.Random(seed)  # noqa: S311 - no secret
    for _ in range(60):
        kind, flags, number = chance.randrange(11), chance.randrange(256), chance.choice([0, 1, 1, 3, 5, 8])
        payload = client.encoder.encode(REQUEST) if chance.random() < 0.3 else chance.randbytes(chance.randrange(12))
        client.server.receive(frame(kind, flags, number, payload))
    assert client.frames()
    client.server.leave_all()
    assert client.server.streams == {}
    assert client.server.unsent_bytes == 0


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 256, 16_000])
def test_literals_of_any_length_are_read_by_hpack(size: int) -> None:
    name, value = "a" * (size or 1), "v" * size
    ((found, told),) = Decoder().decode(literal(name, value))
    assert f"{found!s}={told!s}" == f"{name}={value}"
