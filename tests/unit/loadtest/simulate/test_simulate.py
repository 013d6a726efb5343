"""The simulator: it shows what the policies are known to do, and writes what it is asked for."""

from __future__ import annotations

import itertools
import json
import random
from typing import TYPE_CHECKING

import pytest

from darkroom.batching.limits import Limits
from loadtest.simulate.simulate import main
from loadtest.simulate.simulation import (
    ARRIVALS,
    EFFICIENTNET_LITE0,
    Machine,
    PolicyResult,
    SchedulingPolicy,
    Simulation,
    SimulationOptions,
    compare,
    measure,
    poisson,
    recorded,
)

if TYPE_CHECKING:
    from pathlib import Path


def options(**changes: object) -> SimulationOptions:
    """A small comparison."""
    given = {
        "points": EFFICIENTNET_LITE0,
        "arrivals": poisson,
        "slo_s": 0.25,
        "window_s": 0.01,
        "images": 32,
        "replicas": 1,
        "requests": 1500,
        "loads": (0.5, 4.0),
        "seed": 1,
    }
    return SimulationOptions(**{**given, **changes})  # type: ignore[arg-type]  # the fields above


def by_policy(results: list[PolicyResult], load: int) -> dict[str, PolicyResult]:
    """Those of one load, of four policies each."""
    return {result.policy: result for result in results[4 * load : 4 * load + 4]}


def test_light_load_is_answered_in_time_by_all_and_the_window_costs_its_length() -> None:
    light = by_policy(compare(options()), 0)
    assert all(result.goodput == pytest.approx(result.offered) for result in light.values())
    assert light["fixed window"].p50_s > light["idle dispatch"].p50_s + 0.005


def test_at_four_times_the_capacity_only_the_slo_keeps_goodput_and_latency() -> None:
    heavy = by_policy(compare(options()), 1)
    best = heavy["idle dispatch + SLO"]
    assert best.goodput > 0.9 * options().capacity
    assert best.p99_s < 0.26
    assert all(result.goodput < best.goodput / 2 for name, result in heavy.items() if name != best.policy)


def test_the_efficient_size_is_found_where_larger_is_slower() -> None:
    heavy = by_policy(compare(options(requests=4000)), 1)
    assert 7 < heavy["idle dispatch"].batch_images < 12
    assert heavy["fixed window"].batch_images > 25
    assert heavy["idle dispatch"].answered > 1.2 * heavy["fixed window"].answered


def test_replicas_multiply_the_capacity() -> None:
    results = by_policy(compare(options(replicas=4, requests=4000, loads=(0.5, 3.0))), 1)
    assert results["idle dispatch + SLO"].goodput > 0.9 * 4 * 144


def test_each_picture_is_answered_refused_or_dropped() -> None:
    policy = SchedulingPolicy("bounded", Limits(max_batch_images=2, max_queue_images=5))
    simulation = Simulation([policy.queue(EFFICIENTNET_LITE0)], Machine(EFFICIENTNET_LITE0, random.Random(1)))  # noqa: S311  noise
    simulation.run([0.001 * n for n in range(300)])
    assert len(simulation.latencies_s) + simulation.refused == 300
    assert simulation.refused > 0


def test_a_run_in_which_nobody_is_answered_has_no_latency() -> None:
    policy = SchedulingPolicy("hopeless", Limits(max_batch_images=1), has_curve=True, slo_s=1e-6)
    result = measure(policy, [0.0, 0.001], options(slo_s=1e-6))
    assert result.goodput == 0.0


@pytest.mark.parametrize("name", sorted(ARRIVALS))
def test_arrivals_are_ordered_and_have_the_rate_asked_for(name: str) -> None:
    times = list(itertools.islice(ARRIVALS[name](500.0, random.Random(3)), 40_000))  # noqa: S311  arrivals
    assert times == sorted(times)
    assert len(times) / times[-1] == pytest.approx(500.0, rel=0.05)


def test_recorded_arrivals_keep_their_shape_at_another_rate(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.txt"
    path.write_text("10.0\n10.1\n10.2\n12.0\n")
    times = list(itertools.islice(recorded(path)(100.0, random.Random(1)), 400))  # noqa: S311  unused
    gaps = [later - earlier for earlier, later in itertools.pairwise(times[:4])]
    assert gaps[2] == pytest.approx(18 * gaps[0])
    assert len(times) / times[-1] == pytest.approx(100.0, rel=0.02)


def test_the_command_prints_a_table_and_draws_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curve = tmp_path / "flat.json"
    curve.write_text(json.dumps({"1": 0.001, "64": 0.002}))
    out = tmp_path / "plots" / "simulated.png"
    assert main(["--curve", str(curve), "--out", str(out), "--requests", "300", "--loads", "0.5", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("idle dispatch + SLO") == 2
    assert "8 runs of 300 pictures" in printed
    assert out.read_bytes().startswith(b"\x89PNG")


def test_without_a_file_name_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--requests", "100", "--loads", "1", "--arrivals", "bursty", "--replicas", "2"]) == 0
    assert "drawn" not in capsys.readouterr().out
