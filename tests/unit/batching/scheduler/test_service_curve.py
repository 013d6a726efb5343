import math
import random

import pytest

from darkroom.batching.scheduler.service_curve import ServiceCurve, size_classes


def test_classes_double_with_one_halfway_and_end_at_the_limit() -> None:
    assert size_classes(32) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    assert size_classes(10) == (1, 2, 3, 4, 6, 8, 10)
    assert size_classes(1) == (1,)


def test_nothing_known_means_no_time_at_all() -> None:
    curve = ServiceCurve(32)
    assert (curve.expected(8), curve.tail(8)) == (0.0, 0.0)
    assert (curve.known, curve.version, curve.learned_s) == ((), 0, -math.inf)


def test_between_two_classes_the_time_is_interpolated_and_beyond_it_grows_with_n() -> None:
    curve = ServiceCurve(32)
    curve.seed(4, 0.4)
    curve.seed(8, 0.6)
    assert curve.known == (4, 8)
    assert [curve.expected(n) for n in (1, 4, 6, 8, 16)] == pytest.approx([0.4, 0.4, 0.5, 0.6, 1.2])


def test_one_outlier_moves_neither_median_nor_tail() -> None:
    curve = ServiceCurve(8)
    for _ in range(20):
        curve.learn(8, 0.1, now=0.0)
    curve.learn(8, 30.0, now=0.0)
    assert curve.expected(8) == pytest.approx(0.1)
    assert curve.tail(8) == pytest.approx(0.1)


def test_of_two_first_samples_the_outlier_loses() -> None:
    curve = ServiceCurve(8)
    curve.seed(8, 5.0)
    curve.seed(8, 0.1)
    assert curve.expected(8) == pytest.approx(0.1)


def test_the_tail_is_what_few_batches_exceed() -> None:
    curve, rnd = ServiceCurve(8), random.Random(1)  # noqa: S311  noise, no secret
    for _ in range(300):
        curve.learn(8, rnd.uniform(0.1, 0.2), now=0.0)
    above = sum(rnd.uniform(0.1, 0.2) > curve.tail(8) for _ in range(1000))
    assert curve.expected(8) < curve.tail(8)
    assert above < 120


def test_a_slower_machine_is_followed_for_sizes_that_do_not_run() -> None:
    curve = ServiceCurve(32)
    for n in curve.sizes:
        curve.seed(n, 0.01 + 0.001 * n)
    for _ in range(8):
        curve.learn(1, 3 * 0.011, now=0.0)
    assert curve.speed == pytest.approx(3.0)
    assert curve.expected(32) == pytest.approx(3 * 0.042)


def test_a_changed_shape_is_followed_for_the_size_that_runs() -> None:
    curve = ServiceCurve(32)
    for n in curve.sizes:
        curve.seed(n, 0.01 * n)
    for _ in range(40):
        curve.learn(1, 0.01, now=0.0)
        curve.learn(2, 0.02, now=0.0)
        curve.learn(32, 0.08, now=0.0)
    assert curve.expected(32) == pytest.approx(0.08)
    assert curve.expected(1) == pytest.approx(0.01)


def test_a_size_between_two_classes_counts_for_the_larger_scaled_along_the_curve() -> None:
    curve = ServiceCurve(32)
    curve.seed(4, 0.4)
    curve.seed(8, 0.8)
    curve.seed(6, 0.6)
    curve.learn(5, 0.5, now=7.0)
    assert curve.expected(6) == pytest.approx(0.6)
    assert curve.learned_s == 7.0


def test_the_first_sample_of_all_is_scaled_along_a_line() -> None:
    curve = ServiceCurve(32)
    curve.learn(5, 0.5, now=0.0)
    assert curve.known == (6,)
    assert curve.expected(6) == pytest.approx(0.6)


def test_a_first_sample_of_a_new_size_says_nothing_of_the_machine() -> None:
    curve = ServiceCurve(32)
    curve.seed(1, 0.1)
    curve.learn(8, 0.2, now=0.0)
    assert curve.speed == 1.0
    assert curve.expected(8) == pytest.approx(0.2)


