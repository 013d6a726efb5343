from __future__ import annotations

from collections import Counter

import pytest

from darkroom.models.engines.fakes import ECHO
from darkroom.models.spec import SignatureSpec
from darkroom.service.errors import CodecError, TooLarge
from darkroom.service.predict.image_guard import ImageGuard
from tests.pictures import picture

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


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = bytearray(picture())
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2  # the width and height of a PNG's IHDR
    with pytest.raises(TooLarge, match=r"20000x20000 of 1 frame\(s\) is 400 MP, over --max_image_pixels=50000000"):
        ImageGuard(1, 10_000, 50_000_000).inspect_all([bytes(bomb)], ECHO, "images", Counter())
