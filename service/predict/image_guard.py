"""The image guard: reads the header of each image by itself and checks it, before the image can reach a batch.

Nothing is decoded. `measure` reads the same fields as the decoders that TensorFlow ships (libjpeg-turbo, libpng, giflib,
libwebp, its own BMP reader). So the size that it returns is the size that would be decoded. It ends after a bounded number
of steps, whatever the bytes.
"""

from __future__ import annotations

import re
import struct
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from darkroom.models.errors import InvalidInput
from darkroom.models.spec import np_shape
from darkroom.service.errors import BadImage, TooLarge

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from darkroom.models.rows import Rows
    from darkroom.models.spec import SignatureSpec

FORMATS = frozenset({"jpeg", "png", "gif", "bmp", "webp"})

# Bounds on the work for one picture: a few milliseconds of Python in the worst case. An ICC profile has at most 255
# segments of 64 KB. No known writer uses more than a few fill bytes. GIF writers fill their blocks of 255 bytes, so
# 20,000 blocks are 5 MB.
MAX_JPEG_SEGMENTS = 2_000
MAX_JPEG_FILL_BYTES = 1_024
MAX_GIF_BLOCKS = 20_000

_JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")  # the last fill byte and the code, as libjpeg's next_marker finds it
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length: TEM, RST0 to RST7
_JPEG_SIZE = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG and DAC
_JPEG_NO_SIZE = frozenset({0xD8, 0xD9, 0xDA})  # a second SOI, EOI, SOS: the size should have come earlier

_BE16 = Struct(">H")
_BE16X2 = Struct(">HH")
_BE32X2 = Struct(">II")
_LE16X2 = Struct("<HH")
_LE32 = Struct("<I")
_LE32X2 = Struct("<ii")
_GIF_FRAME = Struct("<HHHHB")


Size: TypeAlias = tuple[str, int, int, int]  # format, width, height, frames


class ImageGuard(NamedTuple):
    """The limits of one server, each named after its flag."""

    max_images: int
    max_image_bytes: int
    max_image_pixels: int
    max_rows: int = 1 << 20

    def check_rows(self, rows: Rows, field: str) -> Rows:
        """The rows of a request without encoded images, folded into one if they are numbers or texts in great number.

        Rows of rank 2 or more, such as pictures as tensors, count as images.

        Raises:
            TooLarge: they are too many; names the flag.
        """
        if len(rows) <= self.max_images:
            return rows
        if any(len(np_shape(column)) > 2 for column in rows.columns.values()):
            self.check_count(len(rows), field)
        if len(rows) > self.max_rows:
            raise TooLarge(f"{field}: {len(rows)} rows are over --max_rows={self.max_rows}")
        return rows.fold()

    def check_count(self, count: int, field: str) -> None:
        """Returns if a request may have `count` images.

        Raises:
            TooLarge: they are too many; names the flag.
        """
        if count > self.max_images:
            raise TooLarge(f"{field}: {count} images are over --max_images={self.max_images}")

    def inspect_all(
        self, pictures: Sequence[bytes], spec: SignatureSpec, field: str, poison: Counter[str]
    ) -> list[int]:
        """The decoded pixels of each encoded image; stops at the first that is refused.

        Raises:
            TooLarge, BadImage: as `check_count` and `inspect`.
        """
        self.check_count(len(pictures), field)
        return [self.inspect(data, spec, field, index, poison) for index, data in enumerate(pictures)]

    def inspect(self, data: bytes, spec: SignatureSpec, field: str, index: int, poison: Counter[str]) -> int:
        """The decoded pixels of one encoded image: width x height of all its frames, read from its header.

        A refused image is counted in `poison`, by what is wrong with it.

        Raises:
            TooLarge: over a limit; names `field[index]` and the flag.
            BadImage: empty, or not in a format that the graph decodes; names `field[index]`.
        """
        if len(data) > self.max_image_bytes:
            poison["bytes"] += 1
            limit = self.max_image_bytes
            raise TooLarge(f"{field}[{index}]: {len(data)} bytes are over --max_image_bytes={limit}")
        try:
            kind, width, height, frames = measure(data)
        except InvalidInput as err:
            poison["format"] += 1
            raise BadImage(f"{field}[{index}]: {err}") from err
        if kind not in spec.formats:
            poison["format"] += 1
            takes = ", ".join(sorted(spec.formats))
            raise BadImage(f"{field}[{index}]: is a {kind} picture; this model decodes {takes}")
        if frames > 1 and spec.one_frame:
            poison["format"] += 1
            what = f"an animation of {frames} frames"
            raise BadImage(f"{field}[{index}]: is {what}; this model decodes single pictures")
        pixels = width * height * frames
        if pixels > self.max_image_pixels:
            poison["pixels"] += 1
            raise TooLarge(
                f"{field}[{index}]: {width}x{height} of {frames} frame(s) is {pixels / 1e6:.0f} MP, "
                f"over --max_image_pixels={self.max_image_pixels}"
            )
        return pixels


class Header(NamedTuple):
    """The header of a picture; only an animated GIF has more than 1 in `frames`."""

    format: str
    width: int
    height: int
    frames: int = 1

    @property
    def pixels(self) -> int:
        """The pixels of all its frames."""
        return self.width * self.height * self.frames


