"""Which of the waiting rows can still be in time, and how many may ride together so that they are."""

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
    """What to do with a line now: end the `doomed`, or else take `images` rows, for `reason`."""

    images: int
    reason: Reason
    doomed: tuple[Entry, ...] = ()


class _Front(NamedTuple):
    """The entries at the head of a line that are worth starting: rows up to each, when the first is due, and each."""

    steps: list[tuple[int, float, float]]
    doomed: tuple[Entry, ...]

    @property
    def rows(self) -> int:
        """Of all of them."""
        return self.steps[-1][0]

    def largest(self, now: float, curve: ServiceCurve) -> int:
        """The most rows that all finish in time, or else those of the first entry."""
        return next((n for n, due_s, _ in reversed(self.steps) if now + curve.tail(n) <= due_s), self.steps[0][0])

    def next_due_s(self, images: int) -> float:
        """When the first entry is due of which rows are left behind by `images`; there is one."""
        return next(due_s for rows, _, due_s in self.steps if rows > images)


class DeadlineFit:
    """Cuts a batch to the due times of its rows (goodput before throughput); order stays first in, first out."""

    def __init__(self, limits: Limits, policy: BatchSizer, curve: ServiceCurve | None) -> None:
        self._limits = limits
        self._policy = policy
        self._curve = curve
        self._is_draining = False

    def drain(self) -> None:
        """From now on no line lingers."""
        self._is_draining = True

    def window_end(self, line: Fifo) -> float:
        """When a line is due: its head's window lasts no longer than the tightest slack, nor than the line has room."""
        limits = self._limits
        if not limits.linger_s or self.is_full(line):
            return -math.inf
        tail_s = self._curve.tail(line.rows) if self._curve is not None else 0.0
        return min(line.head.arrived_s + limits.linger_s, line.due_s - tail_s)

    def is_full(self, line: Fifo) -> bool:
        """Whether the next batch of a line has no use for more rows."""
        limits = self._limits
        return (
            line.rows >= self._policy.target()
            or line.bytes >= limits.max_batch_bytes
            or line.pixels >= limits.max_batch_pixels
            or line.is_whole
            or self._is_draining
        )

    def plan(self, line: Fifo, now: float, *, is_idle: bool) -> Fit:
        """The next batch of `line`, which is not empty: the largest efficient one whose rows all finish in time.

        An entry that cannot finish in time even alone is doomed. A batch that is cut small to save the tightest entries
        wastes engine time, and where the next is as tight it only hands the delay on: then the entries are given up
        that an efficient batch cannot save, as in Nexus's early drop (Shen et al., SOSP 2019).
        """
        images = line.head.rows if line.is_whole else self._policy.size(line.rows)
        curve = self._curve
        if curve is None or now + curve.tail(images) <= line.due_s:
            return Fit(images, self._reason(line, images, now))
        is_stale = is_idle and self._policy.is_stale(now)
        front = _front(line, images, now, (lambda _: 0.0) if is_stale else self._alone_s)
        if not front.steps:
            return Fit(0, Reason.SLACK, front.doomed)
        fitting = front.largest(now, curve)
        if fitting == front.rows:
            return Fit(fitting, self._reason(line, fitting, now), front.doomed)
        if not is_stale and now + curve.expected(fitting) + curve.tail(images) > front.next_due_s(fitting):
            batch_s = curve.tail(images)
            early = _front(line, images, now, lambda rows: max(batch_s, self._alone_s(rows)))
            if early.steps:
                saved = early.largest(now, curve)
                if saved / curve.expected(saved) > fitting / curve.expected(fitting):
                    return Fit(saved, Reason.SLACK, early.doomed)
        return Fit(fitting, Reason.SLACK, front.doomed)

    def _reason(self, line: Fifo, images: int, now: float) -> Reason:
        """Why `images` rows of `line` leave now, its due times aside."""
        if not line.is_whole and (images < line.rows or images >= self._policy.target()):
            return Reason.FULL
        if self._is_draining:
            return Reason.DRAIN
        if not self._limits.linger_s:
            return Reason.IDLE
        return Reason.LINGER if now >= line.head.arrived_s + self._limits.linger_s else Reason.SLACK

    def _alone_s(self, rows: int) -> float:
        """Engine seconds that `rows` rows of one entry need at least."""
        top = self._limits.top_images
        calls = rows // top / self._limits.max_inflight_batches
        return max(calls * self._policy.cost(top), self._policy.cost(min(rows, top)))


def _front(line: Fifo, images: int, now: float, needed_s: Callable[[int], float]) -> _Front:
    """Up to `images` rows from the head; an entry is doomed whose rows need more time than it has."""
    steps: list[tuple[int, float, float]] = []
    doomed: list[Entry] = []
    rows, due_s = 0, math.inf
    for entry in line.entries:
        left = entry.unsent_rows
        if now + needed_s(left) > entry.due_s:
            doomed.append(entry)
            continue
        rows, due_s = min(rows + left, images), min(due_s, entry.due_s)
        steps.append((rows, due_s, entry.due_s))
        if rows == images:
            break
    return _Front(steps, tuple(doomed))
