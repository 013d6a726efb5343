from __future__ import annotations

from typing import TYPE_CHECKING

from loadtest.experiments.models.reduced_scale import compare, enlarged, main
from loadtest.traffic.pictures import load

if TYPE_CHECKING:
    import pytest


def test_the_reduced_decode_is_compared_with_the_plain_one() -> None:
    data = enlarged(load("photos")[0].data, 200_000, 90)
    found = compare(data, (32, 32), "area", rounds=1)
    assert min(found.plain_ms, found.reduced_ms) > 0
    assert min(found.decoded) >= 32
    assert 0 < found.mean_difference < found.largest_difference


def test_a_line_for_each_way_of_resizing(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--megapixels=0.1", "--size=24x32", "--rounds=1", "--resize=nearest", "--resize=lanczos3"]
    assert main(arguments) == 0
    lines = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[-2:] == ["nearest", "lanczos3"]
