"""Which of the waiting rows can still be in time, and how many may share a batch so that they are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from darkroom.batching.entry import Entry, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.batching.limits import Limits
    from darkroom.batching.scheduler.batch_size import BatchSizer
    from darkroom.batching.scheduler.lanes import Fifo
    from darkroom.batching.scheduler.service_curve import ServiceCurve


class Fit(NamedTuple):
    """What to do with a FIFO now: end the `doomed` entries, or if there are none, take `images` rows for `reason`."""

    images: int
    reason: Reason
    doomed: tuple[Entry, ...] = ()


class _Front(NamedTuple):
    """The entries at the front of a FIFO that are worth starting.

    Attributes:
        steps: for each entry, the rows up to its last, when the first of them is due, and when the entry is due.
        doomed: the entries between them that cannot be in time.
    """

    steps: list[tuple[int, float, float]]
    doomed: tuple[Entry, ...]

    def largest(self, now: float, curve: ServiceCurve) -> int:
        """The largest number of rows that all finish in time, or else the rows of the first entry."""
        return next((n for n, due_s, _ in reversed(self.steps) if now + curve.tail(n) <= due_s), self.steps[0][0])


class DeadlineFit:
    """Limits a batch so that its rows finish when they are due (goodput before throughput); the order stays FIFO."""

    def __init__(self, limits: Limits, sizer: BatchSizer, curve: ServiceCurve | None) -> None:
        self._limits = limits
        self._sizer = sizer
        self._curve = curve
        self._is_draining = False

    def drain(self) -> None:
        """Keeps no window from now on."""
        self._is_draining = True

    def window_end(self, fifo: Fifo) -> float:
        """When a FIFO must leave: when its head has lingered, a row would become late, or a batch is full."""
        limits = self._limits
        if not limits.linger_s or self.is_full(fifo):
            return -math.inf
        tail_s = self._curve.tail(fifo.rows) if self._curve is not None else 0.0
        return min(fifo.head.arrived_s + limits.linger_s, fifo.due_s - tail_s)

    def is_full(self, fifo: Fifo) -> bool:
        """Whether the next batch of a FIFO has no use for more rows."""
        limits = self._limits
        return (
            fifo.rows >= self._sizer.target()
            or fifo.bytes >= limits.max_batch_bytes
            or fifo.pixels >= limits.max_batch_pixels
            or fifo.is_whole
            or self._is_draining
        )

    def plan(self, fifo: Fifo, now: float, *, is_idle: bool) -> Fit:
        """The next batch of `fifo`, which is not empty: the largest efficient one whose rows all finish in time.

        An entry that cannot finish in time even alone is doomed. A small batch that saves the tightest entries wastes
        engine time, and if the next entries are as tight, it only delays them. In that case the entries are given up
        that an efficient batch cannot save, as in Nexus's early drop (Shen et al., SOSP 2019).
        """
        images = fifo.head.rows if fifo.is_whole else self._sizer.size(fifo.rows)
        curve = self._curve
        if curve is None or now + curve.tail(images) <= fifo.due_s:
            return Fit(images, self._reason(fifo, images, now))
        is_stale = is_idle and self._sizer.is_stale(now)
        front = _front(fifo, images, now, (lambda _: 0.0) if is_stale else self._alone_s)
        if not front.steps:
            return Fit(0, Reason.SLACK, front.doomed)
        fitting = front.largest(now, curve)
        if fitting == front.steps[-1][0]:
            return Fit(fitting, self._reason(fifo, fitting, now), front.doomed)
        next_due_s = next(due_s for rows, _, due_s in front.steps if rows > fitting)  # of the first entry left behind
        if not is_stale and now + curve.expected(fitting) + curve.tail(images) > next_due_s:
            batch_s = curve.tail(images)
            early = _front(fifo, images, now, lambda rows: max(batch_s, self._alone_s(rows)))
            if early.steps:
                saved = early.largest(now, curve)
                if saved / curve.expected(saved) > fitting / curve.expected(fitting):
                    return Fit(saved, Reason.SLACK, early.doomed)
        return Fit(fitting, Reason.SLACK, front.doomed)

    def _reason(self, fifo: Fifo, images: int, now: float) -> Reason:
        """Why `images` rows of `fifo` leave now, if it is not for their due times."""
        if not fifo.is_whole and (images < fifo.rows or images >= self._sizer.target()):
            return Reason.FULL
        if self._is_draining:
            return Reason.DRAIN
        if not self._limits.linger_s:
            return Reason.IDLE
        return Reason.LINGER if now >= fifo.head.arrived_s + self._limits.linger_s else Reason.SLACK

    def _alone_s(self, rows: int) -> float:
        """The least engine seconds that `rows` rows of one entry need."""
        top = self._limits.top_images
        calls = rows // top / self._limits.max_inflight_batches
        return max(calls * self._sizer.cost(top), self._sizer.cost(min(rows, top)))


def _front(fifo: Fifo, images: int, now: float, needed_s: Callable[[int], float]) -> _Front:
    """Up to `images` rows from the head; an entry is doomed if its rows need more time than it has."""
    steps: list[tuple[int, float, float]] = []
    doomed: list[Entry] = []
    rows, due_s = 0, math.inf
    for entry in fifo.entries:
        left = entry.unsent_rows
        if now + needed_s(left) > entry.due_s:
            doomed.append(entry)
            continue
        rows, due_s = min(rows + left, images), min(due_s, entry.due_s)
        steps.append((rows, due_s, entry.due_s))
        if rows == images:
            break
    return _Front(steps, tuple(doomed))
