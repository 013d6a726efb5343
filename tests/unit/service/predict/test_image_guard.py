"""The image guard: the header reader against Pillow and hostile bytes, and the limits."""

from __future__ import annotations

import io
import struct
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from darkroom.models.engines.fakes import ECHO
from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows
from darkroom.models.spec import SignatureSpec
from darkroom.service.errors import CodecError, TooLarge
from darkroom.service.predict.image_guard import (
    FORMATS,
    MAX_GIF_BLOCKS,
    MAX_JPEG_SEGMENTS,
    Header,
    ImageGuard,
    sniff,
)
from tests.pictures import picture

WIDTH, HEIGHT = 37, 21


def gradient(mode: str = "RGB") -> Image.Image:
    return Image.radial_gradient("L").resize((WIDTH, HEIGHT)).convert(mode)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif_with_thumbnail() -> bytes:
    """An EXIF block whose thumbnail is a JPEG of another size."""
    thumbnail = encode(gradient().resize((8, 8)), "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: TensorFlow ignores it, and so does the size here
    exif[0x927C] = thumbnail
    return exif.tobytes()


FRAMES = [gradient().rotate(angle) for angle in (30, 60, 90)]
KINDS = {
    "baseline jpeg": encode(gradient(), "JPEG"),
    "progressive jpeg": encode(gradient(), "JPEG", progressive=True),
    "grey jpeg": encode(gradient("L"), "JPEG"),
    "cmyk jpeg": encode(gradient("CMYK"), "JPEG"),
    "jpeg with restart markers": encode(gradient(), "JPEG", restart_marker_blocks=1),
    "jpeg with a comment": encode(gradient(), "JPEG", comment=b"\xff\xd8\xff\xc0 a size that is none"),
    "jpeg with exif and a thumbnail": encode(gradient(), "JPEG", exif=exif_with_thumbnail()),
    "jpeg with a long profile": encode(gradient(), "JPEG", icc_profile=b"\xff\xc0" * 100_000),
    "rgb png": encode(gradient(), "PNG"),
    "rgba png": encode(gradient("RGBA"), "PNG"),
    "grey png": encode(gradient("L"), "PNG"),
    "palette png": encode(gradient("P"), "PNG"),
    "one-bit png": encode(gradient("1"), "PNG"),
    "sixteen-bit png": encode(gradient("I;16"), "PNG"),
    "gif": encode(gradient("P"), "GIF"),
    "interlaced gif": encode(gradient("P"), "GIF", interlace=True),
    "animated gif": encode(gradient(), "GIF", save_all=True, append_images=FRAMES),
    "rgb bmp": encode(gradient(), "BMP"),
    "rgba bmp": encode(gradient("RGBA"), "BMP"),
    "palette bmp": encode(gradient("P"), "BMP"),
    "lossy webp": encode(gradient(), "WEBP"),
    "lossless webp": encode(gradient(), "WEBP", lossless=True),
    "webp with alpha": encode(gradient("RGBA"), "WEBP"),
    "webp with exif": encode(gradient(), "WEBP", exif=exif_with_thumbnail()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_header_of_each_kind_of_picture_is_what_pillow_says(kind: str) -> None:
    with Image.open(io.BytesIO(KINDS[kind])) as image:
        expected = Header(str(image.format).lower(), *image.size, getattr(image, "n_frames", 1))
    assert sniff(KINDS[kind]) == expected
    assert expected.format in FORMATS


def test_the_formats_that_are_told_are_all_covered_here() -> None:
    assert {sniff(data).format for data in KINDS.values()} == FORMATS


def test_pixels_count_every_frame() -> None:
    assert sniff(KINDS["animated gif"]).pixels == 4 * WIDTH * HEIGHT
    assert sniff(KINDS["baseline jpeg"]).pixels == WIDTH * HEIGHT


def test_an_animated_webp_is_refused_since_tensorflow_aborts_on_it() -> None:
    data = encode(gradient(), "WEBP", save_all=True, append_images=FRAMES)
    with pytest.raises(InvalidInput, match="animated WebP"):
        sniff(data)


def test_an_animated_png_is_its_default_picture() -> None:
    data = encode(gradient(), "PNG", save_all=True, append_images=FRAMES)
    assert sniff(data) == Header("png", WIDTH, HEIGHT)


def test_an_arithmetic_coded_jpeg_has_its_size() -> None:
    data = KINDS["baseline jpeg"]
    at = data.index(b"\xff\xc0")
    assert sniff(data[: at + 1] + b"\xc9" + data[at + 2 :]) == Header("jpeg", WIDTH, HEIGHT)


def test_fill_bytes_and_bytes_between_jpeg_segments_are_skipped_as_libjpeg_skips_them() -> None:
    data = KINDS["baseline jpeg"]
    at = data.index(b"\xff\xc0")
    assert sniff(data[:at] + b"\x00junk\xff\x00" + b"\xff" * 9 + data[at:]) == Header("jpeg", WIDTH, HEIGHT)


def test_a_bmp_with_rows_from_the_top_has_a_positive_height() -> None:
    data = bytearray(KINDS["rgb bmp"])
    struct.pack_into("<i", data, 22, -HEIGHT)
    assert sniff(bytes(data)) == Header("bmp", WIDTH, HEIGHT)


def test_an_os2_bmp_has_its_sixteen_bit_size() -> None:
    data = b"BM" + bytes(12) + struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    assert sniff(data) == Header("bmp", WIDTH, HEIGHT)


def test_a_gif_frame_larger_than_its_screen_gives_the_size() -> None:
    data = bytearray(KINDS["gif"])
    at = data.index(b"\x2c", 13 + 3 * 256)
    struct.pack_into("<HH", data, at + 5, 60_000, 50_000)
    assert sniff(bytes(data)) == Header("gif", 60_000, 50_000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, world", "not a JPEG"),
        (b"\xff\xd8\xff", "cut off"),
        (b"\xff\xd8\xff\xd9", "no size"),
        (b"\xff\xd8\xff\xda\x00\x02", "no size"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08\x00", "cut off"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08" + bytes(4), "0x0"),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * (MAX_JPEG_SEGMENTS + 1), "segments"),
        (b"\x89PNG\r\n\x1a\n", "IHDR"),
        (KINDS["rgb png"][:19], "cut off"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4) + b"CgBI" + bytes(30), "IHDR"),
        (b"GIF89a", "cut off"),
        (b"GIF89a" + bytes(7) + b";", "no frame"),
        (b"GIF89a" + bytes(7) + b"\x21\xf9" + b"\x01x" * (MAX_GIF_BLOCKS + 1), "blocks"),
        (b"GIF89a" + bytes(7) + b"\x21\xf9\x00" * (MAX_GIF_BLOCKS + 1), "blocks"),
        (b"BM" + bytes(10), "cut off"),
        (b"RIFF\x00\x00\x00\x00WEBP", "picture chunk"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8X", "cut off"),
    ],
)
def test_bytes_without_a_size_are_refused_with_the_reason(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        sniff(data)


@given(st.sampled_from(sorted(KINDS)), st.data())
@settings(max_examples=400, deadline=None)
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(KINDS[kind][: data.draw(st.integers(0, 700))])
    for _ in range(data.draw(st.integers(0, 8))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(damaged))


@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBPVP8X", b""]),
    st.binary(),
)
@settings(max_examples=400, deadline=None)
def test_random_bytes_behind_a_magic_number_are_read_or_refused(magic: bytes, rest: bytes) -> None:
    check(magic + rest)


def check(data: bytes) -> None:
    try:
        header = sniff(data)
    except InvalidInput:
        return
    assert header.format in FORMATS
    assert header.width > 0
    assert header.height > 0
    assert header.frames > 0


JPEG_ONLY = SignatureSpec(
    name="s", inputs=ECHO.inputs, outputs=ECHO.outputs, image_input="images", formats=frozenset({"jpeg"})
)


def test_each_picture_s_pixels_are_returned() -> None:
    pictures = [picture(1), picture(2, kind="JPEG", size=(20, 10))]
    assert ImageGuard(10, 10_000, 1_000).inspect_all(pictures, ECHO, "images", Counter()) == [48, 200]


@pytest.mark.parametrize(
    ("guard", "bad", "spec", "reason", "words"),
    [
        (ImageGuard(10, 50, 1_000), picture(), ECHO, "bytes", "--max_image_bytes=50"),
        (ImageGuard(10, 10_000, 47), picture(), ECHO, "pixels", "--max_image_pixels=47"),
        (ImageGuard(10, 10_000, 1_000), b"not a picture", ECHO, "format", "images[1]"),
        (ImageGuard(10, 10_000, 1_000), picture()[:20], ECHO, "format", "images[1]"),
        (ImageGuard(10, 10_000, 1_000), b"", ECHO, "format", "images[1]"),
        (ImageGuard(10, 10_000, 1_000), picture(), JPEG_ONLY, "format", "decodes jpeg"),
    ],
)
def test_a_picture_that_is_refused_is_named_and_counted(
    guard: ImageGuard, bad: bytes, spec: SignatureSpec, reason: str, words: str
) -> None:
    good = picture(kind="JPEG", size=(1, 1)) if spec is JPEG_ONLY else picture(size=(1, 1), kind="GIF")
    poison: Counter[str] = Counter()
    with pytest.raises(CodecError) as caught:
        guard.inspect_all([good, bad], spec, "images", poison)
    assert words in str(caught.value)
    assert str(caught.value).startswith("images[1]: ")
    assert poison == {reason: 1}


def test_too_many_pictures_are_refused_before_any_is_looked_at() -> None:
    poison: Counter[str] = Counter()
    with pytest.raises(TooLarge, match="3 images are over --max_images=2"):
        ImageGuard(2, 1, 1).inspect_all([b"", b"", b""], ECHO, "images", poison)
    assert not poison


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 9)])
def test_numbers_are_bounded_by_rows_and_beyond_max_images_become_one_whole(shape: tuple[int, ...]) -> None:
    rows = Rows({"x": np.zeros(shape)})
    assert ImageGuard(5, 1, 1, max_rows=5).check_rows(rows, "x") is rows
    folded = ImageGuard(4, 1, 1, max_rows=5).check_rows(rows, "x")
    assert (len(folded), folded.folded, len(folded.asking(["y"]).unfold())) == (1, 5, 5)
    with pytest.raises(TooLarge, match="x: 5 rows are over --max_rows=4"):
        ImageGuard(3, 1, 1, max_rows=4).check_rows(rows, "x")


def test_pictures_as_tensors_are_images() -> None:
    rows = Rows({"x": np.zeros((5, 2, 2))})
    with pytest.raises(TooLarge, match="x: 5 images are over --max_images=4"):
        ImageGuard(4, 1, 1).check_rows(rows, "x")


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = bytearray(picture())
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2  # the width and height of a PNG's IHDR
    with pytest.raises(TooLarge, match=r"20000x20000 of 1 frame\(s\) is 400 MP, over --max_image_pixels=50000000"):
        ImageGuard(1, 10_000, 50_000_000).inspect_all([bytes(bomb)], ECHO, "images", Counter())
