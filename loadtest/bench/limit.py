"""The physical limit: pictures/s of a model's engine without HTTP, by pictures a call and calls at once.

    python -m loadtest.bench.limit model/efficientnet_lite0
    python -m loadtest.bench.limit model/digits --pictures digits --sizes 1,8,64,256 --png limit.png --json limit.json

For comparison it also calls the loaded signature eagerly, as TensorFlow's guide does. All points are measured in turn,
round after round, so that background load affects all of them; each figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from darkroom.models.engines.open import load_model
from darkroom.models.rows import Rows
from darkroom.models.spec import Wire
from darkroom.service.config.machine import usable_cores
from loadtest.bench.arguments import numbers, version_folder
from loadtest.measure import machine
from loadtest.measure.plain_signature import PlainSignature
from loadtest.measure.tables import number, table
from loadtest.traffic.closed_loop import show_progress
from loadtest.traffic.pictures import KINDS, Picture, cycle, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ENGINE, PLAIN = "engine", "plain signature"
INTER_OP_THREADS = -1  # the server's default


class EngineSample(NamedTuple):
    """One measurement: pictures a second, the median time of a call and the CPU time of a picture."""

    pictures_per_s: float
    call_ms: float
    cpu_us: float  # of all threads of this process, per picture


@dataclass(frozen=True, slots=True)
class EnginePoint:
    """The medians of one way to call, with `calls` calls at once of `images` pictures each; rates count pictures."""

    way: str
    images: int
    calls: int
    pictures_per_s: float
    call_ms: float
    cpu_us: float
    rounds_per_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """The points of a sweep and the length of its measurements."""

    sizes: tuple[int, ...]
    calls: tuple[int, ...]
    seconds: float
    rounds: int


class MeasuredModel:
    """A model's engine and its eagerly called signature, both loaded."""

    def __init__(self, folder: Path) -> None:
        path = version_folder(folder)
        self._loaded = load_model(
            path,
            name=path.parent.name,
            version=int(path.name),
            intra_op_threads=usable_cores(),
            inter_op_threads=INTER_OP_THREADS,
        )
        self._engine = self._loaded.engines["serving_default"]
        self._spec = self._engine.spec
        if self._spec.image_input is None or len(self._spec.inputs) != 1:
            raise SystemExit(f"{folder}: serving_default takes no pictures")
        self._plain = PlainSignature(path)

    def caller(self, way: str, pictures: Iterable[Picture]) -> Callable[[], object]:
        """Returns a call with one batch of these pictures: its input is prepared before, its answer is fetched as numpy."""
        data = [picture.data for picture in pictures]
        if way == ENGINE:
            rows = Rows({str(self._spec.image_input): data})
            return lambda: self._engine.run(rows)
        if self._spec.wire is Wire.BASE64:
            data = [base64.urlsafe_b64encode(each) for each in data]
        return self._plain.caller(data)

    def close(self) -> None:
        """Frees the engine."""
        self._loaded.close()


def measure(call: Callable[[], object], *, images: int, calls: int, seconds: float) -> EngineSample:
    """Measures `calls` threads that each repeat `call` for `seconds`; calls that run at the end are finished.

    The rate is all pictures divided by the whole time, not the sum of the threads' rates. Where calls wait for each
    other, the first and the last one have the engine alone, and the sum was 7 % too high for EfficientNet-Lite0 with
    64 pictures x 2 calls in one second.
    """
    times: list[list[float]] = [[] for _ in range(calls)]
    together = threading.Barrier(calls + 1)

    def work(mine: list[float]) -> None:
        together.wait()
        end_s = (now_s := time.perf_counter()) + seconds
        while now_s < end_s:
            call()
            mine.append(-now_s + (now_s := time.perf_counter()))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in times]
    for thread in threads:
        thread.start()
    together.wait()
    cpu_s, started_s = time.process_time(), time.perf_counter()
    for thread in threads:
        thread.join()
    took_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    every = [each for mine in times for each in mine]
    return EngineSample(
        images * len(every) / took_s, statistics.median(every) * 1000, cpu_s * 1e6 / (images * len(every))
    )


def sweep(
    callers: Callable[[str, int], Callable[[], object]], options: SweepOptions, ways: Sequence[str] = (ENGINE, PLAIN)
) -> list[EnginePoint]:
    """Measures every way, size and number of calls in turn, `options.rounds` times, after one uncounted call each."""
    keys = [(way, images, calls) for images in options.sizes for calls in options.calls for way in ways]
    made = {(way, images): callers(way, images) for way, images, _ in keys}
    samples: dict[tuple[str, int, int], list[EngineSample]] = {key: [] for key in keys}
    for turn in range(options.rounds):
        for place, key in enumerate(keys):
            way, images, calls = key
            show_progress(f"round {turn + 1}/{options.rounds}  {place + 1}/{len(keys)}  {way}, {images} x {calls}")
            if not turn:
                made[way, images]()  # the first call initializes kernels
            samples[key].append(measure(made[way, images], images=images, calls=calls, seconds=options.seconds))
    show_progress("")
    return [_point(key, found) for key, found in samples.items()]


