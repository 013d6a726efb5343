"""The decode front, against the same done step by step by a client with Keras, Pillow and numpy."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from darkroom.models.errors import LoadFailed
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.front.decode import model_input
from darkroom.models.saved_model.front.orientation import orientation
from darkroom.models.saved_model.front.preprocess import Preprocess, pixels_of, plan
from darkroom.models.saved_model.front.recipe import Recipe
from darkroom.models.spec import SignatureSpec, TensorSpec
from tests.pictures import photograph, picture

SIZE = (24, 20)  # height, width
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
# What a client computes of pixels from 0 to 255, as keras.applications' preprocess_input does.
CLIENTS: dict[str, Any] = {
    "tf": lambda x: x / 127.5 - 1.0,
    "torch": lambda x: (x / 255.0 - MEAN) / STD,
    "caffe": lambda x: x[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32),
    "unit": lambda x: x / 255.0,
    "raw": lambda x: x,
}


def centred(pixels: Any) -> Any:
    """The largest centred part of the shape of SIZE, as keras' smart_resize takes it."""
    height, width = pixels.shape[:2]
    rows, columns = min(height, width * SIZE[0] // SIZE[1]), min(width, height * SIZE[1] // SIZE[0])
    top, left = (height - rows) // 2, (width - columns) // 2
    return pixels[top : top + rows, left : left + columns]


FITS: dict[str, Any] = {
    "stretch": lambda pixels: tf.image.resize(pixels, SIZE),
    "crop": lambda pixels: tf.image.resize(centred(pixels), SIZE),
    "pad": lambda pixels: tf.image.resize_with_pad(pixels, *SIZE),
}
PICTURES = [photograph("chelsea"), photograph("rocket")]


def tensor(*shape: int | None, dtype: str = "float32", name: str = "x") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def seen(pictures: list[bytes], spec: TensorSpec, **said: Any) -> Any:
    return model_input(tf.constant(pictures), Preprocess(**said).recipe(spec)).numpy()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("preset", CLIENTS)
def test_each_preset_and_fit_gives_what_a_client_computes_to_the_bit(preset: str, fit: str) -> None:
    pixels = np.stack([np.float32(FITS[fit](tf.io.decode_jpeg(each, 3))) for each in PICTURES])
    expected = CLIENTS[preset](pixels)
    np.testing.assert_array_equal(seen(PICTURES, tensor(None, *SIZE, 3), preprocess=preset, fit=fit), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
@pytest.mark.parametrize(("shape", "layout"), [((None, *SIZE, 3), "nhwc"), ((None, 3, *SIZE), "nchw")])
def test_the_layout_and_the_dtype_are_those_of_the_input(dtype: str, shape: tuple[int, ...], layout: str) -> None:
    found = seen(PICTURES, tensor(*shape, dtype=dtype), preprocess="raw")
    expected = np.stack([tf.image.resize(tf.io.decode_jpeg(each, 3), SIZE).numpy() for each in PICTURES])
    expected = np.rint(expected) if dtype == "uint8" else expected
    expected = expected.transpose(0, 3, 1, 2) if layout == "nchw" else expected
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, expected.astype(dtype))


def test_mean_and_std_per_channel_go_along_the_channels_of_either_layout() -> None:
    said: dict[str, Any] = {"mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0), "channels": "bgr"}
    nhwc = seen(PICTURES, tensor(None, *SIZE, 3), **said)
    nchw = seen(PICTURES, tensor(None, 3, *SIZE), **said)
    np.testing.assert_array_equal(nhwc.transpose(0, 3, 1, 2), nchw)
    raw = seen(PICTURES, tensor(None, *SIZE, 3), preprocess="raw")
    np.testing.assert_array_equal(
        nhwc, (raw[..., ::-1] - np.array([1, 2, 3], np.float32)) / np.array([4, 5, 6], np.float32)
    )


def test_antialias_averages_as_pillow_does() -> None:
    image = Image.open(io.BytesIO(photograph("coffee")))
    expected = np.asarray(image.resize(SIZE[::-1], Image.Resampling.BILINEAR), np.float32)
    found = seen([photograph("coffee")], tensor(None, *SIZE, 3), preprocess="raw", antialias=True)
    assert np.abs(found[0] - expected).max() < 4  # their JPEG decoders differ too
    without = seen([photograph("coffee")], tensor(None, *SIZE, 3), preprocess="raw")
    assert np.abs(without[0] - expected).max() > 20


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_alpha_are_decoded_from_every_format(channels: int) -> None:
    made = [picture(3, kind=kind, size=SIZE[::-1]) for kind in ("PNG", "JPEG", "BMP", "GIF")]
    clear = picture(0, size=SIZE[::-1], mode="RGBA")
    found = seen([*made, clear], tensor(None, *SIZE, channels), preprocess="raw")
    expected = np.asarray(Image.open(io.BytesIO(made[0])).convert("L" if channels == 1 else "RGBA"), np.float32)
    assert np.abs(found[:4] - expected.reshape(*SIZE, channels)).max() < 3
    if channels == 4:
        assert found[4, 0, 0, 3] == Image.open(io.BytesIO(clear)).getpixel((0, 0))[3]  # type: ignore[index]


def turned(value: int, *, big_endian: bool = False) -> bytes:
    """A JPEG that a viewer shows upright: the pixels are turned as its EXIF orientation says."""
    quarters = Image.new("RGB", (2, 2))
    quarters.putdata([(230, 40, 40), (40, 200, 60), (30, 60, 220), (240, 230, 200)])
    upright = quarters.resize((48, 40), Image.Resampling.NEAREST)
    # The orientation says how to turn the stored pixels; here they are turned back.
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Image.Transpose(back[value])) if value in back else upright
    exif = Image.Exif()
    exif.endian = ">" if big_endian else "<"
    exif[0x010F], exif[0x0112] = "a camera", value
    out = io.BytesIO()
    stored.save(out, "JPEG", quality=98, subsampling=0, exif=exif.tobytes())
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(out.getvalue())))
    assert shown is not None
    assert shown.size == upright.size
    return out.getvalue()


