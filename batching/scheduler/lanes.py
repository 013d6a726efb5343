"""The two priority lanes: the lines that wait, by lane and key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.batching.scheduler.line import Fifo

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from darkroom.batching.batch import Reason, Span
    from darkroom.batching.entry import Entry
    from darkroom.batching.limits import Limits

_BULK_EVERY = 8  # while both lanes wait, one batch in eight is bulk (guess)
_WHOLE = object()  # the key of entries that ride alone: their own does not matter


class Lanes:
    """Interactive before bulk, with a guard against starvation; within a lane the line whose head is oldest.

    Attributes:
        rows: that wait and were in no batch yet, interactive and bulk.
        bytes: of the entries that have such rows.
    """

    def __init__(self) -> None:
        self.rows = [0, 0]
        self.bytes = 0
        self._lines: tuple[dict[Hashable, Fifo], dict[Hashable, Fifo]] = ({}, {})
        self._batches_since_bulk = 0

    def __iter__(self) -> Iterator[Fifo]:
        for lane in self._lines:
            yield from lane.values()

    def append(self, entry: Entry) -> None:
        """Puts an entry last in its line."""
        lane = self._lines[entry.bulk]
        key = _WHOLE if entry.whole else entry.key
        line = lane.get(key)
        if line is None:
            line = lane[key] = Fifo(key, is_bulk=entry.bulk, is_whole=entry.whole)
        line.append(entry)
        self.rows[entry.bulk] += entry.rows
        self.bytes += entry.bytes

    def postpone(self, entry: Entry) -> None:
        """Is told that an entry that waits will be due later."""
        self._line_of(entry).postpone()

    def remove(self, entry: Entry) -> None:
        """Takes an entry with rows left out of its line."""
        line = self._line_of(entry)
        line.remove(entry)
        self.rows[entry.bulk] -= entry.rows - entry.next_row
        self.bytes -= entry.bytes
        self._drop_if_empty(line)

    def choose(self, is_due: Callable[[Fifo], bool]) -> Fifo | None:
        """The due line to serve next."""
        interactive, bulk = self._lines
        bulk_first = bulk and self._batches_since_bulk >= _BULK_EVERY - 1
        for lane in (bulk, interactive) if bulk_first else (interactive, bulk):
            due = [line for line in lane.values() if is_due(line)]
            if due:
                return due[0] if len(due) == 1 else min(due, key=lambda line: line.head.serial)
        return None

    def take(self, line: Fifo, images: int, limits: Limits) -> tuple[list[Span], int, Reason | None]:
        """Takes up to `images` rows from the front of `line`, for one batch.

        Returns:
            Their spans, how many rows they are, and BYTES or PIXELS where that bound left some of them behind.
        """
        waited, held_bytes = line.rows, line.bytes
        spans, cut = line.take(images, limits)
        taken = waited - line.rows
        self.rows[line.is_bulk] -= taken
        self.bytes -= held_bytes - line.bytes
        self._batches_since_bulk = 0 if line.is_bulk else self._batches_since_bulk + 1
        self._drop_if_empty(line)
        return spans, taken, cut

    def _line_of(self, entry: Entry) -> Fifo:
        return self._lines[entry.bulk][_WHOLE if entry.whole else entry.key]

    def _drop_if_empty(self, line: Fifo) -> None:
        if not line.entries:
            del self._lines[line.is_bulk][line.key]
