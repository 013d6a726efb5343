"""One request's rows on their way through the scheduler."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from enum import Enum, StrEnum, auto
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from darkroom.batching.backend import BatchReport

NO_ERRORS: Mapping[int, BaseException] = MappingProxyType({})


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


class Reason(StrEnum):
    """Why a batch left when it did, and with as many rows as it had."""

    IDLE = "idle"  # a slot was free: everything that waited went
    FULL = "full"  # the limit or the most efficient size was reached
    LINGER = "linger"  # the window was over
    SLACK = "slack"  # more rows, or more waiting, would have been too late for one of them
    BYTES = "bytes"
    PIXELS = "pixels"
    RETRY = "retry"  # what is left of a batch in which a row was guilty, or half of it
    DRAIN = "drain"  # the queue is being emptied, so no window was kept


# Rows [start, stop) of one entry, and of one payload as the runner sees them. Plain tuples: one is made for each entry.
Span: TypeAlias = "tuple[Entry, int, int]"
Part: TypeAlias = tuple[object, int, int]


class Batch:
    """Rows of one or many entries, in order, that ride in one engine call.

    Attributes:
        serial: its number in the queue's order of dispatch, from 1.
        spans: whose rows they are, in the order of the call.
        parts: the same rows for the runner.
        images: rows of all spans, padding left out.
        padding: rows to add at the end by repeating the last; nobody gets their answer.
        reason: why it left.
        dispatched_s: when, on the batcher's clock.
        returned_s: when the runner was done with it; None: not yet, or nobody looked.
    """

    __slots__ = (
        "dispatched_s",
        "forecast_s",
        "images",
        "is_out",
        "padding",
        "parts",
        "reason",
        "returned_s",
        "serial",
        "spans",
    )

    def __init__(
        self, serial: int, spans: list[Span], images: int, *, padding: int, reason: Reason, dispatched_s: float
    ) -> None:
        self.serial = serial
        self.spans = spans
        self.images = images
        self.padding = padding
        self.reason = reason
        self.dispatched_s = dispatched_s
        self.forecast_s = dispatched_s  # when it is expected back
        self.returned_s: float | None = None  # when the runner was done with it
        self.is_out = True  # until the runner gives it back
        # Payloads are noted now: an entry that ends while its batch is out lets go of its own reference.
        self.parts: list[Part] = [(e.payload, e.first_row + start, e.first_row + stop) for e, start, stop in spans]

    def took_s(self, now: float) -> float:
        """How long the runner had it; what came after, until the loop heard of it, is the loop's own time."""
        return (now if self.returned_s is None else self.returned_s) - self.dispatched_s

    @property
    def is_retry(self) -> bool:
        """Whether its rows have been in a batch that failed."""
        return self.reason is Reason.RETRY


class Timing(NamedTuple):
    """Where one entry's time went; a tuple, since one is made for each answer.

    Attributes:
        queue_s: from submit to the start of its first batch in the runner's thread; its whole life where it had none.
        execute_s: engine time of all batches it rode in, as are collate_s and split_s.
        batch_images: rows of the largest batch it rode in, 0 where it had none.
        reason: why its first batch left when it did; None where it had none.
        retries: batches it rode in again because a neighbour or itself was suspected.
    """

    queue_s: float
    execute_s: float = 0.0
    batch_images: int = 0
    reason: Reason | None = None
    collate_s: float = 0.0
    split_s: float = 0.0
    retries: int = 0


class Answer(NamedTuple):
    """What `on_done` gets, once for each entry that was not withdrawn.

    Attributes:
        pieces: the runner's results in row order, guilty rows left out; one piece unless the entry was split.
        errors: the guilty rows by their index in the entry.
        error: why the whole entry failed: a BatchingError or the runner's error; None where `pieces` answer it.
        timing: where the time went.
    """

    pieces: tuple[Sized, ...]
    errors: Mapping[int, BaseException]
    error: BaseException | None
    timing: Timing


class Progress:
    """Keeps pieces, guilty rows and times of one entry until all its rows are settled.

    Attributes:
        errors: the guilty rows.
        settled_rows: those answered or guilty.
    """

    def __init__(self) -> None:
        self.errors: dict[int, BaseException] = {}
        self.settled_rows = 0
        self._pieces: list[tuple[int, Sized]] = []
        self._rides: set[int] = set()
        self._started_s = math.inf
        self._reason: Reason | None = None
        self._images = 0
        self._retries = 0
        self._execute_s = self._collate_s = self._split_s = 0.0

    def ride(self, batch: Batch, report: BatchReport) -> None:
        """Notes that the entry was in `batch`, well or not; a second row in the same batch adds nothing."""
        if batch.serial in self._rides:
            return
        self._rides.add(batch.serial)
        if report.started_s < self._started_s:
            self._started_s, self._reason = report.started_s, batch.reason
        self._images = max(self._images, batch.images)
        self._retries += batch.is_retry
        self._execute_s += report.execute_s
        self._collate_s += report.collate_s
        self._split_s += report.split_s

    def answer_rows(self, start: int, stop: int, piece: Sized) -> None:
        """Notes the answer of rows [start, stop)."""
        self._pieces.append((start, piece))
        self.settled_rows += stop - start

    def condemn(self, row: int, error: BaseException) -> None:
        """Notes that `row` is guilty."""
        self.errors[row] = error
        self.settled_rows += 1

    def timing(self, entry: Entry, now: float) -> Timing:
        """Where the time went up to `now`; a row that joined a call under way did not wait."""
        queue_s = max(0.0, min(self._started_s, now) - entry.arrived_s)
        return Timing(
            queue_s, self._execute_s, self._images, self._reason, self._collate_s, self._split_s, self._retries
        )

    def answer(self, entry: Entry, now: float) -> Answer:
        """The pieces in row order, whatever order they came in."""
        pieces = tuple(piece for _, piece in sorted(self._pieces, key=itemgetter(0)))
        return Answer(pieces, self.errors, None, self.timing(entry, now))
