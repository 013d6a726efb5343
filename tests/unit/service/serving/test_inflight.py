import pytest

from darkroom.service.serving.inflight import choose_inflight


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
