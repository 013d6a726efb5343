"""Scheduling policies in virtual time: the real queue, a clock that is a number, and a machine with given times.

HTTP, the event loop and memory are left out, so its results are an upper bound. The command is
`loadtest/simulate/simulate.py`.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field
from heapq import heappop, heappush
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from darkroom.batching.entry import Entry
from darkroom.batching.errors import BatchingError
from darkroom.batching.limits import Limits
from darkroom.batching.scheduler.queue import BatchQueue
from darkroom.batching.scheduler.service_curve import ServiceCurve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from darkroom.batching.entry import Batch

# EfficientNet-Lite0 on 2 cores, measured: 82 pictures a second one at a time, 144 in eights, about 105 from 32 on.
EFFICIENTNET_LITE0 = {1: 1 / 82, 2: 2 / 104, 4: 4 / 128, 8: 8 / 144, 16: 16 / 131, 32: 32 / 105, 64: 64 / 105}


class Machine:
    """A device with the service curve t(n) for n rows, interpolated between points, with log-normal noise."""

    def __init__(self, points: dict[int, float], noise: random.Random, *, spread: float = 0.08) -> None:
        self._curve = ServiceCurve(max(points))
        for n, seconds in points.items():
            self._curve.seed(n, seconds)
        self._noise = noise
        self._spread = spread

    def call_s(self, images: int) -> float:
        """Returns the seconds of one call."""
        return self._curve.expected(images) * self._noise.lognormvariate(0.0, self._spread)


@dataclass(frozen=True)
class SchedulingPolicy:
    """The scheduling settings of a server."""

    name: str
    limits: Limits
    has_curve: bool = False
    slo_s: float | None = None

    def queue(self, points: dict[int, float]) -> BatchQueue:
        """Returns a queue for one replica, with a service curve as warm-up would seed it."""
        curve = None
        if self.has_curve:
            curve = ServiceCurve(self.limits.top_images)
            for n, seconds in points.items():
                if n <= self.limits.top_images:
                    curve.seed(n, seconds)
        return BatchQueue(self.limits, curve=curve, slo_s=self.slo_s)


def policies(slo_s: float, window_s: float, images: int) -> tuple[SchedulingPolicy, ...]:
    """Returns the four policies that are compared: three common ones, and Darkroom's default with an SLO."""
    return (
        SchedulingPolicy("no batching", Limits(max_batch_images=1)),
        SchedulingPolicy("fixed window", Limits(max_batch_images=images, linger_s=window_s)),
        SchedulingPolicy("idle dispatch", Limits(max_batch_images=images), has_curve=True),
        SchedulingPolicy("idle dispatch + SLO", Limits(max_batch_images=images), has_curve=True, slo_s=slo_s),
    )


def poisson(rate: float, rnd: random.Random) -> Iterator[float]:
    """Yields arrival times of many independent clients."""
    now = 0.0
    while True:
        now += rnd.expovariate(rate)
        yield now


def bursty(rate: float, rnd: random.Random) -> Iterator[float]:
    """Yields arrivals with 2.5 times the mean rate in every fourth half second, and half of it in the others."""
    for half in itertools.count():
        mean = rate / 2 * (0.5 if half % 4 else 2.5)
        count = round(rnd.normalvariate(mean, math.sqrt(mean)))
        yield from sorted((half + rnd.random()) / 2 for _ in range(count))


def diurnal(rate: float, rnd: random.Random, *, day_s: float = 8.0) -> Iterator[float]:
    """Yields the arrivals of a day in 8 seconds: a fifth of the mean rate at night, almost twice the mean at noon."""
    for now in poisson(1.8 * rate, rnd):
        if rnd.random() * 1.8 < 1 - 0.8 * math.cos(2 * math.pi * now / day_s):
            yield now


def recorded(path: Path) -> Callable[[float, random.Random], Iterator[float]]:
    """Returns arrivals from a file (one time in seconds per line), scaled to the rate and repeated."""
    times = sorted(float(line) for line in path.read_text().split())
    span_s = (times[-1] - times[0]) * len(times) / (len(times) - 1)

    def arrivals(rate: float, _: random.Random) -> Iterator[float]:
        stretch = len(times) / span_s / rate
        for lap in itertools.count():
            yield from ((lap * span_s + when - times[0]) * stretch for when in times)

    return arrivals


ARRIVALS: dict[str, Callable[[float, random.Random], Iterator[float]]] = {
    "poisson": poisson,
    "bursty": bursty,
    "diurnal": diurnal,
}


