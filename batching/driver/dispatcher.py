"""The turns of the driver: news to the queue, due batches to the runner, answers to the callers."""

from __future__ import annotations

import asyncio
import contextlib
import math
from functools import partial
from typing import TYPE_CHECKING

from darkroom.batching.backend import BackendFailure
from darkroom.batching.driver.settlement import failed
from darkroom.batching.errors import BadOutput, Closed, DeadlineExceeded
from darkroom.batching.observer import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.batching.backend import Backend, BatchReport
    from darkroom.batching.driver.delivery import Delivery
    from darkroom.batching.driver.settlement import Settlement
    from darkroom.batching.entry import Batch, Entry
    from darkroom.batching.observer import Observer
    from darkroom.batching.scheduler.queue import BatchQueue


GATHER_S = 0.001  # a guess: a busy loop passes in less, and nobody should wait longer for company


class Dispatcher:
    """Runs one turn at a time on the loop; between turns it holds at most one timer.

    A turn is asked for (`ask`), comes with a batch that the runner gave back, or with the timer. One that is asked for
    comes when the loop has nothing more to bring, so that whatever arrives together rides together: while each pass of
    the loop brings another entry and no batch is full, it is put off, for `GATHER_S` at most. An exception in a turn
    is our own bug: it ends all pending entries with Closed, and nothing is dispatched any more.

    Attributes:
        is_asked: whether a turn is to come.
        is_broken: whether that happened.
        emptied: set when a turn leaves no entry pending.
        alarm: the timer.
    """

    def __init__(
        self,
        queue: BatchQueue,
        runner: Backend,
        *,
        settlement: Settlement,
        outbox: Delivery,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self.is_broken = False
        self.emptied = asyncio.Event()
        self.alarm = Alarm(self._wake)
        self._queue = queue
        self._runner = runner
        self._settlement = settlement
        self._outbox = outbox
        self._observer = observer
        self._clock = clock
        self._decided: list[Entry] = []
        self.is_asked = False
        self._arrived = 0  # entries when the loop passed last
        self._patient_s = -math.inf  # until when a turn may be put off

    def ask(self) -> None:
        """Wants a turn as soon as the loop has brought what it has."""
        if not self.is_asked:
            self.is_asked = True
            self._patient_s = self._clock() + GATHER_S
            asyncio.get_running_loop().call_soon(self._gather)

    def decide(self, entry: Entry) -> None:
        """Settles `entry`, of whose rows some are remembered as guilty, in the next turn."""
        self._decided.append(entry)
        self.ask()

    def _gather(self) -> None:
        """A turn, unless entries still arrive and there is use for them."""
        arrived = self._queue.pending.arrived
        if arrived != self._arrived and not self._queue.is_full and self._clock() < self._patient_s:
            self._arrived = arrived
            asyncio.get_running_loop().call_soon(self._gather)
        else:
            self.turn()

    def turn(self) -> None:
        """Starts what is due and ends what is overdue."""
        self.is_asked = False
        self._guard(self._pump)

    def end_all(self) -> None:
        """Ends what is pending with Closed."""
        self._guard(self._close)

    def note_emptied(self) -> None:
        """Lets a drain go on that waits for the last pending entry."""
        if not self._queue.pending:
            self.emptied.set()

    def _guard(self, step: Callable[..., None], *news: object) -> None:
        now = self._clock()
        try:
            step(now, *news)
        except Exception as error:  # noqa: BLE001  the guard of the driver: nobody may be left waiting
            self.is_broken = True
            self._outbox.report("the driver failed", error)
            self._close(now)
        self._outbox.flush(now)
        self.note_emptied()

    def _wake(self, when_s: float) -> None:
        self._guard(lambda now: self._pump(max(now, when_s)))

    def _pump(self, now: float) -> None:
        decided, self._decided = self._decided, []
        for entry in decided:
            self._settlement.close(entry, now, self._outbox.ended)
        self._expire(now)
        while (batch := self._queue.poll(now)) is not None:
            self._start(batch, now)
        self._expire(now)
        self.alarm.set(asyncio.get_running_loop(), self._queue.wake_at(), now)

    def _expire(self, now: float) -> None:
        for entry in self._queue.expire(now):
            error = DeadlineExceeded("its time was over before it could be answered")
            self._outbox.ended.append(failed(entry, error, Outcome.EXPIRED, now))

    def _close(self, now: float) -> None:
        for entry in self._queue.close():
            error = Closed("the batcher was closed")
            self._outbox.ended.append(failed(entry, error, Outcome.DRAINING, now))
        self.alarm.cancel()

    def _start(self, batch: Batch, now: float) -> None:
        self._outbox.tell(self._observer.dispatched, batch)
        if batch.is_retry:
            self._outbox.tell(self._observer.retried, batch)
        loop = asyncio.get_running_loop()
        try:
            self._runner.start(batch.parts, batch.padding, partial(self._hand_over, loop, batch))
        except Exception as error:  # noqa: BLE001  the guard of the batch: whatever the runner raises is its answer
            loop.call_soon(self._came_back, batch, BackendFailure(error, now))

    def _hand_over(self, loop: asyncio.AbstractEventLoop, batch: Batch, report: BatchReport) -> None:
        """Carries a report to the loop; called from the runner's thread."""
        batch.returned_s = self._clock()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._came_back, batch, report)

    def _came_back(self, batch: Batch, report: BatchReport) -> None:
        if batch.is_out:
            self._guard(self._settle, batch, report)

    def _settle(self, now: float, batch: Batch, report: BatchReport) -> None:
        try:
            math.fsum((report.started_s, report.collate_s, report.execute_s, report.split_s))
        except Exception as error:  # noqa: BLE001  what a runner reports is as foreign as what it raises
            report = BackendFailure(BadOutput(f"the runner's report has no times: {error!r}"), now)
        self._outbox.tell(self._observer.ran, batch, report)
        self._settlement.settle(batch, report, now, self._outbox.ended)
        if self._queue.images and not self._queue.is_full:
            self.ask()  # those who are answered now may have more to send
        else:
            self._pump(now)


class Alarm:
    """Rings no later than at the time that it was last set to; holds one timer of the loop, or none.

    Set to a later time it rings at the earlier one all the same, to be set anew: nearly every entry is answered before
    it is due, and a timer for each would cost more than the ring for nothing now and then.

    Attributes:
        rings_s: when, on the batcher's clock; infinity: never.
    """

    def __init__(self, ring: Callable[[float], None]) -> None:
        self.rings_s = math.inf
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, loop: asyncio.AbstractEventLoop, when_s: float, now: float) -> None:
        """Rings at `when_s` or before; infinity: need not ring."""
        if when_s < self.rings_s:
            self.cancel()
            self.rings_s = when_s
            self._timer = loop.call_later(when_s - now, self._fire)

    def cancel(self) -> None:
        """Does not ring."""
        if self._timer is not None:
            self._timer.cancel()
        self.rings_s, self._timer = math.inf, None

    def _fire(self) -> None:
        # Timers may come early by the clock's resolution: what was due at this time is due.
        when_s, self.rings_s, self._timer = self.rings_s, math.inf, None
        self._ring(when_s)
