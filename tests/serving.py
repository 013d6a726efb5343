"""Servers for tests: one in this process on a thread of its own, and the real command in a process of its own."""

from __future__ import annotations

import asyncio
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import httpx

from darkroom.service.config.settings import Settings
from darkroom.service.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from darkroom.models.engine import LoadedModel

START_TIMEOUT_S = 120
_CACHE = tempfile.TemporaryDirectory(prefix="darkroom-cache-")  # where nobody has named one
DEFAULTS: dict[str, Any] = {
    "workers": 1,  # who tests several, or how many are chosen, says so
    "warmup_budget_ms": 100,  # traffic measures the rest; what the warm-up does has tests of its own
    "cache_dir": os.environ.get("TESTS_CACHE", _CACHE.name),  # a model is prepared once
}  # settings of every server that a test starts and does not set itself


@contextmanager
def running(*models: LoadedModel, **settings: Any) -> Iterator[Server]:
    """Serves `models` in this process, on a free port of loopback, until the block ends."""
    started: queue.Queue[Server | BaseException] = queue.Queue()

    async def serve() -> None:
        server = Server(Settings(**{"host": "127.0.0.1", "port": 0} | DEFAULTS | settings), *models)
        task = asyncio.create_task(server.run())
        listening = asyncio.create_task(server.is_listening.wait())
        await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            started.put(server)
        listening.cancel()
        await task

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as err:  # noqa: BLE001 - carried over to the test's own thread
            started.put(err)

    thread = threading.Thread(target=run, name="server")
    thread.start()
    server = started.get(timeout=START_TIMEOUT_S)
    if isinstance(server, BaseException):
        thread.join()
        raise server
    try:
        yield server
    finally:
        with suppress(RuntimeError):  # the test has stopped it, and its loop is closed
            server.loop.call_soon_threadsafe(server.stop)
        thread.join(START_TIMEOUT_S)
    if not started.empty():
        raise cast("BaseException", started.get())


class Process:
    """`darkroom serve`, or another command of a server, as a process: its address once it is ready, and all it printed."""

    def __init__(
        self,
        *flags: str,
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
        prefix: Sequence[str] = (),
        program: Sequence[str] = ("darkroom", "serve"),
    ) -> None:
        defaults = [f"--{name}={value}" for name, value in DEFAULTS.items()]
        command = [*prefix, sys.executable, "-m", *program, "--host=127.0.0.1", "--port=0", *defaults, *flags]
        self.lines: list[str] = []
        self.url = ""
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, cwd=cwd, env=os.environ | (environment or {})
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"listening on (\S+),", line):
                self.url = found[1]
            if "darkroom: ready" in line:
                self._ready.set()
        self._ready.set()

    def wait_ready(self) -> str:
        """The address, once requests are answered."""
        assert self._ready.wait(START_TIMEOUT_S), "".join(self.lines)
        assert self.process.poll() is None, "".join(self.lines)
        return self.url

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(START_TIMEOUT_S)
        finally:
            self.process.kill()
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()


@contextmanager
def serving(*flags: str, environment: dict[str, str] | None = None) -> Iterator[str]:
    """The address of a `darkroom serve` process that is ready; ended when the block is."""
    process = Process(*flags, environment=environment)
    try:
        yield process.wait_ready()
    finally:
        process.stop()


def metric(url: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry these labels, read from `/metrics`."""
    total = 0.0
    for line in httpx.get(f"{url}/metrics", timeout=60).text.splitlines():
        found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
            total += float(found[2])
    return total


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, new in `folder`."""
    pem, key = folder / "secret.pem", folder / "secret.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", pem],
        check=True, capture_output=True,
    )  # fmt: skip
    return pem, key
