"""The comparison of two commits: turns, ratios, and that a wrong answer ends it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtest.bench.commits import NUMBERS, LoadPoint, check, draw_table, main, order, parse, rate_ratios
from loadtest.bench.contenders import DARKROOM, RunningServer
from loadtest.bench.wrk import WrkResult
from loadtest.traffic.answers import NoAnswer
from loadtest.traffic.pictures import load
from tests.unit.loadtest.pictureserver import PictureServer, serving


def result(per_s: float, cpu_ms: float = 0.1) -> WrkResult:
    return WrkResult(per_s, p50_ms=1.0, p99_ms=2.0, cpu_ms=cpu_ms, failed=0.0)


SIDES = {
    "old": [result(1000.0), result(500.0), result(1000.0)],
    "new": [result(1100.0), result(500.0), result(900.0, cpu_ms=0.2)],
}


def running(server: PictureServer, name: str = "old") -> RunningServer:
    return RunningServer(replace(DARKROOM, name=name), server.server_port, 0)


def test_the_sides_take_turns_so_that_neither_is_always_first() -> None:
    assert [order(turn) for turn in range(3)] == [("old", "new"), ("new", "old"), ("old", "new")]


def test_the_ratio_is_of_pairs_so_that_the_machines_pace_falls_out() -> None:
    assert rate_ratios(SIDES) == pytest.approx([1.1, 1.0, 0.9])


def test_the_table_has_medians_and_the_span_of_the_ratios() -> None:
    line = draw_table({LoadPoint("digits", "raw", 64): SIDES}).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["digits", "raw", "64", "1,000.0", "900.0", "1.000", "0.900", "1.100", "1.000"]


def test_both_sides_must_give_every_picture_the_same_class_in_every_kind_of_body() -> None:
    expected: dict[str, object] = {}
    with serving(PictureServer()) as server:
        check(running(server), load("digits"), ("raw", "json"), expected)
        assert server.answered == 2 * len(expected) == 20
    with serving(PictureServer(right_answers=0)) as server, pytest.raises(NoAnswer, match="new, digit_0 as json"):
        check(running(server, "new"), load("digits"), ("json",), expected)


def test_a_clone_that_is_not_compiled_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--old", str(tmp_path), "--models", "model/digits"]) == 2
    assert f"{tmp_path}/build/compiled/bin/darkroom" in capsys.readouterr().err


def test_pixels_are_sent_in_rows_and_in_one_flat_list_and_are_the_same_numbers() -> None:
    (picture, *_) = load("digits")
    rows = np.array(json.loads(NUMBERS["rows"].encode(picture))["instances"])
    flat = json.loads(NUMBERS["flat"].encode(picture))["inputs"][0]
    assert rows.shape == tuple(flat["shape"]) == (1, 224, 224, 3)
    assert rows.ravel().tolist() == flat["data"]


def test_a_kind_of_body_that_there_is_not_is_refused() -> None:
    with pytest.raises(SystemExit):
        parse(["--old", ".", "--models", "model/digits", "--bodies", "raw,telegram"])
    assert parse(["--old", ".", "--models", "model/digits"]).new == Path()
