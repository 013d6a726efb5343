"""Runs the queue's turns on the event loop: due batches to the backend, reports to the settlement, one timer."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from darkroom.batching.backend import BackendFailure
from darkroom.batching.driver.settlement import failed
from darkroom.batching.errors import NO_ANSWER, BadOutput, Closed, DeadlineExceeded, EngineTimeout
from darkroom.batching.observer import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.batching.backend import Backend, BatchReport
    from darkroom.batching.driver.delivery import Delivery
    from darkroom.batching.driver.settlement import Settlement
    from darkroom.batching.entry import Batch, Entry
    from darkroom.batching.observer import Observer
    from darkroom.batching.scheduler.queue import BatchQueue


GATHER_S = 0.001  # a guess: a pass of a busy loop takes less, and no row should wait longer for others
# A guess: a pass that takes longer has hundreds of requests, most of which are refused, and what it admitted becomes late.
PASS_S = 0.02


class Dispatcher:
    """Runs one turn at a time on the loop; between turns it holds at most one timer.

    A turn follows new entries, a batch that the backend gave back, or the timer. After new entries it waits until the
    loop has nothing more to bring, so that entries that arrive together share a batch: while each pass of the loop
    brings another entry and no batch is full, the turn is postponed, for `GATHER_S` at most.

    A pass of the loop brings all requests that have come, and under overload it may take longer than their rows have time. So once
    something has waited for its end for `PASS_S`, `catch_up` does it in the middle of the pass, and from then on every `GATHER_S`.

    The timer fires no later than the time that the last turn named, and may fire for nothing: nearly every entry is
    answered before it is due, and a timer for each entry would cost more than an occasional useless turn.

    An exception in a turn is a bug of this package. It ends all pending entries with Closed, and no batch is dispatched
    any more.

    Attributes:
        is_broken: such an exception happened.
        emptied: set when a turn leaves no entry pending.
    """

    def __init__(
        self,
        queue: BatchQueue,
        backend: Backend,
        *,
        settlement: Settlement,
        delivery: Delivery,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self.is_broken = False
        self.emptied = asyncio.Event()
        self._queue = queue
        self._backend = backend
        self._settlement = settlement
        self._delivery = delivery
        self._observer = observer
        self._clock = clock
        self._reports: deque[tuple[float, Batch, BatchReport]] = deque()  # given back when, and not settled yet
        self._is_catching_up = False
        self._patience_s = PASS_S  # for the end of this pass of the loop
        self._has_guilty: list[Entry] = []  # new entries of which some rows are known to be guilty
        self._is_asked = False  # a turn is to come
        self._arrived = 0  # entries until the last pass of the loop
        self._gather_until_s = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf

    def arrived(self, entry: Entry) -> None:
        """Takes notice of an entry that the queue has just accepted."""
        if entry.progress is not None:
            self._has_guilty.append(entry)
            self._ask()
        elif self._queue.in_flight.is_free or entry.due_s < self._timer_s:
            self._ask()

    def is_behind(self, now: float) -> bool:
        """Whether something has waited too long for the end of this pass of the loop: see `catch_up`."""
        if self._is_asked and self._gather_until_s + self._patience_s <= now:
            return True
        return bool(self._reports) and self._reports[0][0] + self._patience_s <= now

    def catch_up(self) -> None:
        """Settles what the backend has given back, and runs a turn, in the middle of a pass of the loop.

        To be called before the queue takes an entry, so that no caller is answered before its `submit` returns.
        """
        if self._is_catching_up:  # a caller that was answered here submits its next entry
            return
        if self._patience_s == PASS_S:
            self._patience_s = GATHER_S
            asyncio.get_running_loop().call_soon(self._end_pass)
        self._is_catching_up = True
        try:
            self._guard(self._catch_up)
        finally:
            self._is_catching_up = False

    def turn(self) -> None:
        """Starts the batches that are due and ends the entries whose time is over, now."""
        self._guard(self._turn)

    def give_up(self, batch: Batch, limit_s: float) -> None:
        """Tells the callers of a batch that it takes too long. What the backend reports later reaches no caller."""
        self._guard(self._give_up, batch, limit_s)

    def end_all(self) -> None:
        """Ends all pending entries with Closed."""
        self._guard(self._close)

    def note_emptied(self) -> None:
        """Sets `emptied` if no entry is pending, so that a drain can finish."""
        if not self._queue.pending.entries:
            self.emptied.set()

    def _ask(self) -> None:
        """Asks for a turn as soon as the loop has brought everything that it has."""
        if not self._is_asked:
            self._is_asked = True
            self._gather_until_s = self._clock() + GATHER_S
            asyncio.get_running_loop().call_soon(self._gather)

    def _gather(self) -> None:
        """Runs a turn, unless entries still arrive and a batch has room for them."""
        arrived = self._queue.pending.arrived
        if arrived != self._arrived and not self._queue.is_full and self._clock() < self._gather_until_s:
            self._arrived = arrived
            asyncio.get_running_loop().call_soon(self._gather)
        else:
            self._is_asked = False
            self._guard(self._turn)

    def _catch_up(self, now: float) -> None:
        self._collect(now)
        self._turn(now)
        self._gather_until_s = now

    def _end_pass(self) -> None:
        self._patience_s = PASS_S

    def _guard(self, step: Callable[..., None], *event: object) -> None:
        """Runs `step` at the present time with `event`, then tells the callers of the entries that it ended."""
        now = self._clock()
        try:
            step(now, *event)
        except Exception as error:  # noqa: BLE001  the guard of the driver: no entry may wait forever
            self.is_broken = True
            self._delivery.report("the driver failed", error)
            self._close(now)
        if self._delivery.ended:
            self._delivery.flush(now)
        self.note_emptied()

    def _turn(self, now: float, due_s: float = -math.inf) -> None:
        """One turn, at `due_s` if that is later: a timer may fire early by the resolution of the clock."""
        now = max(now, due_s)
        delivery, loop = self._delivery, asyncio.get_running_loop()
        if self._has_guilty:
            entries, self._has_guilty = self._has_guilty, []
            for entry in entries:
                self._settlement.close(entry, now, delivery.ended)
        turn = self._queue.turn(now)
        for entry in turn.ended:
            error = DeadlineExceeded("its time was over before it could be answered")
            delivery.ended.append(failed(entry, error, Outcome.EXPIRED, now))
        for batch in turn.batches:
            delivery.tell(self._observer.dispatched, batch)
            if batch.is_retry:
                delivery.tell(self._observer.retried, batch)
            try:
                self._backend.start(batch.parts, batch.padding, partial(self._hand_over, loop, batch))
            except Exception as failure:  # noqa: BLE001  the guard of the batch: the backend may raise anything
                loop.call_soon(self._guard, self._settle, batch, BackendFailure(failure, now))
        if turn.wake_at < self._timer_s:
            self._cancel_timer()
            self._timer = loop.call_later(turn.wake_at - now, self._ring)
            self._timer_s = turn.wake_at

    def _close(self, now: float) -> None:
        for entry in self._queue.close():
            self._delivery.ended.append(failed(entry, Closed("the batcher was closed"), Outcome.DRAINING, now))
        self._cancel_timer()

    def _give_up(self, now: float, batch: Batch, limit_s: float) -> None:
        queue, ended = self._queue, self._delivery.ended
        error = EngineTimeout(f"the engine's call did not return within {limit_s:.3g} s; it may never return")
        ended += [failed(entry, error, Outcome.MODEL_ERROR, now) for entry in queue.give_up(batch)]
        if queue.in_flight.is_stuck:  # what waits can't be answered either
            waiting = [entry for entry in tuple(queue.pending.entries) if queue.end(entry)]
            ended += [failed(entry, Closed(NO_ANSWER), Outcome.MODEL_ERROR, now) for entry in waiting]

    def _ring(self) -> None:
        due_s, self._timer_s, self._timer = self._timer_s, math.inf, None
        self._guard(self._turn, due_s)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_s = None, math.inf

    def _hand_over(self, loop: asyncio.AbstractEventLoop, batch: Batch, report: BatchReport) -> None:
        """Carries a report to the loop; called from the backend's thread."""
        batch.returned_s = now = self._clock()
        self._reports.append((now, batch, report))
        with contextlib.suppress(RuntimeError):  # the loop is closed: no caller waits any more
            loop.call_soon_threadsafe(self._guard, self._collect)

    def _collect(self, now: float) -> None:
        """Settles what the backend has given back, in order."""
        while self._reports:
            _, batch, report = self._reports.popleft()
            self._settle(now, batch, report)

    def _settle(self, now: float, batch: Batch, report: BatchReport) -> None:
        """Takes a batch back, once; a second report, or one after `close`, is ignored."""
        if not batch.is_out:
            return
        try:
            math.fsum((report.started_s, report.collate_s, report.execute_s, report.split_s))
        except Exception as error:  # noqa: BLE001  a report is foreign code and may raise anything
            report = BackendFailure(BadOutput(f"the runner's report has no times: {error!r}"), now)
        self._delivery.tell(self._observer.ran, batch, report)
        self._settlement.settle(batch, report, now, self._delivery.ended)
        if self._queue.images and not self._queue.is_full:
            self._ask()  # callers that are answered now may send more
        else:
            self._turn(now)
