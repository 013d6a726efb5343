"""Calls into foreign code: the callbacks of ended entries and the observer. What they raise hurts no other entry."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.batching.driver.settlement import Ended
    from darkroom.batching.observer import Observer

# What a call to foreign code may raise; the other entries of the batch get their answers all the same.
_FOREIGN = (Exception, asyncio.CancelledError)


class Delivery:
    """Tells callers and observers; exceptions go to the loop's exception handler only.

    Attributes:
        ended: entries whose callers are told at the next `flush`.
    """

    def __init__(self, observer: Observer, name: str) -> None:
        self.ended: list[Ended] = []
        self._observer = observer
        self._name = name

    def flush(self, now: float) -> None:
        """Tells the observer and the caller of each ended entry, in order; callers may submit or withdraw meanwhile."""
        observer = self._observer
        while self.ended:
            ended, self.ended = self.ended, []
            for entry, answer, outcome, error in ended:
                try:
                    observer.ended(entry.rows, outcome, answer.timing, error)
                    if entry.forecast_s > -math.inf and error is None:
                        observer.predicted(now - entry.forecast_s)
                except _FOREIGN as failure:
                    self.report(f"{observer} failed", failure)
                try:
                    entry.on_done(answer)
                except _FOREIGN as failure:
                    self.report(f"{entry.on_done} failed", failure)

    def tell(self, listener: Callable[..., None], *event: object) -> None:
        """Calls `listener` with `event`."""
        try:
            listener(*event)
        except _FOREIGN as error:
            self.report(f"{listener} failed", error)

    def report(self, message: str, error: BaseException) -> None:
        """Hands an exception to the loop's handler."""
        context = {"message": f"batcher {self._name}: {message}", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
