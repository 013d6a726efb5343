"""Artifacts on disk, by key: a folder of the server's own, bounded, with whole files only."""

import fcntl
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger("darkroom.models")
_SUFFIX = ".artifact"
_TEMPORARY = ".part"
_LOCK = ".lock"
_ABANDONED_S = 3600.0  # guess: no file takes so long to be written


class Cache:
    """A folder of files; what cannot be read or written is as if it were not there: a cache may always miss.

    Only a folder that no other user can write to is used: what lies in it becomes a graph that this server runs.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._refused = ""

    def read(self, key: str) -> bytes | None:
        """What was written under `key`; None where nothing was."""
        try:
            self._check_owner()
            path = self._path(key)
            data = path.read_bytes()
            os.utime(path)  # the last use decides what goes first
        except OSError:
            return None
        return data

    def write(self, key: str, data: bytes) -> None:
        """Keeps `data` under `key`, whole or not at all, and lets go the least used above the bound."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner()
            self._put(self._path(key), data)
            self._evict(self._path(key))
        except OSError as err:
            self._tell(err.strerror or str(err))

    @contextmanager
    def turn(self, key: str) -> Iterator[bool]:
        """Whether the caller may make what belongs under `key` now: one process at a time may, while this is held.

        Where no lock can be had, for a folder that is not used or not written to, everybody may.
        """
        path = self._folder / (key + _LOCK)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner()
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            lock = None
        if lock is None:
            yield True
            return
        try:
            yield (is_ours := _locks(lock))
        finally:
            if is_ours:  # before the lock goes: who opens it anew finds what was made
                path.unlink(missing_ok=True)
            os.close(lock)

    def discard(self, key: str) -> None:
        """Lets one go."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / (key + _SUFFIX)

    def _put(self, path: Path, data: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=_TEMPORARY, delete=False) as part:
            try:
                part.write(data)
                part.flush()
                Path(part.name).replace(path)
            except OSError:
                Path(part.name).unlink(missing_ok=True)  # or a disk that is full would stay so
                raise

    def _check_owner(self) -> None:
        found = self._folder.stat()
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(0, "others can write to it")

    def _evict(self, newest: Path) -> None:
        for part in self._folder.glob(f"*{_TEMPORARY}"):
            if time.time() - part.stat().st_mtime > _ABANDONED_S:
                part.unlink(missing_ok=True)
        kept_bytes = newest.stat().st_size
        others = [(path.stat(), path) for path in self._folder.glob(f"*{_SUFFIX}") if path != newest]
        for found, path in sorted(others, key=lambda each: each[0].st_mtime, reverse=True):
            kept_bytes += found.st_size
            if kept_bytes > self._max_bytes:
                path.unlink(missing_ok=True)

    def _tell(self, reason: str) -> None:
        """Says once why nothing is kept."""
        if reason != self._refused:
            self._refused = reason
            _log.warning("prepared models are not kept in --cache_dir: %s", reason)


def _locks(descriptor: int) -> bool:
    """Takes the lock of an open file; it goes with the descriptor, and with the process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        return not isinstance(err, BlockingIOError)  # else the file system has no locks
    return True
