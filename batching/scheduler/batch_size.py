"""How many of the waiting rows the next batch takes, for the most rows a second."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.batching.limits import Limits
    from darkroom.batching.scheduler.service_curve import ServiceCurve

_GAIN = 1.03  # a smaller batch must be this much more efficient to be taken; measured times differ by less (guess)
_EXPLORE_EVERY = 8  # batches of a chosen size between two trials of a neighbouring size (guess; costs about 1 %)
_UNTRIED_S = 0.25  # up to this predicted time any size may run that was never measured (guess)
_LOOK_EVERY = 8  # samples of the curve between two choices of sizes, which take 20 us (guess)
_YOUNG = 128  # up to this number of samples, sizes are chosen after each (guess)
_TURN_S = (
    1e-4  # what a batch costs in addition to its call: the event loop, waking a thread (measured: 0.06 to 0.12 ms)
)
_STALE_S = 1.0  # on an idle engine, a curve that learned nothing for this long refuses no rows (guess)
_RATE_ROWS = 4096  # the poison rate is that of about this number of last rows (guess),
_SMALLER_RUNS = 1000  # batches until a size that had too little memory is tried again (guess)
_HEALTHY_ROWS = 128  # and of this number of healthy ones, so that one guilty row at the start is no storm (guess)


class BatchSizer:
    """Chooses sizes from the limits and, if there is one, from the service curve.

    Without a curve, a batch is as large as the limits allow, as in a classic batcher. With one, the waiting rows are
    split into batches of the size class with the most rows a second. Every eighth of these tries a neighbouring class,
    so that the choice follows a machine that changes. Where calls are slow, the warm-up had no time for the larger sizes:
    traffic measures them, each at most twice as large as the largest one that is known. If rows turn out guilty, the calls of their bisection count as
    well: the more poison, the smaller the batch, down to single rows, which need no bisection. After a batch that had too
    little memory, batches are smaller for a while.
    """

    def __init__(self, limits: Limits, curve: ServiceCurve | None) -> None:
        self._limits = limits
        self._top = limits.top_images
        self._smaller_runs = 0  # batches for which `_top` stays below the limit
        self._curve = curve
        self._choices = 0  # of a size below the number of waiting rows
        self._rows = _HEALTHY_ROWS  # run for the first time, decayed
        self._guilty = 0.0  # found guilty, decayed
        self._target = self._top
        self._version = -1  # of the curve when the target and these were computed:
        self._best: dict[int, int] = {}  # the most efficient size, by the number of waiting rows

    def target(self) -> int:
        """The batch size for a long queue."""
        curve = self._curve
        if curve is not None and curve.version != self._version:
            version = curve.version
            if version < _YOUNG or self._version < 0 or version - self._version >= _LOOK_EVERY:
                self._version = version
                self._best.clear()
                self._target = self._most_efficient(curve, self._top)
        return self._target

    def size(self, rows: int) -> int:
        """The size of the next batch if `rows` rows wait and none is due soon; at least one."""
        most = min(rows, self._top)
        curve = self._curve
        if curve is None or not curve.version:
            return most
        size = self.target()
        if most == 1:
            size = 1
        elif most < self._top:
            size = self._best.get(most) or self._best.setdefault(most, self._most_efficient(curve, most))
        if size < most or most == self._top:
            self._choices += 1
            if self._choices % _EXPLORE_EVERY == 0:
                if self._choices // _EXPLORE_EVERY % 2:  # the class above, and the class below the next time
                    return next((other for other in curve.sizes if size < other <= most), size)
                return next((other for other in reversed(curve.sizes) if other < size), size)
        return size

    def cost(self, images: int) -> float:
        """Engine seconds that a call of `images` rows takes; 1.0, for one call, while nothing is known."""
        return (self._curve.expected(images) if self._curve else 0.0) or 1.0

    def is_stale(self, now: float) -> bool:
        """Whether the curve is too old to refuse or drop rows for an idle engine, since it may be wrong by now."""
        return self._curve is None or now - self._curve.learned_s > _STALE_S

    def note_run(self, images: int) -> None:
        """Counts rows that run for the first time."""
        if self._smaller_runs:
            self._smaller_runs -= 1
            if not self._smaller_runs:
                self._bound(self._limits.top_images)
        self._rows += images
        if self._rows > _RATE_ROWS:
            self._rows //= 2
            self._guilty /= 2

    def note_guilty(self) -> None:
        """Counts a row found guilty."""
        self._guilty += 1
        self._version = -1

    def note_too_large(self, images: int) -> None:
        """A call of `images` rows, padding included, had too little memory: the next batches are at most half as large.

        Where sizes are given, they are at most as large as the next smaller one.
        """
        self._smaller_runs = _SMALLER_RUNS
        smaller = [size for size in self._limits.allowed_batch_sizes if size < images]
        self._bound(min(self._top, max(smaller, default=max(1, images // 2))))

    def _bound(self, top: int) -> None:
        self._top = self._target = top
        self._version = -1

    def _most_efficient(self, curve: ServiceCurve, most: int) -> int:
        """The known class below `most` that beats it, and all larger ones, by more than noise; else `most`.

        If a warm-up had no time for `most`, which is more than twice the largest known class and slow as far as is known,
        twice that class replaces it.
        """
        if curve.is_seeded and 2 * curve.largest_known < most and curve.expected(most) > _UNTRIED_S:
            most = 2 * curve.largest_known
        best, best_s = most, math.inf
        for size, call_s in ((most, curve.expected(most)), *curve.expected_below(most)):
            retries_s = self._bisection_s(curve, size) if self._guilty >= 1 else 0.0
            row_s = (call_s + _TURN_S + retries_s) / size
            if size == most or row_s * _GAIN < best_s:
                best, best_s = size, row_s
        return best

    def _bisection_s(self, curve: ServiceCurve, images: int) -> float:
        """Expected engine seconds of the bisection of a batch of `images` rows.

        A half of s rows runs when the 2s rows it is half of hold a guilty one: with probability 1 - (1 - p)^2s.
        """
        healthy = 1 - min(1.0, self._guilty / self._rows)
        seconds, halves, size = 0.0, 2, images
        while size > 1:
            fails = 1 - healthy**size
            size = (size + 1) // 2
            seconds += halves * fails * curve.expected(size)
            halves *= 2
        return seconds
