"""Compares four scheduling policies in virtual time: a table, and a plot of goodput and p99 against offered load.

    python -m loadtest.simulate --out docs/benchmarks/simulated.png

Ten seconds, no server, no TensorFlow: thousands of pictures a second on many replicas if you like. The machine is a
curve, by default EfficientNet-Lite0 as measured on 2 cores; `--curve` takes another as JSON, {"rows": seconds, ...}.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.simulate.simulation import ARRIVALS, EFFICIENTNET_LITE0, Options, compare, recorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.simulate.simulation import Result

LOADS = (0.25, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
COLOURS = {
    "no batching": "#8c8c8c",
    "fixed window": "#c8803c",
    "idle dispatch": "#3b78b5",
    "idle dispatch + SLO": "#1d8a4e",
}
PALE = "#b5b5b5"
NOTE: dict[str, Any] = {"textcoords": "offset points", "color": "#777777", "fontsize": 9, "va": "center"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison that the arguments describe."""
    asked = _parser().parse_args(arguments)
    started_s = time.perf_counter()
    options = Options(
        points=_points(asked.curve),
        arrivals=recorded(asked.recorded) if asked.recorded else ARRIVALS[asked.arrivals],
        slo_s=asked.slo_ms / 1000,
        window_s=asked.window_ms / 1000,
        images=asked.max_batch_images,
        replicas=asked.replicas,
        requests=asked.requests,
        loads=tuple(asked.loads),
        seed=asked.seed,
    )
    results = compare(options)
    print(table(results))
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        traffic = asked.recorded.name if asked.recorded else asked.arrivals.capitalize()
        machine = asked.curve.stem if asked.curve else "EfficientNet-Lite0 on 2 cores"
        draw(results, options, asked.out, what=f"{machine}, {traffic} arrivals")
        print(f"drawn: {asked.out}")
    print(f"{len(results)} runs of {options.requests} pictures in {time.perf_counter() - started_s:.1f} s")
    return 0


def table(results: Sequence[Result]) -> str:
    """The results as text, policy by policy."""
    titles = ("policy", "offered/s", "goodput/s", "answered/s", "refused/s", "p50 ms", "p99 ms", "batch")
    lines = ["{:<20} {:>9} {:>9} {:>10} {:>9} {:>8} {:>8} {:>5}".format(*titles)]
    for name in dict.fromkeys(result.policy for result in results):
        lines += [
            f"{row.policy:<20} {row.offered:>9.0f} {row.goodput:>9.0f} {row.answered:>10.0f} {row.refused:>9.0f} "
            f"{row.p50_s * 1000:>8.1f} {row.p99_s * 1000:>8.1f} {row.batch_images:>5.1f}"
            for row in results
            if row.policy == name
        ]
    return "\n".join(lines)


def draw(results: Sequence[Result], options: Options, path: Path, *, what: str) -> None:
    """Draws goodput and p99 against offered load."""
    import matplotlib as mpl  # noqa: PLC0415  a second that only a drawing pays

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  after the choice of the backend

    plt.rcParams.update({"font.size": 10.5, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5))
    top = max(row.offered for row in results)
    for name, colour in COLOURS.items():
        rows = [row for row in results if row.policy == name]
        offered = [row.offered for row in rows]
        width = 2.6 if "SLO" in name else 1.8
        left.plot(offered, [row.goodput for row in rows], color=colour, marker="o", markersize=4, linewidth=width)
        right.plot(offered, [row.p99_s * 1000 for row in rows], color=colour, marker="o", markersize=4, linewidth=width)
    _finish_left(left, options, top)
    _finish_right(right, options, top)
    replicas = "" if options.replicas == 1 else f", {options.replicas} replicas"
    figure.suptitle(
        "Past capacity only a queue that refuses and drops early keeps answering in time\n"
        f"simulated: {what}, {options.requests} pictures a point{replicas}",
        fontsize=12,
    )
    figure.tight_layout(w_pad=12, rect=(0, 0, 0.87, 1))
    _label(left, results, [row.goodput for row in results], top)
    _label(right, results, [row.p99_s * 1000 for row in results], top)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _finish_left(axes: Any, options: Options, top: float) -> None:
    """The frame of the goodput panel."""
    capacity = options.capacity
    axes.plot([0, 1.15 * capacity], [0, 1.15 * capacity], color=PALE, linewidth=1, zorder=0)
    axes.annotate("all that is offered", (1.15 * capacity, 1.15 * capacity), (4, 0), **NOTE)
    axes.plot([capacity, capacity], [0, 1.05 * capacity], color=PALE, linestyle=":", zorder=0)
    axes.annotate(f"capacity {capacity:.0f}/s", (capacity, 0.6 * capacity), (5, 0), **NOTE)
    axes.set(
        title=f"Goodput: answers inside the SLO of {options.slo_s * 1000:g} ms",
        xlabel="offered load, pictures/s",
        ylabel="pictures/s answered in time",
        xlim=(0, top * 1.02),
        ylim=(-0.01 * capacity, capacity * 1.25),
    )


def _finish_right(axes: Any, options: Options, top: float) -> None:
    """The frame of the latency panel."""
    slo_ms = options.slo_s * 1000
    axes.axhline(slo_ms, color=PALE, linestyle="--", zorder=0)
    axes.annotate(f"SLO {slo_ms:g} ms", (top / 2, slo_ms), (0, -10), **NOTE)
    axes.axvline(options.capacity, color=PALE, linestyle=":", zorder=0)
    axes.set(
        title="p99 latency of all answers (logarithmic)",
        xlabel="offered load, pictures/s",
        yscale="log",
        xlim=(0, top * 1.02),
    )
    axes.yaxis.set_major_formatter(lambda ms, _: f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms")
    axes.yaxis.set_minor_formatter("")


def _label(axes: Any, results: Sequence[Result], values: Sequence[float], top: float) -> None:
    """Writes each policy's name at the end of its line; names that would overlap are moved apart."""
    ends = {row.policy: value for row, value in zip(results, values, strict=True)}
    last = -math.inf
    for name in sorted(ends, key=lambda name: ends[name]):
        x, y = axes.transData.transform((top, ends[name]))
        last = max(y, last + 18)
        weight = "bold" if "SLO" in name else "normal"
        place = axes.transData.inverted().transform((x + 12, last))
        axes.text(*place, name, color=COLOURS[name], va="center", fontweight=weight, fontsize=9.5)


def _points(path: Path | None) -> dict[int, float]:
    """The curve: seconds by rows."""
    if path is None:
        return EFFICIENTNET_LITE0
    return {int(rows): float(seconds) for rows, seconds in json.loads(path.read_text()).items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, help="draw to this PNG; without it there is only the table")
    add("--curve", type=Path, help='JSON {"rows": seconds, ...} (default: EfficientNet-Lite0 on 2 cores)')
    add("--arrivals", choices=sorted(ARRIVALS), default="poisson", help="shape of the traffic (default: poisson)")
    add("--recorded", type=Path, help="arrival times from a file, one a line in seconds, instead of --arrivals")
    add("--loads", type=float, nargs="+", default=LOADS, help="offered loads in multiples of the capacity")
    add("--slo_ms", type=float, default=250, help="what counts as in time (default: 250)")
    add("--window_ms", type=float, default=10, help="of the fixed window (default: 10)")
    add("--max_batch_images", type=int, default=32, help="of all policies that batch (default: 32)")
    add("--replicas", type=int, default=1, help="queues behind a balancer that deals in turn (default: 1)")
    add("--requests", type=int, default=8000, help="pictures a point (default: 8000)")
    add("--seed", type=int, default=1, help="of arrivals and noise (default: 1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
