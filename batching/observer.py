"""What the scheduler tells about itself: events out, no metrics in."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from darkroom.batching.backend import BatchReport
    from darkroom.batching.entry import Batch, Timing
    from darkroom.batching.errors import BatchingError


class Outcome(StrEnum):
    """How an accepted entry ended."""

    OK = "ok"
    INVALID_INPUT = "invalid_input"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    MODEL_ERROR = "model_error"
    DRAINING = "draining"


class Observer:
    """Hears of each event once, on the loop; every method does nothing until a subclass says otherwise.

    An exception of an observer is reported to the loop's exception handler and hurts nobody.
    """

    def refused(self, rows: int, error: BatchingError) -> None:
        """An entry of `rows` rows was not taken: QueueFull, PredictedLate or Closed."""

    def ended(self, rows: int, outcome: Outcome, timing: Timing, error: BaseException | None) -> None:
        """An accepted entry ended. `error` is its Answer's error, or that of its first guilty row; None when OK."""

    def dispatched(self, batch: Batch) -> None:
        """A batch is about to go to the runner, retries too."""

    def ran(self, batch: Batch, report: BatchReport) -> None:
        """A batch came back, well or not."""

    def retried(self, batch: Batch) -> None:
        """The batch about to go looks for a guilty row; told after `dispatched`."""

    def guilty(self, error: BaseException) -> None:
        """A row was run alone, or remembered, and found to be what made its batch fail."""

    def predicted(self, error_s: float) -> None:
        """An answered entry ended `error_s` after the time that admission predicted; negative: before."""


class QueueStats(NamedTuple):
    """A look at one batcher.

    Attributes:
        images: rows that wait, for a first time or for a retry.
        bytes: of the entries that have rows that were in no batch yet.
        capacity_images: the bound on `images`.
        oldest_age_s: of the oldest row that waits for its first batch; 0.0 where none does.
        inflight_batches: calls that the runner has.
        target_images: the size that a long queue is cut into.
    """

    images: int
    bytes: int
    capacity_images: int
    oldest_age_s: float
    inflight_batches: int
    target_images: int
