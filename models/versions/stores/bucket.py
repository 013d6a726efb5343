"""What an object store has, and its objects: the only importer of obstore. Everything here blocks."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from darkroom.models.errors import LoadFailed, quote
from darkroom.models.saved_model import FILE_NAME
from darkroom.models.versions.folder import MODEL_FOLDER, incomplete, is_number
from darkroom.models.versions.stores.address import is_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

PIECE_BYTES = 1 << 20  # of an object, between two looks at the progress
MAX_PATH_CHARS = 1024  # precedent: S3's keys have as many bytes
# A whole object may take a day, but a store that sends nothing for 20 s is away. Retries are for what passes in seconds;
# the next look at the store is the retry for all else. A connection that fails three times has done so before the first
# scan ends, so that a start can say why. All are guesses.
CLIENT: ClientConfig = {"connect_timeout": "2s", "read_timeout": "20s", "timeout": "1d"}
RETRY: RetryConfig = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
# What obstore's messages say, and what it means to people.
_MEANINGS = (
    (r"/latest/api/token|metadata\.google\.internal|169\.254\.169\.254", "no credentials were found"),
    (r"Account must be specified", "AZURE_STORAGE_ACCOUNT_NAME is not set"),
    (r"status code: 401\b", "it answers 401: check the credentials"),
    (r"status code: 403\b", "it answers 403: check the credentials and what they may read"),
    (r"status code: 404\b|NotFound \{", "it answers 404: there is no such bucket or object"),
    (r"status code: (\d+ [\w ]+)", r"it answers \1"),
    (r'(?:message|error): "([^"]*)"', r"\1"),
    (r'"(No CA certificates[^"]*)"', r"\1 (Debian: ca-certificates)"),
    (r"TimedOut|Timeout", "it does not answer in time"),
)


class StoreFailed(LoadFailed):
    """The store is away, refuses, or sent something else than it listed. Nothing changes, and it is asked again."""


class StoredObject(NamedTuple):
    """One file of a version: its path there, its bytes, its ETag (without one: its time), and its key in the store."""

    path: str
    size: int
    tag: str
    key: str


class Listing(NamedTuple):
    """The files of one version as the store lists them, by path, and when the last one changed (s since the epoch)."""

    objects: tuple[StoredObject, ...]
    changed_s: float

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(each.size for each in self.objects)

    @property
    def digest(self) -> str:
        """Differs if a path, a size or an ETag does."""
        lines = "\n".join(f"{each.path}\0{each.size}\0{each.tag}" for each in self.objects)
        return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def missing(self) -> str:
        """What the version waits for while it is being uploaded, for people; empty where its files are complete."""
        sizes = {each.path.removeprefix(f"{MODEL_FOLDER}/"): each.size for each in self.objects}
        return "" if self.is_archive else incomplete(sizes)

    @property
    def is_archive(self) -> bool:
        """Whether it is one file that has all others in it."""
        return len(self.objects) == 1 and is_archive(self.objects[0].path)

    @property
    def flaw(self) -> str:
        """Why no folder can have these files, for people; empty where one can."""
        paths = [PurePosixPath(each.path) for each in self.objects]
        folders = {folder for path in paths for folder in path.parents}
        bad = next((path for path in paths if path in folders or not is_plain(path.as_posix())), None)
        return "" if bad is None else f"no file can have the name of the object {quote(bad.as_posix())!r}"


class Bucket:
    """The versions below one address, or the archive that it names.

    Args:
        address: as `check_address` returns it.
    """

    def __init__(self, address: str) -> None:
        folder, _, name = address.rpartition("/")
        self._archive = unquote(name) if is_archive(address) else ""
        self._place = folder if self._archive else address
        self._opened: ObjectStore | None = None

    def versions(self) -> dict[int, Listing]:
        """The versions that the store has now, complete or not.

        An archive is one version. Its number is the time of its last change in seconds, or 1 where the server does not
        tell that: so a newer archive is a newer version.

        Raises:
            StoreFailed: it can't be listed.
        """
        import obstore  # noqa: PLC0415 - only for a model that is kept in a store

        with self._asking("the store can't be listed"):
            if self._archive:
                archive = obstore.head(self._store, self._archive)
                changed_s = archive["last_modified"].timestamp()
                return {max(1, int(changed_s)): Listing((_stored(archive, self._archive),), changed_s)}
            return _grouped([each for page in obstore.list(self._store, chunk_size=1000) for each in page])

    def fetch(self, wanted: StoredObject, file: IO[bytes], on_bytes: Callable[[int], None]) -> None:
        """Writes an object to `file`; `on_bytes` is told how many bytes came, each time some did.

        Raises:
            StoreFailed: it can't be fetched, or is not as it was listed.
            OSError: it can't be written.
        """
        import obstore  # noqa: PLC0415 - as above

        name, came = quote(wanted.path), 0
        if not wanted.size:  # the mark of a folder, perhaps, whose key is another
            return
        with self._asking(f"{name!r} can't be fetched"):
            result = obstore.get(self._store, wanted.key)
            is_same = _stored(result.meta, wanted.path)[1:3] == wanted[1:3]
            for piece in result.stream(min_chunk_size=PIECE_BYTES) if is_same else ():
                came += len(piece)
                file.write(piece)
                on_bytes(len(piece))
        if not is_same:
            raise StoreFailed(f"{name!r} changed while it was fetched")
        if came != wanted.size:
            raise StoreFailed(f"{name!r} came with {came} of its {wanted.size} bytes")

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Context manager: what obstore raises in it is a StoreFailed, and the store is opened again for the next call."""
        try:
            yield
        except Exception as err:
            if isinstance(err, LoadFailed) or (isinstance(err, OSError) and not isinstance(err, FileNotFoundError)):
                raise  # of the file that is written; FileNotFoundError is obstore's
            self._opened = None
            raise StoreFailed(f"{what}: {meaning(str(err))}") from None

    @property
    def _store(self) -> ObjectStore:
        """Opened again after a failure, with the credentials as they are then."""
        if self._opened is None:
            from obstore.store import from_url  # noqa: PLC0415 - as above

            config: Any = shared_keys(os.environ) if self._place.startswith("s3:") else None
            client: ClientConfig = {**CLIENT, "allow_http": not self._place.startswith("https:")}
            self._opened = from_url(self._place, config=config, client_options=client, retry_config=RETRY)
        return self._opened


