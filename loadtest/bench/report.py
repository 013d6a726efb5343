"""The page of a benchmark: tables in Markdown and plots as PNG."""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING, Any

from loadtest.bench.limit import best
from loadtest.measure import machine
from loadtest.measure.tables import number, table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loadtest.bench.comparison import BenchmarkResult
    from loadtest.bench.wrk import WrkResult

US = "Darkroom"
OWN_WAYS = (f"{US}, tuned", f"{US}, raw")  # what the defaults, and what JSON, are compared with
FAR = 2.0  # times the best rate: a limit above that is written in the legend, not drawn


def page(found: BenchmarkResult, plots: Sequence[Path]) -> str:
    """Returns the whole page."""
    who = "\n".join(f"* {name}: {about}" for name, about in found.contenders.items())
    parts = [
        f"# {found.model}: Darkroom compared with its limit and with other servers",
        machine.lines(found.circumstances),
        _how(found),
        who,
        "## Requests a second, by connections",
        throughput_table(found),
        ratio_table(found),
        "## At 64 connections",
        details_table(found),
        "Failed: the share of intact pictures that got no answer while every hundredth picture was truncated.",
        *([f"## Open loop\n\n{_steady_words(found)}", steady_table(found)] if found.latencies else []),
        *(["## Many, large and mixed pictures", batches_table(found)] if found.batches else []),
        "\n".join(f"![{path.stem}]({path.name})" for path in plots),
    ]
    return "\n\n".join(parts) + "\n"


def _how(found: BenchmarkResult) -> str:
    return (
        "One picture a request, as base64 in JSON unless the name says raw, over keep-alive connections by wrk, on the\n"
        "same cores. All servers run at the same time and are loaded in turn; medians of\n"
        f"{found.rounds} rounds of {found.seconds:g} s. Before the load, all servers gave every picture the same class."
    )


def rate(heard: Sequence[WrkResult]) -> float:
    """Returns the median rate of the rounds."""
    return median(each.per_s for each in heard)


def ratio(ours: Sequence[WrkResult], theirs: Sequence[WrkResult]) -> float:
    """The median of what each round's rates were to each other: a round's pace is in both."""
    return median(us.per_s / them.per_s if them.per_s else math.inf for us, them in zip(ours, theirs, strict=True))


def throughput_table(found: BenchmarkResult) -> str:
    """A line a contender, and the limit, which is pictures a second without HTTP."""
    heads = ["", *(str(count) for count in found.connections)]
    rows = [
        [name, *(number(rate(found.rates[name, count])) for count in found.connections)] for name in found.contenders
    ]
    top = best(found.limit)
    engine = [number(median(found.engine_per_s[count])) for count in found.connections]
    rows.append([f"limit: the engine, {top.images} x {top.calls}", *engine])
    return table(heads, rows)


def ratio_table(found: BenchmarkResult) -> str:
    """Darkroom's rates as multiples of each peer's and of the limit."""
    heard = found.rates
    rows = []
    for us in (name for name in found.contenders if name.startswith(US)):
        for them in (name for name in found.contenders if not name.startswith(US) and is_raw(name) == is_raw(us)):
            ratios = (ratio(heard[us, count], heard[them, count]) for count in found.connections)
            rows.append([f"{us} : {them}", *(f"{each:.2f}" for each in ratios)])
        shares = (share_of(heard[us, count], found.engine_per_s[count]) for count in found.connections)
        rows.append([f"{us} : the limit", *(f"{each:.2f}" for each in shares)])
    for other in (name for name in OWN_WAYS if name in found.contenders):
        ratios = (ratio(heard[US, count], heard[other, count]) for count in found.connections)
        rows.append([f"{US} : {other}", *(f"{each:.2f}" for each in ratios)])
    return table(["", *(str(count) for count in found.connections)], rows)


def is_raw(name: str) -> bool:
    """Whether this is a server that is sent pictures without JSON."""
    return name.endswith(", raw")


def share_of(heard: Sequence[WrkResult], limits_per_s: Sequence[float]) -> float:
    """The median of the rounds' rates as shares of the limit, each of the one measured right before."""
    return median(each.per_s / limit_per_s for each, limit_per_s in zip(heard, limits_per_s, strict=True))


def details_table(found: BenchmarkResult) -> str:
    """Latency, processor time, failures and memory."""
    heads = ("", "p50 ms", "p99 ms", "CPU ms a request", "failed", "memory after the run, MB proportional")
    rows = []
    for name in found.poisoned:
        heard = found.rates[name, found.middle]
        floats = (median(each.p50_ms for each in heard), median(each.p99_ms for each in heard))
        cpu = number(median(each.cpu_ms for each in heard), digits=3)
        failed = f"{median(each.failed for each in found.poisoned[name]):.1%}"
        rows.append(
            [name, *(number(value, digits=2) for value in floats), cpu, failed, number(found.memory_mb[name], digits=0)]
        )
    return table(heads, rows)


