"""The rows of failed batches that wait to be run again, and their fair share of the engine."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from darkroom.batching.entry import PENDING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from darkroom.batching.entry import Span


class Bisection:
    """A failed batch of B rows comes back without its guilty rows, where the runner named them, and is whole again.

    Where it named none, bisection: two halves, down to single rows. Each guilty row costs at most two calls a level, so
    k of them at most 2k⌈log2 B⌉ beside the first. First in, first out. While healthy traffic waits, retries take at
    most as much engine time as its last batch did: a storm of poison leaves it half of the engine, and makes no batch
    of it wait for longer than about one batch more (I7).

    Attributes:
        rows: live rows that wait for a retry.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._groups: deque[list[Span]] = deque()
        self._credit = 0.0

    @property
    def may_go_first(self) -> bool:
        """Whether a retry may pass the healthy rows that wait."""
        return self._credit > 0

    def grant(self, cost: float) -> None:
        """A batch of healthy traffic of `cost` left: as much is open to retries, and no more is saved up."""
        self._credit = cost

    def spend(self, cost: float) -> None:
        """A retry of `cost` left."""
        self._credit -= cost

    def add(self, spans: Sequence[Span], *, halved: bool) -> None:
        """Adds these rows of pending entries, as one group or as two halves; one row is a half of its own."""
        images = 0
        for entry, start, stop in spans:
            entry.waiting_rows += stop - start
            images += stop - start
        self.rows += images
        self._groups += _cut(spans, images // 2) if halved else (list(spans),)

    def take(self) -> list[Span]:
        """The live rows of the oldest group that has any; empty where none has."""
        while self._groups:
            spans = [span for span in self._groups.popleft() if span[0].state is PENDING]
            if spans:
                for entry, start, stop in spans:
                    entry.waiting_rows -= stop - start
                    self.rows -= stop - start
                return spans
        return []


def _cut(spans: Sequence[Span], images: int) -> tuple[list[Span], list[Span]]:
    """The spans of the first `images` rows and those of the rest."""
    left: list[Span] = []
    right: list[Span] = []
    for entry, start, stop in spans:
        middle = min(stop, start + images)
        if middle > start:
            left.append((entry, start, middle))
        if middle < stop:
            right.append((entry, middle, stop))
        images -= middle - start
    return left, right
