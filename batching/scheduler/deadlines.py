"""The entries that have not ended, and when the next one is due."""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from darkroom.batching.entry import ENDED, PENDING, Entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DEAD = 64  # ended entries that may remain in the two queues, in addition to as many as are pending (guess)


class Deadlines:
    """Knows each pending entry, and finds those whose time is over.

    Most due times come in order, because most requests have the same timeout: they are in a queue, the others in a
    heap. Entries that ended stay in both until they come to the front, or are the larger part.

    Attributes:
        arrived: the number of entries so far.
        entries: the pending ones, in no order.
    """

    def __init__(self) -> None:
        self.arrived = 0
        self.entries: set[Entry] = set()
        self._ordered: deque[tuple[float, int, Entry]] = deque()
        self._heap: list[tuple[float, int, Entry]] = []

    def __iter__(self) -> Iterator[Entry]:
        """Yields the pending entries in order of arrival, from a copy."""
        return iter(sorted(self.entries, key=lambda entry: entry.serial))

    def accept(self, entry: Entry, now: float) -> None:
        """Makes a new entry pending."""
        self.arrived = entry.serial = self.arrived + 1
        entry.arrived_s = now
        entry.state = PENDING
        self.entries.add(entry)
        if entry.due_s < math.inf:
            self._push(entry.due_s, entry)

    def watch(self, entries: Iterable[Entry]) -> None:
        """Makes sure that `overdue` finds these pending entries again; doing it twice is harmless."""
        for entry in entries:
            if entry.due_s < math.inf:
                self._push(entry.due_s, entry)

    def end(self, entry: Entry) -> None:
        """Ends a pending entry and drops its payload."""
        entry.state = ENDED
        entry.payload = None
        self.entries.discard(entry)

    def earliest_s(self) -> float:
        """When the next pending entry is due; infinity if none ever is."""
        ordered, heap = self._ordered, self._heap
        while ordered and ordered[0][2].state is not PENDING:
            ordered.popleft()
        while heap and heap[0][2].state is not PENDING:
            heappop(heap)
        earliest_s = ordered[0][0] if ordered else math.inf
        return min(earliest_s, heap[0][0]) if heap else earliest_s

    def overdue(self, now: float) -> Iterator[Entry]:
        """Yields the pending entries whose time is over; the caller ends each before the next.

        An entry whose rows are all in flight may miss its SLO and is still answered, up to its deadline.
        """
        while self.earliest_s() <= now:
            ordered = self._ordered
            entry = (ordered.popleft() if ordered and ordered[0][0] <= now else heappop(self._heap))[2]
            if entry.waiting_rows or entry.deadline <= now:
                yield entry
            elif entry.deadline < math.inf:
                self._push(entry.deadline, entry)

    def _push(self, when_s: float, entry: Entry) -> None:
        ordered, heap = self._ordered, self._heap
        item = (when_s, entry.serial, entry)
        if not ordered or when_s >= ordered[-1][0]:
            ordered.append(item)
        else:
            heappush(heap, item)
        if len(ordered) + len(heap) > 2 * len(self.entries) + _DEAD:
            live = sorted(item for item in (*ordered, *heap) if item[2].state is PENDING)
            heap.clear()
            ordered.clear()
            ordered.extend(live)
