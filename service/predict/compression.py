"""Compression: bodies are inflated within bounds before a dialect reads them; answers are packed where asked for."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

from darkroom.service.errors import CodecError, TooLarge, UnsupportedContent, quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from darkroom.service.predict.predictor import Call
    from darkroom.service.predict.request import Reply

WINDOWS = {
    "gzip": 31,
    "x-gzip": 31,
    "deflate": 15,
}  # zlib's wbits; deflate in HTTP is the zlib form (RFC 9110, 8.4.1.2)
MAX_RATIO = 200  # precedent: Apache's DeflateInflateRatioLimit; real pictures in base64 pack to about 3/4
FREE_BYTES = 1 << 20  # measured: 0.9 ms; up to here any ratio is inflated
MAX_MEMBERS = 8  # of a gzip body; each costs a copy of what follows it, and clients send one
MIN_ANSWER_BYTES = 1024  # precedent: below one packet there is nothing to gain
LEVEL = 1  # measured: 424 KB of floats in JSON: level 1 4.1 ms to 40 %, level 6 20.8 ms to 35 %


class Compression(NamedTuple):
    """The rules of one server: how far a body may inflate, and whether answers are packed for clients that ask."""

    max_body_bytes: int
    packs_answers: bool = False

    def open(self, call: Call) -> Call:
        """The call with its body as the client meant it: unchanged where it came without Content-Encoding.

        Raises:
            UnsupportedContent: an encoding other than gzip and deflate, or several of them.
            CodecError: the body is cut off or is not of its encoding.
            TooLarge: it inflates past `--max_body_bytes`, or more than 200-fold.
        """
        encoding = call.headers.get("content-encoding")
        if encoding is None or (encoding := encoding.strip().lower()) in {"", "identity"}:
            return call
        body = inflate(call.body, encoding, self.max_body_bytes)
        return call._replace(body=body)

    def pack(self, reply: Reply, headers: Mapping[str, str]) -> Reply:
        """The reply packed, where it is an answer worth packing and the request's headers ask for it; else itself."""
        if not self.packs_answers or reply.status != 200 or len(reply.body) < MIN_ANSWER_BYTES:
            return reply
        vary = {"Vary": "Accept-Encoding"}
        encoding = accepted(headers.get("accept-encoding", ""))
        if encoding is None:
            return reply._replace(headers=reply.headers | vary)
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOWS[encoding])
        body = packer.compress(reply.body) + packer.flush()
        return reply._replace(body=body, headers=reply.headers | vary | {"Content-Encoding": encoding})


def inflate(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The bytes that `body` holds in `encoding`, `max_bytes` at most; the memory for more is never taken.

    Raises:
        UnsupportedContent: an unknown encoding.
        CodecError: the body is empty, cut off, followed by something else, or not of the encoding.
        TooLarge: over `max_bytes`, or over 1 MiB and 200 times as long as `body`.
    """
    window = WINDOWS.get(encoding)
    if window is None:
        raise UnsupportedContent(f"Content-Encoding: expected gzip or deflate, got {quote(encoding)}")
    bound = min(max_bytes, max(FREE_BYTES, MAX_RATIO * len(body)))
    pieces: list[bytes] = []
    room = bound + 1
    rest = body
    try:
        while rest or not pieces:  # gzip files may be written one behind the other
            packed = zlib.decompressobj(window)
            piece = packed.decompress(rest, room)
            pieces.append(piece)
            room -= len(piece)
            if room <= 0:
                raise TooLarge(_over(len(body), encoding, bound, max_bytes))
            if not packed.eof:
                raise CodecError(f"the {encoding} body is cut off")
            rest = packed.unused_data
            if rest and (window == WINDOWS["deflate"] or len(pieces) == MAX_MEMBERS):
                raise CodecError(f"the {encoding} body is followed by {len(rest)} bytes that are none of it")
    except zlib.error as err:
        raise CodecError(f"the body is not {encoding}: {err}") from err
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def accepted(header: str) -> str | None:
    """The encoding to answer in by `Accept-Encoding`, gzip before deflate; None where neither is asked for."""
    asked = {}
    for part in header.lower().split(",")[:16]:
        name, _, parameters = part.partition(";")
        asked[name.strip()] = parameters.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    for encoding in ("gzip", "deflate"):
        if asked.get(encoding, False):
            return encoding
    return None


def _over(size: int, encoding: str, bound: int, max_bytes: int) -> str:
    """Which bound the body went over."""
    if bound == max_bytes:
        return f"the {encoding} body inflates past --max_body_bytes={max_bytes}"
    return f"the {encoding} body of {size} bytes inflates more than {MAX_RATIO}-fold; send it as it is"
