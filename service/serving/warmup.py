"""Warm-up: runs an engine at every size before anyone asks, and tells the scheduler how long each took."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import mean, median
from typing import TYPE_CHECKING, NamedTuple

from darkroom.batching.scheduler.service_curve import size_classes
from darkroom.models.rows import fill
from darkroom.service.config.machine import cores_each
from darkroom.service.serving.inflight import InflightChoice, best_of_each, choose_inflight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from darkroom.models.engine import Engine
    from darkroom.models.rows import Rows

MIN_POINT_S = 0.05  # guess: a size is measured again until it took so long, or so often
MIN_ROUNDS, MAX_ROUNDS = 2, 11  # one time alone may be an outlier; the curve's median looks at 11
PAST_BEST = 0.97  # guess: a size that does less than this share of the best one's rate is worse, not just noise
REST = 2.0  # guess: the one that serves has the machine to itself for two thirds of the time
TURNS = 3  # guess: more measurements of what is to be compared
MAX_TRIED_INFLIGHT = 4  # guess: past it, threads inside TensorFlow do better than calls beside each other


class Findings(NamedTuple):
    """What the sweep found: the calls to have at once, and `(images, seconds)` of each call with that many.

    `ended_at` is the size at which it ended since larger ones do worse; None: it ran all of them. `lone_s` is what one
    row took at best.
    """

    inflight: int = 1
    seeds: tuple[tuple[int, float], ...] = ()
    ended_at: int | None = None
    lone_s: float = math.inf


class Point(NamedTuple):
    """One measurement: `images` rows a call, with `inflight` calls at once, took `seconds`."""

    inflight: int
    images: int
    seconds: float


def warm_up(
    engine: Engine, samples: Sequence[Rows], *, sizes: Sequence[int], inflight: int = 0, workers: int = 1
) -> Findings:
    """Runs `engine` at each of `sizes`, with each number of calls at once that is worth a try; blocks while it does.

    Where larger batches do worse the sweep ends, and the caller should make none: TensorFlow never gives back what the
    largest call took (measured on EfficientNet-Lite0: 490 MB of private memory for 32 rows twice at once, 120 for 8).

    Args:
        engine: what to run; every size is run once before it is measured (kernels are made at the first call).
        samples: single rows that the engine takes; none: nothing is run and nothing found.
        sizes: rows a call; a signature that isn't batched is run with one row only.
        inflight: calls at once; 0 tries 1, 2 and 4, up to the number of usable cores.
        workers: processes that share those cores.
    """
    if not samples:
        return Findings(inflight or 1)
    sizes = sizes if engine.spec.batched else (1,)
    tried = [inflight] if inflight else [n for n in (1, 2, MAX_TRIED_INFLIGHT) if n <= cores_each(workers)]
    batches = {size: fill(samples, size) for size in sizes}
    points: list[Point] = []
    for calls in tried:
        points += _sweep(engine, {size: batches[size] for size in _sizes_for(calls, sizes, points)}, calls)
    chosen = inflight or _choose(engine, batches, points)
    seeds = tuple((point.images, point.seconds) for point in points if point.inflight == chosen)
    lone_s = min(point.seconds for point in points if point.images == min(sizes))
    return Findings(chosen, seeds, _ended_at(sizes, [point.images for point in points]), lone_s)


def summary(findings: Findings) -> dict[str, object]:
    """What was found, for the log: the calls at once, and the milliseconds of a call by its rows."""
    times: dict[int, list[float]] = {}
    for images, seconds in findings.seeds:
        times.setdefault(images, []).append(seconds)
    curve = {str(images): round(median(found) * 1000, 2) for images, found in sorted(times.items())}
    return {"inflight": findings.inflight, "call_ms": curve}


def warm_up_gently(
    engine: Engine, samples: Sequence[Rows], *, sizes: Sequence[int], inflight: int, sleep: Callable[[float], None]
) -> Findings:
    """Runs `engine` at each of `sizes` beside one that serves: twice each, and never for more than a third of the time.

    As in `warm_up`, it ends where larger batches do worse, also when asked again.

    Args:
        engine: as for `warm_up`.
        samples: as for `warm_up`.
        sizes: as for `warm_up`; smallest first, so that most of the kernels are made by the cheapest calls.
        inflight: the calls at once to have, since none is tried here.
        sleep: what waits between the calls.
    """
    seeds: list[tuple[int, float]] = []
    rates: dict[int, float] = {}

    def measure(size: int) -> float:
        rows = fill(samples, size)
        for _ in range(2):  # kernels are made at the first call
            (seconds,) = _time_calls(engine, rows, 1)
            sleep(REST * seconds)
        seeds.append((size, seconds))
        return size / max(seconds, 1e-9)

    sizes = sorted(sizes) if engine.spec.batched else (1,)
    for size in sizes if samples else ():
        rates[size] = measure(size)
        if _ends(rates, lambda again: {images: measure(images) for images in again}):
            break
    lone_s = min((seconds for images, seconds in seeds if images == min(sizes)), default=math.inf)
    return Findings(inflight, tuple(seeds), _ended_at(sizes, [images for images, _ in seeds]), lone_s)


def meet_sizes(engine: Engine, samples: Sequence[Rows], sizes: Iterable[int], *, rest: Callable[[float], None]) -> None:
    """Runs each of `sizes` once; blocks while it does.

    On a GPU cuDNN looks for its kernels when a size first comes, and whoever comes with it waits. Measured on an H100
    with EfficientNet-Lite0: 30 to 60 ms instead of 5 to 20, for all sizes up to 32 a second together.

    Args:
        engine: what to run.
        samples: single rows that it takes.
        sizes: rows a call.
        rest: is called with the seconds of each call, after it.
    """
    for size in sizes if samples and engine.spec.batched else ():
        (seconds,) = _time_calls(engine, fill(samples, size), 1)
        rest(seconds)


def sweep_sizes(max_batch_images: int, allowed: Sequence[int] = ()) -> tuple[int, ...]:
    """The sizes worth measuring: those that are allowed, else the classes that the scheduler's curve tells apart."""
    return tuple(allowed) or size_classes(max_batch_images)


