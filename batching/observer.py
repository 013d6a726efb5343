"""What the scheduler tells about itself: events out, no metrics in."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.batching.answer import Timing
    from darkroom.batching.backend import BatchReport
    from darkroom.batching.batch import Batch
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
