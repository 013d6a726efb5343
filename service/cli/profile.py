"""`darkroom profile`: finds the batch size, threads and calls in flight that suit a model on this machine."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from darkroom.models.errors import ModelError
from darkroom.models.profile.sweep import choose, sweep, ways
from darkroom.models.profile.trial import DEFAULT_SIGNATURE, Subject, Trial, Way
from darkroom.models.runtime import memory
from darkroom.models.versions.folder import locate
from darkroom.service.config.machine import usable_cores
from darkroom.service.serving.warmup import sweep_sizes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from darkroom.models.profile.sweep import Point
    from darkroom.models.profile.trial import LoadedSignature

DESCRIPTION = """\
Times a signature with several batch sizes, numbers of calls in flight and kinds of thread pool, one process per pool,
alternately. Prints a table, and the settings that are better than the defaults by more than the noise. Run it on the machine that will serve, while
nothing else runs there: background load distorts the figures.

MODEL is a folder of numeric version folders (the newest is used), or a version folder.
"""


NOISY = 0.1  # guess: on a quiet machine the rounds lie 1 to 5 % apart
WORTH = 0.9  # of the chosen throughput (guess): the server itself finds the best size below its limit


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `darkroom profile`."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of the model, or of one version")
    parser.add_argument("--signature", default=DEFAULT_SIGNATURE, help=f"which signature [{DEFAULT_SIGNATURE}]")
    parser.add_argument("--max_batch_images", type=int, default=32, help="largest batch to try [32]")
    parser.add_argument("--sizes", type=_numbers, default=(), help="comma-separated batch sizes to try, instead")
    parser.add_argument(
        "--inflight", type=_numbers, default=(), help="comma-separated numbers of calls in flight to try [1,2,4]"
    )
    parser.add_argument("--pictures", type=Path, help="folder of images to use, instead of generated ones")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each line of the table [1]")
    parser.add_argument("--compare", action="store_true", help="time the plain signature (tf.saved_model.load) too")
    parser.add_argument("--custom_op_paths", type=_paths, default=(), help="comma-separated folders of *.so")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the figures into this file (needs matplotlib)")


def run(parsed: argparse.Namespace) -> int:
    """Profiles one model. Returns 0 on success, 1 on failure, 2 for wrong arguments."""
    if min((*parsed.sizes, *parsed.inflight, parsed.max_batch_images)) < 1:
        print("darkroom: --sizes, --inflight and --max_batch_images start at 1", file=sys.stderr)
        return 2
    try:
        _profile(parsed)
    except (ModelError, OSError, ImportError) as err:
        print(f"darkroom: {parsed.model}: {err}", file=sys.stderr)
        return 1
    return 0


def _profile(parsed: argparse.Namespace) -> None:
    if parsed.png:
        import matplotlib as mpl  # noqa: PLC0415 - only a drawing needs it; if it is missing, fail before the work

        mpl.use("agg")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the truncated test images would fill the log
    folder, name, version = locate(parsed.model)
    pictures = tuple(_pictures(parsed.pictures)) if parsed.pictures else ()
    subject = Subject(folder, parsed.signature, pictures, parsed.custom_op_paths)
    cores = usable_cores()
    with ExitStack() as stack:
        trials: list[Trial] = []
        for way in ways(cores, compare=parsed.compare):
            trials.append(stack.enter_context(Trial(subject, way)))
            subject = replace(subject, loaded=trials[0].loaded)
        loaded = trials[0].loaded
        sizes = parsed.sizes or (sweep_sizes(parsed.max_batch_images) if loaded.spec.batched else (1,))
        inflights = parsed.inflight or [calls for calls in (1, 2, 4) if calls <= cores]
        print(
            f"{name} version {version}, signature {parsed.signature!r}, {cores} cores, {'jemalloc' if memory.is_jemalloc() else 'no jemalloc'}"
        )
        print(_passes(loaded))
        plain = [trial for trial in trials if trial.way.is_plain]
        # Compare first: a model that counts its calls is still at zero.
        differences = {n: plain[0].difference(n, trials[0].answer(n)) for n in sizes} if plain else {}
        points = _measure(trials, sizes, inflights, parsed.seconds)
    chosen = choose(points, usual := Way(cores, -1))
    settings = _settings(points, chosen, usual)
    print(
        f"\nchosen: {chosen.images} rows a call, {chosen.inflight} at once, {chosen.way}: "
        f"{chosen.throughput:,.0f} rows/s, {chosen.seconds * 1000:.2f} ms a call\n{_advice(points, settings)}"
    )
    for images, difference in differences.items():
        print(f"answers to {images} rows beside the plain signature's: {difference or 'equal'}")
    if parsed.json:
        found = {"model": name, "version": version, "cores": cores, "signature": parsed.signature}
        found |= {"passes": [report._asdict() for report in loaded.passes], "settings": settings}
        found |= {"points": [_plain(point) for point in points], "differences": differences}
        parsed.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if parsed.png:
        draw(
            points,
            chosen,
            parsed.png,
            f"{name} version {version}, {cores} cores, {'jemalloc' if memory.is_jemalloc() else 'no jemalloc'}",
        )


def _measure(trials: Sequence[Trial], sizes: Sequence[int], inflights: Sequence[int], seconds: float) -> list[Point]:
    """Measures every point, and prints each line of the table when it is complete."""
    names = [str(trial.way) for trial in trials]
    print("\nms a call, and rows a second:\n\n rows  calls" + "".join(f"{name:>24}" for name in names), flush=True)
    points: list[Point] = []
    for line in sweep(trials, sizes, inflights, budget_s=seconds):
        cells = {point.way: f"{point.seconds * 1000:.2f} {point.throughput:>9,.0f}/s" for point in line}
        row = "".join(f"{cells.get(trial.way, ''):>24}" for trial in trials)
        print(f"{line[0].images:>5}  {line[0].inflight:>5}{row}", flush=True)
        points += line
    return points


def _passes(loaded: LoadedSignature) -> str:
    return "passes: " + "; ".join(
        report.name if report.applied else f"{report.name} not, {report.reason}" for report in loaded.passes
    )


def _settings(points: Sequence[Point], chosen: Point, usual: Way) -> dict[str, int]:
    """The settings that are better than the defaults by more than the noise: threads, calls in flight, largest batch."""
    settings: dict[str, int] = {}
    alike = [point for point in points if (point.way, point.inflight) == (chosen.way, chosen.inflight)]
    others = [point for point in points if point.way == chosen.way and point.inflight != chosen.inflight]
    worth = max(point.images for point in alike if point.throughput >= WORTH * chosen.throughput)
    largest = max(alike, key=lambda point: point.images)
    if worth < largest.images and chosen.beats(largest):
        settings["max_batch_images"] = worth
    if others and all(chosen.beats(point) for point in others):
        settings["max_inflight_batches"] = chosen.inflight
    if chosen.way != usual:
        settings["intra_op_threads"], settings["inter_op_threads"] = (
            chosen.way.intra_op_threads,
            chosen.way.inter_op_threads,
        )
    return settings


def _advice(points: Sequence[Point], settings: Mapping[str, int]) -> str:
    """What to serve the model with, and what the figures are worth."""
    flags = " ".join(f"--{name}={value}" for name, value in settings.items())
    advice = f"serve it with: {flags}" if flags else "keep the defaults: the differences to them are within the noise"
    if (noise := median(point.spread for point in points)) > NOISY:
        advice += f"\nthe rounds lie {noise:.0%} apart: something else runs here, so measure again when it does not"
    return advice


def _plain(point: Point) -> dict[str, Any]:
    return {
        "way": str(point.way),
        "images": point.images,
        "inflight": point.inflight,
        "seconds": point.seconds,
        "rows_per_s": point.throughput,
        "spread": point.spread,
    }


def draw(points: Sequence[Point], chosen: Point, path: Path, title: str) -> None:
    """Draws throughput and latency over the batch size, a line per pool and calls in flight; rings the chosen point."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - half a second that only a drawing pays

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(7.5, 7.5), layout="constrained", sharex=True)
    for way, inflight in dict.fromkeys((point.way, point.inflight) for point in points):
        _line(upper, points, way, inflight, lambda point: point.throughput)
        _line(lower, points, way, inflight, lambda point: point.seconds * 1000)
    ring = {"marker": "o", "markersize": 16, "markerfacecolor": "none", "markeredgecolor": "black", "linestyle": ""}
    upper.plot([chosen.images], [chosen.throughput], **ring, label="chosen")
    lower.plot([chosen.images], [chosen.seconds * 1000], **ring)
    sizes = sorted({point.images for point in points})
    upper.set(ylabel="rows/s", ylim=(0, None), xscale="log")
    lower.set(ylabel="ms a call", xlabel="rows a call", ylim=(0, None))
    lower.set_xticks(sizes, labels=[str(size) for size in sizes])
    lower.minorticks_off()
    upper.legend(fontsize=7)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _line(axes: Any, points: Sequence[Point], way: Way, inflight: int, value: Callable[[Point], float]) -> None:
    mine = [point for point in points if (point.way, point.inflight) == (way, inflight)]
    label = f"{way}, {inflight} at once"
    axes.plot(
        [point.images for point in mine],
        [value(point) for point in mine],
        marker=".",
        label=label,
        linestyle="--" if way.is_plain else "-",
    )


def _pictures(folder: Path) -> list[bytes]:
    """The images of a folder, in the order of their names."""
    pictures = [path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES]
    if not pictures:
        raise FileNotFoundError(f"--pictures: {folder} has no image ({', '.join(sorted(_SUFFIXES))})")
    return pictures


_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(Path(part) for part in text.split(","))
