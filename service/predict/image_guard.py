"""The image guard: reads the header of each image by itself and checks it, before the image can reach a batch.

Nothing is decoded. Three things are judged: the pixels, the scans of a JPEG, each of which the decoder carries through
the whole picture, and the compressed chunks of a PNG, which libpng inflates to 8 MB each and throws away. `measure` reads the same fields as the decoders that TensorFlow ships (libjpeg-turbo, libpng, giflib,
libwebp, its own BMP reader). So the size that it returns is the size that would be decoded. It ends after a bounded number
of steps, whatever the bytes.
"""

from __future__ import annotations

import re
import struct
import zlib
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import pybase64

from darkroom.models.errors import InvalidInput
from darkroom.models.spec import Numbers, np_shape
from darkroom.service.errors import BadImage, TooLarge

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Mapping, Sequence

    from darkroom.models.rows import Rows
    from darkroom.models.spec import SignatureSpec
    from darkroom.service.config.settings import Settings

FORMATS = frozenset({"jpeg", "png", "gif", "bmp", "webp"})

# Bounds on the work for one picture: a few milliseconds of Python in the worst case. The default of --max_image_segments:
# segments of a JPEG before its data (an ICC profile has at most 255 of 64 KB); a PNG may have this many chunks and one more
# for each 1 KB (libpng's writer fills 8 KB), a GIF ten times this many blocks and one more for each 128 bytes (writers
# fill 255), a tf.Example ten times this many fields. No known writer uses more than a few fill bytes.
MAX_SEGMENTS = 2_000
MAX_JPEG_FILL_BYTES = 1_024
PARTS_PER_SEGMENT = 10  # blocks of a GIF, fields of a tf.Example: quicker to walk

# A JPEG of several scans, as every progressive one, is held as coefficients beside its pixels: up to 6 bytes a pixel
# beside 3. So it counts as up to three times its pixels for the batch (not for the limit of one picture).
SCANS_WEIGHT = 3

# Starting a scan takes libjpeg about as long as the blocks of 4,096 pixels (3 us, measured).
MIN_SCAN_PIXELS = 4_096

# The longest sRGB profile that libpng knows by its checksum has 61 KB. It computes with no other profile.
MAX_PROFILE_BYTES = 1 << 16

# libpng inflates the whole data of a PNG, also what no pixel needs: 4 ns a byte, where a pixel takes 28 (measured).
MAX_DEFLATE_RATIO = 1_032  # zlib's own figure
PNG_BYTES_PER_PIXEL = (
    28  # guess: a picture that may inflate so far costs a seventh of it at most, and nearly always nothing
)
PNG_SPARE_BYTES = 1 << 16  # what an honest picture may inflate to beside its pixels: far more than writers leave
MAX_UNKNOWN_RATIO = 32  # guess: so what the event loop may look at, 256 KB, is 8 MB inflated: 25 ms
MAX_UNKNOWN_BYTES = 280_000_000  # of 256 KB
PNG_PIECE_BYTES = 1 << 10  # what one call makes of a piece with an error in it is not counted: 1 MB at most

# Such chunks of a PNG outside the image input, where they are not dropped; deflate makes at most 16 MB of them.
MAX_KEPT_CHUNK_BYTES = 1 << 14
MAX_EXAMPLE_DEPTH = 6  # SequenceExample: feature_lists, entry, feature list, feature, bytes_list, value

_JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")  # the last fill byte and the code, as libjpeg's next_marker finds it
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length: TEM, RST0 to RST7
_JPEG_SIZE = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG and DAC
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_JPEG_NO_SIZE = frozenset({0xD8, 0xD9, 0xDA})  # a second SOI, EOI, SOS: the size should have come earlier

_LE_PAIR = np.dtype("<u2")
_BE16 = Struct(">H")
_BE16X2 = Struct(">HH")
_BE32X2 = Struct(">II")
_LE16X2 = Struct("<HH")
_LE32 = Struct("<I")
_LE32X2 = Struct("<ii")
_GIF_FRAME = Struct("<HHHHB")


_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PNG_COSTLY = frozenset({b"zTXt", b"iTXt", b"iCCP"})

# TensorFlow 2.21 decodes JPEG XL too, bare and in a container. Its size is not read here, so it is not served.
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")

_FIXED = {1: 8, 5: 4}  # protobuf's wire types of a fixed size

