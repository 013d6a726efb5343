"""Warm-up: runs an engine at every batch size before the first request, and measures the service curve.

It also chooses how many calls to have in flight, and the size past which larger batches do worse. Everything here
blocks: it runs in a thread.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import mean, median
from typing import TYPE_CHECKING, NamedTuple

from darkroom.batching.scheduler.service_curve import size_classes
from darkroom.models.errors import ModelError
from darkroom.models.rows import fill, row_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from darkroom.models.engine import Engine
    from darkroom.models.rows import Rows

MIN_SIZE_S = 0.05  # guess: a size is measured until it took this long, within the rounds below
MIN_ROUNDS, MAX_ROUNDS = 2, 11  # one time alone may be an outlier; the curve's median looks at 11
PAST_BEST = 0.97  # guess: a size with less than this share of the best rate is worse, and not just noise
REST = 2.0  # guess: the version that is serving has the machine to itself for two thirds of the time
TURNS = 3  # guess: additional measurements of what is compared
MAX_TRIED_INFLIGHT = 4  # guess: above it, threads inside TensorFlow do better than concurrent calls
BATCH_COPIES = 8  # guess: what is computed, joined, split and written, of two calls in flight
SHORT_S = 0.02  # guess: long enough to be a good batch of a small model, short enough not to delay the start
SMALL_ROUNDS = 3  # guess: the quickest counts, since what else runs only adds time
MEMORY_SHARE = 0.5  # guess: the rest is for what the layers compute, and for requests
# All outputs may cost this much of the cheapest one alone, and requests for different outputs share batches (guess; what
# was measured with and without: docs/decisions/0034-shared-outputs.md).
SHARED_COST = 1.1
SHARED_S = 2.0  # guess: how long finding that out may take
# One more call must bring this much: it takes a core's share from the event loop, and latency (guess).
INFLIGHT_GAIN = 1.05
SECOND_CALL_SHARE = 0.97  # of the rate of one call; two calls at this rate are still preferred (guess)


class Findings(NamedTuple):
    """What the warm-up found.

    Attributes:
        inflight: the calls to have in flight.
        seeds: `(images, seconds)` of each call that was measured with that many in flight.
        ended_at: the size at which the sweep ended, because larger ones did worse; None: it ran all of them.
        lone_s: the quickest call with a single row, in seconds.
        shares_outputs: what `outputs_share` found.
        row_s: what `small_row_s` found; infinite: it was not asked.
    """

    inflight: int = 1
    seeds: tuple[tuple[int, float], ...] = ()
    ended_at: int | None = None
    lone_s: float = math.inf
    shares_outputs: bool = False
    row_s: float = math.inf

    def summary(self) -> dict[str, object]:
        """The log fields: the calls in flight, and the median milliseconds of a call by its rows."""
        times: dict[int, list[float]] = {}
        for images, seconds in self.seeds:
            times.setdefault(images, []).append(seconds)
        curve = {str(images): round(median(found) * 1000, 2) for images, found in sorted(times.items())}
        return {"inflight": self.inflight, "call_ms": curve}


class Measurement(NamedTuple):
    """One call with `images` rows, while `inflight` calls were in flight, took `seconds`."""

    inflight: int
    images: int
    seconds: float


class InflightChoice(NamedTuple):
    """A number of calls in flight, with the size that gave its best rate, and that rate."""

    inflight: int
    images: int
    images_per_s: float


class Budget:
    """The time that a warm-up may take. A call is not made if it, or what it belongs to, is predicted to break a limit.

    Attributes:
        seconds: all calls together; it runs from the moment the object is made.
        call_s: the longest call that is any use: one that no request would wait for is not tried.
    """

    def __init__(self, seconds: float, call_s: float, clock: Callable[[], float]) -> None:
        self.call_s = call_s
        self._clock = clock
        self._ends_s = clock() + seconds

    def left_s(self) -> float:
        """What is left of it; not above 0: nothing."""
        return self._ends_s - self._clock()

    def allows(self, call_s: float, calls: float) -> bool:
        """Whether there is time for `calls` calls, one after the other, that take `call_s` each."""
        return call_s <= self.call_s and call_s * calls <= self.left_s()

    def part(self, share: float) -> Budget:
        """A budget of this share of what is left."""
        return Budget(share * self.left_s(), self.call_s, self._clock)


class CallTimer:
    """Times the calls of one engine."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock

    def times(self, rows: Rows, rounds: int) -> list[float]:
        """Seconds of each of `rounds` calls, one after the other."""
        times = []
        for _ in range(rounds):
            started_s = self._clock()
            self._engine.run(rows)
            times.append(self._clock() - started_s)
        return times

    def time(self, rows: Rows) -> float:
        """Seconds of one call."""
        (seconds,) = self.times(rows, 1)
        return seconds

    def times_in(self, threads: ThreadPoolExecutor, rows: Rows, inflight: int, rounds: int) -> list[float]:
        """Seconds of `rounds` calls in each of `inflight` threads; with several threads, the mean of each thread.

        The mean, because concurrent calls queue inside the engine: a quick call follows a slow one.
        """
        each = threads.map(self.times, [rows] * inflight, [rounds] * inflight)
        return [mean(found) for found in each] if inflight > 1 else next(each)

    def times_in_turns(
        self,
        batches: dict[int, Rows],
        candidates: Sequence[InflightChoice],
        threads: Mapping[int, ThreadPoolExecutor],
    ) -> list[Measurement]:
        """Measures the candidates alternately, TURNS times each, so that background load affects all equally."""
        found: list[Measurement] = []
        for _ in range(TURNS):
            for inflight, images, images_per_s in candidates:
                rounds = _rounds(inflight * images / images_per_s)
                times = self.times_in(threads[inflight], batches[images], inflight, rounds)
                found += [Measurement(inflight, images, seconds) for seconds in times]
        return found


