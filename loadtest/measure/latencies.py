"""A latency histogram: counts times instead of keeping each, and reads quantiles from the counts. Standard library only."""

from collections import Counter
from collections.abc import Iterable, Sequence

STEP_MS = 0.05  # a tenth of half the finest bucket of the server's latency histogram


class LatencyHistogram:
    """Counts times in steps of 0.05 ms; its memory depends on their range, not on their number."""

    def __init__(self, times_ms: Iterable[float] = ()) -> None:
        self._counts: Counter[int] = Counter()
        self._sum_ms = 0.0
        for time_ms in times_ms:
            self.add(time_ms)

    def add(self, time_ms: float) -> None:
        """Counts one time."""
        self._counts[round(time_ms / STEP_MS)] += 1
        self._sum_ms += time_ms

    def as_pairs(self) -> list[tuple[int, int]]:
        """Returns the counts by step, for `merge` in another process."""
        return list(self._counts.items())

    def merge(self, pairs: Iterable[Sequence[int]]) -> None:
        """Adds the counts that `as_pairs` of another histogram returned."""
        for step, count in pairs:
            self._counts[step] += count
            self._sum_ms += step * STEP_MS * count

    def __len__(self) -> int:
        return sum(self._counts.values())

    @property
    def mean_ms(self) -> float | None:
        """The mean; None if nothing was counted."""
        return self._sum_ms / len(self) if self._counts else None

    def quantile_ms(self, share: float) -> float | None:
        """Returns the smallest counted time that at least `share` of all times do not exceed; None if nothing was counted."""
        wanted, seen = share * len(self), 0
        for step in sorted(self._counts):
            seen += self._counts[step]
            if seen >= wanted:
                return step * STEP_MS
        return None
