"""The scheduler's state machine. It is told the time: no await, clock, thread, log or metric here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from darkroom.batching.entry import NEW, NO_ERRORS, PENDING, Batch, Entry, Reason
from darkroom.batching.errors import NO_ANSWER, Closed
from darkroom.batching.scheduler.admission import Admission
from darkroom.batching.scheduler.apart import TOGETHER, Apart, KeptApart
from darkroom.batching.scheduler.batch_size import BatchSizer
from darkroom.batching.scheduler.bisection import Bisection
from darkroom.batching.scheduler.deadline_fit import DeadlineFit
from darkroom.batching.scheduler.deadlines import Deadlines
from darkroom.batching.scheduler.in_flight import InFlight
from darkroom.batching.scheduler.lanes import Lanes

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from darkroom.batching.entry import Span
    from darkroom.batching.limits import Limits
    from darkroom.batching.scheduler.admission import Ticket
    from darkroom.batching.scheduler.service_curve import ServiceCurve

MAX_SHAPES = 256  # guess: keys that are remembered; clients choose them, so there must be an end


class Turn(NamedTuple):
    """What the driver must do now.

    Attributes:
        batches: to be given to the backend, in this order.
        ended: entries whose time is over; each is named in one turn only.
        wake_at: when to call `turn` again if nothing happens before; infinity: never.
    """

    batches: list[Batch]
    ended: list[Entry]
    wake_at: float


class BatchQueue:
    """Decides which rows share a batch, in what order and when: the specification.

    States. An entry: NEW → PENDING (`offer`) → ENDED (`end`, `turn`, `suspect`, `close`). While it is PENDING, each of
    its rows waits in its FIFO, is in flight, waits for a retry, or is settled. The queue: open → draining → closed.

    The driver calls `turn` after it offered entries, after the backend gave a batch back, and at the time that the last
    turn named. One turn ends the overdue entries and fills the free places of the backend.

    Rows wait in FIFOs, one for each lane and key, and share batches only with rows of their FIFO. Interactive FIFOs go
    before bulk ones, except for one batch in eight. Within a lane, the FIFO goes first whose head arrived first.

    Invariants, with `now` never going back:
        I1 conservation: each entry that was offered ends exactly once, or is refused.
        I2 1 ≤ rows(batch) ≤ max_batch_images; its bytes and pixels are within bounds unless it is one row; a whole
           entry is alone in its batch, as it is.
        I3 rows of one FIFO are dispatched in order of arrival, those of one entry in order; a retry comes later.
        I4 while the backend has a free place, a live row that waits leaves in the `turn` at arrival + linger, or when
           it is next in order.
        I5 a full FIFO (images, bytes or pixels) leaves in the next `turn`.
        I6 a refusal changes nothing.
        I7 ending one entry changes no other's rows; retries delay a waiting batch by about the time of one batch.
        I8 row i of an entry goes out as row i and once, except for retries, whatever was merged, split or halved.
        I9 after `close`: nothing is accepted, nothing is pending; close is idempotent.

    Latency. With A live rows ahead in its lane, batches of B rows, k batches in flight and T the longest call, an
    interactive row leaves within  linger + T/k · (1 + ⌈A/B⌉ · (1 + r) · 8/7),  where r is 1 while rows wait for a
    retry, else 0.

    Attributes:
        limits: of a batch and of the queue.
        pending, in_flight: the entries that have not ended, and the batches that the backend has.
        sizer: chooses batch sizes; the driver tells it of guilty rows.
        apart: which rows of equal keys may not share a batch, because calls have failed for that.
    """

    def __init__(self, limits: Limits, *, curve: ServiceCurve | None = None, slo_s: float | None = None) -> None:
        self.limits = limits
        self.sizer = BatchSizer(limits, curve)
        self.in_flight, self.pending = InFlight(limits.max_inflight_batches), Deadlines()
        self._curve = curve
        self._deadline_fit = DeadlineFit(limits, self.sizer, curve)
        self._lanes = Lanes()
        self._bisection = Bisection()
        self._admission = Admission(
            limits,
            self.sizer,
            curve,
            slo_s=math.inf if slo_s is None else slo_s,
            in_flight=self.in_flight,
            lanes=self._lanes,
            bisection=self._bisection,
        )
        self.apart = Apart()
        self.shapes: set[Hashable] = set()  # the keys of which a call has succeeded
        self._dropped: list[Entry] = []  # ended here; the next turn names them
        self._is_open = True

    @property
    def images(self) -> int:
        """Rows that wait, for their first batch or for a retry."""
        interactive, bulk = self._lanes.rows
        return interactive + bulk + self._bisection.rows

    @property
    def bytes(self) -> int:
        """Of the entries that have rows that were in no batch yet."""
        return self._lanes.bytes

    @property
    def is_full(self) -> bool:
        """Whether a FIFO has enough rows for a batch, so that waiting for more is no use."""
        return any(map(self._deadline_fit.is_full, self._lanes))

    def judge(self, rows: int, size_bytes: int, deadline: float, now: float, *, is_bulk: bool) -> Ticket:
        """When such rows would be due and answered if they came now; raises as `offer` does, and changes nothing."""
        if not self._is_open:
            raise Closed("the batcher takes no more entries")
        if self.in_flight.is_stuck:
            raise Closed(NO_ANSWER)
        return self._admission.judge(rows, size_bytes, deadline, now, is_bulk=is_bulk)

    def offer(
        self,
        entry: Entry,
        now: float,
        *,
        guilty: Mapping[int, BaseException] = NO_ERRORS,
        ticket: Ticket | None = None,
    ) -> None:
        """Makes `entry` pending, last in its FIFO.

        Args:
            entry: to be offered once.
            now: the time.
            guilty: its rows that are known to be guilty; they are settled at once and need no call.
            ticket: what `judge` said; judged again if the queue has changed since, or the ticket is for other rows.

        Raises:
            Closed, QueueFull, PredictedLate: having changed nothing (I6).
            ValueError: the entry was offered before.
        """
        if entry.state is not NEW:
            raise ValueError("an entry is submitted once")
        rows, size_bytes = entry.rows, entry.bytes
        if guilty:
            left = entry.rows_without(guilty)
            rows, size_bytes = len(left), sum(entry.row_bytes[row] for row in left if entry.row_bytes)
        deadline, is_bulk = entry.deadline, entry.bulk
        if ticket is None or not self._admission.renew(ticket, rows, size_bytes, deadline, now, is_bulk=is_bulk):
            ticket = self.judge(rows, size_bytes, deadline, now, is_bulk=is_bulk)
        entry.due_s = ticket.due_s
        entry.forecast_s = ticket.forecast_s
        if guilty:
            entry.exclude(guilty)
        self._admission.changes += 1
        self.pending.accept(entry, now)
        if rows:
            if self.apart.level != TOGETHER:
                self.apart.place(entry)
            self._lanes.append(entry)

    def end(self, entry: Entry) -> bool:
        """Ends a pending entry, wherever its rows are; False if it is not pending."""
        if entry.state is not PENDING:
            return False
        self.pending.end(entry)
        if entry.waiting_rows:
            if entry.unsent_rows:
                self._lanes.remove(entry)
            self._bisection.rows -= entry.waiting_rows - entry.unsent_rows
        return True

    def turn(self, now: float) -> Turn:
        """Ends the entries whose time is over and makes the batches that are due; a second turn at `now` does nothing.

        An entry is also ended here if it cannot be in time even when it leaves at once.
        """
        pending, in_flight = self.pending, self.in_flight
        earliest_s = pending.earliest_s()
        if earliest_s <= now:
            self._drop(pending.overdue(now))
        batches: list[Batch] = []
        while in_flight.is_free and (batch := self._next_batch(now)) is not None:
            batches.append(batch)
        ended, self._dropped = self._dropped, []
        wake_at = pending.earliest_s() if ended or earliest_s <= now else earliest_s
        if in_flight.is_free:  # rows that are left wait for their window to end
            for fifo in self._lanes:
                wake_at = min(wake_at, self._deadline_fit.window_end(fifo))
        return Turn(batches, ended, wake_at)

    def finish(self, batch: Batch, now: float, *, is_ok: bool) -> None:
        """Takes `batch` back from the backend: its place is free, and its time is learned if it succeeded."""
        self._admission.changes += 1
        self.in_flight.remove(batch)
        if is_ok and (batch.images > 1 or batch.halves is not None):
            self.apart.note_success(batch.halves, batch.spans[0][0])
        if is_ok and len(self.shapes) < MAX_SHAPES:
            self.shapes.add(batch.spans[0][0].key)
        if is_ok and self._curve is not None:
            # After the backend is done, the report waits for the loop; that is not the engine's time.
            returned_s = now if batch.returned_s is None else batch.returned_s
            self._curve.learn(batch.images + batch.padding, returned_s - batch.dispatched_s, now)

    def give_up(self, batch: Batch) -> list[Entry]:
        """Ends the entries of a batch that is stuck and returns them. Its place is free once it is finished."""
        self._admission.changes += 1
        self.in_flight.give_up(batch)
        return [entry for entry, _, _ in batch.spans if self.end(entry)]

    def suspect(self, spans: Sequence[Span], now: float, *, halved: bool = True) -> None:
        """Queues live rows of a failed batch for a retry, as two halves or as one group; ends the overdue."""
        self._admission.changes += 1
        self._drop(entry for entry, _, _ in spans if entry.due_s <= now)
        live = [span for span in spans if span[0].state is PENDING]
        self.pending.watch(entry for entry, _, _ in live)
        self._bisection.add(live, halved=halved)

    def oldest_s(self) -> float | None:
        """When the oldest row arrived of those that wait for their first batch; None if none does."""
        return min((fifo.head.arrived_s for fifo in self._lanes), default=None)

    def drain(self) -> None:
        """Refuses new entries from now on, and keeps no window for those that wait."""
        self._is_open = False
        self._admission.changes += 1
        self._deadline_fit.drain()

    def close(self) -> list[Entry]:
        """Ends what is pending and returns it, oldest first, with what no turn has named yet; idempotent."""
        self.drain()
        self._drop(self.pending)
        self.in_flight.clear()
        dropped, self._dropped = self._dropped, []
        return dropped

    def _next_batch(self, now: float) -> Batch | None:
        """The next batch that is due, or None; the backend has a free place."""
        bisection = self._bisection
        while True:
            fifo = self._lanes.choose(self._deadline_fit.window_end, now)
            if bisection.rows and (fifo is None or bisection.credit > 0):
                spans = bisection.take()
                images = sum(stop - start for _, start, stop in spans)
                batch = self._dispatch(spans, images, Reason.RETRY, now)
                batch.halves = bisection.halves
                bisection.credit -= batch.expected_s
                return batch
            if fifo is None:
                return None
            fit = self._deadline_fit.plan(fifo, now, is_idle=not self.in_flight.batches)
            if fit.doomed:  # look again, because the head of another FIFO may be the oldest now
                self._drop(fit.doomed)
                continue
            is_alone = isinstance(fifo.key, KeptApart) and fifo.key.kind is None
            spans, images, bound = self._lanes.take(fifo, 1 if is_alone else fit.images, self.limits)
            self.sizer.note_run(images)
            batch = self._dispatch(spans, images, bound or fit.reason, now)
            bisection.credit = batch.expected_s
            return batch

    def _dispatch(self, spans: list[Span], images: int, reason: Reason, now: float) -> Batch:
        """Makes a batch of `spans`, which hold `images` rows, and takes a place of the backend for it."""
        self._admission.changes += 1
        limits = self.limits
        padding = limits.padding(images) if limits.allowed_batch_sizes and not spans[0][0].whole else 0
        expected_s = self.sizer.cost(images + padding)
        return self.in_flight.add(spans, images, padding=padding, reason=reason, now=now, expected_s=expected_s)

    def _drop(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if self.end(entry):
                self._dropped.append(entry)
