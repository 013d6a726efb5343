"""Statistics of the `Server-Timing` headers of a run, by kind of request. Standard library only."""

from collections import Counter, defaultdict
from typing import Any

from loadtest.measure.latencies import LatencyHistogram
from loadtest.traffic.answers import parse_timing


class TimingStatistics:
    """Queue times, execution times and batch sizes by kind of request; Locust's workers send theirs to the master."""

    def __init__(self) -> None:
        self.queue: defaultdict[str, LatencyHistogram] = defaultdict(LatencyHistogram)
        self.execute: defaultdict[str, LatencyHistogram] = defaultdict(LatencyHistogram)
        self.batches: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def add(self, name: str, header: str | None) -> None:
        """Counts the header of one answer; missing values are not counted."""
        timing = parse_timing(header)
        if timing.queue_ms is not None:
            self.queue[name].add(timing.queue_ms)
        if timing.execute_ms is not None:
            self.execute[name].add(timing.execute_ms)
        if timing.batch_images is not None:
            self.batches[name][timing.batch_images] += 1

    def as_pairs(self) -> dict[str, Any]:
        """Returns all counts, for `merge` in another process."""
        return {
            "queue": {name: times.as_pairs() for name, times in self.queue.items()},
            "execute": {name: times.as_pairs() for name, times in self.execute.items()},
            "batches": {name: list(seen.items()) for name, seen in self.batches.items()},
        }

    def merge(self, other: dict[str, Any]) -> None:
        """Adds the counts that `as_pairs` of a worker returned."""
        for name, pairs in other["queue"].items():
            self.queue[name].merge(pairs)
        for name, pairs in other["execute"].items():
            self.execute[name].merge(pairs)
        for name, pairs in other["batches"].items():
            self.batches[name].update(dict(pairs))

    def mean_batch(self, name: str) -> float | None:
        """Returns the mean size of the batches of this kind of request; None if no answer told it."""
        seen = self.batches[name]
        return sum(images * count for images, count in seen.items()) / seen.total() if seen else None
