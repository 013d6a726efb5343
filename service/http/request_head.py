"""Judges every head, and reads that of a plain predict request without Sanic; any other head is left to Sanic."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from darkroom.service.predict.request import Route

if TYPE_CHECKING:
    from collections.abc import Callable


MAX_HEAD_BYTES = 8192  # Sanic's own limit: Sanic refuses what is longer
MAX_HEADS = 256  # guess: heads in the cache, 2 MB at most; a full cache is cleared
MAX_PATHS = 1024  # guess: paths in the cache of routes; a scanner cannot fill more
MAX_DIGITS = 15  # of a Content-Length
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d{1,%d})\r\n" % MAX_DIGITS)
# RFC 9112, 2.2 and 5: what two servers may read differently is refused, since each would find another request in it.
_UNSAFE = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -\xff]*")
_HEAD = re.compile(rb"[!#$%%&'*+.^_`|~0-9A-Za-z-]+ [!-\xff]+ HTTP/\d\.\d(?:\r\n%b)*" % _FIELD.pattern)
_FRAMING = re.compile(rb"(?i)\r\n(content-length|transfer-encoding|host):[ \t]*([^\r]*?)[ \t]*(?=\r|\Z)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,%d})[ \t]*(?:;[\t -\xff]*)?" % MAX_DIGITS)
# Headers that ask for something that only Sanic implements.
_NOT_PLAIN = frozenset({"transfer-encoding", "expect", "upgrade"})


def fault_of(head: bytes) -> str:
    """What RFC 9112 does not allow in a head, without the empty line that ends it; empty if there is nothing.

    Both lanes ask this.
    """
    if _UNSAFE.search(head):
        return "a line of the head ends in a bare CR or LF, or has a control character"
    if not _HEAD.fullmatch(head):
        lines = head.split(b"\r\n")
        wrong = next((number for number, line in enumerate(lines) if number and not is_field(line)), 0)
        return (
            f"header line {wrong} is not `Name: value`" if wrong else "the request line is not `METHOD /path HTTP/1.1`"
        )
    found = [(name.lower(), value) for name, value in _FRAMING.findall(head)]
    framing = [value for name, value in found if name != b"host"]
    if len(framing) > 1 or len(found) - len(framing) > 1:
        return "Host, or the length of the body (Content-Length or Transfer-Encoding), is given twice"
    for name, value in found:
        if name == b"content-length" and not value.isdigit():
            return "Content-Length is not a number"
        if name == b"transfer-encoding" and (value.lower() != b"chunked" or head.split(b"\r\n", 1)[0].endswith(b"1.0")):
            return "Transfer-Encoding is not `chunked`, or the request is HTTP/1.0"
    return ""


def is_unsafe(head: bytes) -> bool:
    """Whether a head that is not whole yet is malformed, whatever follows."""
    return _UNSAFE.search(head) is not None


def is_field(line: bytes) -> bool:
    """Whether a line of a head or of trailers has the form `Name: value`."""
    return _FIELD.fullmatch(line) is not None


def chunk_size(line: bytes) -> int:
    """The size in the first line of a chunk; its extensions are ignored. -1 if the line is malformed (RFC 9112, 7.1)."""
    found = None if _UNSAFE.search(line) else _CHUNK.fullmatch(line)
    return -1 if found is None else int(found[1], 16)


class Head(NamedTuple):
    """One request up to its body, without the length of the body.

    Attributes:
        route: the dialect that reads it.
        headers: by name in lower case, without `content-length`; the first of a repeated one.
        query: the part of the path after its question mark.
        is_kept: whether the connection is kept alive.
    """

    route: Route
    headers: dict[str, str]
    query: str
    is_kept: bool


class HeadReader:
    """Reads heads and caches them; `match` returns the route of a POST to a path, as `Predictor.match` does.

    A client repeats its head byte for byte, except for the digits of Content-Length. So the cache's key is all the other
    bytes. The last head is tried first. Measured: 0.3 us for the last head, 0.7 for another known one, 3.7 for parsing.
    """

    def __init__(self, match: Callable[[str], Route | None], *, max_body_bytes: int) -> None:
        self._match = lru_cache(MAX_PATHS)(match)
        self._max_body_bytes = max_body_bytes
        self._known: dict[bytes, Head] = {}
        self._before = self._after = b""  # the bytes of the last head around the digits
        self._last: Head | None = None

    def read(self, data: bytes) -> tuple[Head, int, int] | None:
        """The head at the start of `data`, the bytes it takes, and the bytes of the body; None if incomplete or not plain.

        Plain means: a POST to a path of a dialect, HTTP/1.1 or 1.0, a Content-Length within the limit, and nothing to
        negotiate. httptools is strict: it refuses the malformed heads that are used to smuggle requests.
        """
        if self._last is not None and data.startswith(self._before):
            at = len(self._before)
            past = data.find(b"\r", at, at + MAX_DIGITS + 1)
            digits = data[at:past]
            if past > at and digits.isdigit() and data.startswith(self._after, past):
                size = int(digits)
                return (self._last, past + len(self._after), size) if 0 < size <= self._max_body_bytes else None
        end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) + 4
        length = _LENGTH.search(data, 0, end) if end >= 4 else None
        if length is None:
            return None
        at, past = length.span(1)
        before, after = data[:at], data[past:end]
        shape = before + after
        head = self._known.get(shape)
        if head is None:
            head = self._parse(data[:end])
            if head is None:
                return None
            if len(self._known) >= MAX_HEADS:
                self._known.clear()
            self._known[shape] = head
        self._before, self._after, self._last = before, after, head
        size = int(data[at:past])
        return (head, end, size) if 0 < size <= self._max_body_bytes else None

    def _parse(self, raw: bytes) -> Head | None:
        """The head in these bytes, if it is plain."""
        if not raw.startswith(b"POST /") or fault_of(raw[:-4]):
            return None
        target = raw[5 : raw.find(b" ", 5)]
        if not target.isascii():
            return None
        path, _, query = target.decode("ascii").partition("?")
        route = self._match(path)
        if route is None:
            return None
        fields = _Fields()
        parser = HttpRequestParser(fields)
        try:
            parser.feed_data(raw)
        except (HttpParserError, HttpParserUpgrade):
            return None
        headers = fields.headers
        is_plain = (
            headers.pop("content-length", "").isdecimal()
            and _NOT_PLAIN.isdisjoint(headers)
            and parser.get_http_version() in {"1.1", "1.0"}
        )
        return Head(route, headers, query, parser.should_keep_alive()) if is_plain else None


class _Fields:
    """The callbacks of httptools: collects the headers."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Adds one header; httptools calls this."""
        self.headers.setdefault(name.decode("ascii").lower(), value.decode(errors="surrogateescape").rstrip(" \t"))
