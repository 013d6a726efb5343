"""Decides which versions are loaded at the same time: one, and beside it one that is much smaller."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from darkroom.models.runtime.memory import free_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

OVERTAKES = 4  # guess: a version of a quarter of the bytes is ready long before the other
# What two loads may take (guesses): a process with TensorFlow, and the weights so often. A ResNet50 of 102 MB takes 1.1 GB.
PROCESS_BYTES = 512 << 20
BYTES_PER_BYTE = 16


class LoadTurns:
    """Gives turns to load a version, smallest files first.

    One version is loaded at a time: two at once would need twice the memory and no less time. But a quick model must not
    wait for a slow one. So one version whose files are at most a quarter as large may be loaded beside another, if there is
    memory for both.

    Args:
        free: the bytes that the process may still take.
    """

    def __init__(self, *, free: Callable[[], int] = free_bytes) -> None:
        self._free = free
        self._loading: list[int] = []
        self._waiting: list[int] = []
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        """A turn for a version of so many bytes, which ends with the block."""
        async with self._changed:
            self._waiting.append(size)
            try:
                await self._changed.wait_for(lambda: self._may_load(size))
            finally:
                self._waiting.remove(size)
                self._changed.notify_all()
            self._loading.append(size)
        try:
            yield
        finally:
            async with self._changed:
                self._loading.remove(size)
                self._changed.notify_all()

    def _may_load(self, size: int) -> bool:
        if size > min(self._waiting):
            return False
        if not self._loading:
            return True
        other = self._loading[0]
        if len(self._loading) > 1 or not 0 < size * OVERTAKES <= other:
            return False
        return self._free() >= PROCESS_BYTES + BYTES_PER_BYTE * (size + other)
