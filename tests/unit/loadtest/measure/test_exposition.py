"""Figures from `/metrics`."""

import pytest

from loadtest.measure.exposition import total

TEXT = """# TYPE loads gauge
loads 2.0
calls_count{model="a",outcome="same"} 3.0
calls_count{model="b",outcome="failed"} 4.5
calls_count_more{model="b",outcome="same"} 100.0
"""


@pytest.mark.parametrize(
    ("metric", "labels", "found"),
    [
        ("loads", "", 2.0),
        ("calls_count", "", 7.5),
        ("calls_count", 'outcome="(?:same|different)"', 3.0),
        ("calls", "", 0.0),
        ("loads", 'outcome="same"', 0.0),
    ],
)
def test_a_metric_is_summed_over_the_series_with_these_labels(metric: str, labels: str, found: float) -> None:
    assert total(TEXT, metric, labels) == found
