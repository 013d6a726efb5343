"""Light batches: which are, and how what a row takes is learned."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from darkroom.models.engines.light import LIGHT_S, MAX_PIXELS, InlineRule
from darkroom.models.rows import Rows

QUICK_S = LIGHT_S / 10


def part(count: int = 1, pixels: int = 784) -> tuple[Rows, int, int]:
    return Rows({"images": [b"x"] * count}, pixels=pixels), 0, count


def test_few_small_pictures_for_a_quick_engine_are_light() -> None:
    light = InlineRule(QUICK_S)
    assert light.takes([part(), part(4)], 5)
    assert not light.takes([part(), part(4)], 6), "padding takes time as well"


def test_a_large_picture_is_not_light_nor_are_many_small_ones_together() -> None:
    light = InlineRule(QUICK_S)
    assert light.takes([part(pixels=MAX_PIXELS)], 0)
    assert not light.takes([part(pixels=MAX_PIXELS + 1)], 0)
    assert not light.takes([part(pixels=MAX_PIXELS), part(pixels=1)], 0)


def test_what_nobody_counted_is_not_light() -> None:
    assert not InlineRule(QUICK_S).takes([part(), part(pixels=0)], 0)


def test_nothing_is_light_for_a_slow_engine_however_often_it_is_asked() -> None:
    for slow in (InlineRule(math.inf), InlineRule(2 * LIGHT_S)):
        assert not any(slow.takes([part()], 0) for _ in range(10_000))


def test_larger_batches_become_light_as_rows_turn_out_cheaper_together() -> None:
    light = InlineRule(QUICK_S)
    assert not light.takes([part(40)], 0)
    for _ in range(50):
        light.learn(10, 10 * LIGHT_S / 50)
    assert light.takes([part(40)], 0)
    assert not light.takes([part(60)], 0)


def test_one_interruption_changes_little_and_a_bad_spell_is_forgotten() -> None:
    light = InlineRule(QUICK_S)
    light.learn(1, 3600.0)
    assert light.takes([part(8)], 0)
    for _ in range(100):
        light.learn(1, 1.0)
    assert not light.takes([part()], 0)
    assert any(light.takes([part()], 0) for _ in range(10_000))


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 10)), max_size=50))
def test_what_a_row_is_thought_to_take_stays_within_what_was_seen(calls: list[tuple[int, float]]) -> None:
    light = InlineRule(QUICK_S)
    for rows, seconds in calls:
        light.learn(rows, seconds)
    quickest = min([QUICK_S, *(seconds / rows for rows, seconds in calls)])
    assert not light.takes([part(int(LIGHT_S / quickest) + 2)], 0)
