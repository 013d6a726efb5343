"""Rows that were seen before: guilty of late, or in flight now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.batching.entry import PENDING, Entry, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import TypeAlias

    from darkroom.batching.scheduler.poison_cache import PoisonCache
    from darkroom.batching.scheduler.queue import BatchQueue

    Riders: TypeAlias = list[tuple[Entry, int]]  # whose row it is

_DEAD = 64  # carriers that may lie dead in the table, so that it is rebuilt seldom (guess)


class Repeats:
    """Recognises rows by identity, a hash that the caller computes.

    A row that was found guilty within the last minute is guilty again, and costs no call. Where single flight is on,
    identical rows of one lane and key that are pending share one row of a batch: each rides in a *carrier*, an entry of
    one row that no caller owns. It ends with its last rider, so one caller's cancellation never hurts another.

    While nothing is remembered and single flight is off, no identity is computed and an entry goes straight on.
    """

    def __init__(
        self,
        queue: BatchQueue,
        memory: PoisonCache,
        identity: Callable[[object, int], Hashable],
        *,
        single_flight: bool,
    ) -> None:
        self._queue = queue
        self._memory = memory
        self._identity = identity
        self.is_shared = single_flight
        self._carriers: dict[Hashable, tuple[Entry, Riders]] = {}

    def remember(self, entry: Entry, row: int, error: BaseException, now: float) -> None:
        """Notes that a row of a pending entry is guilty."""
        self._memory.add((entry.key, self._identity(entry.payload, entry.first_row + row)), error, now)

    def offer(self, entry: Entry, now: float) -> None:
        """Offers `entry` to the queue, or carriers for those of its rows that need a call.

        Raises:
            Closed, QueueFull, PredictedLate: having changed nothing.
        """
        is_empty = self._memory.is_empty(now)  # and forgets what is too old
        if entry.whole or (not self.is_shared and is_empty):
            self._queue.offer(entry, now)
            return
        identities = [(entry.key, self._identity(entry.payload, row)) for row in range(entry.rows)]
        errors = {row: error for row, who in enumerate(identities) if (error := self._memory.find(who)) is not None}
        if not errors and not self.is_shared:
            self._queue.offer(entry, now)
            return
        labels: dict[int, Hashable] = {}
        if not errors or entry.keep_going:
            rows = (row for row in range(entry.rows) if row not in errors)
            labels = {row: (entry.bulk, identities[row]) if self.is_shared else object() for row in rows}
        self._board(entry, labels, now)
        entry.ledger = Progress()
        for row, error in errors.items():
            entry.ledger.condemn(row, error)  # the driver ends the entry, if that is its end, in its next turn

    def _board(self, entry: Entry, labels: dict[int, Hashable], now: float) -> None:
        """Admits `entry`, whose rows ride in carriers: pending ones with the same label, and new ones."""
        new = {label: row for row, label in labels.items() if self._find(label) is None}
        self._queue.admit(entry, len(new), sum(entry.row_bytes[row] for row in new.values() if entry.row_bytes), now)
        entry.waiting_rows, entry.next_row = 0, entry.rows
        carriers = []
        for row, label in labels.items():
            carrier, riders = self._find(label) or self._launch(entry, row, label, now)
            riders.append((entry, row))
            self._queue.postpone(carrier, entry.due_s)
            carriers.append(carrier)
        entry.carriers = tuple(carriers)
        if len(self._carriers) > 2 * len(self._queue.pending) + _DEAD:
            self._carriers = {label: found for label in self._carriers if (found := self._find(label)) is not None}

    def _find(self, label: Hashable) -> tuple[Entry, Riders] | None:
        """The pending carrier with that label."""
        found = self._carriers.get(label)
        return found if found is not None and found[0].state is PENDING else None

    def _launch(self, entry: Entry, row: int, label: Hashable, now: float) -> tuple[Entry, Riders]:
        """A new carrier for a row of an admitted entry."""
        carrier = Entry(
            entry.payload,
            1,
            row_bytes=entry.row_bytes[row : row + 1],
            row_pixels=entry.row_pixels[row : row + 1],
            key=entry.key,
            bulk=entry.bulk,
        )
        carrier.first_row = row
        carrier.due_s = entry.due_s
        riders: Riders = []
        carrier.riders = riders
        self._queue.append(carrier, now)
        self._carriers[label] = carrier, riders
        return carrier, riders
