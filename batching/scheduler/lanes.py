"""The two priority lanes: the lines that wait, by lane and key."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from darkroom.batching.entry import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from darkroom.batching.entry import Entry, Span
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


class Fifo:
    """First in, first out; any entry may leave from the middle at the price of one from the front.

    Attributes:
        entries: those with rows that were in no batch yet, oldest first (a linked list with an index, values unused).
        rows: how many such rows.
        bytes, pixels: of all rows of these entries, so an upper bound of what waits.
        key, is_bulk: what its entries have in common.
        is_whole: its entries ride one at a time, whatever their size.
    """

    __slots__ = ("_earliest_s", "_last_s", "bytes", "entries", "is_bulk", "is_whole", "key", "pixels", "rows")

    def __init__(self, key: Hashable, *, is_bulk: bool = False, is_whole: bool = False) -> None:
        self.key = key
        self.is_bulk = is_bulk
        self.is_whole = is_whole
        self.entries: OrderedDict[Entry, None] = OrderedDict()
        self.rows = 0
        self.bytes = 0
        self.pixels = 0
        self._last_s = -math.inf  # due time of the last that came
        self._earliest_s: float | None = None  # once due times were out of order; until then the head's is the earliest

    @property
    def head(self) -> Entry:
        """The oldest; the line is not empty."""
        return next(iter(self.entries))

    @property
    def due_s(self) -> float:
        """A time before which no entry is due."""
        return self.head.due_s if self._earliest_s is None else self._earliest_s

    def append(self, entry: Entry) -> None:
        """Puts a new entry last."""
        if entry.due_s < self._last_s or self._earliest_s is not None:
            self._earliest_s = min(self.due_s, entry.due_s) if self.entries else entry.due_s
        self._last_s = entry.due_s
        self.entries[entry] = None
        self.rows += entry.rows
        self.bytes += entry.bytes
        self.pixels += entry.pixels

    def postpone(self) -> None:
        """Is told that an entry will be due later, so that due times are out of order from now on."""
        self._earliest_s = self.due_s

    def remove(self, entry: Entry) -> None:
        """Takes an entry out with the rows it has left, from wherever it stands."""
        del self.entries[entry]
        self.rows -= entry.rows - entry.next_row
        self.bytes -= entry.bytes
        self.pixels -= entry.pixels

    def take(self, images: int, limits: Limits) -> tuple[list[Span], Reason | None]:
        """Takes up to `images` rows from the front; at least one, however large.

        Returns:
            Their spans, and BYTES or PIXELS where that bound left rows behind that `images` had room for.
        """
        if self.is_whole:
            entry = self.head
            return [self._cut(entry, entry.rows)], None
        if self.bytes > limits.max_batch_bytes or self.pixels > limits.max_batch_pixels:
            return self._take_weighed(images, limits)
        spans: list[Span] = []
        while images and self.entries:
            entry = self.head
            stop = min(entry.rows, entry.next_row + images)
            images -= stop - entry.next_row
            spans.append(self._cut(entry, stop))
        return spans, None

    def _take_weighed(self, images: int, limits: Limits) -> tuple[list[Span], Reason | None]:
        """As `take`, row by row, since bytes or pixels may not suffice for all."""
        spans: list[Span] = []
        room_bytes, room_pixels = limits.max_batch_bytes, limits.max_batch_pixels
        while images and self.entries:
            entry = self.head
            stop, reason = entry.next_row, None
            while images and stop < entry.rows and reason is None:
                room_bytes -= entry.row_bytes[stop] if entry.row_bytes else 0
                room_pixels -= entry.row_pixels[stop] if entry.row_pixels else 0
                is_first = not spans and stop == entry.next_row
                if not is_first and (room_bytes < 0 or room_pixels < 0):
                    reason = Reason.BYTES if room_bytes < 0 else Reason.PIXELS
                else:
                    stop += 1
                    images -= 1
            if stop > entry.next_row:
                spans.append(self._cut(entry, stop))
            if reason is not None:
                return spans, reason
        return spans, None

    def _cut(self, entry: Entry, stop: int) -> Span:
        """Takes the rows of the head before `stop`; the entry leaves with its last row."""
        start = entry.next_row
        rows = stop - start
        self.rows -= rows
        entry.waiting_rows -= rows
        entry.next_row = stop
        if stop == entry.rows:
            self.entries.popitem(last=False)
            self.bytes -= entry.bytes
            self.pixels -= entry.pixels
        return entry, start, stop
