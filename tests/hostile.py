"""Requests that mean harm, by name: what each is, and with which status and words it should be refused."""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import NamedTuple

from tests.pictures import picture, standard

JSON = "application/json"
FORM = "multipart/form-data; boundary=x"


class Attack(NamedTuple):
    """One request to `POST /` and what it should come to."""

    name: str
    body: bytes
    kind: str
    status: int
    words: str
    encoding: str = ""


def wide_png(width: int = 20_000, height: int = 20_000) -> bytes:
    """A PNG of zeros, one bit a pixel, whose 20,000 x 20,000 pixels decode to 1.2 GB of RGB out of about 50 KB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def wide_jpeg() -> bytes:
    """The header of a JPEG that claims 65,500 x 65,500 pixels, and no more."""
    return b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 65_500, 65_500, 3) + bytes(9) + b"\xff\xda"


def many_scans(count: int) -> bytes:
    """A progressive JPEG of 2000x2000 pixels whose last scan is there over and over: 30 ms of decoding each 10 scans."""
    data = picture(kind="JPEG", size=(2_000, 2_000), progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2][:10] * count + b"\xff\xd9"


def png_with(kind: bytes, data: bytes, count: int) -> bytes:
    """A PNG of 8x6 pixels with the same chunk many times before its pixels."""
    small = picture()
    return small[:33] + _chunk(kind, data) * count + small[33:]


def field(number: int, data: bytes) -> bytes:
    """A field of protobuf: its number, its length and its bytes."""
    size = bytearray()
    left = len(data)
    while left > 0x7F:
        size.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([number << 3 | 2]) + bytes(size) + bytes([left]) + data


def feature(*values: bytes) -> bytes:
    """A feature of bytes of a tf.Example."""
    return field(1, b"".join(field(1, value) for value in values))


def example(*values: bytes, key: bytes = b"image") -> bytes:
    """A tf.Example with one feature of bytes."""
    return field(1, field(1, field(1, key) + field(2, feature(*values))))


def nested(levels: int) -> bytes:
    """A picture that is a list in a list in a list."""
    return b'{"data": {"images": [' + b"[" * levels + b"]" * levels + b"]}}"


def attacks() -> list[Attack]:
    """Every attack that is one whole request, for a server of `darkroom.models.engines.fakes` with the default limits."""
    one = standard(picture()).encode()
    many = b'{"data": {"images": [' + b",".join([b'"' + one + b'"'] * 10_000) + b"]}}"
    return [
        Attack("a PNG of 20,000 x 20,000 in 50 KB", wide_png(), "image/png", 413, "--max_image_pixels="),
        Attack("a JPEG header that claims 65,500 x 65,500", wide_jpeg(), "image/jpeg", 413, "--max_image_pixels="),
        Attack("a gzip bomb of 64 MB", gzip.compress(bytes(64 << 20)), JSON, 413, "200-fold", "gzip"),
        Attack("JSON nested 200 levels", nested(200), JSON, 400, "images[0]: expected base64 text"),
        Attack("JSON nested 100,000 levels", nested(100_000), JSON, 400, "Invalid json data"),
        Attack("JSON nested 100,000 levels, with a NaN", b"[NaN," * 100_000, JSON, 400, "Invalid json data"),
        Attack("100,000 lists of numbers without an end", b'{"x":' + b"[1 " * 100_000, JSON, 400, "Invalid json data"),
        Attack("10,000 images", many, JSON, 413, "--max_images=1024"),
        Attack("a form of 1,000,000 parts", b"--x\r\n" * 1_000_000, FORM, 400, "part 1"),
        Attack("a form of one endless head", b"--x\r\n" + b"a: b\r\n" * 200_000, FORM, 400, "part 1"),
        Attack("a number of 10,000 digits", b'{"model_version": %b}' % (b"9" * 10_000), JSON, 400, "Invalid json data"),
        Attack("a lone surrogate", b'{"model_name": "\\ud800", "data": 1}', JSON, 400, ""),
        Attack("not UTF-8", b'{"data": "\xff\xfe"}', JSON, 400, "Invalid json data"),
        Attack("top_k that is a list of 100,000", _long_top_k(), JSON, 400, "top_k: expected"),
        Attack("a progressive JPEG of 2,500 scans", many_scans(2_500), "image/jpeg", 413, "--max_image_scans=20"),
        Attack("a PNG of 5,000 chunks", png_with(b"tEXt", b"a\0b", 5_000), "image/png", 400, "chunks"),
        Attack("a GIF of 30,000 blocks", _blocky_gif(), "image/gif", 400, "blocks"),
        Attack("a JPEG of 3,000 segments", b"\xff\xd8" + b"\xff\xe0\x00\x02" * 3_000, "image/jpeg", 400, "segments"),
    ]  # fmt: skip


def _long_top_k() -> bytes:
    return b'{"data": {"images": []}, "top_k": [' + b"1," * 99_999 + b"1]}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _blocky_gif() -> bytes:
    """A GIF of one frame behind a comment of 30,000 blocks of a byte each."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
    return head + b"\x21\xfe" + b"\x01x" * 30_000 + b"\x00" + b"\x2c" + bytes(9) + b"\x02\x00\x3b"
