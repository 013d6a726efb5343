"""The rows that were found guilty of late."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

_TTL_S = 60.0  # long enough for a client that retries, short enough for an error that passes (guess)
_ROWS = 1024  # identities are hashes: some 100 KB (guess)


class PoisonCache:
    """Remembers guilty rows by identity, each for a minute and the latest thousand only.

    A repeat of one is answered with the error of the first, and costs no call.
    """

    def __init__(self, *, ttl_s: float = _TTL_S, rows: int = _ROWS) -> None:
        self._ttl_s = ttl_s
        self._rows = rows
        self._guilty: dict[Hashable, tuple[float, BaseException]] = {}  # oldest first, so the first to be forgotten

    def add(self, identity: Hashable, error: BaseException, now: float) -> None:
        """Remembers a guilty row."""
        self._guilty.pop(identity, None)
        self._guilty[identity] = (now + self._ttl_s, error)
        if len(self._guilty) > self._rows:
            del self._guilty[next(iter(self._guilty))]

    def is_empty(self, now: float) -> bool:
        """Whether nothing is remembered, so that no identity need be computed; forgets what is too old."""
        while self._guilty:
            oldest = next(iter(self._guilty))
            if self._guilty[oldest][0] > now:
                return False
            del self._guilty[oldest]
        return True

    def find(self, identity: Hashable) -> BaseException | None:
        """The error of a guilty row; asked after `is_empty`."""
        found = self._guilty.get(identity)
        return None if found is None else found[1]
