"""Where the versions of a model come from."""

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, Protocol

from darkroom.models.engine import LoadedModel


class Found(NamedTuple):
    """A version that is there: `stamp` changes when its files do; it is settled when they have stood still."""

    stamp: Hashable
    is_settled: bool = True


class Source(Protocol):
    """What a model's versions are looked for in, and loaded from. Both block, and run in a thread."""

    def scan(self) -> Mapping[int, Found]:
        """The versions that are there now.

        Raises:
            LoadFailed: it cannot be looked into.
        """

    def load(self, version: int) -> LoadedModel:
        """One of them, ready to answer; it may take minutes.

        Raises:
            LoadFailed: it cannot be served; the message says why and names no path.
        """


class GivenSource:
    """Versions that `make` gives at once, by number: the fakes, and models that a test or a program loaded itself."""

    def __init__(self, versions: Mapping[int, Callable[[], LoadedModel]]) -> None:
        self._versions = dict(versions)

    def scan(self) -> Mapping[int, Found]:
        """All of them, always."""
        return dict.fromkeys(self._versions, Found(stamp=None))

    def load(self, version: int) -> LoadedModel:
        """What was given."""
        return self._versions[version]()
