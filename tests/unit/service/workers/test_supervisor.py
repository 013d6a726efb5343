from __future__ import annotations

from darkroom.service.workers.supervisor import pause_s


def test_a_place_stays_empty_for_longer_the_more_short_lives_came_before_and_not_at_all_after_a_long_one() -> None:
    assert [pause_s(deaths) for deaths in range(6)] == [0, 0.5, 1, 2, 4, 8]
    assert pause_s(7) == pause_s(70) == 30
