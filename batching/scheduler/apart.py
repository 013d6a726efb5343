"""Learns whether rows of several kinds fail where they share a batch, and which are kept apart then."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from darkroom.batching.entry import Entry, Halves

TOGETHER, BY_KIND, ALONE = range(3)
# Guesses. Where less than one merged call in ten fails for this, halving costs less than smaller batches would.
MISFITS = 4.0
FORGIVEN = 0.1


class KeptApart(NamedTuple):
    """The key of an entry that shares batches with its kind only; a kind of None: its rows run one by one."""

    key: Hashable
    kind: Hashable


class Apart:
    """How far the rows of one queue are kept apart. It only rises: TOGETHER, then BY_KIND, then ALONE.

    A graph may decode each picture at its own size and stack them: then no call with pictures of two sizes succeeds,
    though each of them is fine. Without this every such call would fail and be halved for ever.

    Attributes:
        level: how far.
    """

    def __init__(self) -> None:
        self.level = TOGETHER
        self._misfits = 0.0

    def note_success(self, halves: Halves | None, entry: Entry) -> None:
        """A batch of several rows was answered, or a half of a failed one, with what became of its `halves`.

        A batch whose `entry` came before the level rose says nothing: it may hold rows that share no batch now.
        """
        if self.level != TOGETHER and not isinstance(entry.key, KeptApart):
            return
        if halves is None:
            self._misfits = max(0.0, self._misfits - FORGIVEN)
            return
        halves.fine += 1
        if halves.fine == 2:
            self._misfits += 1
            if self._misfits >= MISFITS and self.level < ALONE:
                self.level += 1
                self._misfits = 0.0

    def place(self, entry: Entry) -> None:
        """Gives a new entry the key that keeps it apart; to be called above TOGETHER only."""
        entry.key = KeptApart(entry.key, entry.kind if self.level == BY_KIND else None)