def sniff(data: bytes) -> Header:
    """The header of the picture in `data`; raises as `measure` does."""
    return Header(*measure(data))


def measure(data: bytes) -> Size:
    """Format, width, height and frames of the picture in `data`; `sniff` without an object for each picture.

    Raises:
        InvalidInput: empty, in no known format, cut off before its size, with a size of 0, or an animated WebP.
    """
    try:
        size = _measure(data)
    except (IndexError, struct.error) as err:
        raise InvalidInput("the picture is cut off before its size") from err
    kind, width, height, _ = size
    if width < 1 or height < 1:
        raise InvalidInput(f"the {kind} picture is {width}x{height}")
    return size


def _measure(data: bytes) -> Size:
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _gif(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data.startswith(b"BM"):
        return _bmp(data)
    if not data:
        raise InvalidInput("the picture is empty")
    raise InvalidInput(f"not a JPEG, PNG, GIF, BMP or WebP picture (it starts with {data[:4].hex()})")


def _jpeg(data: bytes) -> Size:
    at, last = 2, len(data) - 1
    for _ in range(MAX_JPEG_SEGMENTS):
        code = data[at + 1] if at < last and data[at] == 0xFF else 0  # the next marker is nearly always here
        if 0 < code < 0xFF:
            at += 2
        else:
            marker = _JPEG_MARKER.search(data, at, at + MAX_JPEG_FILL_BYTES)
            if marker is None:
                raise InvalidInput("the JPEG picture is cut off before its size")
            code = data[marker.start() + 1]
            at = marker.end()
        if code in _JPEG_SIZE:
            height, width = _BE16X2.unpack_from(data, at + 3)
            return "jpeg", width, height, 1
        if code in _JPEG_NO_SIZE:
            raise InvalidInput("the JPEG picture has no size before its data")
        if code not in _JPEG_BARE:
            at += max(_BE16.unpack_from(data, at)[0], 2)
    raise InvalidInput(f"the JPEG picture has more than {MAX_JPEG_SEGMENTS} segments before its size")


def _png(data: bytes) -> Size:
    if data[12:16] != b"IHDR":
        raise InvalidInput("the PNG picture does not begin with its IHDR chunk")
    width, height = _BE32X2.unpack_from(data, 16)
    return "png", width, height, 1  # of an animated PNG, libpng reads the one default picture


def _gif(data: bytes) -> Size:
    """The size of the largest frame, which TensorFlow decodes; the logical screen may be smaller."""
    flags = data[10]
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    width = height = frames = 0
    blocks = MAX_GIF_BLOCKS
    while at < len(data) and data[at] != 0x3B:
        if data[at] == 0x2C:
            _, _, frame_width, frame_height, flags = _GIF_FRAME.unpack_from(data, at + 1)
            width, height, frames = max(width, frame_width), max(height, frame_height), frames + 1
            at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        elif data[at] == 0x21:
            at += 2
        else:
            break  # giflib stops here too; the frames before this may be decoded
        at, blocks = _skip_gif_blocks(data, at, blocks)
    if not frames:
        raise InvalidInput("the GIF picture has no frame")
    return "gif", width, height, frames


def _skip_gif_blocks(data: bytes, at: int, blocks: int) -> tuple[int, int]:
    """The place after a chain of data blocks (or the end, if it is cut off), and how many more blocks are allowed."""
    end = len(data)
    while at < end and (size := data[at]):
        at += size + 1
        blocks -= 1
        if not blocks:
            raise InvalidInput(f"the GIF picture has more than {MAX_GIF_BLOCKS} blocks")
    if blocks <= 1:
        raise InvalidInput(f"the GIF picture has more than {MAX_GIF_BLOCKS} blocks")
    return at + 1, blocks - 1


def _bmp(data: bytes) -> Size:
    if _LE32.unpack_from(data, 14)[0] == 12:  # OS/2's header: 16-bit sizes
        width, height = _LE16X2.unpack_from(data, 18)
    else:
        width, height = _LE32X2.unpack_from(data, 18)
    return "bmp", width, abs(height), 1  # a negative height: rows from the top


def _webp(data: bytes) -> Size:
    """The size of a still WebP; an animated one is refused, because TensorFlow 2.21 aborts on it without alpha (SIGABRT)."""
    kind = data[12:16]
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = _LE16X2.unpack_from(data, 26)
        return "webp", width & 0x3FFF, height & 0x3FFF, 1
    if kind == b"VP8L" and data[20] == 0x2F:
        sizes = _LE32.unpack_from(data, 21)[0]
        return "webp", (sizes & 0x3FFF) + 1, (sizes >> 14 & 0x3FFF) + 1, 1
    if kind == b"VP8X":
        width, height = (1 + (data[at] | data[at + 1] << 8 | data[at + 2] << 16) for at in (24, 27))
        if data[20] & 0x02:
            raise InvalidInput("an animated WebP picture is not served")
        return "webp", width, height, 1
    raise InvalidInput("the WebP picture does not begin with a picture chunk")
