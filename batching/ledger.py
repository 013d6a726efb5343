"""What has come back so far of one entry that rides in more than one batch."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import TYPE_CHECKING

from darkroom.batching.answer import Answer, Timing

if TYPE_CHECKING:
    from collections.abc import Sized

    from darkroom.batching.backend import BatchReport
    from darkroom.batching.batch import Batch, Reason
    from darkroom.batching.entry import Entry


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
