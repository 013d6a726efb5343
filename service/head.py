"""The head of a plain predict request, read without Sanic; what isn't plain is Sanic's."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from service.call import Route

if TYPE_CHECKING:
    from collections.abc import Callable


MAX_HEAD_BYTES = 8192  # Sanic's own limit, so that it says no to what is longer
MAX_PATHS = 1024  # guess: paths whose route is remembered; a scanner can fill no more
# What these ask for, Sanic knows how to do.
_NOT_PLAIN = frozenset({"transfer-encoding", "expect", "upgrade"})


class Head(NamedTuple):
    """One request up to its body.

    Attributes:
        raw: the bytes, with the empty line at their end.
        route: where it goes.
        headers: by name in lower case; of a repeated one the first.
        query: what stands behind the path's question mark.
        body_bytes: how many follow.
        is_kept: whether the connection stays for more.
    """

    raw: bytes
    route: Route
    headers: dict[str, str]
    query: str
    body_bytes: int
    is_kept: bool


class HeadReader:
    """Reads heads; `match` gives the route of a POST to a path, as `Predictor.match` does."""

    def __init__(self, match: Callable[[str], Route | None], *, max_body_bytes: int) -> None:
        self._match = lru_cache(MAX_PATHS)(match)
        self._max_body_bytes = max_body_bytes

    def read(self, data: bytes, last: Head | None = None) -> Head | None:
        """The head that `data` begins with; None where it isn't one of a plain predict request, whole and well-formed.

        `last` is the one that came before on the connection: most clients repeat it to the byte, and then it is read
        by comparing (measured: 0.15 us where parsing takes 3.7).

        Plain: a POST to a path that a dialect predicts at, HTTP/1.1 or 1.0, with a body within the limit, its length
        told beforehand, and nothing to negotiate. httptools is strict: what smuggles requests isn't well-formed to it.
        """
        if last is not None and data.startswith(last.raw):
            return last
        if not data.startswith(b"POST /"):
            return None
        end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) + 4
        target = data[5 : data.find(b" ", 5, MAX_HEAD_BYTES)]
        if end < 4 or not target.isascii():
            return None
        path, _, query = target.decode("ascii").partition("?")
        route = self._match(path)
        if route is None:
            return None
        raw = data[:end]
        fields = _Fields()
        parser = HttpRequestParser(fields)
        try:
            parser.feed_data(raw)
        except (HttpParserError, HttpParserUpgrade):
            return None
        headers = fields.headers
        body_bytes = int(headers.get("content-length", self._max_body_bytes + 1))
        is_plain = (
            0 < body_bytes <= self._max_body_bytes
            and _NOT_PLAIN.isdisjoint(headers)
            and parser.get_http_version() in {"1.1", "1.0"}
        )
        return Head(raw, route, headers, query, body_bytes, parser.should_keep_alive()) if is_plain else None


class _Fields:
    """What httptools calls."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes one header."""
        self.headers.setdefault(name.decode("ascii").lower(), value.decode(errors="surrogateescape").rstrip(" \t"))
