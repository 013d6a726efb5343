"""Versions on disk: which there are, and whether their files have stood still. Reads folders, never what is in them."""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path

from darkroom.models.engine import LoadedModel
from darkroom.models.errors import LoadFailed
from darkroom.models.saved_model import FILE_NAME
from darkroom.models.versions.source import Found

SETTLED_SCANS = 2  # guess: a copy that pauses for longer than a scan's interval is rare, and found out by the load


def versions(base_path: Path) -> dict[int, Path]:
    """The version folders in `base_path`, oldest first: named by a number, with saved_model.pb in them.

    `00000123` is version 123; where `1` and `01` both exist, the plainer name wins. All else is left alone.

    Raises:
        LoadFailed: there is no such folder, it cannot be listed, or no version is in it.
    """
    try:
        folders = sorted(base_path.iterdir(), key=lambda folder: (len(folder.name), folder.name), reverse=True)
        found = {int(folder.name): folder for folder in folders if _is_version(folder)}
    except OSError as err:
        raise LoadFailed(f"the model's folder cannot be listed: {err.strerror}") from err
    if not found:
        hint = "; it is a SavedModel itself: give the folder above" if (base_path / FILE_NAME).is_file() else ""
        raise LoadFailed(f"the model's folder has no version: a folder named by a number, with {FILE_NAME} in it{hint}")
    return dict(sorted(found.items()))


class FolderSource:
    """The versions in a folder, each loaded by `load` from its path and number.

    A version is settled when it is whole, as far as its file names tell, and either its last change is `settle_s` old
    or SETTLED_SCANS scans found it the same: the second is for a file server whose clock is not ours.
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
                stamp, changed_s = _stamp(folder)
                is_whole = _is_whole(folder)
            except OSError:  # it is being taken away under our eyes
                continue
            before, scans = self._seen.get(version, (None, 0))
            seen[version] = (stamp, scans + 1 if stamp == before else 1)
            has_stood = seen[version][1] >= SETTLED_SCANS or 0 <= self._settle_s <= self._clock() - changed_s
            found[version] = Found(stamp, is_settled=has_stood and is_whole)
        self._seen = seen
        return found

    def load(self, version: int) -> LoadedModel:
        """See Source."""
        folder = versions(self._base_path).get(version)
        if folder is None:
            raise LoadFailed("its folder is gone")
        return self._load(folder, version)


def _stamp(folder: Path) -> tuple[Hashable, float]:
    """What changes when a file of the folder does; and when that was last, in seconds of the file system's clock.

    The change time, not the modification time, tells the second: a copy that keeps times does not keep it.
    """
    stats = [(str(path.relative_to(folder)), path.stat()) for path in _files(folder)]
    stamp = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return stamp, max((stat.st_ctime for _, stat in stats), default=0.0)


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def _is_whole(folder: Path) -> bool:
    """Whether variables come with their index and in as many pieces as their names say."""
    pieces = [path.name for path in (folder / "variables").glob("variables.data-*-of-*")]
    has_index = (folder / "variables" / "variables.index").is_file()
    return bool(pieces) == has_index and all(len(pieces) == int(name.rpartition("-")[2]) for name in pieces)


def _is_version(folder: Path) -> bool:
    name = folder.name
    return name.isascii() and name.isdecimal() and (folder / FILE_NAME).is_file()