def meaning(said: str) -> str:
    """What obstore's message means to people: the status of an answer, the cause of a failure, or its first line."""
    for pattern, means in _MEANINGS:
        if found := re.search(pattern, said):
            return quote(found.expand(means)).strip()
    return quote(said.partition("\n")[0])


def is_plain(path: str) -> bool:
    """Whether a path names a file below the folder that it is joined to, with ordinary characters."""
    parts = path.split("/")
    is_printable = path.isprintable() and "\\" not in path and len(path) <= MAX_PATH_CHARS
    return is_printable and not {"", ".", ".."} & set(parts) and not parts[0].startswith(".darkroom")


def _stored(found: ObjectMeta, path: str) -> StoredObject:
    tag = found["e_tag"] or found["last_modified"].isoformat()
    return StoredObject(path, found["size"], tag, found["path"])


def _grouped(found: Iterable[ObjectMeta]) -> dict[int, Listing]:
    """The versions among the objects of a prefix: its numbered folders that have a SavedModel, or a part of one."""
    folders: dict[str, dict[str, ObjectMeta]] = {}
    for each in found:
        folder, _, path = each["path"].partition("/")
        if path and is_number(folder):
            folders.setdefault(folder, {})[path] = each
        elif each["path"] == FILE_NAME:
            raise StoreFailed("the address is that of a SavedModel: give the one above, which has version folders")
    versions = {}
    for folder, files in sorted(folders.items(), key=lambda each: len(each[0]), reverse=True):  # `1` before `01`
        entered = {parent.as_posix() for path in files for parent in PurePosixPath(path).parents}
        kept = {path: each for path, each in sorted(files.items()) if each["size"] or path not in entered}
        if any(FILE_NAME in path for path in kept):
            changed_s = max(each["last_modified"].timestamp() for each in kept.values())
            versions[int(folder)] = Listing(tuple(_stored(each, path) for path, each in kept.items()), changed_s)
    return versions


def shared_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """The keys of AWS's shared credentials file, which obstore does not read; none where variables have keys or a role.

    Raises:
        configparser.Error: the file can't be parsed.
    """
    variables = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")
    profile = configparser.RawConfigParser()
    if not any(environment.get(each) for each in variables):
        profile.read(environment.get("AWS_SHARED_CREDENTIALS_FILE") or Path("~/.aws/credentials").expanduser())
    name = environment.get("AWS_PROFILE", "default")
    keys = ("access_key_id", "secret_access_key", "session_token")
    found = {key: profile.get(name, f"aws_{key}", fallback="") for key in keys}
    return {key: value for key, value in found.items() if value}
