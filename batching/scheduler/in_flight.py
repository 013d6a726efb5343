"""The calls that the runner has at the moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.batching.entry import Batch

if TYPE_CHECKING:
    from darkroom.batching.entry import Reason, Span
    from darkroom.batching.limits import Limits
    from darkroom.batching.scheduler.batch_size import BatchSizer


class InFlight:
    """At most `max_inflight_batches` batches.

    Attributes:
        is_free: whether the runner may be given one more.
    """

    def __init__(self, limits: Limits, policy: BatchSizer) -> None:
        self.is_free = True
        self._limits = limits
        self._policy = policy
        self._batches: list[Batch] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._batches)

    def take(self, spans: list[Span], images: int, reason: Reason, now: float) -> Batch:
        """Makes a batch of `spans`, which hold `images` rows, and gives it a free slot."""
        padding = 0 if spans[0][0].whole else self._limits.padding(images)
        self._serial += 1
        forecast_s = now + self._policy.cost(images + padding)
        batch = Batch(
            self._serial, spans, images, padding=padding, reason=reason, dispatched_s=now, forecast_s=forecast_s
        )
        self._batches.append(batch)
        self.is_free = len(self._batches) < self._limits.max_inflight_batches
        return batch

    def free(self, batch: Batch) -> None:
        """Frees the slot of a batch that came back."""
        batch.is_out = False
        self._batches.remove(batch)
        self.is_free = True

    def next_free_s(self, now: float) -> float:
        """When a slot is expected to be free."""
        return now if self.is_free else max(now, min([batch.forecast_s for batch in self._batches]))

    def clear(self) -> None:
        """Waits for none of them any more."""
        for batch in tuple(self._batches):
            self.free(batch)
