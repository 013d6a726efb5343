from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

from loadtest.bench.limit import (
    ENGINE,
    PLAIN,
    EnginePoint,
    SweepOptions,
    best,
    draw_plot,
    draw_table,
    main,
    measure,
    sweep,
)
from tests.savedmodels import pictures

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


def point(way: str, images: int, rate: float) -> EnginePoint:
    return EnginePoint(way, images, calls=1, pictures_per_s=rate, call_ms=1.0, cpu_us=2.0, rounds_per_s=(rate,))


def test_the_rate_counts_the_pictures_of_every_call_of_every_thread() -> None:
    seen: list[int] = []
    sample = measure(lambda: seen.append(threading.get_ident()), images=10, calls=2, seconds=0.01)
    assert len(set(seen)) == 2
    # A call takes more than a nanosecond, and the two threads' times overlap: no rate is larger than this one.
    assert 0 < sample.pictures_per_s < 10 * 2e9
    assert sample.call_ms > 0


def test_calls_that_wait_for_each_other_do_not_count_twice() -> None:
    """One engine for all: no more pictures a second than it did one after the other, however many ask at once."""
    engine, busy_s = threading.Lock(), []

    def call() -> None:
        with engine:
            started_s = time.perf_counter()
            time.sleep(0.01)
            busy_s.append(time.perf_counter() - started_s)

    sample = measure(call, images=1, calls=4, seconds=0.02)
    assert sample.pictures_per_s <= len(busy_s) / sum(busy_s)


def test_a_call_is_made_once_even_where_it_takes_longer_than_the_time() -> None:
    seen: list[int] = []
    measure(lambda: seen.append(1), images=1, calls=3, seconds=1e-9)
    assert len(seen) == 3


def test_the_points_take_turns_round_after_round() -> None:
    asked: list[tuple[str, int]] = []

    def caller(way: str, images: int) -> Callable[[], object]:
        return lambda: asked.append((way, images))

    points = sweep(caller, SweepOptions(sizes=(1, 4), calls=(1,), seconds=1e-9, rounds=2))
    turn = [(ENGINE, 1), (PLAIN, 1), (ENGINE, 4), (PLAIN, 4)]
    warmed = [each for key in turn for each in (key, key)]
    assert asked == warmed + turn
    assert [(each.way, each.images, len(each.rounds_per_s)) for each in points] == [(*key, 2) for key in turn]


def test_the_best_point_is_the_one_with_the_most_pictures() -> None:
    points = [point(ENGINE, 1, 80), point(ENGINE, 8, 144), point(ENGINE, 64, 105), point(PLAIN, 8, 900)]
    assert best(points).images == 8
    assert best(points, PLAIN).pictures_per_s == 900


def test_the_table_has_both_ways_side_by_side() -> None:
    line = draw_table([point(ENGINE, 8, 144), point(PLAIN, 8, 96)]).splitlines()[-1]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "8",
        "1",
        "144.0",
        "1.0",
        "2.0",
        "96.0",
        "1.0",
        "1.50",
    ]


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "limit.png"
    draw_plot([point(ENGINE, 1, 80), point(ENGINE, 8, 144), point(PLAIN, 8, 96)], title="a model", path=path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_model_is_measured_from_its_folder_to_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "1")
    options = ["--pictures=digits", "--sizes=1,2", "--calls=1", "--seconds=0.001", "--rounds=1"]
    assert main([str(tmp_path), *options, f"--json={tmp_path / 'limit.json'}"]) == 0
    out = capsys.readouterr().out
    assert "limit: " in out
    written = json.loads((tmp_path / "limit.json").read_text())
    assert [(each["way"], each["images"]) for each in written["points"]] == [
        (ENGINE, 1),
        (PLAIN, 1),
        (ENGINE, 2),
        (PLAIN, 2),
    ]
    assert written["command"].startswith("python -m ")
