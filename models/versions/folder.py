"""Where the versions of a model come from: a folder of version folders, or a table of functions. Never parses a file.

The supervisor of workers imports it, so it imports no numpy.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from darkroom.models.errors import LoadFailed, quote
from darkroom.models.saved_model import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from darkroom.models.engine import LoadedModel

MODEL_FOLDER = "model.savedmodel"  # in a version folder of Triton's repositories
MAX_VERSION = (1 << 63) - 1  # precedent: TensorFlow Serving's versions are int64
_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # of a link that leads nowhere, and of a stray file
SETTLED_SCANS = 2  # guess: a copy that pauses for longer than a scan's interval is rare, and the load notices it


# The files of a SavedModel that a load cannot do without. A copy is judged by these, and by nothing else.
_KNOWN = re.compile(r"saved_model\.pb|variables\.index|variables\.data-(\d{5,9})-of-(\d{5,9})")


class Found(NamedTuple):
    """A version that exists: `stamp` changes when its files do; it is settled when they have stopped changing.

    `missing` is what a half-copied version still waits for, for people; empty where its files are complete. `size` is
    the bytes of its files. `is_coming`: the source is fetching it, so the start of the server waits for it.
    """

    stamp: Hashable
    is_settled: bool = True
    missing: str = ""
    size: int = 0
    is_coming: bool = False


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
        model_folder: str = MODEL_FOLDER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._base_path = base_path
        self._model_folder = model_folder
        self._load = load
        self._settle_s = settle_s
        self._clock = clock
        self._seen: dict[int, tuple[Hashable, int]] = {}  # version → its stamp, and how many scans found it so

    def scan(self) -> Mapping[int, Found]:
        """See Source."""
        seen: dict[int, tuple[Hashable, int]] = {}
        found = {}
        for version, folder in versions(self._base_path, self._model_folder).items():
            try:
                files = _files(folder)
            except (FileNotFoundError, NotADirectoryError):  # it is being deleted
                continue
            except OSError as err:  # its load will say that it cannot be read
                found[version] = Found(("unreadable", err.errno))
                continue
            stamp = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in files.items())
            # The change time, not the modification time, since a copy may preserve the modification time.
            changed_s = max((stat.st_ctime for stat in files.values()), default=0.0)
            before, scans = self._seen.get(version, (None, 0))
            seen[version] = (stamp, scans + 1 if stamp == before else 1)
            is_still = seen[version][1] >= SETTLED_SCANS or 0 <= self._settle_s <= self._clock() - changed_s
            sizes = {name: stat.st_size for name, stat in files.items()}
            missing = incomplete(sizes)
            found[version] = Found(stamp, is_still and not missing, missing, sum(sizes.values()))
        self._seen = seen
        return found

    def load(self, version: int) -> LoadedModel:
        """See Source."""
        folder = versions(self._base_path, self._model_folder).get(version)
        if folder is None:
            raise LoadFailed("its folder is gone")
        return self._load(folder, version)


def _files(folder: Path) -> dict[str, os.stat_result]:
    """Every file below a folder, by its path there, in order. A link that leads nowhere is no file.

    Raises:
        OSError: the folder, or a folder in it, can't be listed or entered.
    """
    files: dict[str, os.stat_result] = {}

    def refuse(err: OSError) -> None:
        raise err

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            try:
                files[str(path.relative_to(folder))] = path.stat()
            except OSError as err:
                if err.errno not in _NO_FILE:
                    raise
    return files


def incomplete(sizes: Mapping[str, int]) -> str:
    """What a version still waits for while it is being copied, for people; empty where its files are complete.

    Args:
        sizes: the bytes of each file, by its path in the version's folder.
    """
    shards: dict[int, set[int]] = {}  # number of shards → those that are there
    for path, size in sizes.items():
        folder, _, name = path.rpartition("/")
        known = _KNOWN.search(name) if folder in {"", "variables"} else None
        if known is None:
            continue
        # Tools give a file its name when it is whole. Before that it is, for example, `.NAME.XXXXXX` (rsync),
        # `NAME.6eF6aBcD` (aws s3 cp), `NAME_.gstmp` (gsutil), `.azDownload-UUID-NAME` (azcopy), `NAME.part`, `NAME.tmp`.
        if known[0] != name and path.removesuffix(name) + known[0] not in sizes:
            return f"{known[0]} is being copied, as {quote(name)}"
        if known[0] == name and not size:
            return f"{name} is empty"
        if known[0] == name and known[2] and int(known[1]) < int(known[2]):
            shards.setdefault(int(known[2]), set()).add(int(known[1]))
    if FILE_NAME not in sizes:
        return f"{FILE_NAME} is missing"
    if bool(shards) != ("variables/variables.index" in sizes):
        return "variables.index is missing" if shards else "the variables.data files are missing"
    lacks = [of - len(there) for of, there in shards.items()]
    return f"{min(lacks)} of the variables.data files are missing" if shards and min(lacks) else ""


def versions(base_path: Path, model_folder: str = MODEL_FOLDER) -> dict[int, Path]:
    """The SavedModel of each version in `base_path`, oldest version first.

    It is a folder named by a number that has a saved_model.pb, or half of one, or the `model_folder` in such a folder.
    `00000123` is version 123. Where `1` and `01` both exist, the shorter name wins. A folder that cannot be entered is a
    version too: its load says so. Everything else is ignored.

    Raises:
        LoadFailed: the folder does not exist, cannot be listed, or has no version in it.
    """
    try:
        folders = sorted(base_path.iterdir(), key=lambda folder: (len(folder.name), folder.name), reverse=True)
        found = {
            int(folder.name): inner
            for folder in folders
            if is_number(folder.name) and (inner := _saved_model_in(folder, model_folder)) is not None
        }
    except OSError as err:
        hint = "; `darkroom export` makes one of a Keras file" if isinstance(err, NotADirectoryError) else ""
        raise LoadFailed(f"the model's folder cannot be listed: {err.strerror}{hint}") from err
    if not found:
        hint = "give the folder above" if is_number(base_path.name) else f"move its files into {base_path.name}/1"
        hint = f"; it is a SavedModel itself: {hint}" if (base_path / FILE_NAME).is_file() else ""
        where = f"{FILE_NAME} or {model_folder}/{FILE_NAME}"
        raise LoadFailed(f"the model's folder has no version: a folder named by a number, with {where} in it{hint}")
    return dict(sorted(found.items()))


def locate(path: Path) -> tuple[Path, str, int]:
    """The version folder that a command means, its model's name and its number.

    Args:
        path: a version folder, or a folder of them, of which the newest is taken.

    Raises:
        LoadFailed: it is neither.
    """
    if re.match(r"[A-Za-z][\w+.-]*:/", str(path)):  # `//` is one slash in a Path
        raise LoadFailed("must be a folder of this machine: copy the version from its store first")
    if is_number(path.resolve().name) and (path / MODEL_FOLDER / FILE_NAME).is_file():
        whole = path.resolve()
        return path / MODEL_FOLDER, whole.parent.name, int(whole.name)
    if (path / FILE_NAME).is_file():
        whole = path.resolve()
        return (path, whole.parent.name, int(whole.name)) if is_number(whole.name) else (path, whole.name, 1)
    version, folder = max(versions(path).items())
    return folder, path.resolve().name, version


def is_number(name: str) -> bool:
    """Whether a folder of this name is a version."""
    return name.isascii() and name.isdecimal() and int(name) <= MAX_VERSION


def _saved_model_in(folder: Path, model_folder: str) -> Path | None:
    """The SavedModel of a version folder: the folder itself, or the one in it that Triton's repositories have."""
    return next((each for each in (folder, folder / model_folder) if _is_version(each)), None)


def _is_version(folder: Path) -> bool:
    """Whether a folder has a SavedModel, or a part of one that is being copied; True for one that cannot be entered."""
    try:
        if (folder / FILE_NAME).is_file():
            return True
        return any(FILE_NAME in path.name for path in folder.iterdir() if path.is_file())
    except OSError as err:
        return err.errno not in _NO_FILE