def _steady_words(found: BenchmarkResult) -> str:
    return (
        f"Poisson arrivals at shares of {found.capacity_per_s:,.0f} requests/s, the capacity of the slower of the two\n"
        "with this generator on the same cores; milliseconds from the time at which a request was due."
    )


def steady_table(found: BenchmarkResult) -> str:
    """Returns a line for each rate and server."""
    heads = ("load", "requests/s", "server", "p50 ms", "p99 ms", "answered")
    rows = [
        [
            f"{each.share:.0%}",
            number(each.offered_per_s),
            each.contender,
            *(number(value, digits=2) for value in (each.p50_ms, each.p99_ms)),
            f"{each.answered:.1%}",
        ]
        for each in found.latencies
    ]
    return table(heads, rows)


def batches_table(found: BenchmarkResult) -> str:
    """Returns a line for each kind of request."""
    heads = ("pictures a request", "pictures/s", "the engine alone", "share", "a single request, ms")
    rows = [
        [each.case, number(each.pictures_per_s), number(each.limit_per_s), f"{each.share:.0%}", number(each.single_ms)]
        for each in found.batches
    ]
    return table(heads, rows)


def draw(found: BenchmarkResult, folder: Path, name: str) -> list[Path]:
    """Draws throughput by connections, latency by offered load and by batch; returns the paths of the PNGs."""
    plots = {"throughput": _draw_throughput}
    plots |= {"latency": _draw_latency} if found.latencies else {}
    plots |= {"batches": _draw_batches} if found.batches else {}
    paths = []
    for kind, drawer in plots.items():
        figure, axes = _figure()
        drawer(found, axes)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=3, fontsize=9)  # outside, so that it never covers a line
        figure.suptitle(f"{found.model}, {found.circumstances['machine']}", fontsize=10)
        paths.append(folder / f"{name}-{kind}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def _figure() -> Any:
    import matplotlib as mpl  # noqa: PLC0415 - takes half a second, only for drawing

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of the backend

    return plt.subplots(figsize=(7.5, 4.8), layout="constrained")


def _draw_throughput(found: BenchmarkResult, axes: Any) -> None:
    top = 0.0
    for name in found.contenders:
        rates = [rate(found.rates[name, count]) for count in found.connections]
        top = max(top, *rates)
        axes.plot(found.connections, rates, marker="o", label=name, linewidth=2.6 if name.startswith(US) else 1.5)
    limits = [median(found.engine_per_s[count]) for count in found.connections]
    is_far = min(limits) > FAR * top  # a line far above would squeeze all others together
    if is_far:
        axes.plot([], [], color="0.4", linestyle="--", label=f"limit, not drawn: the engine alone, {min(limits):,.0f}")
    else:
        axes.plot(found.connections, limits, color="0.4", linestyle="--", label="limit: the engine alone")
    axes.set(xlabel="connections", ylabel="requests/s", xscale="log", ylim=(0, 1.1 * top if is_far else None))
    axes.set_xticks(found.connections, labels=[str(count) for count in found.connections])
    axes.minorticks_off()


def _draw_latency(found: BenchmarkResult, axes: Any) -> None:
    for place, name in enumerate(dict.fromkeys(each.contender for each in found.latencies)):
        mine = [each for each in found.latencies if each.contender == name]
        offered = [each.offered_per_s for each in mine]
        axes.plot(offered, [each.p50_ms for each in mine], color=f"C{place}", marker="o", label=f"{name}, p50")
        axes.plot(
            offered, [each.p99_ms for each in mine], color=f"C{place}", marker="o", linestyle="--", label=f"{name}, p99"
        )
    axes.set(xlabel="offered, requests/s", ylabel="ms from the intended arrival", yscale="log", xlim=(0, None))


def _draw_batches(found: BenchmarkResult, axes: Any) -> None:
    many = [each for each in found.batches if each.case.endswith("in JSON")]
    rows = [each.rows for each in many]
    axes.plot(rows, [each.single_ms for each in many], marker="o", label=f"{US}, a single request")
    axes.plot(
        rows,
        [each.rows / each.limit_per_s * 1000 for each in many],
        color="0.4",
        linestyle="--",
        label="the engine at its limit",
    )
    axes.set(xlabel="pictures a request", ylabel="ms", xscale="log", yscale="log")
    axes.set_xticks(rows, labels=[str(count) for count in rows])
    axes.minorticks_off()
