from __future__ import annotations

import pytest

from loadtest.stages import SHAPES, users_at


def test_a_spike_is_a_tenth_then_all_then_a_tenth() -> None:
    users = [users_at("spike", at_s, length_s=60, most=50) for at_s in (0, 19.9, 20, 39.9, 40, 59.9, 60)]
    assert users == [5, 5, 50, 50, 5, 5, None]


@pytest.mark.parametrize("shape", SHAPES)
def test_there_is_always_a_user_until_the_end_and_never_more_than_the_most(shape: str) -> None:
    for most in (1, 3, 100):
        users = [users_at(shape, at_s, length_s=10, most=most) for at_s in range(10)]
        assert all(each is not None and 1 <= each <= most for each in users)
        assert users_at(shape, 10, length_s=10, most=most) is None
