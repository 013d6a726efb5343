"""Unpacks a SavedModel from a tar archive that may be hostile: plain files only, below one folder, up to a limit."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from darkroom.models.errors import LoadFailed, quote
from darkroom.models.saved_model import FILE_NAME
from darkroom.models.versions.folder import incomplete
from darkroom.models.versions.stores.bucket import is_plain

MAX_MEMBERS = 100_000  # guess: a SavedModel has about ten files
MAX_HEADER_BYTES = 1 << 20  # guess: tarfile reads a header whole, so a hostile one would be read into memory
GZIP = b"\x1f\x8b"


class Refused(LoadFailed):
    """A version that can't be mirrored as it is; the message says why. It is not fetched again before it changes."""


class NoRoom(Refused):
    """A version has more bytes than the limit leaves: `needed_bytes` or more. It is tried again when there is room."""

    def __init__(self, message: str, *, needed_bytes: int) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes


class _Headers:
    """The unpacked bytes of an archive, for tarfile, which may read no more than a header or a piece of a file at once."""

    def __init__(self, file: gzip.GzipFile | IO[bytes]) -> None:
        self._file = file
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        """Raises Refused if more is asked for than any archive needs, or less than nothing."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise Refused(f"the archive has a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        """Raises Refused if it is before the beginning."""
        if offset < 0:
            raise Refused(f"the archive has a header at {offset} bytes")
        return self._file.seek(offset)


def unpack(archive: Path, folder: Path, *, max_bytes: int) -> Path:
    """Unpacks an archive into a new folder; returns the SavedModel there: `folder`, or the only folder in it, and so on.

    Links and devices are refused, and names that lead elsewhere. So nothing outside `folder` is written, whatever the
    archive has. Owners, modes and times are not taken over.

    Raises:
        NoRoom: it has more than `max_bytes`.
        Refused: it is damaged or hostile, or has no whole SavedModel.
        OSError: it can't be read, or its files can't be written.
    """
    folder.mkdir()
    with ExitStack() as stack:
        file = stack.enter_context(archive.open("rb"))
        is_packed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        plain = stack.enter_context(gzip.GzipFile(fileobj=file)) if is_packed else file
        try:
            _write_members(tarfile.open(fileobj=_Headers(plain), mode="r:"), folder, max_bytes)  # type: ignore[call-overload]  # noqa: SIM115 - it has nothing to close
        except LoadFailed:
            raise
        except Exception as err:
            if isinstance(err, OSError) and not isinstance(err, gzip.BadGzipFile):
                raise
            raise Refused(f"the archive is damaged: {quote(str(err) or type(err).__name__)}") from None
    return _model_in(folder)


def _write_members(packed: tarfile.TarFile, folder: Path, max_bytes: int) -> None:
    left = max_bytes
    for number, member in enumerate(packed, 1):
        name = member.name.removeprefix("./").rstrip("/")
        left -= member.size
        if left < 0:
            text = f"the archive has more than {max_bytes} bytes, which --store_cache_bytes leaves"
            raise NoRoom(text, needed_bytes=max_bytes - left)
        if number > MAX_MEMBERS:
            raise Refused(f"the archive has more than {MAX_MEMBERS} files")
        if member.isdir() and name in {"", "."}:
            continue
        _refuse_hostile(member, name)
        path = folder / name
        try:
            (path if member.isdir() else path.parent).mkdir(parents=True, exist_ok=True)
            if (data := packed.extractfile(member)) is not None:
                with data, path.open("xb") as target:
                    shutil.copyfileobj(data, target)
        except (FileExistsError, NotADirectoryError):
            raise Refused(f"the archive has two files of one name: {quote(name)!r}") from None


def _refuse_hostile(member: tarfile.TarInfo, name: str) -> None:
    if not is_plain(name):
        raise Refused(f"the archive has a file whose name leads elsewhere: {quote(member.name)!r}")
    if member.size < 0:  # and tarfile would read the same header for ever
        raise Refused(f"the archive has a file of {member.size} bytes: {quote(name)!r}")
    if not member.isreg() and not member.isdir():
        kind = "a link" if member.islnk() or member.issym() else "a device or a pipe"
        raise Refused(f"the archive has {kind}: {quote(name)!r}")


def _model_in(folder: Path) -> Path:
    inner = folder
    while not (inner / FILE_NAME).is_file():
        folders = [each for each in inner.iterdir() if each.is_dir() and not each.name.startswith((".", "__MACOSX"))]
        if len(folders) != 1:
            raise Refused(f"the archive has no SavedModel: {FILE_NAME} at its top, or in its only folder")
        inner = folders[0]
    sizes = {
        str(Path(parent, name).relative_to(inner)): Path(parent, name).stat().st_size
        for parent, _, names in os.walk(inner)
        for name in names
    }
    if missing := incomplete(sizes):
        raise Refused(f"the archive's SavedModel is not whole: {missing}")
    return inner