def merge(sweeps: Sequence[Sequence[EnginePoint]]) -> list[EnginePoint]:
    """Returns the points of several sweeps as those of one sweep with all their rounds."""
    same: dict[tuple[str, int, int], list[EngineSample]] = {}
    for point in (point for points in sweeps for point in points):
        sample = EngineSample(point.pictures_per_s, point.call_ms, point.cpu_us)
        same.setdefault((point.way, point.images, point.calls), []).append(sample)
    return [_point(key, samples) for key, samples in same.items()]


def best(points: Iterable[EnginePoint], way: str = ENGINE) -> EnginePoint:
    """Returns the point with the most pictures a second."""
    return max((point for point in points if point.way == way), key=lambda point: point.pictures_per_s)


def _point(key: tuple[str, int, int], samples: Sequence[EngineSample]) -> EnginePoint:
    way, images, calls = key
    return EnginePoint(
        way,
        images,
        calls,
        pictures_per_s=statistics.median(sample.pictures_per_s for sample in samples),
        call_ms=statistics.median(sample.call_ms for sample in samples),
        cpu_us=statistics.median(sample.cpu_us for sample in samples),
        rounds_per_s=tuple(sample.pictures_per_s for sample in samples),
    )


def draw_table(points: Sequence[EnginePoint]) -> str:
    """Returns a line for each size and number of calls, with both ways side by side."""
    plain = {(point.images, point.calls): point for point in points if point.way == PLAIN}
    heads = (
        "pictures a call",
        "calls at once",
        "pictures/s",
        "call ms",
        "CPU us/picture",
        "plain: pictures/s",
        "call ms",
        "gain",
    )
    rows = []
    for point in points:
        if point.way == ENGINE:
            eager = plain[point.images, point.calls]
            floats = (point.pictures_per_s, point.call_ms, point.cpu_us, eager.pictures_per_s, eager.call_ms)
            gain = f"{point.pictures_per_s / eager.pictures_per_s:.2f}"
            rows.append([str(point.images), str(point.calls), *(number(value) for value in floats), gain])
    return table(heads, rows)


def draw_plot(points: Sequence[EnginePoint], *, title: str, path: Path) -> None:
    """Draws pictures a second and the time of a call by pictures a call, as a PNG."""
    import matplotlib as mpl  # noqa: PLC0415 - takes half a second, only for --png

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of the backend

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for way, calls in sorted({(point.way, point.calls) for point in points}):
        line = sorted((p.images, p.pictures_per_s, p.call_ms) for p in points if (p.way, p.calls) == (way, calls))
        sizes, rates, calls_ms = zip(*line, strict=True)
        style: dict[str, Any] = {
            "label": f"{way}, {calls} at once",
            "color": ("tab:blue" if way == ENGINE else "tab:gray"),
            "linestyle": {1: "-", 2: "--"}.get(calls, ":"),
            "marker": "o",
        }
        left.plot(sizes, rates, **style)
        right.plot(sizes, calls_ms, **style)
    left.set(xlabel="pictures a call", ylabel="pictures/s", xscale="log", ylim=(0, None))
    right.set(xlabel="pictures a call", ylabel="ms a call", xscale="log", yscale="log")
    ticks = sorted({point.images for point in points})
    for axes in (left, right):
        axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.limit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, help="the model's folder, or one version folder of it")
    add("--pictures", choices=tuple(KINDS), default="photos", help="what is in a batch [%(default)s]")
    add("--sizes", type=numbers, default=(1, 2, 4, 8, 16, 32, 64), help="pictures a call [1,2,4,8,16,32,64]")
    add("--calls", type=numbers, default=(1, 2), help="calls at once [1,2]")
    add("--seconds", type=float, default=1.0, help="of one point in one round [%(default)s]")
    add("--rounds", type=int, default=3, help="[%(default)s]")
    add("--json", type=Path, help="write the figures to this file")
    add("--png", type=Path, help="draw them into this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes the figures; returns 0."""
    parsed = parse(arguments)
    options = SweepOptions(parsed.sizes, parsed.calls, parsed.seconds, parsed.rounds)
    model, pictures = MeasuredModel(parsed.model), load(parsed.pictures)
    points = sweep(lambda way, images: model.caller(way, cycle(pictures, start=0, rows=images)), options)
    model.close()
    circumstances = machine.describe()
    top, plain = best(points), best(points, PLAIN)
    print(f"{machine.lines(circumstances)}\n\n{draw_table(points)}\n")
    print(
        f"limit: {top.pictures_per_s:,.1f} pictures/s, {top.images} a call, {top.calls} at once; "
        f"plain signature at best {plain.pictures_per_s:,.1f}, {plain.images} a call, {plain.calls} at once"
    )
    if parsed.json:
        parsed.json.write_text(json.dumps({**circumstances, "points": [asdict(point) for point in points]}, indent=1))
    if parsed.png:
        draw_plot(points, title=f"{parsed.model.name}: the engine without HTTP", path=parsed.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
