"""Servers as processes: started, found ready, ended whatever happens; their processor time and memory, from /proc."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
IDLE_TIMEOUT_S = 10.0
IDLE_S, IDLE_SHARE = 0.2, 0.1  # idle: less than a tenth of a core for so long (guess)
_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class ProcessMemory(NamedTuple):
    """Bytes of a process and all its children: resident, proportional (shared pages divided), and theirs alone."""

    resident: int
    proportional: int
    unique: int


class DidNotStart(Exception):
    """A server ended, or was not ready in time; the message ends with what it printed last."""


def tree(pid: int) -> list[int]:
    """A process and its descendants that live now."""
    parents: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (found := _stat(int(entry.name))):
            parents.setdefault(int(found[1]), []).append(int(entry.name))
    family = [pid]
    for each in family:
        family += parents.get(each, [])
    return family


def cpu_s(pid: int) -> float:
    """Processor seconds that a process and its living descendants have used, in user and kernel."""
    return sum((int(found[11]) + int(found[12])) / _TICKS for each in tree(pid) if (found := _stat(each)))


def wait_idle(pids: Sequence[int]) -> None:
    """Waits until these processes have worked off what a load left behind, ten seconds at most.

    One that has two hundred requests of clients that left goes on for a second, on the cores of whoever is next.
    """
    end_s = time.monotonic() + IDLE_TIMEOUT_S
    used_s = sum(map(cpu_s, pids))
    while time.monotonic() < end_s:
        time.sleep(IDLE_S)
        before_s, used_s = used_s, sum(map(cpu_s, pids))
        if used_s - before_s <= IDLE_SHARE * IDLE_S:
            return


def memory(pid: int) -> ProcessMemory:
    """The memory of a process and its descendants, from smaps_rollup."""
    total = [0, 0, 0]
    for each in tree(pid):
        sizes = _rollup(each)
        for place, names in enumerate((("Rss",), ("Pss",), ("Private_Clean", "Private_Dirty"))):
            total[place] += sum(sizes.get(name, 0) for name in names)
    return ProcessMemory(*total)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, from the state on; none where it has gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _rollup(pid: int) -> dict[str, int]:
    """Bytes by name."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], *, port: int, ready_path: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """The id of a server's process that answers `GET ready_path` with 200; it and its children end with the block.

    So it is where SIGTERM ends this program: it becomes a SystemExit, as Ctrl-C becomes a KeyboardInterrupt.

    Raises:
        DidNotStart: it ended, or was not ready within two minutes.
    """
    with _sigterm_leaves_blocks(), log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | dict(environment or {}),
            start_new_session=True,  # a group of its own, so that its children can be ended with it
        )
        try:
            _wait_ready(process, port, ready_path, log)
            yield process.pid
        finally:
            _end(process)


@contextmanager
def _sigterm_leaves_blocks() -> Iterator[None]:
    """Lets SIGTERM end this program through its `finally`s, unless somebody else has a use for it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _wait_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while not _is_ready(port, path):
        if process.poll() is not None or time.monotonic() > end_s:
            said = log.read_text(errors="replace")[-2000:]
            raise DidNotStart(f"{' '.join(map(str, process.args))}: {said}")  # type: ignore[arg-type]
        time.sleep(0.2)


def _is_ready(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server, then SIGKILL to what is left of its group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
