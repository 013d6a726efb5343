"""The folder that a store is mirrored into: whole versions or none, up to a limit of bytes that all mirrors share.

A mirror's folder has its versions (`3/`), those that are being fetched (`.part-3-DIGEST/`), and what the store listed
last (`.listing.json`). Each version has its manifest in it. Several processes may share a mirror: one at a time fetches,
the others read. The modification time of a version's folder says until when some process needs it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from darkroom.models.versions.cache import check_owner
from darkroom.models.versions.folder import is_number
from darkroom.models.versions.stores.archive import NoRoom, Refused, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from darkroom.models.versions.stores.bucket import Bucket, Listing, StoredObject

MANIFEST = ".darkroom.json"  # in a version's folder: no object can have such a name
INCOMING = ".darkroom.incoming"  # as above: the object that is being fetched
PART, GONE = ".part-", ".gone-"
MAX_RATIO = 20  # guess: of an archive's unpacked bytes to its own; weights are hardly compressed
LEASE_S = 60.0  # guess: of what is being fetched; renewed with each piece


class OnBytes(Protocol):
    """Told how many bytes of a version came, or were here already."""

    def __call__(self, size: int, *, is_new: bool) -> None:
        """Counts them."""


class Mirrored(NamedTuple):
    """A version, or a part of one, that is on disk: what it is a copy of, and its bytes when it is whole.

    `tags` are the size and the ETag of each file by its path; nobody needs it after `until_s`, since the epoch.
    """

    folder: Path
    digest: str
    size: int
    tags: dict[str, tuple[int, str]]
    until_s: float


class MirrorCache:
    """The folder of all mirrors, and the limit of their bytes.

    Args:
        folder: made when it is needed. Only one that no other user can write to is used.
        max_bytes: of the versions that are on disk or being fetched.
        clock: in seconds since the epoch.
    """

    def __init__(self, folder: Path, *, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.clock = clock

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context manager: no other process reserves room meanwhile."""
        with (self.folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def make_room(self, needed_bytes: int, *, wished_bytes: int = 0) -> int:
        """Deletes what nobody needs, the longest unneeded first, until there is room; returns it. To be called locked.

        More than `needed_bytes` are wished for where the size is not known.

        Raises:
            NoRoom: there is none; nothing was deleted.
        """
        there = [each for mirror in self.folder.iterdir() if mirror.is_dir() for each in mirrored_in(mirror)]
        room = self.max_bytes - sum(each.size for each in there)
        spare = sorted((each for each in there if each.until_s < self.clock()), key=attrgetter("until_s"))
        most = room + sum(each.size for each in spare)
        if most < needed_bytes:
            limit = f"--store_cache_bytes={self.max_bytes}"
            why = f"and {limit} leaves {max(0, most)}: versions that are served or wanted have the rest"
            why = why if needed_bytes <= self.max_bytes else f"more than {limit} allows"
            raise NoRoom(f"it has {needed_bytes} bytes, {why}", needed_bytes=needed_bytes)
        for each in spare:
            if room < max(needed_bytes, wished_bytes):
                remove(each.folder)
                room += each.size
        return room


class Mirror:
    """The mirror of one address.

    Attributes:
        folder: of the versions.
    """

    def __init__(self, cache: MirrorCache, address: str) -> None:
        name = re.sub(r"[^\w.-]+", "-", address.partition("://")[2])[-60:].strip("-.")
        self._cache = cache
        self._unpacked_bytes: dict[str, int] = {}  # of archives that had no room: by digest, what they need at least
        self.folder = cache.folder / f"{name}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Context manager: whether the caller may change the mirror; while it is held, no other process may.

        Raises:
            OSError: the folder can't be made or written to, or another user can write to it.
        """
        self._cache.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_owner(self._cache.folder)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with (self.folder / ".lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            for gone in self.folder.glob(f"{GONE}*"):
                shutil.rmtree(gone, ignore_errors=True)
            yield True

    def read(self) -> dict[str, Any] | None:
        """What `write` kept, by any process; None if nothing was ever kept."""
        return read_json(self.folder / ".listing.json")

    def write(self, listing: Mapping[str, Any]) -> None:
        """Keeps what the store listed, for other processes and for the next start."""
        write_json(self.folder / ".listing.json", listing)

    def versions(self) -> dict[int, Mirrored]:
        """The versions that are whole."""
        return {int(each.folder.name): each for each in mirrored_in(self.folder) if is_number(each.folder.name)}

    def need(self, version: int, for_s: float) -> None:
        """Keeps a version from being deleted for some seconds."""
        self._lease(self.folder / str(version), for_s)

    def _lease(self, folder: Path, for_s: float) -> None:
        until_s = self._cache.clock() + for_s
        with suppress(OSError):  # it was deleted, or another process owns it
            os.utime(folder, (until_s, until_s))

    def drop_parts(self, but: Iterable[str]) -> None:
        """Deletes what was fetched of versions, except of those that `part_name` names."""
        for part in set(self.folder.glob(f"{PART}*")) - {self.folder / name for name in but}:
            remove(part)

    def put(self, version: int, listing: Listing, bucket: Bucket, on_bytes: OnBytes) -> None:
        """Fetches a version and puts it in place, whole or not at all. To be called in a `turn`.

        What is there already with the same size and ETag is not fetched again.

        Raises:
            Refused: it can't be mirrored as it is.
            StoreFailed: see `Bucket.fetch`. What came before is kept for the next try.
            OSError: it can't be written.
        """
        part = self.folder / part_name(version, listing)

        def count(size: int) -> None:
            self._lease(part, LEASE_S)
            on_bytes(size, is_new=True)

        with self._cache.locked():
            if read_json(part / MANIFEST) is None:
                self._reserve(part, version, listing)
        for wanted in listing.objects:
            path = part / wanted.path
            if path.is_file():
                on_bytes(wanted.size, is_new=False)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with (part / INCOMING).open("wb") as file:
                bucket.fetch(wanted, file, count)
            (part / INCOMING).rename(path)
        whole = self._unpacked(part, listing) if listing.is_archive else part
        self._lease(whole, LEASE_S)
        target = self.folder / str(version)
        remove(target, then=lambda: whole.rename(target))
        remove(part)

    def _reserve(self, part: Path, version: int, listing: Listing) -> None:
        """Makes the folder of a part, with its manifest and what is there already. To be called locked."""
        there = mirrored_in(self.folder)
        earlier = [each for each in there if each.folder.name.startswith(f"{PART}{version}-")]
        donors = earlier + [each for each in there if each.folder.name == str(version)]
        for wanted in listing.objects:
            for donor in donors:
                known, path = donor.folder / wanted.path, part / wanted.path
                if donor.tags.get(wanted.path) == (wanted.size, wanted.tag) and known.is_file() and not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    os.link(known, path)
        for each in earlier:
            remove(each.folder)
        part.mkdir(mode=0o700, exist_ok=True)
        try:
            self._cache.make_room(max(listing.size, self._unpacked_bytes.get(listing.digest, 0)))
        except NoRoom:
            remove(part)
            raise
        _write_manifest(part, listing.digest, listing.size, listing.objects)
        self._lease(part, LEASE_S)

    def _unpacked(self, part: Path, listing: Listing) -> Path:
        """The SavedModel of the archive that is a part's only object; it is deleted if it is refused."""
        archive = part / listing.objects[0].path
        try:
            with self._cache.locked():
                shutil.rmtree(part / "unpacked", ignore_errors=True)
                room = self._cache.make_room(0, wished_bytes=MAX_RATIO * listing.size)
                model = unpack(archive, part / "unpacked", max_bytes=room)
                size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
                _write_manifest(model, listing.digest, size, ())
                _write_manifest(part, listing.digest, size, ())
        except Refused as err:
            if isinstance(err, NoRoom):
                self._unpacked_bytes[listing.digest] = err.needed_bytes
            remove(part)
            raise
        return model


def part_name(version: int, listing: Listing) -> str:
    """The name of the folder that a version is fetched into."""
    return f"{PART}{version}-{listing.digest}"


def mirrored_in(folder: Path) -> list[Mirrored]:
    """The versions in a mirror's folder and the parts of versions; other folders and files are left out."""
    found = []
    for each in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (is_number(each.name) or each.name.startswith(PART)) and (kept := read_json(each / MANIFEST)) is not None:
            tags = {path: (size, tag) for path, size, tag in kept["objects"]}
            with suppress(FileNotFoundError):  # it was deleted
                found.append(Mirrored(each, kept["digest"], kept["size"], tags, each.stat().st_mtime))
    return found


def _write_manifest(folder: Path, digest: str, size: int, objects: tuple[StoredObject, ...]) -> None:
    write_json(folder / MANIFEST, {"digest": digest, "size": size, "objects": [each[:3] for each in objects]})


def remove(folder: Path, *, then: Callable[[], object] = lambda: None) -> None:
    """Deletes a folder: at once for all that look for it, whatever its files take. `then` runs before they are deleted."""
    hidden = Path(tempfile.mkdtemp(prefix=GONE, dir=folder.parent))
    with suppress(FileNotFoundError):
        folder.rename(hidden / "was")
    then()
    shutil.rmtree(hidden, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is no such file, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes an object, whole or not at all."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=GONE, delete=False) as file:
        json.dump(value, file)
    Path(file.name).rename(path)
