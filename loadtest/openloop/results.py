"""The results of an open-loop run: figures of each rate from its samples, and a table and a plot of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from loadtest.measure.latencies import LatencyHistogram
from loadtest.measure.tables import number, table
from loadtest.traffic.answers import ServerTiming

NOT_SAID = ServerTiming()


class AnswerKind(StrEnum):
    """How one request ended for its client."""

    OK = "ok"  # 200, the right answer
    WRONG = "wrong"  # 200, but another picture's answer or none
    REFUSED = "refused"  # 429 or 503
    EXPIRED = "expired"  # 504
    POISON_NAMED = "poison_named"  # a broken picture got a 400 with its index, as it must
    POISON_MISSED = "poison_missed"  # a broken picture got another answer, other than a refusal
    FAILED = "failed"  # any other status, or none


@dataclass(frozen=True, slots=True)
class RequestSample:
    """One request; times are seconds from the start of its rate."""

    kind: AnswerKind
    intended_s: float
    sent_s: float
    done_s: float
    retry_after_s: float | None = None
    timing: ServerTiming = NOT_SAID

    @property
    def latency_ms(self) -> float:
        """Latency from the time at which the request was due."""
        return (self.done_s - self.intended_s) * 1000


@dataclass(frozen=True, slots=True)
class RateFigures:
    """The figures of one rate. Rates are per second; a time is None if no request had it."""

    multiple: float
    offered_per_s: float
    sent: int
    ok_per_s: float
    goodput_per_s: float  # right answers within the SLO; without an SLO, all right answers
    ok_p50_ms: float | None
    ok_p99_ms: float | None
    queue_p50_ms: float | None
    execute_p50_ms: float | None
    batch_mean: float | None
    refused: int
    refused_p50_ms: float | None
    retry_after_p50_s: float | None
    retry_after_missing: int
    expired: int
    poison_named: int
    poison_missed: int
    wrong: int
    failed: int
    lag_p99_ms: float | None  # how late the generator wrote requests


def summary(samples: Sequence[RequestSample], *, multiple: float, seconds: float, slo_ms: float) -> RateFigures:
    """Returns the figures of one rate that lasted `seconds`."""

    def of(*kinds: AnswerKind) -> list[RequestSample]:
        return [sample for sample in samples if sample.kind in kinds]

    ok, refused = of(AnswerKind.OK), of(AnswerKind.REFUSED)
    in_time = [sample for sample in ok if not slo_ms or sample.latency_ms <= slo_ms]
    latency = LatencyHistogram(sample.latency_ms for sample in ok)
    batches = [sample.timing.batch_images for sample in ok if sample.timing.batch_images is not None]
    waits = sorted(sample.retry_after_s for sample in refused if sample.retry_after_s is not None)
    return RateFigures(
        multiple=multiple,
        offered_per_s=len(samples) / seconds,
        sent=len(samples),
        ok_per_s=len(ok) / seconds,
        goodput_per_s=len(in_time) / seconds,
        ok_p50_ms=latency.quantile_ms(0.5),
        ok_p99_ms=latency.quantile_ms(0.99),
        queue_p50_ms=LatencyHistogram(
            sample.timing.queue_ms for sample in ok if sample.timing.queue_ms is not None
        ).quantile_ms(0.5),
        execute_p50_ms=LatencyHistogram(
            sample.timing.execute_ms for sample in ok if sample.timing.execute_ms is not None
        ).quantile_ms(0.5),
        batch_mean=sum(batches) / len(batches) if batches else None,
        refused=len(refused),
        refused_p50_ms=LatencyHistogram(sample.latency_ms for sample in refused).quantile_ms(0.5),
        retry_after_p50_s=waits[len(waits) // 2] if waits else None,
        retry_after_missing=len(refused) - len(waits),
        expired=len(of(AnswerKind.EXPIRED)),
        poison_named=len(of(AnswerKind.POISON_NAMED)),
        poison_missed=len(of(AnswerKind.POISON_MISSED)),
        wrong=len(of(AnswerKind.WRONG)),
        failed=len(of(AnswerKind.FAILED)),
        lag_p99_ms=LatencyHistogram((sample.sent_s - sample.intended_s) * 1000 for sample in samples).quantile_ms(0.99),
    )


def draw_table(rows: Iterable[RateFigures]) -> str:
    """Returns the rows as a Markdown table."""
    heads = (
        "load", "offered/s", "ok/s", "goodput/s", "ok p50 ms", "ok p99 ms", "queue p50", "execute p50", "batch",
        "refused", "refused p50", "Retry-After s", "expired", "poison 400", "poison other", "wrong", "failed", "lag",
    )  # fmt: skip
    return table(heads, (_cells(row) for row in rows))


def _cells(row: RateFigures) -> tuple[str, ...]:
    floats = (row.offered_per_s, row.ok_per_s, row.goodput_per_s, row.ok_p50_ms, row.ok_p99_ms, row.queue_p50_ms)
    more = (row.execute_p50_ms, row.batch_mean)
    last = (row.expired, row.poison_named, row.poison_missed, row.wrong, row.failed)
    return (
        f"{row.multiple:g}x",
        *(number(value) for value in (*floats, *more)),
        str(row.refused),
        number(row.refused_p50_ms, digits=2),
        number(row.retry_after_p50_s, digits=2),
        *(str(value) for value in last),
        number(row.lag_p99_ms, digits=2),
    )


def draw_plot(rows: Sequence[RateFigures], *, slo_ms: float, title: str, path: Path) -> None:
    """Draws goodput, and the latency of answers and refusals, by offered load, as a PNG."""
    import matplotlib as mpl  # noqa: PLC0415 - takes half a second, only for --png

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of the backend

    offered = [row.offered_per_s for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    left.plot(offered, offered, color="0.8", linestyle="--", label="offered")
    left.plot(offered, [row.ok_per_s for row in rows], color="tab:blue", marker="o", label="answered")
    left.plot(
        offered, [row.goodput_per_s for row in rows], color="tab:green", marker="o", label="answered inside the SLO"
    )
    left.set(xlabel="offered, requests/s", ylabel="requests/s", ylim=(0, max(row.ok_per_s for row in rows) * 1.6 or 1))
    curves = {
        "answered, p99": ("tab:red", [row.ok_p99_ms for row in rows]),
        "answered, p50": ("tab:blue", [row.ok_p50_ms for row in rows]),
        "refused, p50": ("tab:orange", [row.refused_p50_ms for row in rows]),
    }
    for label, (colour, times) in curves.items():
        values = [float("nan") if time is None else time for time in times]
        right.plot(
            offered,
            [float("nan") if value is None else value for value in values],
            color=colour,
            marker="o",
            label=label,
        )
    if slo_ms:
        right.axhline(slo_ms, color="0.4", linestyle="--", label="SLO")
    right.set(xlabel="offered, requests/s", ylabel="ms from the intended arrival", yscale="log")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
