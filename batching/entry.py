"""The values that pass through the scheduler: what waits (Entry), what one call carries (Batch), what a caller gets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from enum import Enum, StrEnum, auto
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Sequence

NO_ERRORS: Mapping[int, BaseException] = MappingProxyType({})


class EntryState(Enum):
    """The state of an entry; it only moves forward."""

    NEW = auto()
    PENDING = auto()
    ENDED = auto()


# Module-level names, because a look-up in the enum costs time and these are read several times for each entry.
NEW, PENDING, ENDED = EntryState


def _ignore(answer: Answer) -> None:
    """The callback of an entry that was not submitted yet."""


class Entry:
    """Rows of one request, with what the scheduler must know of them.

    The batcher owns an entry from `submit` on, and drops the payload when the entry ends. An entry is submitted once.

    Attributes:
        payload: passed to the backend unchanged, with the range of rows to take from it.
        rows: number of rows, at least 1.
        row_bytes: encoded bytes of each row; empty if they are not counted.
        row_pixels: decoded pixels of each row; empty if they are not counted.
        bytes, pixels: their sums over the rows that need a call.
        deadline: absolute, on the batcher's clock; None means no deadline.
        key: only entries with equal keys share a batch.
        kind: what may keep rows of equal keys from sharing a call, such as the size of a picture. It counts once calls
            have failed for that; None: not known, or its rows are of several kinds.
        whole: the entry is never split, merged, padded, retried or bisected (its signature is not row-wise).
        keep_going: a guilty row does not end the entry; its other rows are still answered.
        bulk: the entry waits in the bulk lane.
    """

    __slots__ = (
        "arrived_s",
        "bulk",
        "bytes",
        "deadline",
        "due_s",
        "excluded",
        "forecast_s",
        "keep_going",
        "key",
        "kind",
        "next_row",
        "on_done",
        "payload",
        "pixels",
        "progress",
        "row_bytes",
        "row_pixels",
        "rows",
        "run_stop",
        "serial",
        "state",
        "unsent_rows",
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
        kind: Hashable = None,
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
        self.kind = kind
        self.whole = whole
        self.keep_going = keep_going
        self.bulk = bulk
        # The attributes below belong to the queue and the driver.
        self.state = NEW
        self.excluded: Collection[int] = ()  # rows that were known to be guilty when the entry came
        self.next_row = 0  # rows before it have been in a batch, or are excluded
        self.run_stop = rows  # the next excluded row after next_row, or `rows`
        self.unsent_rows = rows  # have not been in a batch yet
        self.waiting_rows = rows  # not in a call at the moment: unsent, or to be retried
        self.serial = 0  # order of arrival
        self.arrived_s = 0.0
        self.due_s = math.inf  # the earlier of deadline and SLO
        self.forecast_s = -math.inf  # the end that admission predicted; -inf if it made no prediction
        self.progress: Progress | None = None  # only if the entry needs more than one batch, or has guilty rows
        self.on_done: Callable[[Answer], None] = _ignore

    def rows_without(self, guilty: Collection[int]) -> list[int]:
        """The rows that need a call if `guilty` rows are known: none if a guilty row ends the entry."""
        return [row for row in range(self.rows) if row not in guilty] if self.keep_going or not guilty else []

    def exclude(self, guilty: Mapping[int, BaseException]) -> None:
        """Settles rows that are known to be guilty before the entry waits, so that no batch carries them."""
        self.progress = Progress()
        for row, error in guilty.items():
            self.progress.add_guilty(row, error)
        rows = self.rows_without(guilty)
        self.bytes = sum(self.row_bytes[row] for row in rows if self.row_bytes)
        self.pixels = sum(self.row_pixels[row] for row in rows if self.row_pixels)
        self.excluded = guilty
        self.unsent_rows = self.waiting_rows = len(rows)
        self.start_run(0)

    def start_run(self, row: int) -> None:
        """Sets `next_row` and `run_stop` to the first run of rows from `row` on that are not excluded."""
        excluded = self.excluded
        while row < self.rows and row in excluded:
            row += 1
        self.next_row = row
        while row < self.rows and row not in excluded:
            row += 1
        self.run_stop = row

    def timing(self, now: float) -> Timing:
        """Where the entry's time went up to `now`."""
        return Timing(now - self.arrived_s) if self.progress is None else self.progress.timing(self, now)


class Reason(StrEnum):
    """Why a batch left when it did, and with the number of rows that it had."""

    IDLE = "idle"  # the engine was free: every waiting row left
    FULL = "full"  # the limit or the most efficient size was reached
    LINGER = "linger"  # the window was over
    SLACK = "slack"  # with more rows, or after a longer wait, a row would have been late
    BYTES = "bytes"
    PIXELS = "pixels"
    RETRY = "retry"  # the rest of a batch in which a row was guilty, or half of it
    DRAIN = "drain"  # the queue is draining, so no window was kept


# Rows [start, stop) of one entry, and of one payload as the backend sees them. Plain tuples, because one is made for
# each entry.
Span: TypeAlias = "tuple[Entry, int, int]"
Part: TypeAlias = tuple[object, int, int]


class Halves:
    """What became of the halves of a failed batch: if both were answered, their rows were fine, and only not together."""

    __slots__ = ("fine",)

    def __init__(self) -> None:
        self.fine = 0


