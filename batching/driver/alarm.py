"""The one timer of a batcher."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


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
