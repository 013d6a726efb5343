"""The asyncio face of the scheduler: entries in, answers out, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from darkroom.batching.driver.delivery import Delivery
from darkroom.batching.driver.dispatcher import Dispatcher
from darkroom.batching.driver.settlement import Settlement
from darkroom.batching.entry import NO_ERRORS
from darkroom.batching.errors import BatchingError, Closed
from darkroom.batching.observer import Observer, Outcome, QueueStats
from darkroom.batching.scheduler.apart import ALONE, TOGETHER
from darkroom.batching.scheduler.poison_cache import PoisonCache
from darkroom.batching.scheduler.queue import MAX_SHAPES, BatchQueue
from darkroom.batching.scheduler.service_curve import ServiceCurve

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from darkroom.batching.backend import Backend
    from darkroom.batching.entry import Answer, Entry
    from darkroom.batching.limits import Limits
    from darkroom.batching.scheduler.admission import Ticket

# A call may take this many times the tail of its size before its engine counts as stuck (guesses): a machine that is
# shared may be ten times as slow as it was; a first call may compile kernels.
TAIL_FACTOR = 20.0
FIRST_FACTOR = 10.0


class Batcher:
    """One queue before one backend, on one event loop, from `start` to `close`; it has no task and no thread.

    Args:
        backend: gets one batch after another, `limits.max_inflight_batches` at once.
        limits: of a batch and of the queue.
        is_client_fault: whether an error of the backend is some row's fault, so that bisection makes sense.
        is_out_of_memory: whether an error of the backend says that the call was too large; a smaller one is then tried.
        observer: is told of each event.
        clock: the clock of deadlines, reports and this batcher.
        slo_s: how long after its arrival an entry should be answered; limits batches and refuses entries.
        row_identity: the hash of a row, by payload and index; if given, guilty rows are remembered for a minute.
        name: for messages.

    Attributes:
        curve: the service curve; the warm-up sweep seeds it.
        failing: why the backend counts as broken, as the owner of the batcher found; empty if it does not.
        stuck_s: how long the longest call has run of those that take far too long; 0.0 if there is none.
    """

    def __init__(
        self,
        backend: Backend,
        limits: Limits,
        *,
        is_client_fault: Callable[[BaseException], bool],
        is_out_of_memory: Callable[[BaseException], bool] = lambda _: False,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        slo_s: float | None = None,
        row_identity: Callable[[object, int], Hashable] | None = None,
        name: str = "",
    ) -> None:
        observer = observer or Observer()
        self.curve = ServiceCurve(limits.top_images, allowed=limits.allowed_batch_sizes)
        self._observer = observer
        self._clock = clock
        self._queue = BatchQueue(limits, curve=self.curve, slo_s=slo_s)
        self._delivery = Delivery(observer, name)
        self._settlement = settlement = Settlement(
            self._queue, is_client_fault, is_out_of_memory, on_guilty=self._note_guilty
        )
        self._dispatcher = Dispatcher(
            self._queue, backend, settlement=settlement, delivery=self._delivery, observer=observer, clock=clock
        )
        self._poison_cache = PoisonCache(row_identity) if row_identity is not None else None
        self._is_started = self._is_closed = False
        self.failing = ""
        self.stuck_s = 0.0
        self._told_level = TOGETHER

    @property
    def keeps_apart(self) -> bool:
        """Whether the kind of an entry counts, because calls have failed with rows that were fine apart."""
        return self._queue.apart.level != TOGETHER

    @property
    def is_healthy(self) -> bool:
        """Whether it was started, was not closed, had no bug of its own, and its backend's calls return and succeed."""
        is_open = self._is_started and not self._is_closed
        return is_open and not self._dispatcher.is_broken and not self.stuck_s and not self.failing

    @property
    def is_idle(self) -> bool:
        """Whether no entry is pending and the backend runs no call."""
        return not self._queue.pending.entries and not self._queue.in_flight.batches

    @property
    def doubt(self) -> BaseException | None:
        """The error of the last batch, if that failed and no client is to blame: the backend may be broken."""
        return self._settlement.doubt

    def start(self) -> None:
        """Accepts entries from now on; to be called on the loop."""
        self._is_started = True

    def know_shape(self, key: Hashable) -> None:
        """Notes that the warm-up has run entries with this key."""
        self._queue.shapes.add(key)

    def watch(self, watched_s: float, least_s: float) -> float:
        """Answers the callers of each call that has run far too long with EngineTimeout. To be called every second or so.

        A call may take `least_s`, or TAIL_FACTOR times the tail of its size if that is longer; the first call of a key
        FIRST_FACTOR times as long, because it may compile. Its place is taken until it returns.

        Args:
            watched_s: the time, on a clock that stands still while the whole process does.
            least_s: what every call may take.

        Returns:
            How long the longest of these calls has run, in multiples of what it may take; 0.0 if there is none.
        """
        worst, self.stuck_s = 0.0, 0.0
        for batch in list(self._queue.in_flight.batches):
            if batch.watched_s is None:
                batch.watched_s = watched_s
            limit_s = max(least_s, TAIL_FACTOR * self.curve.tail(batch.images + batch.padding))
            if batch.spans[0][0].key not in self._queue.shapes and len(self._queue.shapes) < MAX_SHAPES:
                limit_s *= FIRST_FACTOR
            ran_s = watched_s - batch.watched_s
            if ran_s > limit_s:
                worst, self.stuck_s = max(worst, ran_s / limit_s), max(self.stuck_s, ran_s)
                if not batch.is_stuck:
                    self._dispatcher.give_up(batch, limit_s)
        return worst

    def admit(self, rows: int, deadline: float, *, is_bulk: bool = False, size_bytes: int = 0) -> Ticket:
        """Judges rows before anything is spent on making an entry of them; reserves nothing.

        Args:
            rows: their number, at least 1.
            deadline: absolute, on the batcher's clock; infinity: none.
            is_bulk: they would wait in the bulk lane.
            size_bytes: encoded bytes; 0 if not known yet.

        Returns:
            A ticket for `submit`. `submit` judges again only if the queue has changed since.

        Raises:
            QueueFull, PredictedLate, Closed: as `submit` would; counted as its refusal.
        """
        try:
            return self._queue.judge(rows, size_bytes, deadline, self._now(), is_bulk=is_bulk)
        except BatchingError as error:
            self._delivery.tell(self._observer.refused, rows, error)
            raise

    def submit(self, entry: Entry, on_done: Callable[[Answer], None], ticket: Ticket | None = None) -> None:
        """Takes `entry`; `on_done` is called exactly once, on the loop and later, unless `withdraw` comes first.

        Args:
            entry: owned by the batcher from now on.
            on_done: gets the answer.
            ticket: what `admit` returned for this entry's rows, so that they are judged once.

        Raises:
            QueueFull, PredictedLate, Closed: at once, having changed nothing.
        """
        try:
            if not self._is_started:
                raise Closed("the batcher was not started")
            now = self._now()
            guilty = NO_ERRORS if self._poison_cache is None else self._poison_cache.find(entry, now)
            self._queue.offer(entry, now, guilty=guilty, ticket=ticket)
        except BatchingError as error:
            self._delivery.tell(self._observer.refused, entry.rows, error)
            raise
        entry.on_done = on_done
        if self._queue.apart.level != self._told_level:
            self._told_level = self._queue.apart.level
            self._delivery.tell(self._observer.kept_apart, self._told_level == ALONE)
        for error_of_row in guilty.values():
            self._delivery.tell(self._observer.guilty, error_of_row)
        self._dispatcher.arrived(entry)

    def withdraw(self, entry: Entry) -> bool:
        """Takes an entry back if its caller is gone: True if it was pending; then `on_done` will not be called."""
        if not self._queue.end(entry):
            return False
        self._delivery.tell(self._observer.ended, entry.rows, Outcome.CANCELLED, entry.timing(self._clock()), None)
        self._dispatcher.note_emptied()
        return True

    async def predict(self, entry: Entry) -> Answer:
        """Submits `entry` and waits for its answer; cancelling the caller withdraws it."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def on_done(answer: Answer) -> None:
            if not answered.done():  # the caller may have been cancelled in this pass of the loop
                answered.set_result(answer)

        self.submit(entry, on_done)
        try:
            return await answered
        finally:
            self.withdraw(entry)

    async def drain(self, timeout_s: float) -> int:
        """Refuses new entries, answers pending ones for up to `timeout_s`, then closes; if cancelled, stays draining.

        Returns:
            The number of entries that were not answered in time; they ended with Closed.
        """
        self._queue.drain()
        self._dispatcher.emptied.clear()
        self._dispatcher.turn()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._dispatcher.emptied.wait()
        left = len(self._queue.pending.entries)
        self.close()
        return left

    def close(self) -> None:
        """Ends all pending entries with Closed, now; nothing is accepted afterwards. Idempotent."""
        self._is_closed = True
        self._dispatcher.end_all()

    def stats(self) -> QueueStats:
        """What the queue holds now."""
        queue = self._queue
        oldest_s = queue.oldest_s()
        return QueueStats(
            images=queue.images,
            bytes=queue.bytes,
            capacity_images=queue.limits.max_queue_images,
            oldest_age_s=0.0 if oldest_s is None else self._clock() - oldest_s,
            inflight_batches=len(queue.in_flight.batches),
            slots=queue.limits.max_inflight_batches,
            target_images=queue.sizer.target(),
            failing=int(bool(self.failing)),
            stuck_batches=sum([batch.is_stuck for batch in queue.in_flight.batches]),
        )

    def _now(self) -> float:
        """The time, for rows that come; before them goes what should not wait for the end of a long pass of the loop."""
        now = self._clock()
        if not self._dispatcher.is_behind(now):
            return now
        self._dispatcher.catch_up()
        return self._clock()

    def _note_guilty(self, entry: Entry, row: int, error: BaseException, is_alone: bool) -> None:  # noqa: FBT001 - a callback
        """A row was found guilty: it failed alone, after a bisection, or was named."""
        if is_alone:
            self._queue.sizer.note_guilty()
        self._delivery.tell(self._observer.guilty, error)
        if self._poison_cache is not None:
            self._delivery.tell(self._poison_cache.add, entry, row, error, self._clock())
