"""Where the versions of a model come from: a folder of version folders, or a table of functions. Never parses a file."""

import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from darkroom.models.engine import LoadedModel
from darkroom.models.errors import LoadFailed
from darkroom.models.saved_model import FILE_NAME

SETTLED_SCANS = 2  # guess: a copy that pauses for longer than a scan's interval is rare, and the load notices it


class Found(NamedTuple):
    """A version that exists: `stamp` changes when its files do; it is settled when they have stopped changing."""

    stamp: Hashable
    is_settled: bool = True


class Source(Protocol):
    """What a model's versions are found in and loaded from. Both methods block, and run in a thread."""

    def scan(self) -> Mapping[int, Found]:
        """The versions that exist now.

        Raises:
            LoadFailed: the source cannot be read.
        """

    def load(self, version: int) -> LoadedModel:
        """One of the versions, ready to answer. It may take minutes.

        Raises:
            LoadFailed: it cannot be served; the message says why and names no path.
        """


class GivenSource:
    """Versions that functions make at once, by number: the fakes, and models that a test or a program has loaded."""

    def __init__(self, versions: Mapping[int, Callable[[], LoadedModel]]) -> None:
        self._versions = dict(versions)

    def scan(self) -> Mapping[int, Found]:
        """All of them, always."""
        return dict.fromkeys(self._versions, Found(stamp=None))

    def load(self, version: int) -> LoadedModel:
        """What the version's function makes."""
        return self._versions[version]()


class FolderSource:
    """The versions in a folder, each loaded by `load` from its path and number.

    A version is settled when its files are complete, as far as their names tell, and either its last change is
    `settle_s` old or SETTLED_SCANS scans found it unchanged. The second rule is for a file server whose clock differs.
    """

    def __init__(
        self,
        base_path: Path,
        load: Callable[[Path, int], LoadedModel],
        *,
        settle_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._base_path = base_path
        self._load = load
        self._settle_s = settle_s
        self._clock = clock
        self._seen: dict[int, tuple[Hashable, int]] = {}  # version → its stamp, and how many scans found it so

    def scan(self) -> Mapping[int, Found]:
        """See Source."""
        seen: dict[int, tuple[Hashable, int]] = {}
        found = {}
        for version, folder in versions(self._base_path).items():
            try:
                stamp, changed_s = self._stamp(folder)
                is_whole = self._is_whole(folder)
            except OSError:  # it is being deleted
                continue
            before, scans = self._seen.get(version, (None, 0))
            seen[version] = (stamp, scans + 1 if stamp == before else 1)
            is_still = seen[version][1] >= SETTLED_SCANS or 0 <= self._settle_s <= self._clock() - changed_s
            found[version] = Found(stamp, is_settled=is_still and is_whole)
        self._seen = seen
        return found

    def load(self, version: int) -> LoadedModel:
        """See Source."""
        folder = versions(self._base_path).get(version)
        if folder is None:
            raise LoadFailed("its folder is gone")
        return self._load(folder, version)

    @staticmethod
    def _stamp(folder: Path) -> tuple[Hashable, float]:
        """A value that changes when a file of the folder does, and the time of the last change by the file system's clock.

        That is the change time, not the modification time, since a copy may preserve the modification time.
        """
        stats = [(str(path.relative_to(folder)), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
        stamp = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
        return stamp, max((stat.st_ctime for _, stat in stats), default=0.0)

    @staticmethod
    def _is_whole(folder: Path) -> bool:
        """Whether the variables have an index and as many pieces as their names say."""
        pieces = [path.name for path in (folder / "variables").glob("variables.data-*-of-*")]
        has_index = (folder / "variables" / "variables.index").is_file()
        return bool(pieces) == has_index and all(len(pieces) == int(name.rpartition("-")[2]) for name in pieces)


def versions(base_path: Path) -> dict[int, Path]:
    """The version folders in `base_path`, oldest first: named by a number, with saved_model.pb in them.

    `00000123` is version 123. Where `1` and `01` both exist, the shorter name wins. Everything else is ignored.

    Raises:
        LoadFailed: the folder does not exist, cannot be listed, or has no version in it.
    """
    try:
        folders = sorted(base_path.iterdir(), key=lambda folder: (len(folder.name), folder.name), reverse=True)
        found = {
            int(folder.name): folder for folder in folders if _is_number(folder.name) and (folder / FILE_NAME).is_file()
        }
    except OSError as err:
        raise LoadFailed(f"the model's folder cannot be listed: {err.strerror}") from err
    if not found:
        hint = "; it is a SavedModel itself: give the folder above" if (base_path / FILE_NAME).is_file() else ""
        raise LoadFailed(f"the model's folder has no version: a folder named by a number, with {FILE_NAME} in it{hint}")
    return dict(sorted(found.items()))


def locate(path: Path) -> tuple[Path, str, int]:
    """The version folder that a command means, its model's name and its number.

    Args:
        path: a version folder, or a folder of them, of which the newest is taken.

    Raises:
        LoadFailed: it is neither.
    """
    if (path / FILE_NAME).is_file():
        whole = path.resolve()
        return (path, whole.parent.name, int(whole.name)) if _is_number(whole.name) else (path, whole.name, 1)
    version, folder = max(versions(path).items())
    return folder, path.resolve().name, version


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()
