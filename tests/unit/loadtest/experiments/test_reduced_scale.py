from __future__ import annotations

import io

import pytest
from PIL import Image

from loadtest.experiments.reduced_scale import compare, enlarged, main
from loadtest.traffic.pictures import load


def test_an_enlarged_photograph_keeps_its_shape_and_has_the_pixels_asked_for() -> None:
    photograph = load("photos")[0].data
    before, after = (Image.open(io.BytesIO(data)) for data in (photograph, enlarged(photograph, 1_000_000, 90)))
    assert after.format == "JPEG"
    assert after.width * after.height == pytest.approx(1_000_000, rel=0.02)
    assert after.width / after.height == pytest.approx(before.width / before.height, rel=0.02)
    assert (after.width % 8, after.height % 8) == (0, 0)


def test_the_reduced_decode_is_compared_with_the_plain_one() -> None:
    data = enlarged(load("photos")[0].data, 200_000, 90)
    found = compare(data, (32, 32), "area", rounds=1)
    assert min(found.plain_ms, found.reduced_ms) > 0
    assert min(found.decoded) >= 32
    assert 0 < found.mean_difference < found.largest_difference


def test_a_picture_too_small_to_be_reduced_differs_in_nothing() -> None:
    found = compare(enlarged(load("photos")[0].data, 2_000, 90), (32, 32), "bilinear", rounds=1)
    assert found.largest_difference == 0


def test_a_line_for_each_way_of_resizing(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--megapixels=0.1", "--size=24x32", "--rounds=1", "--resize=nearest", "--resize=lanczos3"]
    assert main(arguments) == 0
    lines = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[-2:] == ["nearest", "lanczos3"]
