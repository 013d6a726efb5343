"""An asyncio event loop whose clock is a number: time passes only when nothing else is left to do."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

T = TypeVar("T")

# A timer counts as due this much early. asyncio adds it to the time when it looks for due timers; it hides the
# rounding of `now + (when - now)`, and is below anything a test measures.
_RESOLUTION_S = 1e-9


_SPINS = 100_000  # turns of the loop without time passing: more than any test needs for what happens at once


class NobodyCanWakeError(RuntimeError):
    """The loop has no timer and nothing to do, but somebody waits: in real life a hang."""


class TimeStandsStillError(RuntimeError):
    """The loop goes on and on at the same instant: in real life a core at 100 %."""


class _JumpingSelector(selectors.BaseSelector):
    """Watches nothing; being asked to wait moves the clock on instead."""

    def __init__(self) -> None:
        self.now = 0.0
        self._spins = 0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Remembers the loop's own wake-up socket."""
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Forgets it."""
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Moves the clock on by `timeout`, or raises where there is none."""
        if timeout is None:
            raise NobodyCanWakeError("no timer is set and nothing is ready")
        self._spins = 0 if timeout > 0 else self._spins + 1
        if self._spins > _SPINS:
            raise TimeStandsStillError(f"{_SPINS} turns at {self.now} s")
        self.now += max(timeout, 0.0)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """What is registered."""
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that starts at 0 s and jumps from timer to timer.

    Attributes:
        failures: what was handed to the exception handler, so that a test can look at it.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = _RESOLUTION_S
        self.failures: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.failures.append(context))

    def time(self) -> float:
        """The seconds that have passed."""
        return self._jumping.now

    def pass_time(self, seconds: float) -> None:
        """Lets time pass while the loop is busy with something else."""
        self._jumping.now += seconds

    @property
    def timers(self) -> int:
        """How many timers are armed."""
        return sum(not handle.cancelled() for handle in self._scheduled)  # type: ignore[attr-defined]  # asyncio's own


def run(main: Coroutine[Any, Any, T], loop: VirtualLoop | None = None) -> T:
    """Runs `main` on a virtual loop to its end; what is left then is cancelled."""
    loop = loop or VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)
