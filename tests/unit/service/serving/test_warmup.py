from __future__ import annotations

import math
import threading

import pytest

from darkroom.models.engines.fakes import EchoEngine, SlowEngine
from darkroom.models.errors import PredictFailed
from darkroom.models.rows import Rows
from darkroom.service.serving.warmup import (
    REST,
    SHORT_S,
    TURNS,
    Findings,
    affordable,
    choose_inflight,
    outputs_share,
    run_sizes_once,
    small_row_s,
    sweep_sizes,
    warm_up,
    warm_up_gently,
)
from tests.pictures import picture


class Recorder(EchoEngine):
    """Notes the size of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def run(self, rows: Rows) -> Rows:
        self.sizes.append(len(rows))
        return super().run(rows)


SAMPLES = [Rows({"images": [picture(seed)]}) for seed in range(3)]


def test_every_size_is_run_before_it_is_measured_and_none_is_empty() -> None:
    engine = Recorder()
    findings = warm_up(engine, SAMPLES, sizes=(1, 2, 8), inflight=1)
    assert set(engine.sizes) == {1, 2, 8}
    assert {images for images, _ in findings.seeds} == {1, 2, 8}
    assert len(engine.sizes) == len(findings.seeds) + 3
    assert all(seconds >= 0 for _, seconds in findings.seeds)


def test_an_engine_that_gains_by_two_calls_at_once_gets_them() -> None:
    findings = warm_up(SlowEngine(EchoEngine(), lambda n: 0.002 * n), SAMPLES, sizes=(1, 2), cores=2)
    assert findings.inflight >= 2


def test_beside_one_that_serves_each_size_is_run_twice_smallest_first_with_rests_between() -> None:
    engine = Recorder()
    rests: list[float] = []
    findings = warm_up_gently(engine, SAMPLES, sizes=(8, 1, 2), inflight=3, sleep=rests.append)
    assert engine.sizes == [1, 1, 2, 2, 8, 8]
    assert len(rests) == 6
    assert findings.inflight == 3
    assert findings.seeds == tuple((n, rests[i] / REST) for n, i in ((1, 1), (2, 3), (8, 5)))


def test_without_samples_nothing_is_run() -> None:
    engine = Recorder()
    assert warm_up(engine, [], sizes=(1, 2)).seeds == ()
    assert warm_up_gently(engine, [], sizes=(1, 2), inflight=1, sleep=lambda _: None).seeds == ()
    assert engine.sizes == []


def test_sizes_are_met_once_each_with_a_rest_after_each() -> None:
    engine = Recorder()
    rests: list[float] = []
    run_sizes_once(engine, SAMPLES, range(1, 6), rest=rests.append)
    assert engine.sizes == [1, 2, 3, 4, 5]
    assert len(rests) == 5
    run_sizes_once(engine, [], range(1, 6), rest=rests.append)
    assert len(rests) == 5


def test_the_sizes_are_those_allowed_or_those_that_the_curve_tells_apart() -> None:
    assert sweep_sizes(32, (8, 32)) == (8, 32)
    assert sweep_sizes(8) == (1, 2, 3, 4, 6, 8)


class Costly(Recorder):
    """Takes `seconds[n]` of its own clock, which stands still otherwise; an unlisted size takes 1 s per row."""

    def __init__(self, seconds: dict[int, float]) -> None:
        super().__init__()
        self.now_s = 0.0
        self._seconds = seconds

    def clock(self) -> float:
        return self.now_s

    def run(self, rows: Rows) -> Rows:
        self.now_s += self._seconds.get(len(rows), float(len(rows)))
        return super().run(rows)


# Rows a second: 1, 1.25, 1.6, then worse and worse.
BENT = {1: 1.0, 2: 1.6, 4: 2.5, 8: 6.0, 16: 14.0, 32: 30.0}


def test_sizes_past_the_best_one_are_left_alone() -> None:
    engine = Costly(BENT)
    findings = warm_up(engine, SAMPLES, sizes=tuple(BENT), inflight=1, clock=engine.clock)
    assert set(engine.sizes) == {1, 2, 4, 8, 16}
    assert {images for images, _ in findings.seeds} == {1, 2, 4, 8, 16}
    assert findings.ended_at == 16


def test_calls_too_quick_to_judge_are_all_run() -> None:
    engine = Costly({size: seconds / 1000 for size, seconds in BENT.items()})
    assert warm_up(engine, SAMPLES, sizes=tuple(BENT), inflight=1, clock=engine.clock).ended_at is None
    assert max(engine.sizes) == 32


@pytest.mark.parametrize(
    ("row_s", "budget_s", "inflight", "largest"),
    [
        *((0.01, 5.0, 1, 32), (0.25, 5.0, 1, 3), (0.25, 60.0, 1, 24), (1.0, 5.0, 1, 1), (9.0, 5.0, 1, 1)),
        *((1.0, 0.0, 1, 1), (0.25, 5.0, 0, 1), (9.0, 5.0, 0, 1)),
    ],
)
def test_the_sizes_that_the_budget_allows_are_measured_smallest_first(
    row_s: float, budget_s: float, inflight: int, largest: int
) -> None:
    sizes = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    engine = Costly({size: row_s * size for size in sizes})
    findings = warm_up(engine, SAMPLES, sizes=sizes, inflight=inflight, cores=2, budget_s=budget_s, clock=engine.clock)
    assert max(images for images, _ in findings.seeds) == largest
    assert findings.lone_s == pytest.approx(row_s)
    assert engine.now_s <= max(budget_s, row_s)
    assert findings.ended_at is None  # larger sizes are not known to be worse


def test_beside_one_that_serves_the_waits_count_too() -> None:
    engine = Costly({})

    def sleep(seconds: float) -> None:
        engine.now_s += seconds

    warm_up_gently(engine, SAMPLES, sizes=(1, 2, 4, 8), inflight=1, sleep=sleep, budget_s=20.0, clock=engine.clock)
    assert engine.sizes == [1, 1, 2, 2]
    assert engine.now_s == 18.0


def test_a_size_that_no_request_would_wait_for_is_not_tried() -> None:
    engine = Costly({})
    findings = warm_up(engine, SAMPLES, sizes=(1, 2, 4, 8), inflight=1, call_s=3.0, clock=engine.clock)
    assert set(engine.sizes) == {1, 2}
    assert findings.ended_at is None


def test_beside_one_that_serves_they_are_left_alone_too() -> None:
    engine = Costly(BENT)
    findings = warm_up_gently(engine, SAMPLES, sizes=tuple(BENT), inflight=2, sleep=lambda _: None, clock=engine.clock)
    assert findings.ended_at == 16
    assert set(engine.sizes) == {1, 2, 4, 8, 16}


def test_one_worse_size_is_not_past_the_best() -> None:
    engine = Costly(BENT | {8: 9.0, 16: 8.0, 32: 15.0})
    warm_up(engine, SAMPLES, sizes=tuple(BENT), inflight=1, clock=engine.clock)
    assert max(engine.sizes) == 32


class Disturbed(Costly):
    """Slow until 8 rows were run three times."""

    def run(self, rows: Rows) -> Rows:
        self.now_s += 20.0 * (len(rows) in {4, 8} and self.sizes.count(8) < 3)
        return super().run(rows)


def test_a_machine_that_was_slow_for_two_sizes_does_not_end_the_sweep() -> None:
    engine = Disturbed({size: 1.0 + 0.5 * size for size in BENT})
    findings = warm_up(engine, SAMPLES, sizes=tuple(BENT), inflight=1, clock=engine.clock)
    assert findings.ended_at is None
    assert set(engine.sizes) == set(BENT)


def test_nor_does_one_whose_other_version_was_busy_then() -> None:
    engine = Disturbed({size: 1.0 + 0.5 * size for size in BENT})
    findings = warm_up_gently(engine, SAMPLES, sizes=tuple(BENT), inflight=1, sleep=lambda _: None, clock=engine.clock)
    assert findings.ended_at is None
    assert set(engine.sizes) == set(BENT)


def test_calls_at_once_hold_no_more_rows_together_than_the_largest_alone() -> None:
    engine = Costly(BENT)
    findings = warm_up(engine, SAMPLES, sizes=tuple(BENT), cores=2, clock=engine.clock)
    alone = engine.sizes.index(16) + 1 + 2 + TURNS * 3 * 2  # its first call, the two that count; 4, 8 and 16 again
    assert max(engine.sizes[alone:]) <= 8
    assert findings.inflight in {1, 2}


def test_a_machine_that_was_slow_while_one_number_of_calls_was_measured_does_not_choose() -> None:
    sweeps = 3 + 7  # a first call and two; a first call and three of each thread

    class Swaying(Recorder):
        """A second a call, one after the other; three while two calls at once are swept."""

        def run(self, rows: Rows) -> Rows:
            with lock:
                now_s[0] += 3.0 if 3 <= len(self.sizes) < sweeps else 1.0
                return super().run(rows)

    lock = threading.Lock()
    now_s = [0.0]
    engine = Swaying()
    assert warm_up(engine, SAMPLES, sizes=(4,), cores=2, clock=lambda: now_s[0]).inflight == 2
    assert len(engine.sizes) == sweeps + (1 + 2) + TURNS * (2 + 2 * 2)


def test_what_was_found_is_told_in_a_line() -> None:
    findings = Findings(inflight=2, seeds=((8, 0.04), (1, 0.005), (1, 0.006), (1, 0.0056)))
    assert findings.summary() == {"inflight": 2, "call_ms": {"1": 5.6, "8": 40.0}}


def test_of_calls_at_once_the_mean_counts_since_a_quick_one_lets_the_next_wait() -> None:
    """Each thread has a clock of its own, on which calls take no time and 4 s in turn."""
    mine = threading.local()

    class Unsteady(EchoEngine):
        def run(self, rows: Rows) -> Rows:
            mine.calls = getattr(mine, "calls", 0) + 1
            mine.now_s = getattr(mine, "now_s", 0.0) + 4.0 * (mine.calls % 2)
            return super().run(rows)

    findings = warm_up(Unsteady(), SAMPLES, sizes=(4,), inflight=2, clock=lambda: getattr(mine, "now_s", 0.0))
    assert [images for images, _ in findings.seeds] == [4, 4]
    assert all(0 < seconds < 4 for _, seconds in findings.seeds)


def test_the_number_with_the_best_rate_is_chosen() -> None:
    measured = [(1, 1, 0.012), (1, 8, 0.055), (2, 1, 0.02), (2, 8, 0.08)]
    choice = choose_inflight(measured)
    assert choice == pytest.approx((2, 8, 200.0))


def test_past_two_one_more_call_in_flight_must_bring_five_per_cent() -> None:
    measured = [(2, 8, 0.0500), (4, 8, 0.0970)]
    assert choose_inflight(measured).inflight == 2


def test_a_second_call_fills_the_gaps_between_those_of_one_slot_unless_it_costs_more_than_three_per_cent() -> None:
    assert choose_inflight([(1, 8, 0.0500), (2, 8, 0.1025)]).inflight == 2
    assert choose_inflight([(1, 8, 0.0500), (2, 8, 0.1050)]).inflight == 1


def test_the_best_size_may_differ_between_numbers() -> None:
    measured = [(1, 8, 0.05), (1, 32, 0.3), (2, 8, 0.2), (2, 32, 0.2)]
    assert choose_inflight(measured) == pytest.approx((2, 32, 320.0))


def test_of_several_measurements_the_median_counts() -> None:
    measured = [(1, 8, 0.05), (1, 8, 0.05), (1, 8, 9.0), (2, 8, 0.04), (2, 8, 0.2), (2, 8, 0.2)]
    assert choose_inflight(measured).inflight == 1


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        choose_inflight([])


@pytest.mark.parametrize(
    ("row_bytes", "sizes"),
    [(0, (1, 2, 4, 8)), (100, (1, 2, 4, 8)), (400, (1, 2)), (10_000, (1,))],
    ids=["unknown", "small", "large", "too large"],
)
def test_a_size_that_has_no_room_in_memory_is_not_tried(row_bytes: int, sizes: tuple[int, ...]) -> None:
    assert affordable((1, 2, 4, 8), row_bytes, free_bytes=16_000) == sizes


class Priced(EchoEngine):
    """Its call takes a second, and more for each output that it computes."""

    def __init__(self, prices: dict[str, float]) -> None:
        super().__init__()
        self.prices, self.now_s, self.calls = prices, 0.0, 0

    def run(self, rows: Rows) -> Rows:
        answer = super().run(rows)
        self.now_s += 1.0 + sum(self.prices[name] for name in answer.columns)
        self.calls += 1
        return answer


@pytest.mark.parametrize(
    ("prices", "shares"),
    [
        ({"digest": 0.0, "length": 0.0}, True),
        ({"digest": 0.05, "length": 0.05}, True),
        ({"digest": 0.3, "length": 0.0}, False),
        ({"digest": 0.0, "length": 5.0}, False),
    ],
)
def test_outputs_share_a_call_where_all_cost_little_more_than_the_cheapest(
    prices: dict[str, float],
    shares: bool,
) -> None:
    engine = Priced(prices)
    rests: list[float] = []
    found = outputs_share(engine, SAMPLES, size=1, call_s=0.001, rest=rests.append, clock=lambda: engine.now_s)
    assert (found, len(rests)) == (shares, engine.calls)


def test_outputs_share_no_call_where_nothing_is_known_of_their_cost() -> None:
    engine = Priced({"digest": 0.0, "length": 0.0})
    assert not outputs_share(engine, SAMPLES, size=1, call_s=1.0, rest=lambda _: None)
    assert not outputs_share(engine, [], size=1, call_s=0.001, rest=lambda _: None)
    assert engine.calls == 0

    class OneAtATime(EchoEngine):
        def run(self, rows: Rows) -> Rows:
            if rows.asked:
                raise PredictFailed("an output of it cannot be computed alone")
            return super().run(rows)

    assert not outputs_share(OneAtATime(), SAMPLES, size=1, call_s=0.001, rest=lambda _: None)


def test_what_a_row_takes_is_that_of_the_smallest_sample_in_the_largest_batch_that_is_short() -> None:
    used_s = [0.0]
    seen: list[tuple[int, bytes]] = []

    class Costly(EchoEngine):
        """Three cores at once for a thousandth of a second a row."""

        def run(self, rows: Rows) -> Rows:
            used_s[0] += 0.003 * len(rows)
            (pictures,) = rows.columns.values()
            seen.append((len(rows), bytes(pictures[0])))
            return super().run(rows)

    small = min((sample.columns["images"][0] for sample in SAMPLES), key=len)
    seeds = [(1, 0.001), (8, 0.9), (8, SHORT_S), (16, SHORT_S * 2)]
    assert small_row_s(Costly(), SAMPLES, seeds, lambda: used_s[0]) == pytest.approx(0.003)
    assert set(seen) == {(8, small)}


def test_a_row_so_slow_that_no_batch_is_short_is_not_run_again() -> None:
    engine = Recorder()
    assert small_row_s(engine, SAMPLES, [(1, 0.5), (2, 0.8)]) == pytest.approx(0.4)
    assert small_row_s(engine, [], []) == math.inf
    assert engine.sizes == []
