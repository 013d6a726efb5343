"""Finds the batch size, thread pools and calls at once that suit a model on this machine, by measuring each way."""

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median, quantiles
from typing import NamedTuple, Protocol

from darkroom.models.engines.tuning import interleave
from darkroom.models.profile.trial import Way

ENOUGH = 0.97  # of the best throughput; guess: what a smaller, quicker batch may cost
MIN_ROUNDS, MAX_ROUNDS = 5, 200
MIN_TURN_S = 0.005  # guess: a shorter measurement mostly times the question to the process and its threads waking up


class Timed(Protocol):
    """A way that can be timed; darkroom.models.profile.trial.Trial is one."""

    @property
    def way(self) -> Way:
        """How it calls the signature."""

    def seconds(self, images: int, inflight: int, repeats: int = 1) -> float:
        """The seconds of a call; see Trial."""


class Point(NamedTuple):
    """One measurement: each of `inflight` calls at once, of `images` rows, took `seconds` (median of the rounds).

    `spread` is how far the rounds lie apart, as a part of the median: half the distance of their quartiles.
    """

    way: Way
    images: int
    inflight: int
    seconds: float
    spread: float = 0.0

    @property
    def throughput(self) -> float:
        """Rows a second."""
        return self.images * self.inflight / self.seconds

    def beats(self, other: "Point") -> bool:
        """Whether its throughput is larger by more than the noise of both."""
        return self.throughput > other.throughput * (1 + self.spread + other.spread)


def sweep(
    trials: Sequence[Timed], sizes: Sequence[int], inflights: Sequence[int], *, budget_s: float
) -> Iterator[list[Point]]:
    """Measures every combination of size and number of calls at once; the trials take turns.

    Args:
        trials: the ways to time. A plain one is timed with one call at once only.
        sizes: rows a call.
        inflights: calls at once.
        budget_s: seconds for each combination, roughly. Each way is timed at least MIN_ROUNDS times.

    Yields:
        For each combination, a point of each trial.
    """
    for inflight in inflights:
        ours = [trial for trial in trials if inflight == 1 or not trial.way.is_plain]
        for images in sizes:
            for trial in ours:
                trial.seconds(images, inflight)  # the first call makes the kernels
            once_s = sum(trial.seconds(images, inflight) for trial in ours)
            repeats = max(1, int(MIN_TURN_S * len(ours) / once_s))
            rounds = max(MIN_ROUNDS, min(MAX_ROUNDS, int(budget_s / (once_s * repeats))))
            times = interleave([partial(trial.seconds, images, inflight, repeats) for trial in ours], rounds=rounds)
            yield [
                Point(trial.way, images, inflight, median(each), spread_of(each))
                for trial, each in zip(ours, times, strict=True)
            ]


def spread_of(times: Sequence[float]) -> float:
    """Half the distance of the quartiles, as a part of the median."""
    low, middle, high = quantiles(times, n=4)
    return (high - low) / 2 / middle


def choose(points: Sequence[Point], usual: Way | None = None) -> Point:
    """The point with the quickest call among those within ENOUGH of the best throughput. Plain ways are left out.

    Another way than the `usual` one is chosen only where it is better by more than the noise.
    """
    ours = [point for point in points if not point.way.is_plain]
    best = max(ours, key=lambda point: point.throughput)
    kept = [point for point in ours if point.way == usual]
    if kept and not best.beats(rival := max(kept, key=lambda point: point.throughput)):
        ours, best = kept, rival
    near = [point for point in ours if point.throughput >= ENOUGH * best.throughput]
    return min(near, key=lambda point: point.seconds)


def ways(cores: int, *, compare: bool) -> list[Way]:
    """The ways worth a process each: one thread or one a core inside an op, with and without a pool for several ops.

    Args:
        cores: the cores that may be used.
        compare: adds the plain signature.
    """
    pools = [Way(threads, inter) for threads in sorted({1, cores}) for inter in (-1, 0)]
    return [*pools, Way(is_plain=True)] if compare else pools
