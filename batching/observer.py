"""What the scheduler reports about itself: events as they happen, and a snapshot for gauges. No metrics here."""

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
    """Is told of each event once, on the loop; subclasses override what they need, the other methods do nothing.

    An exception of an observer is reported to the loop's exception handler and affects no entry.
    """

    def refused(self, rows: int, error: BatchingError) -> None:
        """An entry of `rows` rows was refused: QueueFull, PredictedLate or Closed."""

    def ended(self, rows: int, outcome: Outcome, timing: Timing, error: BaseException | None) -> None:
        """An accepted entry ended. `error` is its Answer's error, or that of its first guilty row; None when OK."""

    def dispatched(self, batch: Batch) -> None:
        """A batch is about to go to the backend; retries included."""

    def ran(self, batch: Batch, report: BatchReport) -> None:
        """A batch came back, whether it succeeded or failed."""

    def retried(self, batch: Batch) -> None:
        """The batch that is about to go is a retry; told after `dispatched`."""

    def guilty(self, error: BaseException) -> None:
        """A row made its batch fail: it failed alone, was named by the backend, or is remembered."""

    def kept_apart(self, is_alone: bool) -> None:  # noqa: FBT001 - a callback
        """Calls failed with rows that were fine apart: from now on rows share calls with their kind only, or with none."""

    def predicted(self, error_s: float) -> None:
        """An answered entry ended `error_s` seconds after the time that admission predicted; negative: before."""


class QueueStats(NamedTuple):
    """A snapshot of one batcher, for gauges.

    Attributes:
        images: rows that wait, for their first batch or for a retry.
        bytes: of the entries that have rows that were in no batch yet.
        capacity_images: the bound on `images`.
        oldest_age_s: of the oldest row that waits for its first batch; 0.0 if none does.
        inflight_batches: calls that the backend has.
        slots: calls that it may have.
        target_images: the batch size for a long queue.
        failing: 1 if the backend counts as broken.
        stuck_batches: calls of which the callers were told that they take too long, and that have not returned.
    """

    images: int
    bytes: int
    capacity_images: int
    oldest_age_s: float
    inflight_batches: int
    target_images: int
    slots: int = 1
    stuck_batches: int = 0
    failing: int = 0
