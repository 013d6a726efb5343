"""Loads SavedModels while the server is serving: from the cache, or prepared in a child process."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from darkroom.models.engines.tuning import TuningCache
from darkroom.models.errors import LoadFailed, quote
from darkroom.models.rewriting.child import REFUSED
from darkroom.models.rewriting.job import TRYING, Job
from darkroom.models.runtime.memory import FRUGAL_CONF, free_bytes, freeze
from darkroom.models.versions.cache import Cache, mapped

if TYPE_CHECKING:
    from darkroom.models.engine import LoadedModel

_log = logging.getLogger("darkroom.models")
# Measured: a server with one model has 12 threads on two cores. TensorFlow aborts the process when it can't start one.
SPARE_THREADS = 32
MAX_CRASHES = 8  # guess: signatures of one version that may end a child each, which takes seconds
_CRASHES = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGBUS})
POLL_S = 0.1  # guess: between two looks whether another process has prepared the model


class Crashed(LoadFailed):
    """The child was ended by `signature`, which it was running."""

    def __init__(self, message: str, signature: str) -> None:
        super().__init__(message)
        self.signature = signature


class Loader:
    """Loads versions. Each call blocks for seconds, and belongs in a thread; two may run at once."""

    def __init__(self, cache: Cache, *, timeout_s: float) -> None:
        self._cache = cache
        self._timeout_s = timeout_s
        self._children: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False
        self._tunings = TuningCache()

    def load(self, job: Job) -> "LoadedModel":
        """The version, ready to answer.

        Raises:
            LoadFailed: it cannot be served; the message says why and names no path.
        """
        check_threads()
        key = job.key()
        data = self._cache.read(key)
        if data is not None:
            _import_tensorflow()
            from darkroom.models.rewriting.artifact import Damaged  # noqa: PLC0415 - it imports TensorFlow

            try:
                return self._open(data, job)
            except Damaged as err:
                _log.warning("a prepared model in --cache_dir is made anew: %s", err)
                self._cache.discard(key)
        return self._open(self._make(key, job), job)

    def _make(self, key: str, job: Job) -> memoryview:
        """The artifact, prepared here or by another process that shares the cache."""
        while True:
            with self._cache.turn(key) as is_ours:
                data = self._cache.read(key)
                if data is None and is_ours:
                    data = self._prepare_whole(key, job)
            if data is not None:
                return data
            _import_tensorflow()  # while the child of the other process is working
            self._check_stopped()
            time.sleep(POLL_S)

    def _prepare_whole(self, key: str, job: Job) -> memoryview:
        """The artifact that a child made of files that did not change meanwhile; kept in the cache."""
        try:
            data = self._prepare_mapped(job)
        except OSError as err:
            raise LoadFailed(f"no process could be started to prepare it: {err.strerror}") from err
        if job.key() != key:
            raise LoadFailed("its files changed while they were loaded")
        self._cache.write(key, data)
        return data

    def _prepare_mapped(self, job: Job) -> memoryview:
        """The artifact. A signature that ends a child is refused, and a new child prepares the others."""
        try:
            with self._cache.temporary() as answer:
                self._prepare(job, answer)
                return mapped(answer)
        except Crashed as err:
            if (name := err.signature) in job.refused or len(job.refused) >= MAX_CRASHES:
                raise
            _log.warning("signature %s is refused: %s", quote(name), err)
            rest = replace(job, refused=job.refused | {name: str(err)})
        return self._prepare_mapped(rest)

    def stop(self) -> None:
        """Ends the children that are working. The loads in progress fail, and so does every later one."""
        self._is_stopped = True
        for child in list(self._children):
            child.kill()

    def _open(self, data: memoryview, job: Job) -> "LoadedModel":
        from darkroom.models.engines.open import open_job  # noqa: PLC0415 - as in `load`
        from darkroom.models.rewriting.artifact import parse  # noqa: PLC0415 - as in `load`

        return open_job(parse(data, job.path), job, self._tunings)

    def _prepare(self, job: Job, answer: IO[bytes]) -> None:
        """Lets a child write the artifact to a file: what it sent through a pipe would be in this process's memory."""
        with subprocess.Popen(
            [sys.executable, "-m", "darkroom.models.rewriting.child"],
            cwd=Path(__file__).parents[3],  # so that the child imports this same code
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=subprocess.PIPE,
            env=os.environ | {"MALLOC_CONF": FRUGAL_CONF},
            start_new_session=True,  # Ctrl-C goes to the server alone
        ) as child:
            self._children.add(child)
            try:
                self._wait(child, job, answer)
            finally:
                self._children.discard(child)
                child.kill()

    def _wait(self, child: subprocess.Popen[bytes], job: Job, answer: IO[bytes]) -> None:
        """Waits for the child's answer. Its stdin stays open until then: a child whose stdin closes exits."""
        self._check_stopped()
        stdin, child.stdin = child.stdin, None
        assert stdin is not None  # noqa: S101 - a pipe, see Popen above
        with stdin:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and its status says how
                stdin.write(job.dump().encode() + b"\n")
                stdin.flush()
            _import_tensorflow()  # while the child is working
            try:
                _, said = child.communicate(timeout=self._timeout_s)
            except subprocess.TimeoutExpired as err:
                raise LoadFailed(f"it was not prepared within --load_timeout_ms={self._timeout_s * 1000:.0f}") from err
        said, names = _without_names(said)
        if child.returncode == 0:
            return
        if child.returncode == REFUSED:
            answer.seek(0)
            out = answer.read()
            _, head, rest = said.decode("utf-8", "replace").partition("Traceback (most recent call last):")
            traceback = f"in the process that prepared it:\n{(head + rest)[-8192:]}"
            raise LoadFailed(out.decode("utf-8", "replace")) from RuntimeError(traceback)
        self._check_stopped()
        free = free_bytes()
        hint = f", maybe for want of memory: {free >> 20} MB are free" if child.returncode == -signal.SIGKILL else ""
        ended = f"the process that prepared it ended with {_status(child.returncode)}"
        message = f"{ended}{hint}{_last_words(said)}"
        raise Crashed(message, names[-1]) if names and -child.returncode in _CRASHES else LoadFailed(message)

    def _check_stopped(self) -> None:
        if self._is_stopped:
            raise LoadFailed("the server is stopping")


