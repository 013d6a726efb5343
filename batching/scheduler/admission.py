"""Whether an entry may come in: by count and bytes always, by predicted completion where it is due at some time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from darkroom.batching.errors import PredictedLate, QueueFull

if TYPE_CHECKING:
    from darkroom.batching.limits import Limits
    from darkroom.batching.scheduler.batch_size import BatchSizer
    from darkroom.batching.scheduler.bisection import Bisection
    from darkroom.batching.scheduler.in_flight import InFlight
    from darkroom.batching.scheduler.lanes import Lanes
    from darkroom.batching.scheduler.service_curve import ServiceCurve

_UNKNOWN_S = 1.0  # what a refused client is told to wait while nothing is known (guess)


class Admission:
    """Says no at the door, with the time after which a repeat is likely to be taken; changes nothing."""

    def __init__(
        self,
        limits: Limits,
        policy: BatchSizer,
        curve: ServiceCurve | None,
        *,
        slo_s: float,
        slots: InFlight,
        lanes: Lanes,
        isolation: Bisection,
    ) -> None:
        self._limits = limits
        self._policy = policy
        self._curve = curve
        self._slo_s = slo_s
        self._slots, self._lanes, self._isolation = slots, lanes, isolation
        self._version = 0  # of the curve when these were computed:
        self._target = limits.top_images
        self._two_s = 0.0  # one batch of it and the tail of the next

    def judge(self, rows: int, size_bytes: int, deadline: float, now: float, *, is_bulk: bool) -> tuple[float, float]:
        """When `rows` new rows of `size_bytes` would be due, and answered: -inf while nothing is known.

        Raises:
            QueueFull, PredictedLate: they may not come in.
        """
        lanes, limits, slots = self._lanes, self._limits, self._slots
        ahead = lanes.rows[0] + self._isolation.rows
        images = ahead + lanes.rows[1]
        if images + rows > limits.max_queue_images or lanes.bytes + size_bytes > limits.max_queue_bytes:
            raise self._full(rows, size_bytes, images, lanes.bytes, slots.next_free_s(now) - now)
        due_s = min(deadline, now + self._slo_s)
        if due_s == math.inf:
            return due_s, -math.inf
        forecast_s = self._forecast_s(rows, images if is_bulk else ahead, slots.next_free_s(now), due_s, now)
        # An idle engine with a stale curve tries again: that is how the curve learns better.
        if due_s <= now or (forecast_s > due_s and (images or slots or not self._policy.is_stale(now))):
            raise self._late(due_s, forecast_s, now)
        return due_s, forecast_s

    def _full(self, rows: int, size_bytes: int, held_images: int, held_bytes: int, wait_s: float) -> QueueFull:
        """What to say to `rows` new rows of `size_bytes` that find no room; the next slot is free in `wait_s`."""
        limits = self._limits
        never = rows > limits.max_queue_images or size_bytes > limits.max_queue_bytes
        weight = f" of {size_bytes} bytes" if size_bytes else ""  # unknown yet
        return QueueFull(
            f"{rows} images{weight} beside {held_images} of {held_bytes} that wait are over "
            f"max_queue_images={limits.max_queue_images} or max_queue_bytes={limits.max_queue_bytes}",
            retry_after_s=None if never else self._clear_s(held_images + rows - limits.max_queue_images, wait_s),
        )

    def _forecast_s(self, rows: int, ahead: int, start_s: float, due_s: float, now: float) -> float:
        """When `rows` new rows behind `ahead` waiting ones would be answered; -inf while nothing is known.

        With a free slot all that waits leaves at once. Else, from `start_s` on, when the next slot is free, batches
        leave side by side in all slots, the last at its tail: efficient ones, but no larger than that a row due at
        `due_s` may wait for one and ride in the next, which others will fill.
        """
        curve = self._curve
        if curve is None or not curve.version:
            return -math.inf
        if curve.version != self._version:
            self._version = curve.version
            self._target = self._policy.target()
            self._two_s = curve.expected(self._target) + curve.tail(self._target)
        if start_s <= now and ahead + rows <= self._target:
            alone_s = now + curve.tail(ahead + rows)
            if alone_s <= due_s:
                return alone_s
        size = self._target
        if now + self._two_s > due_s:
            fits = (n for n in reversed(curve.known) if n < size and now + curve.expected(n) + curve.tail(n) <= due_s)
            size = next(fits, 1)
        batches = (ahead + rows - 1) // size
        return start_s + batches * curve.expected(size) / self._limits.max_inflight_batches + curve.tail(size)

    def _late(self, due_s: float, forecast_s: float, now: float) -> PredictedLate:
        """What to say to an entry that is due at `due_s`, before `forecast_s` or now."""
        late_s = max(forecast_s, now) - due_s
        return PredictedLate(
            f"it would be answered {late_s * 1000:.0f} ms after it is due",
            retry_after_s=late_s if due_s > now else None,
        )

    def _clear_s(self, rows: int, wait_s: float) -> float:
        """Seconds until `rows` of the waiting rows, one batch at least, have left for the engine."""
        if self._curve is None or not self._curve.version:
            return _UNKNOWN_S
        target = self._policy.target()
        more = max(0, math.ceil(rows / target) - 1)
        return (
            max(wait_s, self._curve.expected(1))
            + more * self._curve.expected(target) / self._limits.max_inflight_batches
        )
