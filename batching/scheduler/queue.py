"""The scheduler's state machine. No await, clock, thread, log or metric here: it is told the time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from darkroom.batching.entry import NEW, NO_ERRORS, PENDING, Entry, Reason
from darkroom.batching.errors import Closed
from darkroom.batching.scheduler.admission import Admission
from darkroom.batching.scheduler.batch_size import BatchSizer
from darkroom.batching.scheduler.bisection import Bisection
from darkroom.batching.scheduler.deadline_fit import DeadlineFit
from darkroom.batching.scheduler.deadlines import Deadlines
from darkroom.batching.scheduler.in_flight import InFlight
from darkroom.batching.scheduler.lanes import Lanes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from darkroom.batching.entry import Batch, Span
    from darkroom.batching.limits import Limits
    from darkroom.batching.scheduler.service_curve import ServiceCurve


class BatchQueue:
    """Which rows ride together, in what order and when: the specification.

    States. An entry: NEW → PENDING (`offer`) → ENDED (`end`, `expire`, `close`). While it is PENDING each of its rows
    waits in its line, is in flight, waits for a retry, or is settled. The queue: open → draining → closed.

    Rows wait in lines, one a lane and key, and ride with rows of their line only. Interactive lines go before bulk
    ones, but for one batch in eight; within a lane the line goes whose head came first.

    Invariants, with `now` never going back:
        I1 conservation: each entry that was offered ends exactly once, or is refused.
        I2 1 ≤ rows(batch) ≤ max_batch_images; its bytes and pixels within bounds unless it is one row; a whole entry
           rides alone, as it is.
        I3 rows of one line are dispatched in order of arrival, those of one entry in order; a retry comes later.
        I4 a free slot and a live row that waits, `poll`ed: the row leaves by arrival + linger, or when its turn comes.
        I5 a full line (images, bytes or pixels) is due now.
        I6 a refusal changes nothing.
        I7 ending one entry changes no other's rows; retries delay a waiting batch by about the time of one.
        I8 row i of an entry goes out as row i and once, a retry aside, whatever was merged, split or halved.
        I9 after `close`: nothing accepted, nothing pending; close is idempotent.

    Latency. With A live rows ahead in its lane, batches of B rows, k slots and T the longest call, an interactive row
    leaves within  linger + T/k · (1 + ⌈A/B⌉ · (1 + r) · 8/7),  where r is 1 while rows wait for a retry, else 0.

    Attributes:
        pending, slots: the entries that have not ended, and the calls that the runner has.
        policy: chooses sizes; is told of guilty rows.
    """

    def __init__(self, limits: Limits, *, curve: ServiceCurve | None = None, slo_s: float | None = None) -> None:
        self.limits = limits
        self.policy = BatchSizer(limits, curve)
        self.slots, self.pending = InFlight(limits, self.policy), Deadlines()
        self._curve = curve
        self._slack = DeadlineFit(limits, self.policy, curve)
        self._lanes = Lanes()
        self._isolation = Bisection()
        slo_s = math.inf if slo_s is None else slo_s
        self._admission = Admission(
            limits, self.policy, curve, slo_s=slo_s, slots=self.slots, lanes=self._lanes, isolation=self._isolation
        )
        self._dropped: list[Entry] = []
        self._is_open = True

    @property
    def images(self) -> int:
        """Rows that wait, for a first time or for a retry."""
        return sum(self._lanes.rows) + self._isolation.rows

    @property
    def bytes(self) -> int:
        """Of the entries that have rows that were in no batch yet."""
        return self._lanes.bytes

    @property
    def is_full(self) -> bool:
        """Whether a line that waits has no use for more rows."""
        return any(map(self._slack.is_full, self._lanes))

    def offer(self, entry: Entry, now: float, guilty: Mapping[int, BaseException] = NO_ERRORS) -> None:
        """Takes `entry` in, last of its FIFO; rows that are known to be guilty are settled at once.

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
        entry.due_s, entry.forecast_s = self.judge(rows, size_bytes, entry.deadline, now, is_bulk=entry.bulk)
        if guilty:
            entry.exclude(guilty)
        self.pending.accept(entry, now)
        if rows:
            self._lanes.append(entry)

    def judge(self, rows: int, size_bytes: int, deadline: float, now: float, *, is_bulk: bool) -> tuple[float, float]:
        """When such rows would be due and answered, if they came now; raises as `offer` does."""
        if not self._is_open:
            raise Closed("the batcher takes no more entries")
        return self._admission.judge(rows, size_bytes, deadline, now, is_bulk=is_bulk)

    def end(self, entry: Entry) -> bool:
        """Ends a pending entry, wherever its rows are; False where it is not pending."""
        if entry.state is not PENDING:
            return False
        self.pending.end(entry)
        if entry.waiting_rows:
            if entry.unsent_rows:
                self._lanes.remove(entry)
            self._isolation.rows -= entry.waiting_rows - entry.unsent_rows
            entry.waiting_rows = 0
        return True

    def expire(self, now: float) -> list[Entry]:
        """Takes out the entries whose time is over, and tells those that `poll` took out; each once."""
        self._drop(self.pending.overdue(now))
        dropped, self._dropped = self._dropped, []
        return dropped

    def poll(self, now: float) -> Batch | None:
        """The batch that is due now, or None; to be called until it gives None, then `expire`."""
        while self.slots.is_free:
            self._drop(self.pending.overdue(now))
            line = self._lanes.choose(self._slack.window_end, now)
            if (line is None or self._isolation.may_go_first) and (spans := self._isolation.take()):
                images = sum(stop - start for _, start, stop in spans)
                self._isolation.spend(self.policy.cost(images))
                return self.slots.take(spans, images, Reason.RETRY, now)
            if line is None:
                return None
            plan = self._slack.plan(line, now, is_idle=not self.slots)
            if plan.doomed:  # and then look again: another line's head may be the oldest now
                self._drop(plan.doomed)
                continue
            spans, images, cut = self._lanes.take(line, plan.images, self.limits)
            self._isolation.grant(self.policy.cost(images))
            self.policy.note_run(images)
            return self.slots.take(spans, images, cut or plan.reason, now)
        return None

    def finish(self, batch: Batch, now: float, *, is_ok: bool) -> None:
        """The runner gave `batch` back: its slot is free, and its time is learned if it went well."""
        self.slots.free(batch)
        if is_ok and self._curve is not None:
            # After the backend is done, the report waits for the loop; that is not the engine's time.
            returned_s = now if batch.returned_s is None else batch.returned_s
            self._curve.learn(batch.images + batch.padding, returned_s - batch.dispatched_s, now)

    def suspect(self, spans: Sequence[Span], now: float, *, halved: bool = True) -> None:
        """Queues live rows of a failed batch for a retry, in two halves or as one; the overdue are dropped."""
        self._drop(entry for entry, _, _ in spans if entry.due_s <= now)
        live = [span for span in spans if span[0].state is PENDING]
        self.pending.watch(entry for entry, _, _ in live)
        self._isolation.add(live, halved=halved)

    def wake_at(self) -> float:
        """When to poll again if nothing happens before, infinity: never. Asked after `poll` gave None."""
        windows = map(self._slack.window_end, self._lanes) if self.slots.is_free else ()
        return min(self.pending.earliest_s(), min(windows, default=math.inf))

    def oldest_s(self) -> float | None:
        """When the oldest row that waits for its first batch came in."""
        return min((line.head.arrived_s for line in self._lanes), default=None)

    def drain(self) -> None:
        """Takes nothing new, and keeps no window for what waits."""
        self._is_open = False
        self._slack.drain()

    def close(self) -> list[Entry]:
        """Ends what is pending and gives it back, oldest first; idempotent."""
        self.drain()
        self._drop(self.pending)
        self.slots.clear()
        return self.expire(-math.inf)

    def _drop(self, entries: Iterable[Entry]) -> None:
        self._dropped += [entry for entry in entries if self.end(entry)]