def check_threads(count: int = SPARE_THREADS) -> None:
    """Starts `count` threads at the same time, and ends them.

    Raises:
        LoadFailed: not so many can be started.
    """
    ending, started = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(count):
            thread = threading.Thread(target=ending.wait, name="check", daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as err:
        few = f"only {len(started)} of {count} threads can be started"
        raise LoadFailed(f"{few}; raise the limit of processes (pids.max of the container, ulimit -u)") from err
    finally:
        ending.set()
        for thread in started:
            thread.join()


@cache
def _import_tensorflow() -> None:
    """Imports TensorFlow once, and takes its objects out of the garbage collector: they stay as long as the process."""
    import darkroom.models.engines.open  # noqa: F401, PLC0415 - it takes seconds, while a child works

    freeze()


def _status(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def _without_names(said: bytes) -> tuple[bytes, list[str]]:
    """Splits what a child wrote: without the signatures that it named before it ran them, and these."""
    mark, lines = f"{TRYING} ".encode(), said.splitlines(keepends=True)
    names = [line.removeprefix(mark).decode("utf-8", "replace").strip() for line in lines if line.startswith(mark)]
    return b"".join(line for line in lines if not line.startswith(mark)), names


def _last_words(said: bytes) -> str:
    """The most telling line of what a dying process wrote."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in ("Check failed", "terminate called", "Error:"))]
    return "".join(f": {quote(line)}" for line in (telling or lines)[-1:])
