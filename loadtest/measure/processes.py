"""Server processes: starts them, waits until they are ready, always ends them, and reads CPU time and memory."""

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
    from collections.abc import Callable, Iterator, Mapping, Sequence

START_TIMEOUT_S = 300.0  # two models on a busy machine took two minutes
STOP_TIMEOUT_S = 15.0
IDLE_TIMEOUT_S = 10.0
IDLE_S, IDLE_SHARE = 0.2, 0.1  # idle: less than a tenth of a core during 0.2 s (guess)
_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class ProcessMemory(NamedTuple):
    """Bytes of a process and its children: resident, proportional (shared pages divided), and unshared."""

    resident: int
    proportional: int
    unique: int


class DidNotStart(Exception):
    """A server ended or was not ready in time; the message ends with its last output."""


def tree(pid: int) -> list[int]:
    """Returns the ids of a process and its living descendants."""
    parents: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (found := _stat(int(entry.name))):
            parents.setdefault(int(found[1]), []).append(int(entry.name))
    family = [pid]
    for each in family:
        family += parents.get(each, [])
    return family


def cpu_s(pid: int) -> float:
    """Returns the CPU seconds, user and system, of a process and its living descendants."""
    return sum((int(found[11]) + int(found[12])) / _TICKS for each in tree(pid) if (found := _stat(each)))


def wait_idle(
    pids: Sequence[int],
    *,
    used_s: Callable[[int], float] = cpu_s,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Waits until these processes are idle after a load, ten seconds at most.

    A server with two hundred requests of clients that left works for another second, and would slow down the next
    measurement.
    """
    end_s = clock() + IDLE_TIMEOUT_S
    total_s = sum(map(used_s, pids))
    while clock() < end_s:
        sleep(IDLE_S)
        before_s, total_s = total_s, sum(map(used_s, pids))
        if total_s - before_s <= IDLE_SHARE * IDLE_S:
            return


def memory(pid: int) -> ProcessMemory:
    """Returns the memory of a process and its descendants, from smaps_rollup."""
    total = [0, 0, 0]
    for each in tree(pid):
        sizes = _rollup(each)
        for place, names in enumerate((("Rss",), ("Pss",), ("Private_Clean", "Private_Dirty"))):
            total[place] += sum(sizes.get(name, 0) for name in names)
    return ProcessMemory(*total)


def _stat(pid: int) -> list[str]:
    """Returns the fields of /proc/PID/stat from the state on; none if the process has ended."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _rollup(pid: int) -> dict[str, int]:
    """Returns the sizes in smaps_rollup by name, in bytes; none if the process has ended."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def free_port() -> int:
    """Returns a loopback port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], *, port: int, ready_path: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Starts a server, waits for a 200 to `GET ready_path` and yields its process id; ends it with the block.

    The server and its children also end when SIGTERM ends this program: SIGTERM raises SystemExit in the block, as
    Ctrl-C raises KeyboardInterrupt.

    Raises:
        DidNotStart: the server ended, or was not ready within five minutes.
    """
    with _sigterm_leaves_blocks(), log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | dict(environment or {}),
            start_new_session=True,  # its own process group, so that its children can be ended too
        )
        try:
            _wait_ready(process, port, ready_path, log)
            yield process.pid
        finally:
            _end(process)


@contextmanager
def _sigterm_leaves_blocks() -> Iterator[None]:
    """Makes SIGTERM raise SystemExit in the main thread, unless a handler is installed already."""
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
    while not is_ready(port, path):
        if process.poll() is not None or time.monotonic() > end_s:
            said = log.read_text(errors="replace")[-2000:]
            raise DidNotStart(f"{' '.join(map(str, process.args))}: {said}")  # type: ignore[arg-type]
        time.sleep(0.2)


def is_ready(port: int, path: str) -> bool:
    """Whether a server answers `GET path` with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM to the server, then SIGKILL to the rest of its process group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
