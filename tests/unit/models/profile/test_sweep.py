"""Which point is chosen, and that the ways are timed fairly."""

from collections.abc import Callable

import pytest

from darkroom.models.profile.sweep import MIN_ROUNDS, Point, choose, spread_of, sweep, ways
from darkroom.models.profile.trial import Way

ONE, TWO, PLAIN = Way(1, -1), Way(2, -1), Way(is_plain=True)


class Clockwork:
    """Takes as long as `cost(images, inflight)` says, and notes who was asked."""

    def __init__(self, way: Way, cost: Callable[[int, int], float], asked: list[tuple[Way, int, int]]) -> None:
        self.way = way
        self._cost = cost
        self._asked = asked

    def seconds(self, images: int, inflight: int, repeats: int = 1) -> float:
        self._asked.append((self.way, images, inflight))
        return self._cost(images, inflight) * repeats / repeats


def test_every_way_is_timed_as_often_as_the_others_and_follows_each_of_them() -> None:
    asked: list[tuple[Way, int, int]] = []
    trials = [Clockwork(way, lambda images, inflight: 0.1 * images * inflight, asked) for way in (ONE, TWO, PLAIN)]
    (line,) = sweep(trials, [4], [1], budget_s=0.0)
    assert line == [Point(way, 4, 1, 0.4) for way in (ONE, TWO, PLAIN)]
    turns = [way for way, _, _ in asked]
    assert {turns.count(way) for way in (ONE, TWO, PLAIN)} == {MIN_ROUNDS + 2}
    assert {turns[at] for at in range(6, len(turns), 3)} == {ONE, TWO, PLAIN}


def test_a_plain_way_is_timed_one_call_at_a_time() -> None:
    asked: list[tuple[Way, int, int]] = []
    trials = [Clockwork(way, lambda *_: 0.01, asked) for way in (ONE, PLAIN)]
    lines = list(sweep(trials, [1, 2], [1, 2], budget_s=0.0))
    assert [(line[0].inflight, line[0].images, len(line)) for line in lines] == [
        (1, 1, 2),
        (1, 2, 2),
        (2, 1, 1),
        (2, 2, 1),
    ]
    assert {inflight for way, _, inflight in asked if way is PLAIN} == {1}


def test_a_budget_buys_rounds() -> None:
    asked: list[tuple[Way, int, int]] = []
    list(sweep([Clockwork(ONE, lambda *_: 0.1, asked)], [1], [1], budget_s=2.05))
    assert len(asked) == 2 + 20


def test_throughput_counts_the_rows_of_all_calls_at_once() -> None:
    assert Point(ONE, 8, 2, 0.5).throughput == 32.0


def test_the_quickest_call_near_the_best_throughput_is_chosen_and_never_a_plain_one() -> None:
    best = Point(TWO, 16, 2, 0.200)
    near = Point(ONE, 8, 2, 0.102)  # 157 rows a second for 160
    quick = Point(ONE, 1, 1, 0.010)  # 100
    plain = Point(PLAIN, 16, 1, 0.001)
    assert choose([best, near, quick, plain]) == near


def test_another_pool_is_chosen_only_where_it_is_better_by_more_than_the_noise() -> None:
    usual = Point(TWO, 8, 1, 0.100, 0.05)
    assert choose([usual, Point(ONE, 8, 1, 0.092, 0.05)], TWO) == usual
    assert choose([usual, Point(ONE, 8, 1, 0.088, 0.05)], TWO) == Point(ONE, 8, 1, 0.088, 0.05)
    assert choose([usual, Point(ONE, 8, 1, 0.088, 0.10)], TWO) == usual
    assert choose([Point(ONE, 8, 1, 0.088)], TWO) == Point(ONE, 8, 1, 0.088)


def test_rounds_that_lie_apart_are_noise() -> None:
    assert spread_of([1.0] * 9) == 0.0
    assert spread_of([0.8, 1.0, 1.2, 0.8, 1.0, 1.2, 1.0]) == pytest.approx(0.2)


def test_the_thread_pools_worth_a_try_are_one_thread_and_one_a_core() -> None:
    assert ways(1, compare=False) == [Way(1, -1), Way(1, 0)]
    assert ways(4, compare=True) == [Way(1, -1), Way(1, 0), Way(4, -1), Way(4, 0), PLAIN]