@dataclass(frozen=True)
class SimulationOptions:
    """The settings of a comparison."""

    points: dict[int, float]
    arrivals: Callable[[float, random.Random], Iterator[float]]
    slo_s: float
    window_s: float
    images: int
    replicas: int
    requests: int
    loads: tuple[float, ...]
    seed: int

    @property
    def capacity(self) -> float:
        """Pictures/s of all replicas at the best batch size."""
        return self.replicas * max(n / seconds for n, seconds in self.points.items())


class PolicyResult(NamedTuple):
    """The result of one policy under one offered load; rates in pictures/s, times in seconds."""

    policy: str
    offered: float
    goodput: float
    answered: float
    refused: float
    p50_s: float
    p99_s: float
    batch_images: float


@dataclass
class Simulation:
    """Replicas behind a round-robin balancer."""

    queues: Sequence[BatchQueue]
    machine: Machine
    latencies_s: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    refused: int = 0
    _ended_s: float = 0.0
    _events: list[tuple[float, int, int, Batch | None]] = field(default_factory=list)
    _wakes: dict[int, float] = field(default_factory=dict)
    _order: Iterator[int] = field(default_factory=itertools.count)

    def run(self, arrivals: Sequence[float]) -> float:
        """Lives through `arrivals` and until the last answer; gives the time of that."""
        turn = itertools.cycle(range(len(self.queues)))
        for now in arrivals:
            self._advance(now)
            replica = next(turn)
            try:
                self.queues[replica].offer(Entry(None, 1), now)
            except BatchingError:
                self.refused += 1
            else:
                self._pump(replica, now)
        self._advance(math.inf)
        return max(arrivals[-1], self._ended_s)

    def _advance(self, until: float) -> None:
        """Lets everything happen that happens before `until`."""
        while self._events and self._events[0][0] <= until:
            now, _, replica, batch = heappop(self._events)
            if batch is None:
                self._wakes.pop(replica, None)
            else:
                self._finish(replica, batch, now)
            self._pump(replica, now)

    def _finish(self, replica: int, batch: Batch, now: float) -> None:
        queue = self.queues[replica]
        self._ended_s = now
        queue.finish(batch, now, is_ok=True)
        self.batches.append(batch.images)
        for entry, _, _ in batch.spans:
            queue.end(entry)
            self.latencies_s.append(now - entry.arrived_s)

    def _pump(self, replica: int, now: float) -> None:
        """What the driver does in a turn."""
        turn = self.queues[replica].turn(now)
        for batch in turn.batches:
            self._later(now + self.machine.call_s(batch.images + batch.padding), replica, batch)
        if turn.wake_at < self._wakes.get(replica, math.inf):
            self._wakes[replica] = turn.wake_at
            self._later(turn.wake_at, replica, None)

    def _later(self, when_s: float, replica: int, batch: Batch | None) -> None:
        heappush(self._events, (when_s, next(self._order), replica, batch))


def measure(policy: SchedulingPolicy, times: Sequence[float], options: SimulationOptions) -> PolicyResult:
    """Simulates one policy under one load."""
    machine = Machine(options.points, random.Random(options.seed))  # noqa: S311  noise, not a secret
    simulation = Simulation([policy.queue(options.points) for _ in range(options.replicas)], machine)
    span_s, whole_s = times[-1], simulation.run(times)
    latencies = sorted(simulation.latencies_s)
    in_time = sum(latency <= options.slo_s for latency in latencies)
    last = len(latencies) - 1
    return PolicyResult(
        policy.name,
        offered=len(times) / span_s,
        goodput=in_time / span_s,
        answered=len(latencies) / whole_s,
        refused=simulation.refused / span_s,
        p50_s=latencies[last // 2] if latencies else math.nan,
        p99_s=latencies[math.ceil(last * 0.99)] if latencies else math.nan,
        batch_images=fmean(simulation.batches) if simulation.batches else math.nan,
    )


def compare(options: SimulationOptions) -> list[PolicyResult]:
    """Simulates every policy under every load; all policies get the same arrivals."""
    results = []
    for load in options.loads:
        rnd = random.Random(options.seed)  # noqa: S311  arrivals, not a secret
        times = list(itertools.islice(options.arrivals(load * options.capacity, rnd), options.requests))
        policies_ = policies(options.slo_s, options.window_s, options.images)
        results += [measure(policy, times, options) for policy in policies_]
    return results
