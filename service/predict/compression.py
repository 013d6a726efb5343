"""Compression: inflates request bodies within bounds before a dialect reads them, and compresses answers on request."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

from darkroom.service.errors import CodecError, TooLarge, UnsupportedContent, quote
from darkroom.service.predict.call import body_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from darkroom.service.predict.call import Call, Reply

WINDOWS = {
    "gzip": 31,
    "x-gzip": 31,
    "deflate": 15,
}  # zlib's wbits; deflate in HTTP is the zlib form (RFC 9110, 8.4.1.2)
MAX_RATIO = 200  # precedent: Apache's DeflateInflateRatioLimit; real pictures in base64 pack to about 3/4
FREE_BYTES = 1 << 20  # measured: 0.9 ms; up to here any ratio is inflated
MAX_MEMBERS = 8  # of a gzip body; clients send one
PIECE_BYTES = 1 << 18  # guess: of what one call takes and makes
MIN_ANSWER_BYTES = 1024  # precedent: below one packet there is nothing to gain
LEVEL = 1  # measured: 424 KB of floats in JSON: level 1 4.1 ms to 40 %, level 6 20.8 ms to 35 %


class Compression(NamedTuple):
    """The rules of one server: how far a body may inflate, and whether answers are compressed for clients that ask."""

    max_body_bytes: int
    packs_answers: bool = False

    def open(self, call: Call) -> Call:
        """The call with its body decoded as its Content-Encoding says; unchanged if it is empty or `identity`.

        Raises:
            UnsupportedContent: an encoding other than gzip and deflate, or several of them.
            KeyError: the call has no Content-Encoding.
            CodecError: the body is cut off or is not in its encoding.
            TooLarge: it inflates past `--max_body_bytes`, or more than 200-fold.
        """
        encoding = call.headers["content-encoding"].strip().lower()
        if encoding in {"", "identity"}:
            return call
        body = inflate(call.body, encoding, self.max_body_bytes)
        return call._replace(body=body)

    def pack(self, reply: Reply, headers: Mapping[str, str]) -> Reply:
        """The reply compressed if it is long enough and the request's `headers` accept it; else the reply itself."""
        if not self.packs_answers or reply.status != 200 or body_size(reply.body) < MIN_ANSWER_BYTES:
            return reply
        vary = {"Vary": "Accept-Encoding"}
        encoding = accepted(headers.get("accept-encoding", ""))
        if encoding is None:
            return reply._replace(headers=reply.headers | vary)
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOWS[encoding])
        pieces: list[bytes | memoryview] = [reply.body] if isinstance(reply.body, bytes) else reply.body
        packed = [packer.compress(piece) for piece in pieces]
        packed.append(packer.flush())  # apart from the list: mypyc would evaluate it first
        body = b"".join(packed)
        return reply._replace(body=body, headers=reply.headers | vary | {"Content-Encoding": encoding})


def inflate(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The decoded bytes of `body`, at most `max_bytes`; memory for more is never allocated.

    Raises:
        UnsupportedContent: an unknown encoding.
        CodecError: the body is empty, cut off, followed by other bytes, or not in this encoding.
        TooLarge: over `max_bytes`, or over 1 MiB and 200 times as long as `body`.
    """
    window = WINDOWS.get(encoding)
    if window is None:
        raise UnsupportedContent(f"Content-Encoding: expected gzip or deflate, got {quote(encoding)}")
    bound = min(max_bytes, max(FREE_BYTES, MAX_RATIO * len(body)))
    made, at, members = BytesIO(), 0, 0  # its value is given out without a copy
    try:
        while at < len(body) or not members:  # a gzip body may have several members, one after another
            at, members = _inflate_member(body, at, window, made, bound), members + 1
            if made.tell() > bound:
                is_flag = bound == max_bytes
                limit = f"past --max_body_bytes={max_bytes}" if is_flag else f"over {MAX_RATIO}-fold; send it as it is"
                raise TooLarge(f"the {encoding} body of {len(body)} bytes inflates {limit}")
            if at < 0:
                raise CodecError(f"the {encoding} body is cut off")
            if at < len(body) and (window == WINDOWS["deflate"] or members == MAX_MEMBERS):
                raise CodecError(f"the {encoding} body is followed by {len(body) - at} bytes that are none of it")
    except zlib.error as err:
        raise CodecError(f"the body is not {encoding}: {err}") from err
    return made.getvalue()


def _inflate_member(body: bytes, at: int, window: int, made: BytesIO, bound: int) -> int:
    """Writes what a member that begins at `at` holds to `made`; where it ends, -1 if it is cut off or too much is made."""
    packed = zlib.decompressobj(window)
    while piece := body[at : at + PIECE_BYTES]:
        at += len(piece)
        while True:  # until nothing more comes of this piece
            made.write(found := packed.decompress(piece, PIECE_BYTES))
            if packed.eof:
                return at - len(packed.unused_data)
            piece = packed.unconsumed_tail
            if made.tell() > bound:
                return -1
            if not piece and len(found) < PIECE_BYTES:
                break
    return -1


def accepted(header: str) -> str | None:
    """The encoding for the answer by `Accept-Encoding`, gzip before deflate; None if the client asks for neither."""
    asked = {}
    for part in header.lower().split(",")[:16]:
        name, _, parameters = part.partition(";")
        asked[name.strip()] = parameters.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    for encoding in ("gzip", "deflate"):
        if asked.get(encoding, False):
            return encoding
    return None
