"""Decoding, mainly at a reduced scale: the same bits for small pictures, nearly the same pixels for large ones."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.models.engine import Screener
from darkroom.models.engines.open import load_model
from darkroom.models.export.export import export_image_model, signature_of
from darkroom.models.rows import Rows
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.front.decode import decode
from darkroom.models.saved_model.front.recipe import RESIZE_METHODS, TF1_BILINEAR, Recipe
from darkroom.models.saved_model.reader import read_meta_graph
from darkroom.models.spec import Wire
from tests.pictures import photograph

SIZE = (6, 5)  # height, width: unequal, so that a mix-up shows
SMALL = (9, 11)  # width, height: not twice the model's
LARGE = (200, 150)  # over 8 times the model's
Pixels = np.ndarray[Any, np.dtype[np.float32]]


def flattened(x: Any) -> Any:
    """A model that gives back the pixels it sees."""
    return tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]])


def recipe(*, size: tuple[int, int] = SIZE, reduced_scale: bool = True, **options: Any) -> Recipe:
    return Recipe(size=size, std=1.0, wire="bytes", answers="probability", reduced_scale=reduced_scale, **options)


def seen(pictures: list[bytes], wanted: Recipe) -> Pixels:
    """The pixels that a model of this recipe sees, a row a picture."""
    return np.asarray(signature_of(flattened, wanted)(tf.constant(pictures))["probability"])


def encode(size: tuple[int, int], kind: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    """A picture whose four quarters differ, and the two diagonals."""
    quarters = Image.new("RGB", (2, 2))
    quarters.putdata([(230, 40, 40), (40, 200, 60), (30, 60, 220), (240, 230, 200)])
    out = io.BytesIO()
    quarters.resize(size, Image.Resampling.BICUBIC).convert(mode).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("resize", [each for each in RESIZE_METHODS if each != TF1_BILINEAR])
@pytest.mark.parametrize("batch_decode", ["map_defun", "map_fn"])
def test_every_way_of_resizing_is_that_of_tensorflow(resize: str, batch_decode: str) -> None:
    picture = encode(SMALL)
    expected = tf.image.resize(tf.io.decode_jpeg(picture, channels=3), SIZE, method=resize)
    pixels = seen([picture], recipe(resize=resize, batch_decode=batch_decode, reduced_scale=False))
    np.testing.assert_allclose(pixels, np.asarray(expected, np.float32).reshape(1, -1), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("formats", ["any", "jpeg"])
@pytest.mark.parametrize("batch_decode", ["map_defun", "map_fn"])
def test_a_small_jpeg_has_the_bits_of_the_plain_decode(channels: int, formats: str, batch_decode: str) -> None:
    pictures = [encode(SMALL), encode(SMALL, mode="L"), encode((5, 6)), encode((2, 3)), encode((900, 11))]
    options: dict[str, Any] = {"channels": channels, "formats": formats, "batch_decode": batch_decode}
    plain = seen(pictures, recipe(**options, reduced_scale=False))
    np.testing.assert_array_equal(seen(pictures, recipe(**options)), plain)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_other_formats_are_decoded_as_before_whatever_their_size(channels: int, size: tuple[int, int]) -> None:
    pictures = [encode(size, kind) for kind in ("PNG", "GIF", "BMP", "WEBP")]
    plain = seen(pictures, recipe(channels=channels, reduced_scale=False))
    np.testing.assert_array_equal(seen(pictures, recipe(channels=channels)), plain)


@pytest.mark.parametrize("reduced_scale", [False, True])
@pytest.mark.parametrize("batch_decode", ["map_defun", "map_fn"])
def test_a_grey_picture_has_the_same_bits_whatever_its_neighbours(reduced_scale: bool, batch_decode: str) -> None:
    wanted = recipe(channels=1, reduced_scale=reduced_scale, batch_decode=batch_decode)
    pictures = [
        encode(LARGE),
        encode(SMALL, "PNG"),
        encode(SMALL, "BMP"),
        encode(SMALL, "GIF"),
        encode(LARGE, mode="L"),
    ]
    alone = np.concatenate([seen([picture], wanted) for picture in pictures])
    np.testing.assert_array_equal(seen(pictures, wanted), alone)


@pytest.mark.parametrize(
    ("size", "decoded"),  # width, height; height, width
    [
        ((10, 11), (11, 10)),  # the height is not twice the model's
        ((9, 12), (12, 9)),  # nor the width here
        ((10, 12), (6, 5)),
        ((39, 48), (12, 10)),
        ((41, 50), (7, 6)),
        ((200, 150), (19, 25)),
        ((150, 200), (25, 19)),
        ((200, 12), (6, 100)),
        ((5, 4000), (4000, 5)),
    ],
)
def test_a_jpeg_is_decoded_to_the_smallest_scale_that_covers_the_model_s_input(
    size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    shape = decode(tf.constant(encode(size)), recipe()).shape
    assert shape == (*decoded, 3)
    assert decode(tf.constant(encode(size)), recipe(reduced_scale=False)).shape == (size[1], size[0], 3)


# A side that 8 does not divide is rounded up, which moves its far edge by less than a pixel of the model's.
@pytest.mark.parametrize(("size", "most"), [((200, 152), 6), ((152, 200), 6), ((203, 157), 12)])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"mode": "L"}, {"mode": "CMYK"}, {"subsampling": 0}],
    ids=["baseline", "progressive", "grey", "cmyk", "4:4:4"],
)
def test_a_large_jpeg_keeps_its_place_and_its_colours(
    size: tuple[int, int], most: float, options: dict[str, Any]
) -> None:
    picture = encode(size, **options)
    plain, reduced = (seen([picture], recipe(reduced_scale=each, resize="area")) for each in (False, True))
    assert np.ptp(plain) > 100
    assert np.abs(plain - reduced).max() < most
    assert np.abs(plain - reduced).mean() < most / 3


def test_a_photograph_is_close_and_not_the_same() -> None:
    plain, reduced = (
        seen([photograph("chelsea")], recipe(size=(60, 80), resize="area", reduced_scale=each))
        for each in (False, True)
    )
    assert 0 < np.abs(plain - reduced).mean() < 1.5  # of 255


def test_exif_orientation_is_ignored_as_ever() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    lying, standing = seen([encode(LARGE), encode(LARGE, exif=exif.tobytes())], recipe())
    np.testing.assert_array_equal(lying, standing)


@pytest.mark.parametrize(
    "broken",
    [encode(LARGE)[:2], encode(LARGE)[:3], encode(LARGE)[:150], encode(LARGE)[:-400], b"no picture", b""],
    ids=["2 bytes", "3 bytes", "no size", "no end", "no picture", "empty"],
)
def test_a_broken_picture_is_an_invalid_argument_whatever_its_neighbours(broken: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        seen([encode(LARGE), broken, encode(SMALL)], recipe())


def test_nobody_gets_it_who_does_not_ask_for_it(tmp_path: Path) -> None:
    assert not Recipe(size=SIZE).reduced_scale
    asked, not_asked = (
        read_meta_graph(export_image_model(flattened, tmp_path / str(each), recipe(reduced_scale=each))).graph_def
        for each in (True, False)
    )
    assert "ExtractJpegShape" in str(asked)
    assert "ExtractJpegShape" not in str(not_asked)


@pytest.mark.parametrize("formats", ["any", "jpeg"])
@pytest.mark.parametrize("batch_decode", ["map_defun", "map_fn"])
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_every_pass_and_proof_holds_for_such_a_graph(
    tmp_path: Path, channels: int, formats: str, batch_decode: str
) -> None:
    wanted = Recipe(
        size=SIZE,
        channels=channels,
        formats=formats,
        batch_decode=batch_decode,
        answers="probability",
        reduced_scale=True,
    )
    path = export_image_model(flattened, tmp_path, wanted)
    model = load_model(path, name="m", version=1)
    engine = model.engines["serving_default"]
    applied = {report.name for report in engine.passes if report.applied}
    assert applied >= {"freeze", "inline", "hoist_base64", "screen"}
    assert (engine.spec.wire, engine.spec.batched, engine.spec.unbatched_reason) == (Wire.BASE64, True, "")
    assert engine.spec.formats >= ({"jpeg", "png", "gif", "bmp"} if formats == "any" else {"jpeg", "png"})
    pictures = [encode(LARGE), encode(SMALL), encode(LARGE[::-1], "PNG")]
    answer = np.asarray(engine.run(Rows({"images": pictures})).columns["probability"])
    text = tf.io.encode_base64(tf.constant(pictures))
    expected = tf.saved_model.load(str(path)).signatures["serving_default"](text)["probability"]
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)
    assert isinstance(engine, Screener)
    faults = engine.screen(Rows({"images": [pictures[0], pictures[0][:-400], pictures[1]]}))
    assert [fault is not None for fault in faults] == [False, True, False]
    model.close()