_PICTURE_STARTS = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"RIFF",
    *_JPEG_XL,
)  # not BMP, which cannot be a bomb
_TEXT_STARTS = (  # of their base64 text
    b"/9j/", b"_9j_", b"iVBORw0KGgo", b"R0lGOD", b"UklGR", b"AAAADEpYTCA",
    *(start + last for start in (b"/w", b"_w") for last in (b"o", b"p", b"q", b"r")),
)  # fmt: skip
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")

Size: TypeAlias = tuple[str, int, int, int, int]  # format, width, height, frames, scans (at most; 1 if not a JPEG)


Inner: TypeAlias = "tuple[int, ...]"  # the sizes of one row of a column


class ImageGuard(NamedTuple):
    """The limits of one server, each named after its flag."""

    max_images: int
    max_image_bytes: int
    max_image_pixels: int
    max_rows: int = 1 << 20
    max_image_scans: int = 20
    max_image_segments: int = MAX_SEGMENTS

    def check_rows(self, rows: Rows, field: str) -> Rows:
        """The rows of a request without encoded images, folded into one if they are numbers or texts in great number.

        Rows of rank 2 or more, such as pictures as tensors, count as images.

        Raises:
            TooLarge: they are too many; names the flag.
        """
        if len(rows) <= self.max_images:
            return rows
        if any(len(np_shape(column)) > 2 for column in rows.columns.values()):
            raise TooLarge(
                f"{field}: {len(rows)} rows are over --max_images={self.max_images}, since rows of two dimensions or more "
                "count as images"
            )
        if len(rows) > self.max_rows:
            raise TooLarge(f"{field}: {len(rows)} rows are over --max_rows={self.max_rows}")
        return rows.fold()

    def check_lists(self, inputs: Mapping[str, object], spec: SignatureSpec) -> None:
        """Returns if no list of numbers has more rows than a request may have: before each becomes four bytes or more.

        Raises:
            TooLarge: one has; names the flag.
        """
        for name, value in inputs.items():
            if spec.batched and isinstance(value, Numbers) and len(value) > self.max_rows:
                raise TooLarge(f"{name}: {len(value)} rows are over --max_rows={self.max_rows}")

    def check_count(self, count: int, field: str) -> None:
        """Returns if a request may have `count` images.

        Raises:
            TooLarge: they are too many; names the flag.
        """
        if count > self.max_images:
            raise TooLarge(f"{field}: {count} images are over --max_images={self.max_images}")

    def inspect_all(
        self, pictures: Sequence[bytes], spec: SignatureSpec, field: str, poison: Counter[str], inner: Inner = ()
    ) -> list[tuple[bytes, int]]:
        """What `inspect` returns for each encoded image; stops at the first that is refused.

        Raises:
            TooLarge, BadImage: as `check_count` and `inspect`.
        """
        self.check_count(len(pictures), field)
        return [self.inspect(data, spec, field, index, poison, inner=inner) for index, data in enumerate(pictures)]

    def inspect(
        self, data: bytes, spec: SignatureSpec, field: str, index: int, poison: Counter[str], *, inner: Inner = ()
    ) -> tuple[bytes, int]:
        """One encoded image, number `index` of a column of rows of `inner` sizes, as it may be decoded, and its decoded pixels: width x height of all its frames.

        A PNG is returned without its compressed chunks (`trim_png`). A JPEG of more than `--max_image_scans` scans
        counts as more pixels, in proportion, one of several scans as three times its pixels, and 4 bytes count as at least a pixel, because marker floods cost the
        decoder up to 20 ns a byte and the event loop may run a batch of few pixels itself. A refused image is counted in `poison`, by what is wrong with it.

        Raises:
            TooLarge: over a limit; names `field[index]` and the flag.
            BadImage: empty, or not in a format that the graph decodes; names `field[index]`.
        """
        if len(data) > self.max_image_bytes:
            poison["bytes"] += 1
            limit = self.max_image_bytes
            raise TooLarge(f"{place(field, index, inner)}: {len(data)} bytes are over --max_image_bytes={limit}")
        work = 0
        try:
            size = measure(data, self.max_image_segments)
            kind, width, height, frames, scans = size
            if kind == "png":
                data = trim_png(data, self.max_image_segments)
                work = check_png_data(data)
        except InvalidInput as err:
            poison["format"] += 1
            raise BadImage(f"{place(field, index, inner)}: {err}") from err
        if kind not in spec.formats:
            poison["format"] += 1
            takes = ", ".join(sorted(spec.formats))
            raise BadImage(f"{place(field, index, inner)}: is a {kind} picture; this model decodes {takes}")
        if frames > 1 and spec.one_frame:
            poison["format"] += 1
            what = f"an animation of {frames} frames"
            raise BadImage(f"{place(field, index, inner)}: is {what}; this model decodes single pictures")
        pixels = width * height * frames
        if pixels > self.max_image_pixels or scans > self.max_image_scans:
            pixels = self._check_pixels(size, place(field, index, inner), poison)
        if scans > 1:
            pixels = max(pixels, SCANS_WEIGHT * width * height)
        return data, max(pixels, work, len(data) >> 2)

    def inspect_others(self, values: Sequence[bytes], field: str, poison: Counter[str], inner: Inner = ()) -> list[int]:
        """The decoded pixels of the pictures in each value of an input that is not the image input.

        A value may be a picture, base64 text of one, a tf.Example with either in it, or anything else, which passes.

        Raises:
            TooLarge, BadImage: a picture is over a limit, or its size cannot be read. Names `field[index]`.
        """
        pixels = []
        for index, value in enumerate(values):
            try:
                found = pictures_inside(value, PARTS_PER_SEGMENT * self.max_image_segments)
                where = place(field, index, inner) if found else ""
                pixels.append(sum([self._inspect_other(data, where, poison) for data in found]))
            except InvalidInput as err:
                poison["format"] += 1
                raise BadImage(f"{place(field, index, inner)}: {err}") from err
        return pixels

    def _inspect_other(self, data: bytes, where: str, poison: Counter[str]) -> int:
        size = measure(data, self.max_image_segments)
        trimmed = trim_png(data, self.max_image_segments) if size[0] == "png" else data
        work = check_png_data(trimmed) if size[0] == "png" else 0
        if len(data) - len(trimmed) > MAX_KEPT_CHUNK_BYTES:
            raise InvalidInput(
                f"the PNG picture has more than {MAX_KEPT_CHUNK_BYTES} bytes of compressed text or long colour "
                "profiles; save it without them"
            )
        _, width, height, _, scans = size
        return max(self._check_pixels(size, where, poison), SCANS_WEIGHT * width * height if scans > 1 else work)

    def _check_pixels(self, size: Size, where: str, poison: Counter[str]) -> int:
        _, width, height, frames, scans = size
        pixels = width * height * frames
        limit = self.max_image_pixels
        if pixels > limit:
            poison["pixels"] += 1
            raise TooLarge(
                f"{where}: {width}x{height} of {frames} frame(s) is {pixels / 1e6:.0f} MP, "
                f"over --max_image_pixels={limit}"
            )
        if scans > self.max_image_scans:
            pixels = max(pixels, MIN_SCAN_PIXELS) * scans // self.max_image_scans
            if pixels > limit:
                poison["pixels"] += 1
                raise TooLarge(
                    f"{where}: {width}x{height} in {scans} scans, where --max_image_scans={self.max_image_scans}, "
                    f"counts as {pixels / 1e6:.0f} MP, over --max_image_pixels={limit}; save it with fewer scans"
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


def place(field: str, index: int, inner: Inner) -> str:
    """Where a client finds value `index`, in row-major order, of a column with rows of `inner` sizes: `field[row][…]`."""
    places = ""
    for size in reversed(inner):
        index, at = divmod(index, max(1, size))
        places = f"[{at}]{places}"
    return f"{field}[{index}]{places}"


def guard_of(settings: Settings) -> ImageGuard:
    """The guard with the limits of a server's settings."""
    return ImageGuard(
        settings.max_images,
        settings.max_image_bytes,
        settings.max_image_pixels,
        max_rows=settings.max_rows,
        max_image_scans=settings.max_image_scans,
        max_image_segments=settings.max_image_segments,
    )


def sniff(data: bytes) -> Header:
    """The header of the picture in `data`; raises as `measure` does."""
    return Header(*measure(data)[:4])


def measure(data: bytes, segments: int = MAX_SEGMENTS) -> Size:
    """Format, width, height, frames and scans of the picture in `data`; `sniff` without an object for each picture.

    Raises:
        InvalidInput: empty, in no known format, cut off before its size, with a size of 0, or an animated WebP.
    """
    try:
        size = _measure(data, segments)
    except (IndexError, struct.error) as err:
        raise InvalidInput("the picture is cut off before its size") from err
    kind, width, height, _, _ = size
    if width < 1 or height < 1:
        raise InvalidInput(f"the {kind} picture is {width}x{height}")
    return size


def _measure(data: bytes, segments: int) -> Size:
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data, segments)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _gif(data, segments)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data.startswith(b"BM"):
        return _bmp(data)
    if not data:
        raise InvalidInput("the picture is empty")
    if data.startswith(_JPEG_XL):
        raise InvalidInput("a JPEG XL picture is not served; send JPEG, PNG, GIF, BMP or WebP")
    raise InvalidInput(f"not a JPEG, PNG, GIF, BMP or WebP picture (it starts with {data[:4].hex()})")


