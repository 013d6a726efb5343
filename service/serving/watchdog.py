"""The watchdog: finds engine calls that may never return, engines that are broken, and an event loop that stands still."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from functools import partial
from threading import Event, Thread
from typing import TYPE_CHECKING

from darkroom.batching.entry import Entry
from darkroom.batching.errors import BatchingError, Closed, DeadlineExceeded
from darkroom.models.errors import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from darkroom.batching.batcher import Batcher
    from darkroom.batching.entry import Answer
    from darkroom.service.config.settings import Settings
    from darkroom.service.serving.servable import Target

_log = logging.getLogger("darkroom.service")
EXIT_STUCK = (
    70  # of a process that is ended because an engine call, or the event loop, did not go on (precedent: sysexits)
)
PERIOD_S = 1.0  # guess: a call that hangs is found this much later
FAILING_S = 10.0  # guess: an engine that fails a known good row for so long does not recover by itself
LOG_S = 1.0  # guess: a log that blocks must not keep a process alive that is to be ended


class Watchdog:
    """Looks at the engine calls of every version once a period.

    A call that takes far longer than it should (`Batcher.watch`) is answered with 504, and the server is neither ready
    nor live until the call returns. If it does not return by `--engine_kill_ms`, the process is ended. A loop that does
    not run for `--engine_kill_ms` is ended by a thread, since nothing on the loop can do it.

    Where a call failed and no client is to blame, a row that ran at the load is run alone. If that fails too, the engine is
    broken (a GPU whose context is lost, no memory left): the server is neither ready nor live until a call succeeds, and
    if none does for FAILING_S, the process is ended. So no request can make an engine count as broken.

    A version that only runs beside another (`is_on_trial`) is not judged: its calls that take too long are ended for their callers, and
    nothing else happens.

    Time in which the process was stopped or the loop did not run does not count for a call.

    Args:
        settings: the limits.
        targets: all that may have calls, those that are being retired included.
        is_on_trial: whether a target answers no request that the server must answer.
        clock: in seconds.
        end: ends the process at once.

    Attributes:
        reason: why the engine counts as stuck; empty while it does not.
        on_kill: called once, on the loop, when a call has not returned by the second limit; `end` by default.
    """

    def __init__(
        self,
        settings: Settings,
        targets: Callable[[], Iterable[Target]],
        *,
        is_on_trial: Callable[[Target], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[], None] | None = None,
    ) -> None:
        self._targets = targets
        self._is_on_trial = is_on_trial
        self._clock = clock
        self._timeout_s = settings.engine_timeout_ms / 1000
        self._kill_s = settings.engine_kill_ms / 1000
        self._period_s = min(PERIOD_S, self._timeout_s / 4)
        self._watched_s = 0.0
        self._asked: set[Batcher] = set()  # they run a known good row
        self._failing: dict[Batcher, float] = {}  # since when they fail it
        self._looked_s = clock()
        self._looks = 0
        self._is_killed = False
        self._stopped = Event()
        self._end = end or partial(os._exit, EXIT_STUCK)
        self.reason = ""
        self.on_kill: Callable[[], None] = self._end

    async def run(self) -> None:
        """Looks forever; returns at once if the watchdog is off."""
        if self._timeout_s and self._kill_s:
            Thread(target=self._watch_loop, name="loop-watchdog", daemon=True).start()
        try:
            while self._timeout_s:
                self.look()
                await asyncio.sleep(self._period_s)
            await asyncio.Event().wait()  # a task that ends counts as a failure
        finally:
            self._stopped.set()

    def look(self) -> None:
        """One look at every call."""
        now = self._clock()
        self._watched_s += min(now - self._looked_s, 2 * self._period_s)
        self._looked_s = now
        self._looks += 1
        worst, reasons = 0.0, []
        targets = list(self._targets())
        for target in targets:
            batcher, model = target.batcher, target.model
            whose = f"of model {model.name!r}, version {model.version}, signature {target.spec.name!r}"
            longest = batcher.watch(self._watched_s, self._timeout_s)
            if self._is_on_trial(target):
                batcher.failing = ""
                self._failing.pop(batcher, None)
                continue
            worst = max(worst, longest)
            self._judge(target)
            if batcher.stuck_s:
                reasons.append(f"an engine call {whose} has run for {batcher.stuck_s:.0f} s")
            if batcher.failing:
                reasons.append(f"the engine {whose} fails with a row that ran at the load: {batcher.failing}")
        reason = "; ".join(reasons)
        if bool(reason) is not bool(self.reason):
            tell = _log.error if reason else _log.info
            tell(reason or "all engines answer again", extra={"fields": {"sick_engines": len(reasons)}})
        self.reason = reason
        for gone in self._failing.keys() - {target.batcher for target in targets}:
            del self._failing[gone]
        failed_s = self._watched_s - min(self._failing.values(), default=self._watched_s)
        is_hopeless = worst >= self._kill_s / self._timeout_s or failed_s >= FAILING_S
        if self._kill_s and is_hopeless and not self._is_killed:
            self._is_killed = True
            fields = {"reason": reason, "exit_status": EXIT_STUCK}
            _log.critical("an engine does not answer any more; the process ends", extra={"fields": fields})
            self.on_kill()

    def _judge(self, target: Target) -> None:
        """Notes that an engine works, or has it run a known good row if its last call failed."""
        batcher = target.batcher

        def answered(answer: Answer) -> None:
            self._asked.discard(batcher)
            if answer.error is not None and not isinstance(answer.error, (Closed, DeadlineExceeded)):
                batcher.failing = quote(str(answer.error))
                self._failing.setdefault(batcher, self._watched_s)

        if batcher.doubt is None:
            batcher.failing = ""
            self._failing.pop(batcher, None)
        elif target.samples and batcher not in self._asked:
            row = target.samples[0]
            with suppress(BatchingError):  # it is full or closed
                batcher.submit(Entry(row, len(row), key=row.key, whole=True), answered)
                self._asked.add(batcher)

    def _watch_loop(self) -> None:
        """The thread: ends the process if no look was made for `--engine_kill_ms`."""
        seen, still_s = -1, 0.0
        while not self._stopped.wait(self._period_s):
            seen, still_s = self._looks, still_s + self._period_s if seen == self._looks else 0.0
            if still_s >= self._kill_s:
                tell(f"the event loop has stood still for {still_s:.0f} s; the process ends with {EXIT_STUCK}")
                self._end()
                return


def tell(text: str) -> None:
    """Logs why the process is about to end. It waits for the log for at most LOG_S."""
    thread = Thread(target=_log.critical, args=(text,), daemon=True)
    thread.start()
    thread.join(LOG_S)
