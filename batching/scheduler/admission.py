"""Whether rows may come in: by count and bytes always, by predicted completion if they are due at some time."""

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

_UNKNOWN_S = 1.0  # how long a refused client is told to wait while nothing is known (guess)


class Ticket:
    """The judgement that some rows may come in, for one `submit`. A class, because mypyc makes named tuples slowly.

    Attributes:
        rows, deadline, is_bulk: the rows that were judged, and when: judged_s.
        due_s: when they would be due, the earlier of deadline and SLO; infinity: never.
        forecast_s: when they would be answered; -inf while nothing is known, or if they are never due.
        admission, changes: who judged, and its `changes` at that time: a ticket of another queue is worth nothing.
    """

    __slots__ = ("admission", "changes", "deadline", "due_s", "forecast_s", "is_bulk", "judged_s", "rows")

    def __init__(
        self,
        rows: int,
        deadline: float,
        *,
        is_bulk: bool,
        judged_s: float,
        due_s: float,
        forecast_s: float,
        admission: Admission,
    ) -> None:
        self.rows = rows
        self.deadline = deadline
        self.is_bulk = is_bulk
        self.judged_s = judged_s
        self.due_s = due_s
        self.forecast_s = forecast_s
        self.admission = admission
        self.changes = admission.changes


class Admission:
    """Refuses rows before they wait, with the time after which a repeat is likely to be accepted; changes nothing.

    Attributes:
        changes: counts what a judgement depends on: the queue adds one for each offer, dispatch, return and retry, and
            for a drain. A ticket with another count is judged again.
    """

    def __init__(
        self,
        limits: Limits,
        sizer: BatchSizer,
        curve: ServiceCurve | None,
        *,
        slo_s: float,
        in_flight: InFlight,
        lanes: Lanes,
        bisection: Bisection,
    ) -> None:
        self.changes = 0
        self._limits = limits
        self._sizer = sizer
        self._curve = curve
        self._slo_s = slo_s
        self._in_flight, self._lanes, self._bisection = in_flight, lanes, bisection
        self._version = 0  # of the curve when these were computed:
        self._target = limits.top_images
        self._two_s = 0.0  # the expected time of one batch of that size plus the tail of the next

    def judge(self, rows: int, size_bytes: int, deadline: float, now: float, *, is_bulk: bool) -> Ticket:
        """When `rows` new rows of `size_bytes` would be due, and answered.

        Raises:
            QueueFull, PredictedLate: they may not come in.
        """
        lanes, limits, in_flight = self._lanes, self._limits, self._in_flight
        ahead = lanes.rows[0] + self._bisection.rows
        images = ahead + lanes.rows[1]
        if images + rows > limits.max_queue_images or lanes.bytes + size_bytes > limits.max_queue_bytes:
            raise self._full(rows, size_bytes, images, now)
        due_s = min(deadline, now + self._slo_s)
        forecast_s = -math.inf
        if due_s < math.inf:
            start_s = in_flight.next_free_s(now)
            forecast_s = self._forecast_s(rows, images if is_bulk else ahead, start_s, due_s, now)
            # An idle engine with a stale curve tries again, so that the curve can learn better.
            is_late = forecast_s > due_s and (images or in_flight.batches or not self._sizer.is_stale(now))
            if due_s <= now or is_late:
                late_s = max(forecast_s, now) - due_s
                raise PredictedLate(
                    f"it would be answered {late_s * 1000:.0f} ms after it is due",
                    retry_after_s=late_s if due_s > now else None,
                )
        return Ticket(
            rows,
            deadline,
            is_bulk=is_bulk,
            judged_s=now,
            due_s=due_s,
            forecast_s=forecast_s,
            admission=self,
        )

    def renew(self, ticket: Ticket, rows: int, size_bytes: int, deadline: float, now: float, *, is_bulk: bool) -> bool:
        """Whether a new judgement of such rows would surely agree with the ticket, whose times are then as of `now`."""
        if ticket.admission is not self or ticket.changes != self.changes:
            return False
        if ticket.rows != rows or ticket.deadline != deadline:
            return False
        if ticket.is_bulk != is_bulk or self._lanes.bytes + size_bytes > self._limits.max_queue_bytes:
            return False
        since_s = now - ticket.judged_s
        due_s, forecast_s = min(deadline, ticket.due_s + since_s), ticket.forecast_s + since_s
        if due_s <= now or forecast_s > due_s:
            return False
        ticket.judged_s, ticket.due_s, ticket.forecast_s = now, due_s, forecast_s
        return True

    def _forecast_s(self, rows: int, ahead: int, start_s: float, due_s: float, now: float) -> float:
        """When `rows` new rows behind `ahead` waiting ones would be answered; -inf while nothing is known.

        If the backend has a free place, all waiting rows leave at once. If none waits, the median decides: a row that is
        next gains nothing by a refusal, and a few slow pictures, which make the tail, would have all others refused.
        Without a free place batches leave from `start_s` on, when the next one is free, over all places at once; the last
        one takes its tail time. They have the most efficient size, but are no larger than a row due at `due_s` allows: it
        may have to wait for one batch and leave in the next, which other rows will fill.
        """
        curve = self._curve
        if curve is None or not curve.version:
            return -math.inf
        if curve.version != self._version:
            self._version = curve.version
            self._target = self._sizer.target()
            self._two_s = curve.expected(self._target) + curve.tail(self._target)
        if start_s <= now and ahead + rows <= self._target:
            alone_s = now + (curve.tail(ahead + rows) if ahead else curve.expected(rows))
            if alone_s <= due_s:
                return alone_s
        size = self._target
        if now + self._two_s > due_s:
            fits = (n for n in reversed(curve.known) if n < size and now + curve.expected(n) + curve.tail(n) <= due_s)
            size = next(fits, 1)
        batches = (ahead + rows - 1) // size
        return start_s + batches * curve.expected(size) / self._limits.max_inflight_batches + curve.tail(size)

    def _full(self, rows: int, size_bytes: int, images: int, now: float) -> QueueFull:
        """The refusal of `rows` new rows of `size_bytes` that find no room while `images` rows wait."""
        limits, curve = self._limits, self._curve
        if rows > limits.max_queue_images or size_bytes > limits.max_queue_bytes:
            retry_after_s = None  # they never fit
        elif curve is None or not curve.version:
            retry_after_s = _UNKNOWN_S
        else:  # until enough of the waiting rows, one batch at least, have left for the engine
            target = self._sizer.target()
            more = max(0, math.ceil((images + rows - limits.max_queue_images) / target) - 1)
            wait_s = max(self._in_flight.next_free_s(now) - now, curve.expected(1))
            retry_after_s = wait_s + more * curve.expected(target) / limits.max_inflight_batches
        weight = f" of {size_bytes} bytes" if size_bytes else ""  # not known yet
        return QueueFull(
            f"{rows} images{weight} beside {images} of {self._lanes.bytes} that wait are over "
            f"max_queue_images={limits.max_queue_images} or max_queue_bytes={limits.max_queue_bytes}",
            retry_after_s=retry_after_s,
        )
