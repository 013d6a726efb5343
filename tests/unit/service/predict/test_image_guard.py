"""The image guard: the header reader against Pillow and hostile bytes, and the limits."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from darkroom.models.engines.fakes import ECHO
from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows
from darkroom.models.spec import Numbers, SignatureSpec
from darkroom.service.errors import BadImage, CodecError, TooLarge
from darkroom.service.predict.image_guard import (
    FORMATS,
    MAX_PROFILE_BYTES,
    MAX_SEGMENTS,
    PARTS_PER_SEGMENT,
    PNG_SPARE_BYTES,
    Header,
    ImageGuard,
    measure,
    pictures_inside,
    place,
    sniff,
    trim_png,
)
from tests.hostile import example, feature, field
from tests.pictures import picture, standard, url_safe

if TYPE_CHECKING:
    from collections.abc import Callable

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
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\xd8\xff", "cut off"),
        (b"\xff\xd8\xff\xd9", "no size"),
        (b"\xff\xd8\xff\xda\x00\x02", "no size"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08\x00", "cut off"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08" + bytes(4), "0x0"),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * (MAX_SEGMENTS + 1), "segments"),
        (b"\x89PNG\r\n\x1a\n", "IHDR"),
        (KINDS["rgb png"][:19], "cut off"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4) + b"CgBI" + bytes(30), "IHDR"),
        (b"GIF89a", "cut off"),
        (b"GIF89a" + bytes(7) + b";", "no frame"),
        (b"GIF89a" + bytes(7) + b"\x21\xf9" + b"\x01x" * (2 * PARTS_PER_SEGMENT * MAX_SEGMENTS), "blocks"),
        (b"GIF89a" + bytes(7) + b"\x21\xf9\x00" * (2 * PARTS_PER_SEGMENT * MAX_SEGMENTS), "blocks"),
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
    assert ImageGuard(10, 10_000, 1_000).inspect_all(pictures, ECHO, "images", Counter()) == [
        (pictures[0], 48),
        (pictures[1], 200),
    ]


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


def test_a_list_of_too_many_numbers_is_refused_as_it_is_only_where_they_are_rows() -> None:
    guard, lists = ImageGuard(5, 1, 1, max_rows=4), {"x": Numbers(np.zeros(5, np.int8), -1), "y": [1] * 9}
    with pytest.raises(TooLarge, match="x: 5 rows are over --max_rows=4"):
        guard.check_lists(lists, ECHO)
    guard.check_lists(lists, replace(ECHO, batched=False))
    guard.check_lists({"x": Numbers(np.zeros((4, 9), np.int8), -1)}, ECHO)


@pytest.mark.parametrize(
    ("index", "inner", "where"),
    [(3, (), "x[3]"), (3, (2,), "x[1][1]"), (4, (2,), "x[2][0]"), (11, (2, 3), "x[1][1][2]"), (5, (1,), "x[5][0]")],
)
def test_the_place_of_a_picture_is_its_row_and_its_places_there(index: int, inner: tuple[int, ...], where: str) -> None:
    assert place("x", index, inner) == where


def test_pictures_as_tensors_are_images() -> None:
    rows = Rows({"x": np.zeros((5, 2, 2))})
    with pytest.raises(TooLarge, match="x: 5 rows are over --max_images=4, since rows of two dimensions or more count"):
        ImageGuard(4, 1, 1).check_rows(rows, "x")


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = bytearray(picture())
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2  # the width and height of a PNG's IHDR
    with pytest.raises(TooLarge, match=r"20000x20000 of 1 frame\(s\) is 400 MP, over --max_image_pixels=50000000"):
        ImageGuard(1, 10_000, 50_000_000).inspect_all([bytes(bomb)], ECHO, "images", Counter())


# The chunks of a PNG.

DEFLATED = zlib.compress(bytes(1_000_000))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TEXT = b"Comment\0"


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


LONG = chunk(b"tEXt", TEXT + bytes(70_000))


def with_chunks(*before: bytes, after: tuple[bytes, ...] = ()) -> bytes:
    """A PNG with chunks before and after its pixels."""
    data = KINDS["rgb png"]
    return data[:33] + b"".join(before) + data[33:-12] + b"".join(after) + data[-12:]


def profile(data: bytes, name: bytes = b"p\0\0") -> bytes:
    return chunk(b"iCCP", name + zlib.compress(data))


COSTLY = {
    "zTXt": chunk(b"zTXt", TEXT + b"\0" + DEFLATED),
    "compressed iTXt": chunk(b"iTXt", TEXT + b"\1\0\0\0" + DEFLATED),
    "iTXt with an unknown flag": chunk(b"iTXt", TEXT + b"\x7f\0\0\0" + DEFLATED),
    "iTXt without a keyword's end": chunk(b"iTXt", b"k" * 90),
    "empty zTXt": chunk(b"zTXt"),
    "a long profile": profile(struct.pack(">I", MAX_PROFILE_BYTES + 1) + bytes(8_000_000)),
    "a profile that is not deflated": chunk(b"iCCP", b"p\0\0nothing"),
    "a profile behind empty blocks": chunk(b"iCCP", b"p\0\0\x78\x01" + b"\0\0\0\xff\xff" * 1_000 + DEFLATED[2:]),
    "a profile without a name": chunk(b"iCCP", b"p" * 100),
}


@pytest.mark.parametrize("name", COSTLY)
@pytest.mark.parametrize("where", ["before the pixels", "after them", "many"])
def test_a_png_loses_the_chunks_that_only_cost_and_no_pixel(name: str, where: str) -> None:
    costly = COSTLY[name]
    data = (
        with_chunks(after=(costly,)) if where == "after them" else with_chunks(*[costly] * (1 + 99 * (where == "many")))
    )
    assert trim_png(data) == KINDS["rgb png"]
    assert ImageGuard(1, 10_000_000, 1_000).inspect(data, ECHO, "images", 0, Counter()) == (
        KINDS["rgb png"],
        WIDTH * HEIGHT,
    )


def test_only_the_first_profile_of_a_png_stays() -> None:
    assert trim_png(with_chunks(profile(SRGB), profile(SRGB), profile(SRGB))) == with_chunks(profile(SRGB))
    assert trim_png(with_chunks(LONG, profile(SRGB), profile(SRGB))) == with_chunks(LONG, profile(SRGB))


def test_a_costly_chunk_is_found_behind_a_long_one_but_not_behind_the_end() -> None:
    assert trim_png(with_chunks(LONG, COSTLY["zTXt"])) == with_chunks(LONG)
    lies = struct.pack(">I", 1 << 24) + b"aaAa" + bytes(4)  # says that it has 16 MB
    assert trim_png(with_chunks(lies, COSTLY["zTXt"])) == with_chunks(lies, COSTLY["zTXt"])


@pytest.mark.parametrize(
    ("kept", "cut"),
    [
        (
            profile(struct.pack(">I", MAX_PROFILE_BYTES) + bytes(90)),
            profile(struct.pack(">I", MAX_PROFILE_BYTES + 1) + bytes(90)),
        ),
        (profile(SRGB, b"p" * 79 + b"\0\0"), profile(SRGB, b"p" * 80 + b"\0\0")),
        (chunk(b"iTXt", b"k" * 79 + b"\0\0\0\0\0x"), chunk(b"iTXt", b"k" * 80 + b"\0\0\0\0\0x")),
    ],
    ids=["a profile's size", "a profile's name", "a keyword"],
)
def test_the_limits_of_a_chunk_that_stays(kept: bytes, cut: bytes) -> None:
    assert trim_png(with_chunks(kept)) == with_chunks(kept)
    assert trim_png(with_chunks(cut)) == with_chunks()


def test_a_png_may_have_a_chunk_more_for_each_kilobyte() -> None:
    small, one_kb = chunk(b"tEXt"), chunk(b"tEXt", bytes(1012))
    data = with_chunks(*[small] * (MAX_SEGMENTS - 2), *[one_kb] * 3)  # and IHDR and IDAT; 26 KB are 26 chunks more
    assert trim_png(data) is data
    with pytest.raises(InvalidInput, match="and one for each KB"):
        trim_png(with_chunks(*[small] * (MAX_SEGMENTS + 30)))


@pytest.mark.parametrize(
    "data",
    [
        with_chunks(profile(SRGB)),
        with_chunks(chunk(b"tEXt", TEXT + b"made by hand")),
        with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta/>")),
        with_chunks(chunk(b"gAMA", struct.pack(">I", 45_455)), chunk(b"eXIf", exif_with_thumbnail()[6:])),
        with_chunks(after=tuple(chunk(b"tIME", bytes(7)) for _ in range(100))),
        encode(gradient("P"), "PNG", transparency=3),
        encode(gradient(), "PNG", save_all=True, append_images=FRAMES),
        *[KINDS["rgb png"][:length] for length in (8, 33, 34, 40, 47, 60, 100, -1, -12)],
        KINDS["rgb png"][:33] + struct.pack(">I", 0xFFFFFFFF) + b"zTXt" + bytes(20),
        KINDS["rgb png"] + COSTLY["zTXt"],  # behind the end: libpng stops there
    ],
)
def test_a_png_without_costly_chunks_and_a_broken_one_stay_as_they_are(data: bytes) -> None:
    assert trim_png(data) in {data, data[:33]}


@pytest.mark.parametrize("kind", [b"tEXt", b"tIME", b"IDAT", b"abCd", b"fdAT"])
def test_a_png_of_too_many_chunks_is_refused(kind: bytes) -> None:
    assert trim_png(with_chunks(*[chunk(kind)] * (MAX_SEGMENTS - 50)))
    poison: Counter[str] = Counter()
    with pytest.raises(BadImage, match=r"images\[3\]: the PNG picture has more chunks than --max_image_segments=2000"):
        ImageGuard(1, 1 << 20, 1_000).inspect(with_chunks(*[chunk(kind)] * 2_100), ECHO, "images", 3, poison)
    assert poison == {"format": 1}


def with_pixels(data: bytes) -> bytes:
    """The PNG whose one IDAT chunk has this data."""
    return KINDS["rgb png"][:33] + chunk(b"IDAT", data) + chunk(b"IEND")


def test_a_png_of_more_compressed_data_than_its_pixels_need_is_refused_in_every_input() -> None:
    guard, bomb = ImageGuard(1, 10_000_000, 1_000), with_pixels(zlib.compress(bytes(20_000_000), 9))
    poison: Counter[str] = Counter()
    message = rf"\[0\]: the PNG picture has \d+ bytes of compressed pixels, where {WIDTH}x{HEIGHT} need at most"
    with pytest.raises(BadImage, match="images" + message):
        guard.inspect(bomb, ECHO, "images", 0, poison)
    with pytest.raises(BadImage, match="right" + message):
        guard.inspect_others([bomb], "right", poison)
    assert poison == {"format": 2}


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("flush", [zlib.Z_NO_FLUSH, zlib.Z_FULL_FLUSH])
def test_a_png_of_noise_passes_however_its_rows_are_compressed(level: int, flush: int) -> None:
    noise, packer, row = np.random.default_rng(1), zlib.compressobj(level), 1 + 3 * WIDTH
    data = b"".join(packer.compress(noise.bytes(row)) + packer.flush(flush) for _ in range(HEIGHT))
    png = with_pixels(data + packer.flush())
    assert ImageGuard(1, 10_000_000, 1_000).inspect(png, ECHO, "images", 0, Counter())[0] is png


def deflated(raw_bytes: int, *, end: bytes = b"") -> bytes:
    return zlib.compress(bytes(raw_bytes), 9) + end


NEED = HEIGHT * (1 + 3 * WIDTH)


@pytest.mark.parametrize(
    "data",
    [
        deflated(2_000_000),
        deflated(2_000_000, end=b"after the end"),
        deflated(2_000_000)[:-4] + b"\0\0\0\0",  # its sum is wrong
        deflated(2_000_000)[:-8],
        zlib.compress(np.random.default_rng(1).bytes(NEED) + bytes(500_000), 9),  # good pixels first
        zlib.compress(bytes(NEED) + np.random.default_rng(1).bytes(200) * 400, 9),
    ],
)
@pytest.mark.parametrize("cuts", [1, 2, 300])
def test_a_png_whose_data_inflates_to_far_more_than_its_pixels_need_is_refused_however_it_is_cut(
    data: bytes, cuts: int
) -> None:
    step = -(-len(data) // cuts)
    chunks = b"".join(chunk(b"IDAT", data[at : at + step]) for at in range(0, len(data), step))
    bomb = KINDS["rgb png"][:33] + chunks + chunk(b"IEND")
    message = f"inflate to more than {2 * NEED + PNG_SPARE_BYTES} bytes, where {WIDTH}x{HEIGHT} need {NEED}; save it"
    with pytest.raises(BadImage, match=message):
        ImageGuard(1, 10_000_000, 1_000).inspect(bomb, ECHO, "images", 0, Counter())
    with pytest.raises(BadImage, match=message):
        ImageGuard(1, 10_000_000, 1_000).inspect_others([bomb], "right", Counter())


@pytest.mark.parametrize(
    "data",
    [
        zlib.compress(np.random.default_rng(1).bytes(NEED) + bytes(NEED), 9),  # some writers leave bytes behind
        deflated(NEED) + b"no more" * 9,
        deflated(2_000_000)[:60],  # cut off before it is much
        b"\x78\x9c" + b"\xff" * 200,  # no such data
        b"",
    ],
)
def test_a_png_that_costs_no_more_than_its_pixels_is_left_to_the_decoder(data: bytes) -> None:
    assert ImageGuard(1, 10_000_000, 1_000).inspect(with_pixels(data), ECHO, "images", 0, Counter())


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]  # of Adam7


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(1, 5_000), (5_000, 1), (300, 300)])
@pytest.mark.parametrize(("depth", "colour", "channels"), [(1, 0, 1), (8, 0, 1), (8, 6, 4), (16, 2, 3)])
def test_noise_of_every_form_inflates_to_what_it_needs(
    depth: int, colour: int, channels: int, size: tuple[int, int], interlaced: bool
) -> None:
    count = 0
    for left, top, right, down in PASSES if interlaced else [(0, 0, 1, 1)]:
        width, height = -(-(size[0] - left) // right), -(-(size[1] - top) // down)
        count += (1 + -(-width * depth * channels // 8)) * height if width > 0 and height > 0 else 0
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    noise = zlib.compress(np.random.default_rng(1).bytes(count))
    png = KINDS["rgb png"][:8] + chunk(b"IHDR", header) + chunk(b"IDAT", noise) + chunk(b"IEND")
    assert ImageGuard(1, 10_000_000, 10_000_000).inspect(png, ECHO, "images", 0, Counter())[0] is png


@pytest.mark.parametrize(("side", "counted"), [(300, 300 * 300), (4_000, 4_000 * 4_000)])
def test_a_flat_png_counts_as_its_pixels(side: int, counted: int) -> None:
    png = encode(Image.new("RGB", (side, side)), "PNG")
    assert ImageGuard(1, 10_000_000, 20_000_000).inspect(png, ECHO, "images", 0, Counter()) == (png, counted)


# The scans of a JPEG.


def scans(count: int, *, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    """A progressive JPEG of `count` scans."""
    data = encode(gradient().resize(size), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (count - data.count(b"\xff\xda")) + b"\xff\xd9"


def one_by_one(count: int) -> bytes:
    """A baseline JPEG whose scans have one component each."""
    data = KINDS["baseline jpeg"]
    return data[: data.index(b"\xff\xda")] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * count + b"\xff\xd9"


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (KINDS["baseline jpeg"], 1),
        (KINDS["grey jpeg"], 1),
        (KINDS["jpeg with exif and a thumbnail"], 1),
        (KINDS["progressive jpeg"], 10),
        (KINDS["progressive jpeg"] + KINDS["progressive jpeg"], 20),  # bytes behind the end count too
        (KINDS["baseline jpeg"][:-2] + b"\xff\xda\0\x08" * 500, 1),  # libjpeg refuses a second scan after a whole one
        (scans(2_500), 2_500),
        (scans(2_500).replace(b"\xff\xda", b"\xff\xff\xff\xda"), 2_500),
        (scans(300).replace(b"\xff\xc2", b"\xff\xca"), 300),
        (one_by_one(700), 700),
        (one_by_one(3), 3),
        (KINDS["progressive jpeg"][:600], 0),
    ],
)
def test_the_scans_of_a_jpeg_are_those_that_libjpeg_reads(data: bytes, count: int) -> None:
    assert measure(data)[4] == count or (not count and measure(data)[4] <= 10)


def test_a_jpeg_of_many_scans_counts_as_more_pixels_until_it_is_refused() -> None:
    guard = ImageGuard(1, 1 << 24, 10_000_000)
    big = (500, 400)
    # Its coefficients take twice as much memory as its pixels.
    assert guard.inspect(scans(20, size=big), ECHO, "images", 0, Counter())[1] == 600_000
    assert guard.inspect(scans(60, size=big), ECHO, "images", 0, Counter())[1] == 600_000
    assert guard.inspect(scans(80, size=big), ECHO, "images", 0, Counter())[1] == 800_000
    assert guard.inspect(scans(40), ECHO, "images", 0, Counter())[1] == 4_096 * 2  # a scan has a cost of its own
    padded = KINDS["baseline jpeg"] + bytes(80_000)
    assert guard.inspect(padded, ECHO, "images", 0, Counter())[1] == len(padded) >> 2  # and so has a byte
    poison: Counter[str] = Counter()
    with pytest.raises(TooLarge, match="500x400 in 1500 scans, where --max_image_scans=20, counts as 15 MP, over"):
        guard.inspect(scans(1_500, size=big), ECHO, "images", 0, poison)
    assert poison == {"pixels": 1}


@pytest.mark.parametrize("flood", [b"\xff\xc4\0\x02", b"\xff\xdb\0\x02", b"\xff\xfe\0\x02", b"\xff\xd0", b"\xff\x01"])
def test_a_flood_of_segments_between_size_and_data_is_refused(flood: bytes) -> None:
    data = KINDS["baseline jpeg"]
    at = data.index(b"\xff\xda")
    with pytest.raises(InvalidInput, match="segments"):
        measure(data[:at] + flood * MAX_SEGMENTS + data[at:])


# Pictures in other inputs.


def sequence(*values: bytes) -> bytes:
    """A tf.SequenceExample with one feature list."""
    return field(2, field(1, field(1, b"frames") + field(2, b"".join(field(1, feature(value)) for value in values))))


JPEG_XL = b"\xff\x0a\xfa\x7f\x90" + bytes(40)
PLAIN = picture(size=(4, 3))
WIDE = picture(size=(40, 30))
JUNK = b"\x08\x05\x15abcd\x19abcdefgh"  # a varint, 4 bytes, 8 bytes


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (example(PLAIN), [PLAIN]),
        (example(PLAIN, b"text", WIDE), [PLAIN, WIDE]),
        (example(b"text") + example(WIDE), [WIDE]),  # the halves of one message
        (sequence(PLAIN, WIDE), [WIDE, PLAIN]),
        (field(1, b"") + sequence(KINDS["lossy webp"]), [KINDS["lossy webp"]]),
        (JUNK + example(KINDS["baseline jpeg"]), [KINDS["baseline jpeg"]]),
        (example(WIDE, key=KINDS["gif"]), [KINDS["gif"], WIDE]),
        (example(b"no picture"), []),
        (b"a text", []),
        (b"a text with " + PLAIN, []),
        (b"\x0a\xff\xff\xff\xff\x7f" + PLAIN, []),
        (b"\x80" * 20 + PLAIN, []),
        (b"", []),
    ],
)
def test_the_pictures_in_a_tf_example_are_found(value: bytes, found: list[bytes]) -> None:
    assert sorted(pictures_inside(value)) == sorted(found)


def test_an_example_of_too_many_fields_is_refused_only_if_it_has_a_picture() -> None:
    words = example(*[b"w"] * (PARTS_PER_SEGMENT * MAX_SEGMENTS))
    assert ImageGuard(9, 1 << 20, 100).inspect_others([words], "x", Counter()) == [0]
    with pytest.raises(BadImage, match=r"x\[1\]: a tf.Example with pictures has more than 20000 fields"):
        ImageGuard(9, 1 << 20, 100).inspect_others([b"", words + example(PLAIN)], "x", Counter())


def as_text(data: bytes) -> bytes:
    """Standard base64 text."""
    return standard(data).encode()


@pytest.mark.parametrize(
    "hide",
    [
        bytes,
        example,
        sequence,
        as_text,
        lambda data: example(as_text(data)),
        lambda data: sequence(url_safe(data, padded=False).encode()),
        lambda data: example(base64.encodebytes(data)),
    ],
    ids=["bare", "example", "sequence", "text", "text in an example", "text in a sequence", "lines in an example"],
)
def test_a_picture_in_another_input_is_held_to_the_same_limits(hide: Callable[[bytes], bytes]) -> None:
    guard = ImageGuard(9, 1 << 22, 1_000)
    fine = [b"", b"text", hide(PLAIN), hide(b"RIFF....WAVEfmt "), hide(with_chunks(COSTLY["zTXt"]))]
    assert guard.inspect_others(fine, "mask", Counter()) == [0, 0, 12, 0, WIDTH * HEIGHT]
    poison: Counter[str] = Counter()
    with pytest.raises(TooLarge, match=r"mask\[1\]: 40x30 .* over --max_image_pixels=1000"):
        guard.inspect_others([hide(PLAIN), hide(WIDE)], "mask", poison)
    with pytest.raises(TooLarge, match=r"mask\[0\]: 37x21 in 2500 scans"):
        guard.inspect_others([hide(scans(2_500))], "mask", poison)
    with pytest.raises(BadImage, match=r"mask\[0\]: the PNG .* compressed text or long colour profiles; save it"):
        guard.inspect_others([hide(with_chunks(*[COSTLY["zTXt"]] * 50))], "mask", poison)
    with pytest.raises(BadImage, match="is not served"):
        guard.inspect_others([hide(JPEG_XL)], "mask", poison)
    with pytest.raises(BadImage, match="animated WebP"):
        guard.inspect_others([hide(encode(gradient(), "WEBP", save_all=True, append_images=FRAMES))], "mask", poison)
    assert poison == {"pixels": 2, "format": 3}
