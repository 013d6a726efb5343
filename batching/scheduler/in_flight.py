"""The batches that the backend has at the moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.batching.entry import Batch

if TYPE_CHECKING:
    from darkroom.batching.entry import Reason, Span


class InFlight:
    """At most `places` batches.

    Attributes:
        batches: those that the backend has, oldest first.
        is_free: whether the backend may be given one more.
        is_stuck: whether each place is taken by a batch that is stuck, so that no batch can start.
    """

    def __init__(self, places: int) -> None:
        self.batches: list[Batch] = []
        self.is_free = True
        self.is_stuck = False
        self._places = places
        self._serial = 0

    def add(
        self, spans: list[Span], images: int, *, padding: int, reason: Reason, now: float, expected_s: float
    ) -> Batch:
        """Makes a batch of `spans`, which hold `images` rows, and gives it a free place."""
        self._serial += 1
        batch = Batch(
            self._serial, spans, images, padding=padding, reason=reason, dispatched_s=now, expected_s=expected_s
        )
        self.batches.append(batch)
        self.is_free = len(self.batches) < self._places
        return batch

    def remove(self, batch: Batch) -> None:
        """Frees the place of a batch that came back."""
        batch.is_out = False
        self.batches.remove(batch)
        self.is_free = True
        self.is_stuck = False

    def give_up(self, batch: Batch) -> None:
        """Notes that a batch is stuck. Its place stays taken until it comes back."""
        batch.is_stuck = True
        self.is_stuck = not self.is_free and all(each.is_stuck for each in self.batches)

    def next_free_s(self, now: float) -> float:
        """When a place is expected to be free."""
        if self.is_free:
            return now
        return max(now, min([batch.dispatched_s + batch.expected_s for batch in self.batches]))

    def clear(self) -> None:
        """Frees all places; no batch is expected back any more."""
        for batch in tuple(self.batches):
            self.remove(batch)