def warm_up(
    engine: Engine,
    samples: Sequence[Rows],
    *,
    sizes: Sequence[int],
    inflight: int = 0,
    cores: int = 1,
    budget_s: float = math.inf,
    call_s: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Findings:
    """Runs `engine` at each of `sizes` that the budget allows, with each number of calls in flight that is worth a try.

    The smallest size runs in any case. A larger one, or another number of calls, runs if there is time for it by what
    was measured before it; traffic measures the others (batching/scheduler/batch_size.py). The sweep also ends where larger batches do worse, and the caller should then make none: TensorFlow never frees what the
    largest call took (measured on EfficientNet-Lite0: 490 MB of private memory for 32 rows twice at once, 120 for 8).

    Args:
        engine: what to run. Every size runs once before it is measured, because the first call makes the kernels.
        samples: single rows that the engine accepts; if there are none, nothing runs.
        sizes: rows per call, rising. A signature that isn't batched runs with one row only.
        inflight: the calls in flight; 0 tries 1, 2 and 4, up to `cores`.
        cores: the cores that the engine may use.
        budget_s: the time for all of this.
        call_s: the longest call that is tried.
        clock: in seconds.
    """
    if not samples:
        return Findings(inflight or 1)
    budget = Budget(budget_s, call_s, clock)
    timer = CallTimer(engine, clock)
    sizes = sizes if engine.spec.batched else (1,)
    tried = [inflight] if inflight else [n for n in (1, 2, MAX_TRIED_INFLIGHT) if n <= cores]
    found: list[Measurement] = []
    has_ended = False
    for place, calls in enumerate(tried):
        # If fewer calls ended early, then calls that together hold more rows than their largest one do worse still.
        largest = max((each.images for each in found), default=max(sizes))
        worth = [size for size in sizes if largest == max(sizes) or size * calls <= largest]
        lone_s = min((each.seconds for each in found if each.images == min(sizes)), default=0.0)
        if worth and (not found or budget.allows(lone_s * calls, 1 + MIN_ROUNDS)):
            new, is_past = _sweep(timer, samples, worth, calls, budget.part(1 / (len(tried) - place)))
            found += new
            has_ended |= is_past
    chosen = inflight or _choose(timer, samples, found, budget)
    seeds = tuple((each.images, each.seconds) for each in found if each.inflight == chosen)
    lone_s = min(each.seconds for each in found if each.images == min(sizes))
    return Findings(chosen, seeds, _ended_at(sizes, [each.images for each in found]) if has_ended else None, lone_s)


def warm_up_gently(
    engine: Engine,
    samples: Sequence[Rows],
    *,
    sizes: Sequence[int],
    inflight: int,
    sleep: Callable[[float], None],
    budget_s: float = math.inf,
    call_s: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Findings:
    """Runs `engine` at each of `sizes` while another version is serving: twice each, in a third of the time at most.

    It ends where larger batches do worse, as `warm_up` does, and measures again before it believes that.

    Args:
        engine: as for `warm_up`.
        samples: as for `warm_up`.
        sizes: as for `warm_up`. The smallest runs first, so that the cheapest calls make most of the kernels.
        inflight: the calls to have in flight; no other number is tried.
        sleep: waits between the calls.
        budget_s: as for `warm_up`; the waits count.
        call_s: as for `warm_up`.
        clock: in seconds.
    """
    budget = Budget(budget_s, call_s, clock)
    timer = CallTimer(engine, clock)
    seeds: list[tuple[int, float]] = []
    rates: dict[int, float] = {}

    def measure(size: int) -> float:
        rows = fill(samples, size)
        for is_last in (False, True):  # the first call makes the kernels
            seconds = timer.time(rows)
            sleep(REST * seconds)
            if is_last or not budget.allows(seconds, 1 + REST):
                break
        seeds.append((size, seconds))
        return size / max(seconds, 1e-9)

    sizes = sorted(sizes) if engine.spec.batched else (1,)
    has_ended = False
    for size in sizes if samples else ():
        if rates and not budget.allows(_predicted_s(rates, size), 2 * (1 + REST)):
            break
        rates[size] = measure(size)
        if has_ended := _ends(rates, lambda again: {images: measure(images) for images in again}, budget):
            break
    lone_s = min((seconds for images, seconds in seeds if images == min(sizes)), default=math.inf)
    ended_at = _ended_at(sizes, [images for images, _ in seeds]) if has_ended else None
    return Findings(inflight, tuple(seeds), ended_at, lone_s)


def small_row_s(
    engine: Engine,
    samples: Sequence[Rows],
    seeds: Iterable[tuple[int, float]],
    cpu_clock: Callable[[], float] = time.process_time,
) -> float:
    """The seconds of a core, of all its threads together, for one row of the smallest sample in a batch.

    The smallest sample, because clients choose how large their pictures are: this is what the network itself takes. The
    batch is the largest that takes no longer than SHORT_S; if there is none, one row is so slow that its time will do.

    Args:
        engine: what to run; `warm_up` has run it.
        samples: as for `warm_up`.
        seeds: what that measured.
        cpu_clock: the seconds of a core that the process has used.
    """
    quickest: dict[int, float] = {}
    for size, seconds in seeds:
        quickest[size] = min(seconds, quickest.get(size, math.inf))
    images = max((size for size, seconds in quickest.items() if seconds <= SHORT_S), default=0)
    if not images:
        return min((seconds / size for size, seconds in quickest.items()), default=math.inf)
    rows = fill([min(samples, key=lambda row: sum(row_bytes(row)))], images)
    engine.run(rows)  # the first call of a shape
    times = []
    for _ in range(SMALL_ROUNDS):
        started_s = cpu_clock()
        engine.run(rows)
        times.append(cpu_clock() - started_s)
    return min(times) / images


def run_sizes_once(
    engine: Engine,
    samples: Sequence[Rows],
    sizes: Iterable[int],
    *,
    rest: Callable[[float], None],
    budget_s: float = math.inf,
) -> None:
    """Runs each of `sizes` once, so that no request has to wait while cuDNN searches its kernels for a new size.

    Measured on an H100 with EfficientNet-Lite0: the first call of a size takes 30 to 60 ms instead of 5 to 20; all
    sizes up to 32 take a second together.

    Args:
        engine: what to run.
        samples: single rows that it accepts.
        sizes: rows per call.
        rest: called after each call with its seconds.
        budget_s: no call begins after this time.
    """
    timer = CallTimer(engine)
    budget = Budget(budget_s, math.inf, time.monotonic)
    for size in sizes if samples and engine.spec.batched else ():
        if budget.left_s() > 0:
            rest(timer.time(fill(samples, size)))


def outputs_share(
    engine: Engine,
    samples: Sequence[Rows],
    *,
    size: int,
    call_s: float,
    rest: Callable[[float], None],
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Whether all outputs cost little more than the cheapest alone, so that a batch may compute what any row asks for.

    False also where there is no time to find out, or the engine cannot compute an output by itself.

    Args:
        engine: what to run.
        samples: single rows that it accepts.
        size: rows per call; one that it has run before.
        call_s: the seconds of such a call.
        rest: called after each call with its seconds.
        clock: in seconds.
    """
    names = [output.name for output in engine.spec.outputs]
    if len(names) < 2 or not (samples and engine.spec.batched):
        return False
    rounds = _rounds(call_s)
    if call_s * (1 + rounds) * (1 + len(names)) > SHARED_S:
        return False
    timer = CallTimer(engine, clock)
    rows = fill(samples, size)
    tried = [rows, *(rows.asking([name]) for name in names)]
    quickest_s = [math.inf] * len(tried)
    for turn in range(1 + rounds):  # in turns, so that background load affects all equally; the first makes the kernels
        for place, asking in enumerate(tried):
            try:
                seconds = timer.time(asking)
            except ModelError:
                return False
            rest(seconds)
            if turn:
                quickest_s[place] = min(quickest_s[place], seconds)
    every_s, *alone_s = quickest_s
    return every_s <= SHARED_COST * min(alone_s)


def affordable(sizes: Sequence[int], row_bytes: int, free_bytes: int) -> tuple[int, ...]:
    """The sizes whose rows, BATCH_COPIES times over, fit into half of the free memory; the smallest size in any case."""
    return tuple(
        size for size in sizes if size == min(sizes) or size * row_bytes * BATCH_COPIES <= free_bytes * MEMORY_SHARE
    )


def sweep_sizes(max_batch_images: int, allowed: Sequence[int] = ()) -> tuple[int, ...]:
    """The sizes worth measuring: the allowed ones, or the size classes of the scheduler's service curve."""
    return tuple(allowed) or size_classes(max_batch_images)


def choose_inflight(measured: Iterable[tuple[int, int, float]]) -> InflightChoice:
    """The fewest calls in flight whose best rate no larger number beats by 5 %; two instead of one if 3 % are lost.

    With one call in flight the engine idles between the calls, while answers are written and the next batch is made.
    The measurements do not contain that time; a second call in flight fills it.

    Args:
        measured: as for `best_of_each`.

    Raises:
        ValueError: nothing was measured.
    """
    best = best_of_each(measured)
    if not best:
        raise ValueError("nothing was measured")
    top = max(choice.images_per_s for choice in best.values())
    fewest = next(choice for choice in best.values() if choice.images_per_s * INFLIGHT_GAIN >= top)
    two = best.get(2)
    if two and fewest.inflight == 1 and two.images_per_s >= SECOND_CALL_SHARE * fewest.images_per_s:
        return two
    return fewest


def best_of_each(measured: Iterable[tuple[int, int, float]]) -> dict[int, InflightChoice]:
    """The size with the best rate for each number of calls in flight, fewest calls first.

    Args:
        measured: (calls in flight, rows per call, seconds per call), in any order. If a pair was measured several
            times, its median counts.
    """
    samples: dict[tuple[int, int], list[float]] = {}
    for inflight, images, seconds in measured:
        samples.setdefault((inflight, images), []).append(seconds)
    best: dict[int, InflightChoice] = {}
    for (inflight, images), times in sorted(samples.items()):
        choice = InflightChoice(inflight, images, inflight * images / median(times))
        if inflight not in best or choice.images_per_s > best[inflight].images_per_s:
            best[inflight] = choice
    return best


def is_past_best(rates: Sequence[float]) -> bool:
    """Whether the last two of these rates, of rising sizes, are both worse than the best one before them."""
    return len(rates) > 2 and max(rates[-2:]) < PAST_BEST * max(rates[:-2])


def _sweep(
    timer: CallTimer, samples: Sequence[Rows], sizes: Sequence[int], inflight: int, budget: Budget
) -> tuple[list[Measurement], bool]:
    """Measures sizes in `inflight` threads, until two in a row are past the best one or the budget allows no more.

    Returns the measurements, and whether larger sizes did worse.
    """
    found: list[Measurement] = []
    rates: dict[int, float] = {}
    batches: dict[int, Rows] = {}
    with ThreadPoolExecutor(inflight, thread_name_prefix="warm-up") as threads:

        def measure_again(sizes: Sequence[int]) -> dict[int, float]:
            candidates = [InflightChoice(inflight, size, inflight * rates[size]) for size in sizes]
            again = timer.times_in_turns(batches, candidates, {inflight: threads})
            found.extend(again)
            return _rates(again)

        for size in sizes:
            if rates and not budget.allows(_predicted_s(rates, size), 1 + MIN_ROUNDS):
                return found, False
            rows = batches[size] = fill(samples, size)
            first_s = threads.submit(timer.time, rows).result()  # in a thread of the pool: oneDNN caches per thread
            rounds = min(_rounds(first_s) + inflight - 1, int(min(budget.left_s() / max(first_s, 1e-6), 1e6)))
            times = timer.times_in(threads, rows, inflight, rounds) if rounds > 0 else [first_s * inflight]
            new = [Measurement(inflight, size, seconds) for seconds in times]
            found += new
            rates |= _rates(new)
            if _ends(rates, measure_again, budget):
                return found, True
    return found, False


def _choose(timer: CallTimer, samples: Sequence[Rows], found: Sequence[Measurement], budget: Budget) -> int:
    """The calls to have in flight, chosen after the best size of each number was measured again in turns.

    The sweep measures one number after the other; a machine that changes its pace meanwhile would decide. It does
    decide where there is no time to measure again.
    """
    candidates = [*best_of_each(found).values()]
    if len(candidates) == 1:
        return candidates[0].inflight
    calls_s = [inflight * images / images_per_s for inflight, images, images_per_s in candidates]
    if not budget.allows(sum(calls_s), 1 + TURNS * MIN_ROUNDS):
        return choose_inflight(found).inflight
    batches = {images: fill(samples, images) for _, images, _ in candidates}
    with ExitStack() as stack:
        threads = {n: stack.enter_context(ThreadPoolExecutor(n, "warm-up")) for n, _, _ in candidates}
        for inflight, images, _ in candidates:  # each thread makes its kernels
            timer.times_in(threads[inflight], batches[images], inflight, 1)
        return choose_inflight(timer.times_in_turns(batches, candidates, threads)).inflight


def _ends(rates: dict[int, float], measure_again: Callable[[Sequence[int]], dict[int, float]], budget: Budget) -> bool:
    """Whether a sweep ends: its last two sizes do worse than the best one, also when all three are measured again.

    Args:
        rates: rows per second by size, in the order of the sweep. Updated with what is measured again.
        measure_again: returns the rates of some sizes, measured alternately.
        budget: without time to measure again, no sweep ends for this reason.
    """
    size, rate = next(reversed(rates.items()))
    if size / rate <= MIN_SIZE_S or not is_past_best([*rates.values()]):  # quicker calls are cheap, and mostly noise
        return False
    best_and_last = (max(rates, key=rates.__getitem__), *[*rates][-2:])
    if not budget.allows(sum(images / rates[images] for images in best_and_last), TURNS * MIN_ROUNDS):
        return False
    rates |= measure_again(best_and_last)
    return is_past_best([rates[images] for images in best_and_last])


def _predicted_s(rates: dict[int, float], size: int) -> float:
    """The seconds of a call of `size` rows, at the rate of the size that was measured last."""
    _, rate = next(reversed(rates.items()))
    return size / rate


def _rates(found: Iterable[Measurement]) -> dict[int, float]:
    """Rows per second of one call by size. The quickest call counts, because background load only adds time."""
    quickest_s: dict[int, float] = {}
    for each in found:
        quickest_s[each.images] = min(each.seconds, quickest_s.get(each.images, math.inf))
    return {images: images / max(seconds, 1e-9) for images, seconds in quickest_s.items()}


def _ended_at(sizes: Sequence[int], ran: Sequence[int]) -> int | None:
    """The largest size that ran, if there were larger ones to run."""
    return max(ran) if ran and max(ran) < max(sizes) else None


def _rounds(first_s: float) -> int:
    """How often to measure a size whose first call took `first_s`."""
    return max(MIN_ROUNDS, min(MAX_ROUNDS, int(MIN_SIZE_S / max(first_s, 1e-6))))