def _sizes_for(inflight: int, sizes: Sequence[int], points: Sequence[Point]) -> list[int]:
    """The sizes to run with `inflight` calls at once, after `points` of fewer calls.

    Where those ended early, calls that together hold more rows than the largest one alone would do worse still.
    """
    largest = max((point.images for point in points), default=max(sizes))
    return [size for size in sizes if largest == max(sizes) or size * inflight <= largest]


def _sweep(engine: Engine, batches: dict[int, Rows], inflight: int) -> list[Point]:
    """Each size measured with `inflight` threads at work on it, until two sizes in a row are past the best one."""
    points: list[Point] = []
    rates: dict[int, float] = {}
    with ThreadPoolExecutor(inflight, thread_name_prefix="warm-up") as threads:

        def measure_again(sizes: Sequence[int]) -> dict[int, float]:
            ways = [InflightChoice(inflight, size, inflight * rates[size]) for size in sizes]
            again = _in_turns(engine, batches, ways, {inflight: threads})
            points.extend(again)
            return _rates(again)

        for size, rows in batches.items():
            started_s = time.monotonic()
            threads.submit(engine.run, rows).result()  # with a thread goes what oneDNN keeps for it
            rounds = _rounds(time.monotonic() - started_s) + inflight - 1
            found = [Point(inflight, size, seconds) for seconds in _at_once(threads, engine, rows, inflight, rounds)]
            points += found
            rates |= _rates(found)
            if _ends(rates, measure_again):
                break
    return points


def _ends(rates: dict[int, float], measure_again: Callable[[Sequence[int]], dict[int, float]]) -> bool:
    """Whether a sweep ends: the last two sizes do worse than the best one, and so when all three are measured again.

    Args:
        rates: rows a second by size, in the order of the sweep; what was measured again takes its place.
        measure_again: gives the rates of some sizes, measured beside each other.
    """
    size, rate = next(reversed(rates.items()))
    if size / rate <= MIN_POINT_S or not is_past_best([*rates.values()]):  # quicker calls are cheap, and mostly noise
        return False
    best_and_last = (max(rates, key=rates.__getitem__), *[*rates][-2:])
    rates |= measure_again(best_and_last)
    return is_past_best([rates[images] for images in best_and_last])


def _rates(points: Iterable[Point]) -> dict[int, float]:
    """Rows a second of one of the calls, by size; the quickest counts: what else the machine does only adds."""
    quickest_s: dict[int, float] = {}
    for point in points:
        quickest_s[point.images] = min(point.seconds, quickest_s.get(point.images, math.inf))
    return {images: images / max(seconds, 1e-9) for images, seconds in quickest_s.items()}


def is_past_best(rates: Sequence[float]) -> bool:
    """Whether the last two of these rates, of rising sizes, are both worse than the best one before them."""
    return len(rates) > 2 and max(rates[-2:]) < PAST_BEST * max(rates[:-2])


def _ended_at(sizes: Sequence[int], ran: Sequence[int]) -> int | None:
    """The largest size that ran, where there were larger ones to run."""
    return max(ran) if ran and max(ran) < max(sizes) else None


def _rounds(first_s: float) -> int:
    """How often to measure a size whose first call took `first_s`."""
    return max(MIN_ROUNDS, min(MAX_ROUNDS, int(MIN_POINT_S / max(first_s, 1e-6))))


def _choose(engine: Engine, batches: dict[int, Rows], points: Sequence[Point]) -> int:
    """The calls at once to have, after each number's best size had its turns."""
    ways = [*best_of_each(points).values()]
    if len(ways) == 1:
        return ways[0].inflight
    with ExitStack() as stack:
        threads = {way.inflight: stack.enter_context(ThreadPoolExecutor(way.inflight, "warm-up")) for way in ways}
        for way in ways:  # each thread makes its kernels
            _at_once(threads[way.inflight], engine, batches[way.images], way.inflight, 1)
        return choose_inflight(_in_turns(engine, batches, ways, threads)).inflight


def _in_turns(
    engine: Engine,
    batches: dict[int, Rows],
    ways: Sequence[InflightChoice],
    threads: Mapping[int, ThreadPoolExecutor],
) -> list[Point]:
    """Each way measured TURNS times more, in turns.

    The sweep measures one after the other, and a machine that changes its pace meanwhile would tell which is best.
    """
    points: list[Point] = []
    for _ in range(TURNS):
        for calls, images, images_per_s in ways:
            rounds = _rounds(calls * images / images_per_s)
            times = _at_once(threads[calls], engine, batches[images], calls, rounds)
            points += [Point(calls, images, seconds) for seconds in times]
    return points


def _at_once(threads: ThreadPoolExecutor, engine: Engine, rows: Rows, inflight: int, rounds: int) -> list[float]:
    """Seconds of each of `rounds` calls in a row; of calls at once, the mean of each thread.

    Calls beside each other take turns inside the engine, a quick one after a slow one.
    """
    each = threads.map(_time_calls, [engine] * inflight, [rows] * inflight, [rounds] * inflight)
    return [mean(found) for found in each] if inflight > 1 else next(each)


def _time_calls(engine: Engine, rows: Rows, rounds: int) -> list[float]:
    """Seconds of each of `rounds` calls in a row."""
    times = []
    for _ in range(rounds):
        started_s = time.monotonic()
        engine.run(rows)
        times.append(time.monotonic() - started_s)
    return times