@pytest.mark.parametrize(("fit", "reduced_scale"), [("stretch", False), ("crop", True)])
def test_all_eight_exif_orientations_give_one_picture_where_that_is_asked_for(fit: str, reduced_scale: bool) -> None:
    pictures = [turned(value, big_endian=value % 2 == 0) for value in range(1, 9)]
    assert [int(orientation(tf.constant(each))) for each in pictures] == list(range(1, 9))
    spec = tensor(None, *((10, 12) if reduced_scale else SIZE), 3)
    said: dict[str, Any] = {"preprocess": "raw", "fit": fit, "reduced_scale": reduced_scale}
    found = seen(pictures, spec, **said, orient=True)
    assert np.abs(found - found[:1]).mean() < 1
    assert np.abs(seen(pictures, spec, **said) - found[:1])[1:].mean() > 20


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        turned(6)[:30],
        turned(6)[:24] + b"\xff" * 40,
        picture(1),
        b"\xff\xd8\xff\xe1\xff\xffExif\0\0II*\0",
    ],
    ids=["empty", "2 bytes", "cut", "wild offsets", "png", "no directory"],
)
def test_a_picture_without_a_readable_orientation_is_taken_as_it_is(data: bytes) -> None:
    assert int(orientation(tf.constant(data))) == 1


@pytest.mark.parametrize(
    ("shape", "dtype", "found"),
    [
        ((None, 8, 9, 3), "float32", ("nhwc", (8, 9), 3)),
        ((None, 1, 8, 9), "float32", ("nchw", (8, 9), 1)),
        ((1, None, None, 4), "uint8", ("nhwc", (None, None), 4)),
        ((None, 3, 3, 3), "float16", ("nhwc", (3, 3), 3)),
        ((None, 8, 9), "float32", None),
        ((2, 8, 9, 3), "float32", None),
        ((None, 8, 9, 2), "float32", None),
        ((None, 8, 9, 3), "string", None),
        (None, "float32", None),
    ],
)
def test_the_shape_of_pictures_is_told_from_others(
    shape: tuple[int | None, ...] | None, dtype: str, found: tuple[Any, ...] | None
) -> None:
    assert pixels_of(TensorSpec("x", dtype, shape)) == found


def signature(name: str, *inputs: TensorSpec) -> SignatureSpec:
    return SignatureSpec(name, inputs, (TensorSpec("y", "float32", (None,)),))


