"""The service curve: how long a batch of n rows takes on this machine, learned from every batch that ran."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# The number of last samples that count (guesses). The speed of the machine is the median of 11 batches of any size, so
# a change is followed after 6. The shape of the curve changes less, and is the median of 21 batches of one size. The
# second largest of 64 is the 97th percentile, and ignores one outlier.
_SPEED_SAMPLES = 11
_SHAPE_SAMPLES = 21
_TAIL_SAMPLES = 64
_FEW_SAMPLES = 8
_TAIL_SPREAD = 4.0  # guess: up to here a tail follows the speed of the machine
_LEAST_S = 1e-9  # a virtual clock may stand still, and a time of zero has no rate


def size_classes(images: int) -> tuple[int, ...]:
    """The sizes up to `images` that are learned separately: 1, 2, 3, 4, 6, 8, 12, 16, 24, … and `images` itself."""
    doubled = {1 << bit for bit in range(images.bit_length())}
    halfway = {3 << bit for bit in range(images.bit_length())}
    return tuple(sorted(size for size in doubled | halfway | {images} if size <= images))


class ServiceCurve:
    """t(n): a table of size classes, times the speed of the machine; not a straight line, because of caches and padding.

    Each class has a median and a tail. Other load on the machine slows all sizes, so the speed is learned from each
    batch for all classes; a class that has not run for a long time is not taken for slow, or fast, forever. One outlier
    (a compilation, a page fault) moves neither the median nor the speed nor, after 8 samples, the tail. Between classes
    times are interpolated. Below the smallest known size its time holds; above the largest, the time grows with n.
    While nothing is known every time is 0.0, so that no row is refused or dropped for lack of knowledge.

    Attributes:
        sizes: the classes, ascending; the allowed batch sizes if there are any.
        speed: seconds now for one second of the table.
        learned_s: when the last batch was learned, on the batcher's clock; minus infinity before the first.
        version: the number of samples so far.
    """

    def __init__(self, images: int, *, allowed: tuple[int, ...] = ()) -> None:
        self.sizes = allowed or size_classes(images)
        self.speed = 1.0
        self.learned_s = -math.inf
        self.version = 0
        self.is_seeded = False
        self._is_padded = bool(allowed)
        self._speeds: deque[float] = deque(maxlen=_SPEED_SAMPLES)
        self._samples: dict[int, deque[float]] = {}  # in seconds of the table, like the two tables:
        self._medians: dict[int, float] = {}
        self._measured: dict[int, deque[float]] = {}  # the same samples in seconds, whatever the speed
        self._longest: dict[int, float] = {}  # of them
        self._second_largest: dict[int, float] = {}
        self._known: list[int] = []
        self._expected: dict[int, float] = {}  # by n, until the next sample
        self._tails: dict[int, float] = {}

    @property
    def known(self) -> tuple[int, ...]:
        """The classes that have samples of their own, ascending."""
        return tuple(self._known)

    @property
    def largest_known(self) -> int:
        """The largest class that has samples of its own; 0: none has."""
        return self._known[-1] if self._known else 0

    def expected_below(self, n: int) -> list[tuple[int, float]]:
        """The classes below `n` that have samples of their own, the largest first, each with its `expected` time."""
        return [(size, self._medians[size] * self.speed) for size in reversed(self._known) if size < n]

    def seed(self, n: int, seconds: float) -> None:
        """Takes one measurement of the warm-up sweep: `n` rows took `seconds`. With three a size an outlier loses."""
        self.is_seeded = True
        self._add(self._class_of(n), max(seconds, _LEAST_S) / self.speed, seconds)

    def learn(self, n: int, seconds: float, now: float) -> None:
        """Takes the time of a batch of `n` rows that succeeded; between two classes it counts for the larger."""
        size = self._class_of(n)
        seconds = max(seconds, _LEAST_S)
        self.learned_s = now
        if not self._known:
            self._add(size, seconds * size / n, seconds * size / n)
            return
        table_s = self._table_s(n, self._medians)
        if size in self._samples:
            self._speeds.append(seconds / table_s)
            self.speed = _lower_median(self._speeds)
        scale = self._table_s(size, self._medians) / table_s  # 1.0 unless `n` is between two classes, or beyond all
        self._add(size, seconds / self.speed * scale, seconds * scale)

    def expected(self, n: int) -> float:
        """The median time of a batch of `n` rows in seconds; 0.0 while nothing is known."""
        found = self._expected.get(n)
        if found is None:
            found = self._expected[n] = self._table_s(n, self._medians) * self.speed
        return found

    def tail(self, n: int) -> float:
        """A time that about one batch of `n` rows in thirty exceeds, in seconds; 0.0 while nothing is known."""
        found = self._tails.get(n)
        if found is None:
            tail_s, expected_s = self._table_s(n, self._second_largest) * self.speed, self.expected(n)
            if tail_s > _TAIL_SPREAD * expected_s:  # outliers; since they were measured the speed may have changed
                longest_s = max(self._longest.values()) * max(n / self._known[-1], 1.0)
                tail_s = min(tail_s, max(longest_s, _TAIL_SPREAD * expected_s))
            found = self._tails[n] = max(tail_s, expected_s)
        return found

    def _class_of(self, n: int) -> int:
        """The smallest class that holds `n` rows; the largest class for a larger batch (a whole entry)."""
        return self.sizes[min(bisect_left(self.sizes, n), len(self.sizes) - 1)]

    def _add(self, size: int, seconds: float, measured_s: float) -> None:
        samples = self._samples.get(size)
        if samples is None:
            samples = self._samples[size] = deque(maxlen=_TAIL_SAMPLES)
            self._measured[size] = deque(maxlen=_TAIL_SAMPLES)
            insort(self._known, size)
        measured = self._measured[size]
        lost = samples[0] if len(samples) == _TAIL_SAMPLES else 0.0
        lost_s = measured[0] if lost else 0.0
        samples.append(seconds)
        measured.append(measured_s)
        if max(measured_s, lost_s) >= self._longest.get(size, 0.0):
            self._longest[size] = max(measured)
        self._medians[size] = _lower_median(islice(reversed(samples), _SHAPE_SAMPLES))
        if len(samples) < _TAIL_SAMPLES or max(seconds, lost) >= self._second_largest[size]:
            self._second_largest[size] = _second_largest(samples)
        self._expected.clear()
        self._tails.clear()
        self.version += 1

    def _table_s(self, n: int, table: dict[int, float]) -> float:
        """The time of `n` rows in `table`, interpolated between the known classes."""
        known = self._known
        if not known:
            return 0.0
        if self._is_padded and n < self.sizes[-1]:
            n = self._class_of(n)
        right = bisect_left(known, n)
        if right == len(known):
            return table[known[-1]] * n / known[-1]
        if right == 0 or known[right] == n:
            return table[known[right]]
        low, high = known[right - 1], known[right]
        return table[low] + (table[high] - table[low]) * (n - low) / (high - low)


def _lower_median(samples: Iterable[float]) -> float:
    """The lower of the middle two, so that of two samples the outlier loses."""
    ordered = sorted(samples)
    return ordered[(len(ordered) - 1) // 2]


def _second_largest(samples: deque[float]) -> float:
    """The second largest sample; the largest while there are too few to recognise an outlier."""
    return sorted(samples)[-2] if len(samples) > _FEW_SAMPLES else max(samples)
