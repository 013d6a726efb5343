"""What was measured of a graph where it was first opened, for the graphs of the same structure that come after it.

A new version of a model is nearly always the same layers with other weights, for which waist and shards come to the
same. To measure them anew takes seconds of both cores beside the version that serves, and calls that are larger than
any that serves: TensorFlow's allocator never gives back what those took.
"""

from collections.abc import Mapping
from typing import NamedTuple

from darkroom.models.engine import PassReport

MAX_KEPT = 64  # structures, some hundred bytes each (guess: more than one server has models)


class Choice(NamedTuple):
    """What was decided of a signature, and the reports that say so.

    Attributes:
        waist: a tensor; empty: none.
        least: as darkroom.models.engines.sharded.ShardedEngine's; 0: shards don't pay.
        piece: as darkroom.models.engines.sharded.ShardedEngine's.
        found_waist: the report on the waist.
        found_shards: the report on shards; none where they were not tried.
    """

    waist: str = ""
    least: int = 0
    piece: int = 0
    found_waist: PassReport = PassReport("waist", applied=False)
    found_shards: tuple[PassReport, ...] = ()


class Choices:
    """The choices of a server's models, by structure (models/engines/structure.py) and signature; for one thread at a time."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Choice]] = {}

    def of(self, structure: str) -> Mapping[str, Choice]:
        """Those of a structure by signature; none where it was not measured yet."""
        return self._kept.get(structure, {})

    def keep(self, structure: str, choices: Mapping[str, Choice]) -> None:
        """Keeps those of a structure, and lets go the oldest of too many."""
        self._kept[structure] = dict(choices)
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]