def _jpeg(data: bytes, segments: int) -> Size:
    at = 2
    for index in range(segments):
        code, at = _jpeg_marker(data, at)
        if code in _JPEG_SIZE:
            height, width = _BE16X2.unpack_from(data, at + 3)
            scans = _jpeg_scans(data, at, code in _JPEG_PROGRESSIVE, segments - index)
            return "jpeg", width, height, 1, scans
        if code in _JPEG_NO_SIZE:
            raise InvalidInput("the JPEG picture has no size before its data")
        if code not in _JPEG_BARE:
            at += max(_BE16.unpack_from(data, at)[0], 2)
    raise InvalidInput(f"the JPEG picture has more segments before its data than --max_image_segments={segments}")


def _jpeg_scans(data: bytes, at: int, is_progressive: bool, segments: int) -> int:  # noqa: FBT001 - on the hot path
    """An upper bound of the scans that the decoder reads, from the size's place; 1 if the first has every component.

    Scans are counted as the two bytes of their marker. Compressed data cannot contain them, so only other segments, and
    bytes after the end of the picture, can make the number too large.
    """
    components = data[at + 7 : at + 8]
    if components == b"\x01" and not is_progressive:
        return 1
    at += max(_BE16.unpack_from(data, at)[0], 2)
    last = len(data) - 1
    for _ in range(segments):
        if at >= last:
            return 1  # cut off; the decoder says so
        code, at = _jpeg_marker(data, at)
        if code in _JPEG_NO_SIZE:
            if code == 0xDA and (is_progressive or data[at + 2 : at + 3] < components):
                return max(2, _count_sos(data, at - 2))
            return 1
        if code not in _JPEG_BARE and at < last:
            at += max(data[at] << 8 | data[at + 1], 2)
    raise InvalidInput("the JPEG picture has more segments before its data than --max_image_segments")


