"""A cache of artifacts on disk, by key, in a folder of the server's own: bounded, and never with part of a file."""

import fcntl
import logging
import mmap
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_log = logging.getLogger("darkroom.models")
_SUFFIX = ".artifact"
_TEMPORARY = ".part"
_LOCK = ".lock"
_ABANDONED_S = 3600.0  # guess: writing one file never takes so long
_BEAT_S = 2.0  # guess: how often who holds a lock shows that it is running
_STOPPED_S = 20.0  # guess: a process that did not show it for so long is stopped, or its machine is


class Cache:
    """A folder of files. A file that cannot be read or written counts as missing: a cache may always miss.

    Only a folder that no other user can write to is used, since its files become graphs that this server runs.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._refused = ""

    def read(self, key: str) -> memoryview | None:
        """The data that was written under `key`, as pages of its file; None where there is none."""
        try:
            check_owner(self._folder)
            path = self._path(key)
            with path.open("rb") as file:
                data = mapped(file)
        except OSError:
            return None
        with suppress(OSError):  # a mount that is read-only
            os.utime(path)  # the last use decides what is evicted first
        return data

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Keeps `data` under `key`, whole or not at all, and evicts the least recently used files above the bound."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_owner(self._folder)
            self._put(self._path(key), data)
            for part in self._folder.glob(f"*{_TEMPORARY}"):
                if time.time() - part.stat().st_mtime > _ABANDONED_S:
                    part.unlink(missing_ok=True)
            kept_bytes = len(data)
            others = [(path.stat(), path) for path in self._folder.glob(f"*{_SUFFIX}") if path != self._path(key)]
            for found, path in sorted(others, key=lambda each: each[0].st_mtime, reverse=True):
                kept_bytes += found.st_size
                if kept_bytes > self._max_bytes:
                    path.unlink(missing_ok=True)
        except OSError as err:
            reason = err.strerror or str(err)
            if reason != self._refused:  # said once
                self._refused = reason
                _log.warning("prepared models are not kept in --cache_dir: %s", reason)

    def temporary(self) -> IO[bytes]:
        """An unnamed temporary file, beside the models or where the system has such files: where there is more room."""
        folders = [Path(tempfile.gettempdir())]
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_owner(self._folder)
            folders.insert(0, self._folder)
        return tempfile.TemporaryFile(
            prefix="darkroom-", dir=max(folders, key=lambda each: shutil.disk_usage(each).free)
        )

    @contextmanager
    def turn(self, key: str) -> Iterator[bool]:
        """Context manager: whether the caller may make the data for `key` now. While it is held, no other process may.

        The lock of a process that has not run for `_STOPPED_S` (stopped, frozen, on a machine that is gone) is given up.
        Where no lock can be taken, since the folder is not used or cannot be written to, every process may.
        """
        path = self._folder / (key + _LOCK)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_owner(self._folder)
            self._drop_stopped(path)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            lock = None
        if lock is None:
            yield True
            return
        ended = threading.Event()
        try:
            if is_ours := self._take(lock):
                with suppress(RuntimeError):  # no thread can be started
                    threading.Thread(target=_beat, args=(path, ended), name="cache-lock", daemon=True).start()
            yield is_ours
        finally:
            ended.set()
            if is_ours:  # before the lock is released: a process that opens the next lock finds the data
                path.unlink(missing_ok=True)
            os.close(lock)

    @staticmethod
    def _drop_stopped(path: Path) -> None:
        """Deletes a lock whose holder has not run for long; the next one to open it makes and locks a new file."""
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STOPPED_S:
                path.unlink()
                _log.warning("a lock in --cache_dir is given up: the process that holds it does not run")

    def discard(self, key: str) -> None:
        """Deletes the data of `key`."""
        self._path(key).unlink(missing_ok=True)

    @staticmethod
    def _take(lock: int) -> bool:
        """Locks an open file. The lock ends with the descriptor, and with the process."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            return not isinstance(err, BlockingIOError)  # any other error: this file system has no locks
        return True

    def _path(self, key: str) -> Path:
        return self._folder / (key + _SUFFIX)

    def _put(self, path: Path, data: bytes | memoryview) -> None:
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=_TEMPORARY, delete=False) as part:
            try:
                part.write(data)
                part.flush()
                Path(part.name).replace(path)
            except OSError:
                Path(part.name).unlink(missing_ok=True)  # or a full disk would stay full
                raise


def check_owner(folder: Path) -> None:
    """Raises PermissionError if another user can write to a folder whose files this server runs, OSError if there is none."""
    found = folder.stat()
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(0, "others can write to it")  # root can in any case, and may have filled it


def mapped(file: IO[bytes]) -> memoryview:
    """The bytes of an open file: its pages, which the system may drop and read again, not memory of this process."""
    size = os.fstat(file.fileno()).st_size
    return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")


def _beat(path: Path, ended: threading.Event) -> None:
    """Shows by the lock's time that this process is running, until it has ended its turn."""
    while not ended.is_set():
        with suppress(OSError):
            os.utime(path)
        ended.wait(_BEAT_S)
