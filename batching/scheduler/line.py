"""The entries of one lane and key that wait, in order of arrival."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from darkroom.batching.batch import Reason

if TYPE_CHECKING:
    from collections.abc import Hashable

    from darkroom.batching.batch import Span
    from darkroom.batching.entry import Entry
    from darkroom.batching.limits import Limits


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
