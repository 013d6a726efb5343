"""Counted times and tables."""

from hypothesis import given
from hypothesis import strategies as st

from loadtest.measure.latencies import STEP_MS, LatencyHistogram
from loadtest.measure.tables import number, table


def test_nothing_has_neither_mean_nor_quantile() -> None:
    assert (LatencyHistogram().mean_ms, LatencyHistogram().quantile_ms(0.5), len(LatencyHistogram())) == (None, None, 0)


def test_quantiles_are_times_that_were_seen() -> None:
    times = LatencyHistogram([10.0] * 98 + [50.0, 1000.0])
    assert times.quantile_ms(0.5) == 10.0
    assert times.quantile_ms(0.99) == 50.0
    assert times.quantile_ms(1.0) == 1000.0


@given(st.lists(st.floats(0, 60_000), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_exceeded_by_no_more_than_the_rest(times_ms: list[float], share: float) -> None:
    found = LatencyHistogram(times_ms).quantile_ms(share)
    assert found is not None
    at_most = sum(time_ms <= found + STEP_MS for time_ms in times_ms)
    assert at_most >= share * len(times_ms) - 1e-9


def test_the_mean_is_exact_whatever_the_steps() -> None:
    assert LatencyHistogram([0.01, 0.02]).mean_ms == 0.015


def test_a_table_is_markdown_whose_columns_line_up() -> None:
    drawn = table(("load", "ok/s"), (("1x", "5.0"), ("4x", "1,234.5")))
    assert drawn.splitlines() == [
        "| load |    ok/s |",
        "| ---- | ------: |",
        "| 1x   |     5.0 |",
        "| 4x   | 1,234.5 |",
    ]


def test_a_missing_number_is_a_dash() -> None:
    assert number(None) == "-"
    assert number(1234.56, digits=1) == "1,234.6"
