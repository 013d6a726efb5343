"""Which batch size, threads and calls at once suit a model on this machine: measured, way by way, and compared."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple, Protocol

from darkroom.models.profile.trial import Way

ENOUGH = 0.97  # of the best throughput; guess: what a smaller, quicker batch may cost
MIN_ROUNDS, MAX_ROUNDS = 5, 200
SLICE_S = 0.005  # guess: a turn shorter than this is mostly the question and the wake-up of the threads


class Timed(Protocol):
    """A way that can be timed; darkroom.models.profile.trial.Trial is one."""

    @property
    def way(self) -> Way:
        """Which."""

    def seconds(self, images: int, inflight: int, repeats: int = 1) -> float:
        """The wall time of a call; see Trial."""


class Point(NamedTuple):
    """One measurement: `inflight` calls at once of `images` rows each took `seconds` (median of the rounds)."""

    way: Way
    images: int
    inflight: int
    seconds: float

    @property
    def throughput(self) -> float:
        """Rows a second."""
        return self.images * self.inflight / self.seconds


def sweep(
    trials: Sequence[Timed], sizes: Sequence[int], inflights: Sequence[int], *, budget_s: float
) -> Iterator[list[Point]]:
    """One list of points, one a trial, for each size and number of calls at once; the trials take turns.

    Args:
        trials: the ways to time; one that is plain is timed with one call at once only.
        sizes: rows a call.
        inflights: calls at once.
        budget_s: seconds for each list, about; each way is timed MIN_ROUNDS times at least.
    """
    for inflight in inflights:
        ours = [trial for trial in trials if inflight == 1 or not trial.way.is_plain]
        for images in sizes:
            yield _points(ours, images, inflight, budget_s)


def _points(trials: Sequence[Timed], images: int, inflight: int, budget_s: float) -> list[Point]:
    for trial in trials:
        trial.seconds(images, inflight)  # kernels are made at the first call
    once_s = sum(trial.seconds(images, inflight) for trial in trials)
    repeats = max(1, int(SLICE_S * len(trials) / once_s))
    rounds = max(MIN_ROUNDS, min(MAX_ROUNDS, int(budget_s / (once_s * repeats))))
    times: list[list[float]] = [[] for _ in trials]
    for number in range(rounds):
        for place in range(len(trials)):
            turn = (place + number) % len(trials)  # nobody always follows the same neighbour
            times[turn].append(trials[turn].seconds(images, inflight, repeats))
    return [Point(trial.way, images, inflight, median(each)) for trial, each in zip(trials, times, strict=True)]


def choose(points: Sequence[Point]) -> Point:
    """The quickest call among those that come within ENOUGH of the best throughput; no plain one."""
    ours = [point for point in points if not point.way.is_plain]
    best = max(point.throughput for point in ours)
    return min((point for point in ours if point.throughput >= ENOUGH * best), key=lambda point: point.seconds)


def ways(cores: int, *, compare: bool) -> list[Way]:
    """The thread pools worth a process each: one thread or one a core inside an op, with and without a second pool."""
    pools = [Way(threads, inter) for threads in sorted({1, cores}) for inter in (-1, 0)]
    return [*pools, Way(is_plain=True)] if compare else pools
