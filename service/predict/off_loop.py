"""Threads for what one request may make long: reading a large body, writing a large answer. The event loop goes on."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from darkroom.batching.errors import QueueFull
from darkroom.models.runtime.memory import trim

if TYPE_CHECKING:
    from collections.abc import Callable

Made = TypeVar("Made")

THREADS = 2  # guess: one long body does not hold up the next; more would only wait for the interpreter lock
# After so many bytes of work, freed memory is returned to the system a second later, when nothing refers to them (guesses).
TRIM_BYTES = 8 << 20
TRIM_S = 1.0


class OffLoop:
    """Runs work in one of a few threads, first in, first out, and comes back to the loop.

    Args:
        limit_bytes: of bodies that wait or are read; more are refused.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="large")
        self._bytes = 0
        self._untrimmed = 0  # bytes that were worked on since memory was returned

    def check_room(self, size: int) -> None:
        """Returns if a body of `size` bytes may wait.

        Raises:
            QueueFull: too many bytes wait already.
        """
        if self._bytes and self._bytes + size > self._limit_bytes:
            raise QueueFull(f"large bodies that wait are over --max_receiving_bytes={self._limit_bytes}")

    def run(self, size: int, work: Callable[[], Made], then: Callable[[Made | BaseException], None]) -> None:
        """Calls `work` in a thread, on `size` bytes, then `then` on the loop with what it returned or raised."""
        self._bytes += size
        loop = asyncio.get_running_loop()

        def call() -> None:
            try:
                made: Made | BaseException = work()
            except BaseException as err:  # noqa: BLE001 - carried over to the loop
                made = err
            with suppress(RuntimeError):  # the loop is closed: the server has stopped
                loop.call_soon_threadsafe(end, made)
            del made  # the traceback of an error has this frame: a cycle would keep the body

        def end(made: Made | BaseException) -> None:
            self._bytes -= size
            if self._untrimmed <= TRIM_BYTES < self._untrimmed + size:
                loop.call_later(TRIM_S, self._trim)
            self._untrimmed += size
            then(made)

        self._threads.submit(call)

    def _trim(self) -> None:
        self._untrimmed = 0
        self._threads.submit(trim)
