"""The median of paired ratios, and how far it can be trusted."""

import pytest

from loadtest.measure.tables import ratio


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        ([1.0, 0.9, 1.1], "1.000"),  # too few for an interval: 2 / 2**3 is over 0.05
        ([0.9, 1.1, 0.8, 1.2, 1.0], "1.000"),
        ([0.9, 1.1, 0.8, 1.2, 1.0, 1.0], "1.000 (0.800 to 1.200)"),  # 2 / 2**6: the whole range
        ([float(n) for n in range(1, 10)], "5.000 (2.000 to 8.000)"),  # 2 * (1 + 9) / 2**9: one is cut off at each end
    ],
)
def test_the_median_of_ratios_comes_with_the_interval_of_the_sign_test(ratios: list[float], told: str) -> None:
    assert ratio(ratios) == told
