"""Which heads are those of plain predict requests."""

from __future__ import annotations

import pytest

from darkroom.service.http.request_head import MAX_HEAD_BYTES, MAX_HEADS, HeadReader, chunk_size, fault_of
from darkroom.service.predict.request import Route

ROUTE = Route("/", lambda *_: None)
READER = HeadReader(lambda path: ROUTE if path == "/" else None, max_body_bytes=100)


def _head(*lines: str, first: str = "POST / HTTP/1.1") -> bytes:
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


def test_a_plain_head_is_read_up_to_its_body() -> None:
    raw = _head("Content-Length: 7", "X-Request-ID:  a b ", "x-request-id: second", first="POST /?a=1&b=%20 HTTP/1.1")
    found = READER.read(raw + b"0123456POST")
    assert found is not None
    head, head_bytes, body_bytes = found
    assert (head_bytes, body_bytes) == (len(raw), 7)
    assert head.route is ROUTE
    assert head.headers == {"x-request-id": "a b"}
    assert head.query == "a=1&b=%20"
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
    found = READER.read(_head(line, "Content-Length: 1", first=first))
    assert found is not None
    assert found[0].is_kept == is_kept


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


def test_a_head_that_differs_in_its_length_alone_is_known() -> None:
    reader = HeadReader(lambda _: ROUTE, max_body_bytes=100)
    first = reader.read(_head("Content-Length: 7", "X-Request-Id: a"))
    second = reader.read(_head("Content-Length: 42", "X-Request-Id: a") + b"0123456")
    other = reader.read(_head("Content-Length: 7", "X-Request-Id: b"))
    assert first is not None
    assert second is not None
    assert other is not None
    assert second[0] is first[0]
    assert second[2] == 42
    assert other[0].headers["x-request-id"] == "b"


@pytest.mark.parametrize("length", ["0", "101", "-7", "+7", "7_0", "0x7", "7, 7", "7 7", "", "9" * 20])
def test_a_known_head_with_a_length_that_is_none_is_not_read(length: str) -> None:
    reader = HeadReader(lambda _: ROUTE, max_body_bytes=100)
    assert reader.read(_head("A: b", "Content-Length: 7")) is not None
    assert reader.read(_head("A: b", f"Content-Length: {length}")) is None


def test_a_second_length_is_not_read_whatever_is_known() -> None:
    reader = HeadReader(lambda _: ROUTE, max_body_bytes=100)
    assert reader.read(_head("Content-Length: 7", "A: b")) is not None
    for _ in range(2):
        assert reader.read(_head("Content-Length: 7", "Content-Length: 8", "A: b")) is None


def test_only_so_many_heads_are_remembered() -> None:
    reader = HeadReader(lambda _: ROUTE, max_body_bytes=100)
    for number in range(3 * MAX_HEADS):
        assert reader.read(_head("Content-Length: 7", f"X-Request-Id: {number}")) is not None
        assert len(reader._known) <= MAX_HEADS


def test_a_head_that_repeats_the_last_one_has_its_own_length_and_limit() -> None:
    reader = HeadReader(lambda path: ROUTE if path == "/" else None, max_body_bytes=100)
    lengths = ["7", "12", "007", "100", "101", "0", "", " 9", "+9", "9a", "9" * 15, "9" * 16, "3"]
    found = [reader.read(_head("A: b", f"Content-Length: {length}", "C: d") + b"rest") for length in lengths]
    wanted = [7, 12, 7, 100, None, None, None, 9, None, None, None, None, 3]
    assert [each and each[2] for each in found] == wanted
    assert {each[0].headers["c"] for each in found if each} == {"d"}


def test_a_head_that_begins_as_the_last_one_is_not_taken_for_it() -> None:
    reader = HeadReader(lambda path: ROUTE if path == "/" else None, max_body_bytes=100)
    first = reader.read(_head("Content-Length: 7", "A: b"))
    assert first is not None
    other = reader.read(_head("Content-Length: 7", "A: c"))
    assert other is not None
    assert other[0].headers == {"a": "c"}
    assert reader.read(_head("Content-Length: 7", "A: c", "Transfer-Encoding: chunked")) is None
    assert reader.read(_head("Content-Length: 8", "A: b")) == (first[0], len(_head("Content-Length: 8", "A: b")), 8)


_UNSAFE = "a line of the head ends in a bare CR or LF, or has a control character"
_REQUEST_LINE = "the request line is not `METHOD /path HTTP/1.1`"
_TWICE = "Host, or the length of the body (Content-Length or Transfer-Encoding), is given twice"
_CHUNKED = "Transfer-Encoding is not `chunked`, or the request is HTTP/1.0"


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["Host: a", "Content-Length: 7", "A:"], ""),
        (["Transfer-Encoding:  CHUNKED "], ""),
        (["A: b\nB: c"], _UNSAFE),
        (["A: b\rB: c"], _UNSAFE),
        (["A: \x0b"], _UNSAFE),
        (["A: b", "B : c"], "header line 2 is not `Name: value`"),
        (["no colon"], "header line 1 is not `Name: value`"),
        (["A: b", " folded", "C"], "header line 2 is not `Name: value`"),
        (["Content-Length: 7", "content-length: 7"], _TWICE),
        (["Content-Length: 7", "Transfer-Encoding: chunked"], _TWICE),
        (["Host: a", "Host: a"], _TWICE),
        (["Content-Length: 7, 7"], "Content-Length is not a number"),
        (["Content-Length:"], "Content-Length is not a number"),
        (["CONTENT-LENGTH: 0x7"], "Content-Length is not a number"),
        (["Transfer-Encoding: gzip, chunked"], _CHUNKED),
    ],
)
def test_a_head_is_refused_with_its_fault(lines: list[str], fault: str) -> None:
    assert fault_of(_head(*lines)[:-4]) == fault


@pytest.mark.parametrize(
    ("first", "fault"),
    [
        ("POST /  HTTP/1.1", _REQUEST_LINE),
        ("POST / HTTP/1", _REQUEST_LINE),
        ("", _REQUEST_LINE),
        ("POST / HTTP/1.0", _CHUNKED),
    ],
)
def test_a_request_line_is_refused_with_its_fault(first: str, fault: str) -> None:
    assert fault_of(_head("Transfer-Encoding: chunked", first=first)[:-4]) == fault


def test_the_size_of_a_chunk_is_hexadecimal_and_its_extensions_are_ignored() -> None:
    good = {b"5": 5, b"1A": 26, b"ff ;a=b": 255, b"0": 0, b"010": 16, b"f" * 15: 16**15 - 1}
    bad = [b"", b"0x5", b"5 x", b"5;a\x0b", b"f" * 16, b"g", b"-1", b"+1", b" 5", b"5\n"]
    assert {line: chunk_size(line) for line in (*good, *bad)} == good | dict.fromkeys(bad, -1)
