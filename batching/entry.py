"""One request's rows on their way through the scheduler."""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import TYPE_CHECKING

from darkroom.batching.answer import Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from darkroom.batching.answer import Answer
    from darkroom.batching.ledger import Progress


class EntryState(Enum):
    """Where an entry is; it moves one way."""

    NEW = auto()
    PENDING = auto()
    ENDED = auto()


# Names that cost no look-up in the enum, for what runs several times an entry.
NEW, PENDING, ENDED = EntryState


def _nobody(answer: Answer) -> None:
    """Listens for an entry that nobody submitted."""


class Entry:
    """Rows of one request, with what the scheduler must know of them.

    The batcher owns an entry from `submit` on and lets go of the payload when it ends. An entry is submitted once.

    Attributes:
        payload: handed to the runner untouched, with the rows to take of it.
        rows: how many, at least 1.
        row_bytes: encoded bytes of each row, or empty where nobody counts.
        row_pixels: decoded pixels of each row, or empty where nobody counts.
        deadline: absolute, on the batcher's clock; None: none.
        key: only entries with equal keys ride together.
        whole: never split, merged, padded, retried or bisected (its signature is not row-wise).
        keep_going: a guilty row leaves its healthy neighbours of this entry answered.
        bulk: waits in the second lane.
    """

    __slots__ = (
        "arrived_s",
        "bulk",
        "bytes",
        "carriers",
        "deadline",
        "due_s",
        "first_row",
        "forecast_s",
        "keep_going",
        "key",
        "ledger",
        "next_row",
        "on_done",
        "payload",
        "pixels",
        "riders",
        "row_bytes",
        "row_pixels",
        "rows",
        "serial",
        "state",
        "waiting_rows",
        "whole",
    )

    def __init__(
        self,
        payload: object,
        rows: int,
        *,
        row_bytes: Sequence[int] = (),
        row_pixels: Sequence[int] = (),
        deadline: float | None = None,
        key: Hashable = None,
        whole: bool = False,
        keep_going: bool = False,
        bulk: bool = False,
    ) -> None:
        if rows < 1:
            raise ValueError(f"an entry has at least one row, not {rows}")
        self.payload = payload
        self.rows = rows
        self.row_bytes = row_bytes
        self.row_pixels = row_pixels
        self.bytes = sum(row_bytes)
        self.pixels = sum(row_pixels)
        self.deadline = math.inf if deadline is None else deadline
        self.key = key
        self.whole = whole
        self.keep_going = keep_going
        self.bulk = bulk
        # What follows belongs to the queue and the driver.
        self.state = NEW
        self.first_row = 0  # where row 0 of this entry lies in the payload
        self.next_row = 0  # rows before it have been in a batch
        self.waiting_rows = rows  # not in a call at the moment: not yet dispatched, or to be retried
        self.serial = 0  # order of arrival
        self.arrived_s = 0.0
        self.due_s = math.inf  # the earlier of deadline and SLO
        self.forecast_s = -math.inf  # when admission thought it would end, where it is due at some time
        self.ledger: Progress | None = None  # only for an entry that rides in more than one batch
        self.on_done: Callable[[Answer], None] = _nobody
        self.carriers: tuple[
            Entry, ...
        ] = ()  # what its rows ride in, where they ride in others (`batching/scheduler/duplicates.py`)
        self.riders: list[tuple[Entry, int]] | None = None  # for a carrier: whose row it is, by entry and row

    def timing(self, now: float) -> Timing:
        """Where its time went up to `now`."""
        return Timing(now - self.arrived_s) if self.ledger is None else self.ledger.timing(self, now)

    @property
    def has_riders(self) -> bool:
        """Whether this is a carrier that somebody still waits for."""
        return any(entry.state is PENDING for entry, _ in self.riders or ())