PLAIN = tensor(None, 8, 8, 3)
ANY_SIZE = tensor(None, None, None, 3)
NUMBER = tensor(None, name="limit")


def test_the_new_signature_is_the_default_one_and_no_other_loses_its_place() -> None:
    specs = {
        "serving_default": signature("serving_default", PLAIN),
        "serving_tensors": signature("serving_tensors", NUMBER),
    }
    made = plan(specs, Preprocess(preprocess="tf"))
    assert made.renamed == {"serving_default": "serving_tensors_2", "serving_tensors": "serving_tensors"}
    assert made.images == {"x": "images"}
    other = plan(specs | {"pixels": signature("pixels", PLAIN)}, Preprocess(preprocess="tf", signature="pixels"))
    assert (other.signature, other.renamed["pixels"]) == ("pixels", "pixels")
    both = plan({"s": signature("s", tensor(None, 8, 8, 3, name="left"), PLAIN)}, Preprocess(preprocess="tf"))
    assert both.images == {"left": "left", "x": "x"}
    one = plan({"s": signature("s", tensor(None, 8, 8, 3, name="left"), PLAIN)}, Preprocess(preprocess="tf", input="x"))
    assert (one.images, list(one.recipes)) == ({"x": "images"}, ["x"])


@pytest.mark.parametrize(
    ("specs", "said", "words"),
    [
        ([signature("s", NUMBER)], {"preprocess": "tf"}, "no signature has an input of the shape of pictures"),
        ([signature("s", PLAIN), signature("t", PLAIN)], {"preprocess": "tf"}, "say which one: s takes x: float32"),
        ([signature("s", PLAIN)], {"preprocess": "tf", "signature": "t"}, "no signature 't'"),
        ([signature("s", PLAIN)], {"preprocess": "tf", "input": "z"}, "no input 'z'; there are: x"),
        ([signature("s", PLAIN, NUMBER)], {"preprocess": "tf", "input": "limit"}, "has not the shape of pictures"),
        ([signature("s", ANY_SIZE)], {"preprocess": "tf"}, "takes any size: say which one"),
        (
            [signature("s", PLAIN)],
            {"preprocess": "tf", "size": (9, 9)},
            r"size 9x9: input 'x' takes float32\[-1, 8, 8, 3\]",
        ),
        ([signature("s", tensor(None, 8, 8, 1))], {"preprocess": "torch"}, "'torch' is for 3 channels"),
        ([signature("s", tensor(None, 8, 8, 3, dtype="uint8"))], {"preprocess": "tf"}, "pixels from 0 to 255: say raw"),
        ([signature("s", tensor(None, 8, 8, 1))], {"mean": (1.0, 2.0, 3.0)}, "mean has 3 numbers for 1 channels"),
    ],
)
def test_what_does_not_go_together_is_said_with_what_there_is(
    specs: list[SignatureSpec], said: dict[str, Any], words: str
) -> None:
    with pytest.raises(LoadFailed, match=words):
        plan({spec.name: spec for spec in specs}, Preprocess(**said))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"preprocess": "imagenet"}, "preprocess='imagenet' isn't one of tf, torch, caffe, unit, raw"),
        ({"preprocess": "tf", "mean": 1.0}, "says mean and std itself"),
        ({"siz": 1}, "unknown key 'siz'; is size meant\\? There are: preprocess, mean"),
        ({"size": "224"}, "size: 224 isn't of its kind"),
        ({"size": [224]}, r"size=\(224,\)"),
        ({"orient": 1}, "orient: 1 isn't of its kind"),
        ({"fit": "squeeze"}, "fit='squeeze' isn't one of stretch, crop, pad"),
        ({"std": [1, 0, 1]}, "std may not be 0"),
        ({"resize": "bilinear_tf1", "fit": "pad"}, "has neither antialias nor fit='pad'"),
        ({"channels": "rbg"}, "channels='rbg' isn't one of rgb, bgr"),
    ],
)
def test_a_setting_that_can_not_be_meant_is_refused_with_its_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Preprocess.of(values)


def test_one_number_as_the_size_is_a_square() -> None:
    assert Preprocess.of({"preprocess": "raw", "size": 32}).recipe(ANY_SIZE) == Recipe(
        size=(32, 32), std=1.0, wire="bytes"
    )