def test_with_allowed_sizes_a_batch_takes_the_time_of_the_size_it_is_padded_to() -> None:
    curve = ServiceCurve(8, allowed=(1, 4, 8))
    curve.seed(4, 0.4)
    curve.learn(8, 0.5, now=0.0)
    assert curve.expected(2) == pytest.approx(0.4)
    assert curve.expected(5) == pytest.approx(0.5)
    curve.learn(4, 0.8, now=0.0)
    assert curve.speed == pytest.approx(2.0)


def test_the_middle_of_the_last_21_samples_counts() -> None:
    curve = ServiceCurve(1)
    for seconds in (3.0, 1.0, 2.0):
        curve.seed(1, seconds)
    assert curve.expected(1) == 2.0
    for seconds, count in ((1.0, 40), (2.0, 10)):
        for _ in range(count):
            curve.seed(1, seconds)
        assert curve.expected(1) == 1.0
    curve.seed(1, 2.0)
    assert curve.expected(1) == 2.0


def test_the_tail_is_the_largest_of_eight_samples_and_the_second_largest_of_more() -> None:
    curve = ServiceCurve(1)
    tails = []
    for seconds in range(1, 11):
        curve.seed(1, float(seconds))
        tails.append(curve.tail(1))
    assert tails == [*range(1, 9), 8, 9]


def test_an_outlier_is_forgotten_with_the_64th_sample_after_it() -> None:
    curve = ServiceCurve(1)
    for seconds in (9.0, 1.0, 9.0, *[1.0] * 61):
        curve.seed(1, seconds)
    assert curve.tail(1) == 9.0
    curve.seed(1, 1.0)
    assert curve.tail(1) == 1.0


def test_the_table_does_not_depend_on_the_speed_of_the_moment() -> None:
    curve = ServiceCurve(2)
    curve.seed(1, 1.0)
    for _ in range(5):
        curve.learn(1, 2.0, now=0.0)
        assert curve.expected(1) == 2.0
    curve.seed(2, 3.0)
    assert (curve.speed, curve.expected(2)) == (2.0, 3.0)


@pytest.mark.parametrize("allowed", [(), (4, 8)])
def test_a_whole_entry_past_the_largest_class_counts_for_it(allowed: tuple[int, ...]) -> None:
    curve = ServiceCurve(8, allowed=allowed)
    curve.seed(8, 0.8)
    for _ in range(3):
        curve.learn(16, 1.6, now=0.0)
    assert curve.speed == pytest.approx(1.0)
    assert (curve.expected(8), curve.expected(16)) == pytest.approx((0.8, 1.6))


def test_a_call_of_no_time_leaves_a_positive_speed() -> None:
    curve = ServiceCurve(8)
    curve.learn(1, 0.0, now=0.0)
    curve.learn(1, 0.0, now=0.0)
    assert curve.speed > 0
    assert 0 < curve.expected(1) < 1e-6


def test_the_classes_below_one_are_told_largest_first_at_the_speed_of_the_moment() -> None:
    curve = ServiceCurve(4)
    seeded = [curve.is_seeded]
    for n in (1, 2, 4):
        curve.seed(n, float(n))
        seeded.append(curve.is_seeded)
    curve.learn(1, 2.0, now=0.0)
    assert seeded == [False, True, True, True]
    assert curve.expected_below(4) == [(2, 4.0), (1, 2.0)]


def test_a_change_of_speed_is_followed_after_six_batches_however_many_there_were_before() -> None:
    curve = ServiceCurve(1)
    curve.seed(1, 1.0)
    for seconds, count in ((2.0, 30), (1.0, 6)):
        for _ in range(count):
            curve.learn(1, seconds, now=0.0)
    assert curve.speed == 1.0


def test_a_slow_row_stays_as_slow_as_it_was_when_the_machine_slows() -> None:
    curve = ServiceCurve(2)
    curve.seed(1, 1 / 32)
    for seconds in (1 / 1024,) * 20 + (3.0, 3.0):
        curve.learn(1, seconds, now=0.0)
    for _ in range(6):
        curve.learn(1, 1 / 32, now=0.0)
    assert curve.speed == 1.0
    assert curve.tail(1) == 3.0
    assert curve.tail(2) == 6.0  # beyond all that ran it grows with the rows
