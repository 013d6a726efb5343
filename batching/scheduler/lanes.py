"""The rows that wait for their first batch: two priority lanes of FIFO queues, one for each lane and key."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import chain
from typing import TYPE_CHECKING

from darkroom.batching.entry import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from darkroom.batching.entry import Entry, Span
    from darkroom.batching.limits import Limits

_BULK_EVERY = 8  # while both lanes wait, one batch in eight is bulk (guess)
_WHOLE = object()  # the key of entries that must stay whole: their own does not matter


class Lanes:
    """Interactive before bulk, with a guard against starvation; within a lane the FIFO whose head is oldest.

    Attributes:
        rows: unsent rows, interactive and bulk.
        bytes: of the entries that have unsent rows.
    """

    def __init__(self) -> None:
        self.rows = [0, 0]
        self.bytes = 0
        self._fifos: tuple[dict[Hashable, Fifo], dict[Hashable, Fifo]] = ({}, {})
        self._batches_since_bulk = 0

    def __iter__(self) -> Iterator[Fifo]:
        """All FIFOs, none of which is empty."""
        return chain(self._fifos[0].values(), self._fifos[1].values())

    def append(self, entry: Entry) -> None:
        """Puts an entry last in its FIFO."""
        lane = self._fifos[entry.bulk]
        key = _WHOLE if entry.whole else entry.key
        fifo = lane.get(key)
        if fifo is None:
            fifo = lane[key] = Fifo(key, is_bulk=entry.bulk, is_whole=entry.whole)
        fifo.append(entry)
        self.rows[entry.bulk] += entry.unsent_rows
        self.bytes += entry.bytes

    def remove(self, entry: Entry) -> None:
        """Takes an entry with unsent rows out of its FIFO."""
        fifo = self._fifos[entry.bulk][_WHOLE if entry.whole else entry.key]
        fifo.remove(entry)
        self.rows[entry.bulk] -= entry.unsent_rows
        self.bytes -= entry.bytes
        if not fifo.entries:
            del self._fifos[fifo.is_bulk][fifo.key]

    def choose(self, window_end: Callable[[Fifo], float], now: float) -> Fifo | None:
        """The FIFO to serve next, of those whose window has ended."""
        interactive, bulk = self._fifos
        is_bulk_first = bulk and self._batches_since_bulk >= _BULK_EVERY - 1
        for lane in (bulk, interactive) if is_bulk_first else (interactive, bulk):
            chosen: Fifo | None = None
            for fifo in lane.values():
                if window_end(fifo) <= now and (chosen is None or fifo.head.serial < chosen.head.serial):
                    chosen = fifo
            if chosen is not None:
                return chosen
        return None

    def take(self, fifo: Fifo, images: int, limits: Limits) -> tuple[list[Span], int, Reason | None]:
        """Takes up to `images` rows from the front of `fifo`, for one batch.

        Returns:
            Their spans, their number, and BYTES or PIXELS if that bound left some of the rows behind.
        """
        waited, held_bytes = fifo.rows, fifo.bytes
        spans, bound = fifo.take(images, limits)
        taken = waited - fifo.rows
        self.rows[fifo.is_bulk] -= taken
        self.bytes -= held_bytes - fifo.bytes
        self._batches_since_bulk = 0 if fifo.is_bulk else self._batches_since_bulk + 1
        if not fifo.entries:
            del self._fifos[fifo.is_bulk][fifo.key]
        return spans, taken, bound


class Fifo:
    """The queue of one lane and key, first in, first out; an entry may leave from the middle in constant time.

    Attributes:
        entries: those with unsent rows, oldest first (a linked list with an index; its values are unused).
        rows: their unsent rows.
        bytes, pixels: of all rows of these entries, so an upper bound for the unsent ones.
        key, is_bulk: what its entries have in common.
        is_whole: its entries leave one at a time, whatever their size.
    """

    __slots__ = ("_earliest_s", "_last_s", "bytes", "entries", "is_bulk", "is_whole", "key", "pixels", "rows")

    def __init__(self, key: Hashable, *, is_bulk: bool, is_whole: bool) -> None:
        self.key = key
        self.is_bulk = is_bulk
        self.is_whole = is_whole
        self.entries: OrderedDict[Entry, None] = OrderedDict()
        self.rows = 0
        self.bytes = 0
        self.pixels = 0
        self._last_s = -math.inf  # due time of the entry that came last
        self._earliest_s: float | None = None  # set once due times are out of order; until then the head's is earliest

    @property
    def head(self) -> Entry:
        """The oldest entry; the FIFO is not empty."""
        return next(iter(self.entries))

    @property
    def due_s(self) -> float:
        """A time before which no entry is due."""
        return next(iter(self.entries)).due_s if self._earliest_s is None else self._earliest_s

    def append(self, entry: Entry) -> None:
        """Puts a new entry last."""
        if entry.due_s < self._last_s or self._earliest_s is not None:
            self._earliest_s = min(self.due_s, entry.due_s) if self.entries else entry.due_s
        self._last_s = entry.due_s
        self.entries[entry] = None
        self.rows += entry.unsent_rows
        self.bytes += entry.bytes
        self.pixels += entry.pixels

    def remove(self, entry: Entry) -> None:
        """Takes an entry out with its unsent rows, from wherever it stands."""
        del self.entries[entry]
        self.rows -= entry.unsent_rows
        self.bytes -= entry.bytes
        self.pixels -= entry.pixels

    def take(self, images: int, limits: Limits) -> tuple[list[Span], Reason | None]:
        """Takes up to `images` rows from the front; at least one, however large.

        Returns:
            Their spans, and BYTES or PIXELS if that bound left rows behind that `images` had room for.
        """
        if self.is_whole:
            entry = self.head
            return [self._take_rows(entry, entry.rows)], None
        if self.bytes > limits.max_batch_bytes or self.pixels > limits.max_batch_pixels:
            return self._take_within_bounds(images, limits)
        spans: list[Span] = []
        while images and self.entries:
            entry = next(iter(self.entries))
            stop = min(entry.run_stop, entry.next_row + images)
            images -= stop - entry.next_row
            spans.append(self._take_rows(entry, stop))
        return spans, None

    def _take_within_bounds(self, images: int, limits: Limits) -> tuple[list[Span], Reason | None]:
        """As `take`, row by row, because bytes or pixels may not suffice for all."""
        spans: list[Span] = []
        left_bytes, left_pixels = limits.max_batch_bytes, limits.max_batch_pixels
        while images and self.entries:
            entry = self.head
            stop, bound = entry.next_row, None
            while images and stop < entry.run_stop and bound is None:
                left_bytes -= entry.row_bytes[stop] if entry.row_bytes else 0
                left_pixels -= entry.row_pixels[stop] if entry.row_pixels else 0
                is_first = not spans and stop == entry.next_row
                if not is_first and (left_bytes < 0 or left_pixels < 0):
                    bound = Reason.BYTES if left_bytes < 0 else Reason.PIXELS
                else:
                    stop += 1
                    images -= 1
            if stop > entry.next_row:
                spans.append(self._take_rows(entry, stop))
            if bound is not None:
                return spans, bound
        return spans, None

    def _take_rows(self, entry: Entry, stop: int) -> Span:
        """Takes the rows of the head before `stop`; the entry leaves with its last unsent row."""
        start = entry.next_row
        rows = stop - start
        self.rows -= rows
        entry.waiting_rows -= rows
        entry.unsent_rows -= rows
        entry.next_row = stop
        if not entry.unsent_rows:
            self.entries.popitem(last=False)
            self.bytes -= entry.bytes
            self.pixels -= entry.pixels
        elif stop == entry.run_stop:
            entry.start_run(stop)
        return entry, start, stop