class Batch:
    """Rows of one or many entries, in order, that one engine call carries.

    Attributes:
        serial: its number in the queue's order of dispatch, from 1.
        spans: the entries and their rows, in the order of the call.
        parts: the same rows for the backend.
        images: rows of all spans, without padding.
        padding: rows to add at the end by repeating the last; their answers are dropped.
        reason: why it left.
        is_retry: its rows have been in a batch that failed.
        halves: if they are a half of it, what became of both; else None.
        dispatched_s: when it left, on the batcher's clock.
        expected_s: how long it is expected to take; 1.0 while nothing is known.
        returned_s: when the backend finished it; None if it is still running or no backend reported.
        is_out: the backend has not given it back.
        is_stuck: it runs so long that its callers were told; its place is taken until the backend gives it back.
        watched_s: when the watchdog first saw it, on the watchdog's clock; None: it has not yet.
    """

    __slots__ = (
        "dispatched_s",
        "expected_s",
        "halves",
        "images",
        "is_out",
        "is_retry",
        "is_stuck",
        "padding",
        "parts",
        "reason",
        "returned_s",
        "serial",
        "spans",
        "watched_s",
    )

    def __init__(
        self,
        serial: int,
        spans: list[Span],
        images: int,
        *,
        padding: int,
        reason: Reason,
        dispatched_s: float,
        expected_s: float,
    ) -> None:
        self.serial = serial
        self.spans = spans
        self.images = images
        self.padding = padding
        self.reason = reason
        self.is_retry = reason is Reason.RETRY
        self.halves: Halves | None = None
        self.dispatched_s = dispatched_s
        self.expected_s = expected_s
        self.returned_s: float | None = None
        self.is_out = True
        self.is_stuck = False
        self.watched_s: float | None = None
        # Payloads are noted here, because an entry that ends while its batch is in flight drops its own reference.
        self.parts: list[Part] = [(entry.payload, start, stop) for entry, start, stop in spans]


class EngineCall(NamedTuple):
    """What one call of the backend was, for those who explain the entries that it carried.

    Attributes:
        serial: the number of its batch.
        started_s: when the backend's thread took the batch, on the batcher's clock.
        collate_s, execute_s, split_s: as the backend reported them.
        images: its rows, without padding.
        padding: the rows that were added.
        parts: the pieces of entries that it was made of.
        reason: why it left.
    """

    serial: int
    started_s: float
    collate_s: float
    execute_s: float
    split_s: float
    images: int
    padding: int
    parts: int
    reason: Reason

    @property
    def seconds(self) -> float:
        """What it took in the backend's thread."""
        return self.collate_s + self.execute_s + self.split_s

    @property
    def is_retry(self) -> bool:
        """Whether its rows had been in a call that failed."""
        return self.reason is Reason.RETRY


class Timing(NamedTuple):
    """Where one entry's time went; a tuple, because one is made for each answer.

    Attributes:
        queue_s: from submit to the start of its first batch in the backend's thread; its whole life if it had none.
        execute_s: engine time of all batches that carried it; collate_s and split_s likewise.
        batch_images: rows of the largest batch that carried it, 0 if none did.
        reason: why its first batch left when it did; None if it had none.
        retries: the number of its batches that were retries, because a row of it or of another entry was suspected.
        calls: each batch that carried it, in the order of their return; shared by the entries of a batch.
    """

    queue_s: float
    execute_s: float = 0.0
    batch_images: int = 0
    reason: Reason | None = None
    collate_s: float = 0.0
    split_s: float = 0.0
    retries: int = 0
    calls: tuple[EngineCall, ...] = ()


class Answer(NamedTuple):
    """The argument of `on_done`, which is called once for each entry that was not withdrawn.

    Attributes:
        pieces: the backend's results in row order, without guilty rows; one piece unless the entry was split.
        errors: the guilty rows by their index in the entry.
        error: why the whole entry failed: a BatchingError or the backend's error; None if `pieces` answer it.
        timing: where the time went.
    """

    pieces: tuple[Sized, ...]
    errors: Mapping[int, BaseException]
    error: BaseException | None
    timing: Timing


class Progress:
    """Collects pieces, guilty rows and times of one entry until all its rows are settled.

    Attributes:
        errors: the guilty rows.
        settled_rows: the number of rows that are answered or guilty.
    """

    def __init__(self) -> None:
        self.errors: dict[int, BaseException] = {}
        self.settled_rows = 0
        self._pieces: list[tuple[int, Sized]] = []
        self._calls: list[EngineCall] = []

    def add_call(self, call: EngineCall) -> None:
        """Notes that `call`, which may have failed, carried the entry; its next span of the same call adds nothing."""
        if not self._calls or self._calls[-1].serial != call.serial:
            self._calls.append(call)

    def add_piece(self, start: int, stop: int, piece: Sized) -> None:
        """Notes the answer of rows [start, stop)."""
        self._pieces.append((start, piece))
        self.settled_rows += stop - start

    def add_guilty(self, row: int, error: BaseException) -> None:
        """Notes that `row` is guilty."""
        self.errors[row] = error
        self.settled_rows += 1

    def timing(self, entry: Entry, now: float) -> Timing:
        """Where the time went up to `now`."""
        calls = self._calls
        if not calls:
            return Timing(now - entry.arrived_s)
        first = min(calls, key=lambda call: call.started_s)
        return Timing(
            min(first.started_s, now) - entry.arrived_s,
            sum([call.execute_s for call in calls]),
            max([call.images for call in calls]),
            first.reason,
            sum([call.collate_s for call in calls]),
            sum([call.split_s for call in calls]),
            sum([call.is_retry for call in calls]),
            tuple(calls),
        )

    def answer(self, entry: Entry, now: float) -> Answer:
        """The pieces in row order, in whatever order they came."""
        pieces = tuple(piece for _, piece in sorted(self._pieces, key=itemgetter(0)))
        return Answer(pieces, self.errors, None, self.timing(entry, now))
