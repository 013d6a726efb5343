"""Compressed bodies and answers, without a server."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.service.errors import CodecError, TooLarge, UnsupportedContent
from darkroom.service.predict.call import Reply, joined
from darkroom.service.predict.compression import (
    MAX_MEMBERS,
    MIN_ANSWER_BYTES,
    PIECE_BYTES,
    Compression,
    accepted,
    inflate,
)

LIMIT = 10_000_000


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)]
)
@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 50])
def test_a_packed_body_comes_out_as_it_went_in(encoding: str, pack: type[bytes], body: bytes) -> None:
    assert inflate(pack(body), encoding, LIMIT) == body


def test_gzip_members_one_behind_the_other_are_one_body_up_to_a_number() -> None:
    assert inflate(gzip.compress(b"ab") * MAX_MEMBERS, "gzip", LIMIT) == b"ab" * MAX_MEMBERS
    with pytest.raises(CodecError, match="followed by"):
        inflate(gzip.compress(b"ab") * (MAX_MEMBERS + 1), "gzip", LIMIT)


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES + 7])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("is_noise", [True, False])
def test_a_body_of_several_pieces_comes_out_as_it_went_in(size: int, members: int, is_noise: bool) -> None:
    body = np.random.default_rng(1).bytes(size) if is_noise else bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert inflate(gzip.compress(body, 1) * members, "gzip", LIMIT) == body * members


def test_a_body_may_inflate_to_the_limit_and_not_a_byte_further() -> None:
    assert len(inflate(gzip.compress(b"x" * 5_000), "gzip", 5_000)) == 5_000
    with pytest.raises(TooLarge, match="--max_body_bytes=4999"):
        inflate(gzip.compress(b"x" * 5_000), "gzip", 4_999)


def test_a_bomb_is_stopped_by_its_ratio_long_before_the_limit() -> None:
    bomb = gzip.compress(bytes(8_000_000))
    with pytest.raises(TooLarge, match="200-fold"):
        inflate(bomb, "gzip", LIMIT)


@pytest.mark.parametrize("size", [0, 1, 9, 17, 40])
def test_a_body_that_is_cut_off_is_refused(size: int) -> None:
    body = gzip.compress(bytes(range(256)))
    with pytest.raises(CodecError, match="cut off"):
        inflate(body[:size], "gzip", LIMIT)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"not packed at all", "gzip"),
        (zlib.compress(b"x"), "gzip"),
        (gzip.compress(b"x", mtime=0) + b"tail", "gzip"),
        (zlib.compress(b"x") + b"tail", "deflate"),
        (zlib.compress(b"x")[2:-4], "deflate"),  # raw deflate: not HTTP's form of it
        (gzip.compress(b"x", mtime=0)[:-8] + b"\0" * 8, "gzip"),  # a wrong checksum
    ],
)
def test_a_body_that_is_not_of_its_encoding_is_refused(body: bytes, encoding: str) -> None:
    with pytest.raises(CodecError, match=encoding):
        inflate(body, encoding, LIMIT)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "GZIP", "x" * 5_000])
def test_another_encoding_is_refused_and_little_of_it_quoted(encoding: str) -> None:
    with pytest.raises(UnsupportedContent, match="expected gzip or deflate") as caught:
        inflate(b"", encoding, LIMIT)
    assert len(str(caught.value)) < 400


@given(body=st.binary(max_size=300), encoding=st.sampled_from(["gzip", "deflate"]))
def test_whatever_the_bytes_they_are_inflated_or_refused(body: bytes, encoding: str) -> None:
    try:
        assert len(inflate(body, encoding, LIMIT)) <= LIMIT
    except CodecError as err:
        assert encoding in str(err)  # noqa: PT017 - most inputs are refused, none has to be


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("", None),
        ("br", None),
        ("gzip", "gzip"),
        ("deflate, GZIP;q=0.5", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q = 0.000", None),
        ("identity;q=1, *;q=0", None),
    ],
)
def test_an_answer_is_packed_as_the_client_accepts_it(header: str, encoding: str | None) -> None:
    assert accepted(header) == encoding


@pytest.mark.parametrize(
    ("is_on", "status", "size", "is_packed"),
    [
        (True, 200, MIN_ANSWER_BYTES, True),
        (True, 200, MIN_ANSWER_BYTES - 1, False),
        (True, 400, MIN_ANSWER_BYTES, False),
        (False, 200, MIN_ANSWER_BYTES, False),
    ],
)
def test_only_a_good_answer_of_some_size_is_packed_and_only_where_it_is_set(
    is_on: bool, status: int, size: int, is_packed: bool
) -> None:
    reply = Reply(status, b"0" * size, {"Server-Timing": "total;dur=1"})
    packed = Compression(LIMIT, packs_answers=is_on).pack(reply, {"accept-encoding": "gzip"})
    assert (packed.headers.get("Content-Encoding") == "gzip") is is_packed
    assert (gzip.decompress(joined(packed.body)) if is_packed else packed.body) == reply.body
    assert packed.headers["Server-Timing"] == "total;dur=1"
