"""Which heads are those of plain predict requests."""

from __future__ import annotations

import pytest

from service.call import Route
from service.head import MAX_HEAD_BYTES, HeadReader

ROUTE = Route("/", lambda *_: None)
READER = HeadReader(lambda path: ROUTE if path == "/" else None, max_body_bytes=100)


def _head(*lines: str, first: str = "POST / HTTP/1.1") -> bytes:
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


def test_a_plain_head_is_read_up_to_its_body() -> None:
    raw = _head("Content-Length: 7", "X-Request-ID:  a b ", "x-request-id: second", first="POST /?a=1&b=%20 HTTP/1.1")
    head = READER.read(raw + b"0123456POST")
    assert head is not None
    assert head.raw == raw
    assert head.route is ROUTE
    assert head.headers == {"content-length": "7", "x-request-id": "a b"}
    assert head.query == "a=1&b=%20"
    assert head.body_bytes == 7
    assert head.is_kept


@pytest.mark.parametrize(
    ("first", "line", "is_kept"),
    [
        ("POST / HTTP/1.1", "Connection: close", False),
        ("POST / HTTP/1.1", "Connection: Keep-Alive", True),
        ("POST / HTTP/1.0", "A: b", False),
        ("POST / HTTP/1.0", "Connection: keep-alive", True),
    ],
)
def test_the_client_says_whether_the_connection_stays(first: str, line: str, is_kept: bool) -> None:
    head = READER.read(_head(line, "Content-Length: 1", first=first))
    assert head is not None
    assert head.is_kept == is_kept


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"POST",
        _head("Content-Length: 7")[:-1],
        _head(),
        _head("Content-Length: 0"),
        _head("Content-Length: 101"),
        _head("Content-Length: 7", "Content-Length: 7"),
        _head("Content-Length: 7", "Transfer-Encoding: chunked"),
        _head("Transfer-Encoding: chunked"),
        _head("Content-Length: 7", "Expect: 100-continue"),
        _head("Content-Length: 7", "Upgrade: websocket", "Connection: Upgrade"),
        _head("Content-Length: 7", "Upgrade: h2c"),
        _head("Content-Length: 7", first="GET / HTTP/1.1"),
        _head("Content-Length: 7", first="post / HTTP/1.1"),
        _head("Content-Length: 7", first="POST  / HTTP/1.1"),
        _head("Content-Length: 7", first="POST /nowhere HTTP/1.1"),
        _head("Content-Length: 7", first="POST /\xe9 HTTP/1.1"),
        _head("Content-Length: 7", first="POST http://host/ HTTP/1.1"),
        _head("Content-Length: 7", first="POST / HTTP/2.0"),
        _head("Content-Length: 7", first="POST / HTTP/1.1 x"),
        _head("Content-Length: 7", first="POST /"),
        _head("Content-Length : 7"),
        _head("A: b", " folded", "Content-Length: 7"),
        _head("A: b\nContent-Length: 7"),
        _head("A: b\x00", "Content-Length: 7"),
        b"\r\n" + _head("Content-Length: 7"),
        _head("A: " + "x" * MAX_HEAD_BYTES, "Content-Length: 7"),
    ],
)
def test_what_is_not_plain_is_not_read(data: bytes) -> None:
    assert READER.read(data) is None


def test_a_head_that_repeats_the_last_one_to_the_byte_is_the_last_one() -> None:
    raw = _head("Content-Length: 7", "X-Request-Id: a")
    last = READER.read(raw)
    assert last is not None
    assert READER.read(raw + b"0123456", last) is last
    other = READER.read(_head("Content-Length: 7", "X-Request-Id: b"), last)
    assert other is not None
    assert other.headers["x-request-id"] == "b"
    assert READER.read(raw[:-1], last) is None
