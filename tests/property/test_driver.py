"""The whole scheduler on generated days."""

from __future__ import annotations

from hypothesis import given

from tests.property.rig import FEW
from tests.property.schedules import Day, days, live_through, load


@given(day=days())
def test_any_day_ends_well_for_everybody(day: Day) -> None:
    live_through(day, load())


@FEW  # any day may be one of these
@given(day=days(kinds=["fine"]))
def test_a_day_without_faults_ends_with_answers(day: Day) -> None:
    live_through(day, load())
