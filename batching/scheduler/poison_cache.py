"""The rows that were found guilty in the last minute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.batching.entry import NO_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from darkroom.batching.entry import Entry

_TTL_S = 60.0  # long enough for a client that retries, short enough for an error that passes (guess)
_ROWS = 1024  # identities are hashes: about 100 KB (guess)


class PoisonCache:
    """Remembers guilty rows by identity, each for a minute, and only the latest thousand.

    A repeated guilty row is answered with the error of the first, and costs no call. While nothing is remembered, no
    identity is computed.

    Args:
        identity: the hash of a row, by payload and index.
    """

    def __init__(
        self, identity: Callable[[object, int], Hashable], *, ttl_s: float = _TTL_S, rows: int = _ROWS
    ) -> None:
        self._identity = identity
        self._ttl_s = ttl_s
        self._rows = rows
        self._guilty: dict[Hashable, tuple[float, BaseException]] = {}  # the oldest first

    def add(self, entry: Entry, row: int, error: BaseException, now: float) -> None:
        """Remembers a guilty row of a pending entry."""
        label = entry.key, self._identity(entry.payload, row)
        self._guilty.pop(label, None)
        self._guilty[label] = now + self._ttl_s, error
        if len(self._guilty) > self._rows:
            del self._guilty[next(iter(self._guilty))]

    def find(self, entry: Entry, now: float) -> Mapping[int, BaseException]:
        """The errors of the rows of `entry` that are remembered, by row; none for an entry that must stay whole."""
        guilty = self._guilty
        while guilty:
            label, (until_s, _) = next(iter(guilty.items()))
            if until_s > now:
                break
            del guilty[label]
        if not guilty or entry.whole:
            return NO_ERRORS
        errors = {}
        for row in range(entry.rows):
            found = guilty.get((entry.key, self._identity(entry.payload, row)))
            if found is not None:
                errors[row] = found[1]
        return errors
