"""The figures of an open-loop run."""

from pathlib import Path

import pytest
from PIL import Image

from loadtest.openloop.results import AnswerKind, RequestSample, draw_plot, draw_table, summary
from loadtest.traffic.answers import ServerTiming


def sample(kind: AnswerKind, latency_ms: float, *, sent_s: float = 1.0, **more: object) -> RequestSample:
    return RequestSample(kind, 1.0, sent_s, 1.0 + latency_ms / 1000, **more)  # type: ignore[arg-type] # the test's own words


def test_goodput_counts_right_answers_inside_the_slo_and_nothing_else() -> None:
    samples = [
        sample(AnswerKind.OK, 100),
        sample(AnswerKind.OK, 250),
        sample(AnswerKind.OK, 251),
        sample(AnswerKind.WRONG, 10),
        sample(AnswerKind.POISON_NAMED, 10),
        sample(AnswerKind.REFUSED, 1),
    ]
    row = summary(samples, multiple=2, seconds=0.5, slo_ms=250)
    assert (row.offered_per_s, row.ok_per_s, row.goodput_per_s) == (12, 6, 4)
    assert (row.wrong, row.poison_named, row.refused) == (1, 1, 1)


def test_without_an_slo_every_right_answer_is_goodput() -> None:
    row = summary([sample(AnswerKind.OK, 9_000)], multiple=1, seconds=1, slo_ms=0)
    assert row.goodput_per_s == 1


def test_latency_counts_from_the_moment_a_request_was_meant_to_leave() -> None:
    late = sample(AnswerKind.OK, 400, sent_s=1.3)
    assert late.latency_ms == pytest.approx(400)
    row = summary([late], multiple=1, seconds=1, slo_ms=250)
    assert row.goodput_per_s == 0
    assert row.lag_p99_ms == pytest.approx(300)


def test_quantiles_of_answers_and_refusals_are_kept_apart() -> None:
    samples = [sample(AnswerKind.OK, 100 + row) for row in range(100)] + [sample(AnswerKind.REFUSED, 2)] * 300
    row = summary(samples, multiple=4, seconds=1, slo_ms=250)
    assert (row.ok_p50_ms, row.ok_p99_ms, row.refused_p50_ms) == (149, 198, 2)


def test_a_refusal_without_retry_after_is_counted() -> None:
    refused = [sample(AnswerKind.REFUSED, 1, retry_after_s=seconds) for seconds in (1, 2, 3, None)]
    row = summary(refused, multiple=1, seconds=1, slo_ms=0)
    assert (row.retry_after_p50_s, row.retry_after_missing) == (2, 1)


def test_what_the_server_said_of_its_time_is_summed_over_right_answers() -> None:
    samples = [
        sample(AnswerKind.OK, 9, timing=ServerTiming(queue, 2 * queue, images)) for queue, images in ((1, 2), (3, 4))
    ]
    row = summary([*samples, sample(AnswerKind.OK, 9)], multiple=1, seconds=1, slo_ms=0)
    assert (row.queue_p50_ms, row.execute_p50_ms, row.batch_mean) == (1, 2, 3)


def test_a_rate_at_which_nothing_was_answered_is_a_row_of_dashes() -> None:
    row = summary([sample(AnswerKind.FAILED, 5)], multiple=0.5, seconds=1, slo_ms=0)
    line = draw_table([row]).splitlines()[2]
    assert line.startswith("| 0.5x |")
    assert line.count(" - ") == 7  # two latencies, queue, execute, batch, refusal, Retry-After


def test_the_plot_is_a_picture_even_where_a_curve_has_gaps(tmp_path: Path) -> None:
    rows = [
        summary([sample(AnswerKind.OK, 100)], multiple=1, seconds=1, slo_ms=250),
        summary([sample(AnswerKind.REFUSED, 1)] * 4, multiple=4, seconds=1, slo_ms=250),
    ]
    draw_plot(rows, slo_ms=250, title="test", path=tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size > (800, 300)
