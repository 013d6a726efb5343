"""The rows of failed batches that wait for a retry, and their fair share of the engine."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from darkroom.batching.entry import PENDING, Halves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from darkroom.batching.entry import Span


class Bisection:
    """Groups of rows to be run again, first in, first out.

    A failed batch of B rows is retried without its guilty rows, as one group, if the backend named them. If it named
    none, the batch is retried as two halves, down to single rows. Each guilty row then costs at most two calls a level,
    so k of them cost at most 2k⌈log2 B⌉ calls in addition to the first.

    While healthy rows wait, retries take at most as much engine time as the last batch of healthy rows did. A storm of
    poison therefore leaves half of the engine to healthy traffic, and delays each of its batches by about one batch
    (I7).

    Attributes:
        rows: live rows that wait for a retry.
        credit: engine seconds that retries may still take before the healthy rows that wait.
        halves: of the group that was taken last, what became of both halves; None: it is no half.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.credit = 0.0
        self.halves: Halves | None = None
        self._groups: deque[tuple[list[Span], Halves | None]] = deque()

    def add(self, spans: Sequence[Span], *, halved: bool) -> None:
        """Adds these rows of pending entries, as one group or as two halves; one row is a half of its own."""
        images = 0
        for entry, start, stop in spans:
            entry.waiting_rows += stop - start
            images += stop - start
        self.rows += images
        if not halved:
            self._groups.append((list(spans), None))
            return
        left: list[Span] = []
        right: list[Span] = []
        room = images // 2
        for entry, start, stop in spans:
            middle = min(stop, start + room)
            if middle > start:
                left.append((entry, start, middle))
            if middle < stop:
                right.append((entry, middle, stop))
            room -= middle - start
        halves = Halves()
        self._groups += ((left, halves), (right, halves))

    def take(self) -> list[Span]:
        """The live rows of the oldest group that has any; `rows` is not 0."""
        spans: list[Span] = []
        while not spans:
            group, self.halves = self._groups.popleft()
            spans = [span for span in group if span[0].state is PENDING]
        for entry, start, stop in spans:
            entry.waiting_rows -= stop - start
            self.rows -= stop - start
        return spans