def _count_sos(data: bytes, at: int) -> int:
    """How often SOS, ff da, is in the data from `at`. numpy: 5 ms for 16 MB, whatever they are; bytes.count takes 20 to 100."""
    count = len(data) - at
    even = np.frombuffer(data, _LE_PAIR, count // 2, at)
    odd = np.frombuffer(data, _LE_PAIR, (count - 1) // 2, at + 1)
    return int(np.count_nonzero(even == 0xDAFF)) + int(np.count_nonzero(odd == 0xDAFF))


def _jpeg_marker(data: bytes, at: int) -> tuple[int, int]:
    """The code of the next marker, and the place after it."""
    code = data[at + 1] if at < len(data) - 1 and data[at] == 0xFF else 0  # the next marker is nearly always here
    if 0 < code < 0xFF:
        return code, at + 2
    marker = _JPEG_MARKER.search(data, at, at + MAX_JPEG_FILL_BYTES)
    if marker is None:
        raise InvalidInput("the JPEG picture is cut off before its data")
    at = marker.end()
    return data[at - 1], at


def _png(data: bytes) -> Size:
    if data[12:16] != b"IHDR":
        raise InvalidInput("the PNG picture does not begin with its IHDR chunk")
    width, height = _BE32X2.unpack_from(data, 16)
    return "png", width, height, 1, 1  # of an animated PNG, libpng reads the one default picture


def trim_png(data: bytes, segments: int = MAX_SEGMENTS) -> bytes:
    """A PNG without the chunks that only cost: compressed text, and colour profiles that libpng does not compute with.

    libpng inflates each to as much as 8 MB. No pixel depends on them. A PNG without such chunks is returned as it is.

    Raises:
        InvalidInput: more chunks than `segments` and one for each 1 KB.
    """
    # Too few bytes for so many chunks, and searched faster than walked.
    if len(data) < 6 * segments and b"TXt" not in data and b"iCCP" not in data:
        return data
    at, begin, end = 8, 0, len(data) - 12
    kept: list[bytes] = []
    seen: set[bytes] = set()
    for _ in range(segments + (len(data) >> 10)):
        if at > end:
            break
        length = data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3]
        kind = data[at + 4 : at + 8]
        if kind == b"IEND":
            break
        if kind in _PNG_COSTLY:
            if _is_costly(data, at, length, is_first=b"iCCP" not in seen):
                kept.append(data[begin:at])
                begin = at + 12 + length
            seen.add(kind)
        at += 12 + length
    else:
        raise InvalidInput(
            f"the PNG picture has more chunks than --max_image_segments={segments} and one for each KB; save it again"
        )
    if not kept:
        return data
    kept.append(data[begin:])
    return b"".join(kept)


def check_png_data(data: bytes) -> int:
    """The pixels that the compressed data of a PNG count as, since libpng inflates all of it, however few pixels there are.

    Deflate makes at most 1,032 bytes of one. Where that may be far more than the pixels need, the data is inflated here,
    bit by bit, until it is over. Elsewhere it counts as much as it may be. So here at most 32 bytes are made of each.

    Raises:
        InvalidInput: it is longer than data of such pixels can be, or inflates to more than twice what they need.
    """
    if len(data) < 29:
        return 0  # cut off; the decoder says so
    width, height = _BE32X2.unpack_from(data, 16)
    need = (1 + (width * data[24] * _PNG_CHANNELS.get(data[25], 4) + 7 >> 3)) * height
    # Deflate makes data that cannot be compressed up to 1/8 larger, and a flush after each row costs some bytes.
    limit = need * 5 // 4 + 16 * height + 1_024
    if len(data) > limit and (size := sum([stop - start for start, stop in _png_data(data)])) > limit:
        raise InvalidInput(
            f"the PNG picture has {size} bytes of compressed pixels, where {width}x{height} need at most {limit}; "
            "save it again"
        )
    most = MAX_DEFLATE_RATIO * len(data)
    if most <= PNG_SPARE_BYTES + min(MAX_UNKNOWN_RATIO * need, max(2 * need, MAX_UNKNOWN_BYTES)):
        return most // PNG_BYTES_PER_PIXEL if most > 2 * need else 0
    limit = 2 * need + PNG_SPARE_BYTES
    if _inflates_past(data, limit):
        raise InvalidInput(
            f"the compressed pixels of the PNG picture inflate to more than {limit} bytes, where {width}x{height} need "
            f"{need}; save it again"
        )
    return 0


def _inflates_past(data: bytes, limit: int) -> bool:
    """Whether the compressed pixels of a PNG inflate to more bytes than `limit`. No more than 1 MB is held."""
    packed, view = zlib.decompressobj(), memoryview(data)
    for start, stop in _png_data(data):
        for at in range(start, stop, PNG_PIECE_BYTES):
            try:
                limit -= len(packed.decompress(view[at : min(at + PNG_PIECE_BYTES, stop)]))
            except zlib.error:
                return False  # the decoder stops here too, and says so
            if limit < 0 or packed.eof:
                return limit < 0
    return False


def _png_data(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of the compressed pixels in each IDAT chunk of a PNG."""
    at, end = 8, len(data) - 12
    while at <= end:
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            yield at + 8, min(at + 8 + length, len(data))
        at += 12 + length


def _is_costly(data: bytes, at: int, length: int, *, is_first: bool) -> bool:
    """Whether the PNG chunk at `at` has compressed text, or a profile that is not the first or is long."""
    kind, at = data[at + 4 : at + 8], at + 8
    if kind == b"zTXt":
        return True
    if kind == b"iTXt":
        name_end = data.find(b"\0", at, at + 80)
        return name_end < 0 or data[name_end + 1 : name_end + 2] != b"\0"
    name_end = data.find(b"\0", at, at + 80)
    if not is_first or name_end < 0:
        return True
    try:
        size = zlib.decompressobj().decompress(data[name_end + 2 : min(name_end + 1_026, at + length)], 4)
    except zlib.error:
        return True
    return len(size) < 4 or int.from_bytes(size, "big") > MAX_PROFILE_BYTES


def pictures_inside(value: bytes, max_fields: int = PARTS_PER_SEGMENT * MAX_SEGMENTS) -> list[bytes]:
    """The pictures, raw or as base64 text, that a value is or that a serialized tf.Example or tf.SequenceExample holds.

    Raises:
        InvalidInput: it has more than `max_fields` fields, and may have a picture in it.
    """
    if (picture := _picture_at(value, 0, len(value))) is not None:
        return [picture]
    if not any(magic in value for magic in (*_PICTURE_STARTS, *_TEXT_STARTS)):
        return []
    found: list[bytes] = []
    messages = [(0, len(value), MAX_EXAMPLE_DEPTH)]
    left = max_fields
    while messages:
        begin, end, depth = messages.pop()
        for number, start, stop in _fields(value, begin, end):
            left -= 1
            if left < 0:
                raise InvalidInput(
                    f"a tf.Example with pictures has more than {max_fields} fields, {PARTS_PER_SEGMENT} times "
                    "--max_image_segments; send smaller ones"
                )
            picture = _picture_at(value, start, stop)
            if picture is not None:
                found.append(picture)
            elif depth and 0 < number < 3:
                messages.append((start, stop, depth - 1))
    return found


def _picture_at(value: bytes, start: int, stop: int) -> bytes | None:
    """The picture, raw or as base64 text, that a part of a value is; None if it begins as neither."""
    if _begins_as_picture(value, start, stop):
        return value[start:stop]
    if not value.startswith(_TEXT_STARTS, start, stop):
        return None
    text = value[start:stop].translate(_TO_STANDARD, b"\r\n").rstrip(b"=")
    try:
        data: bytes = pybase64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None
    return data if _begins_as_picture(data, 0, len(data)) else None


def _begins_as_picture(value: bytes, start: int, stop: int) -> bool:
    if not value.startswith(_PICTURE_STARTS, start, stop):
        return False
    return not value.startswith(b"RIFF", start) or value.startswith(b"WEBP", start + 8, stop)  # RIFF may be sound


def _fields(value: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field of a protobuf message; the number is 0 where no message can be in it."""
    while at < end:
        tag, at = _varint(value, at, end)
        kind, size = tag & 7, _FIXED.get(tag & 7, 0)
        if kind == 2:
            size, at = _varint(value, at, end)
        elif kind == 0:
            _, at = _varint(value, at, end)
        elif not size:
            return  # a group, or no message; TensorFlow's parser stops here too
        if size > end - at:
            return
        yield (tag >> 3 if kind == 2 else 0), at, at + size
        at += size


def _varint(value: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of protobuf, and the place after it; the place is `end` where it is cut off."""
    number = shift = 0
    while at < end and shift < 64:
        byte = value[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
    return 0, end


def _gif(data: bytes, segments: int) -> Size:
    """The size of the largest frame, which TensorFlow decodes; the logical screen may be smaller."""
    flags = data[10]
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    width = height = frames = 0
    blocks = PARTS_PER_SEGMENT * segments + (len(data) >> 7)
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
        if blocks < 1:
            raise InvalidInput(
                f"the GIF picture has more blocks than {PARTS_PER_SEGMENT} times --max_image_segments={segments} "
                "and one for each 128 bytes; save it again"
            )
    if not frames:
        raise InvalidInput("the GIF picture has no frame")
    return "gif", width, height, frames, 1


def _skip_gif_blocks(data: bytes, at: int, blocks: int) -> tuple[int, int]:
    """The place after a chain of data blocks (or the end, if it is cut off), and how many more blocks are allowed."""
    end = len(data)
    while at < end and (size := data[at]) and blocks > 0:
        at += size + 1
        blocks -= 1
    return at + 1, blocks - 1


def _bmp(data: bytes) -> Size:
    if _LE32.unpack_from(data, 14)[0] == 12:  # OS/2's header: 16-bit sizes
        width, height = _LE16X2.unpack_from(data, 18)
    else:
        width, height = _LE32X2.unpack_from(data, 18)
    return "bmp", width, abs(height), 1, 1  # a negative height: rows from the top


def _webp(data: bytes) -> Size:
    """The size of a still WebP; an animated one is refused, because TensorFlow 2.21 aborts on it without alpha (SIGABRT)."""
    kind = data[12:16]
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = _LE16X2.unpack_from(data, 26)
        return "webp", width & 0x3FFF, height & 0x3FFF, 1, 1
    if kind == b"VP8L" and data[20] == 0x2F:
        sizes = _LE32.unpack_from(data, 21)[0]
        return "webp", (sizes & 0x3FFF) + 1, (sizes >> 14 & 0x3FFF) + 1, 1, 1
    if kind == b"VP8X":
        width, height = (1 + (data[at] | data[at + 1] << 8 | data[at + 2] << 16) for at in (24, 27))
        if data[20] & 0x02:
            raise InvalidInput("an animated WebP picture is not served")
        return "webp", width, height, 1, 1
    raise InvalidInput("the WebP picture does not begin with a picture chunk")
