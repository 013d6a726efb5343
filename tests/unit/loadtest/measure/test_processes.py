from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest.measure import processes

SERVER = """
import sys
from http.server import HTTPServer, SimpleHTTPRequestHandler
HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""
PARENT = "import subprocess, sys; p = subprocess.Popen([sys.executable, *sys.argv[1:]]); p.wait()"


def is_alive(pid: int) -> bool:
    """Whether it runs; a killed process stays in the process table as a zombie until its parent waits for it."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "zombie" not in status.read_text()


def ends(pid: int) -> bool:
    end_s = time.monotonic() + 60
    while is_alive(pid) and time.monotonic() < end_s:
        time.sleep(0.01)
    return not is_alive(pid)


def test_a_server_and_its_children_run_until_the_block_ends(tmp_path: Path) -> None:
    port = processes.free_port()
    command = [sys.executable, "-c", PARENT, "-c", SERVER, str(port)]
    with processes.running(command, port=port, ready_path="/", log=tmp_path / "log") as pid:
        family = processes.tree(pid)
        assert len(family) == 2
        assert processes.cpu_s(pid) > 0
        memory = processes.memory(pid)
        assert memory.resident >= memory.proportional >= memory.unique > 0
    assert all(ends(each) for each in family)


def test_a_server_that_ends_is_told_with_its_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no model here')"]
    with (
        pytest.raises(processes.DidNotStart, match="no model here"),
        processes.running(command, port=processes.free_port(), ready_path="/", log=tmp_path / "log"),
    ):
        pytest.fail("it can't be ready")


def test_a_process_that_has_gone_costs_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert processes.cpu_s(process.pid) == 0
    assert processes.memory(process.pid) == (0, 0, 0)


def test_processor_time_grows_with_work() -> None:
    before_s = processes.cpu_s(os.getpid())
    end_s = time.process_time() + 0.05
    while time.process_time() < end_s:
        pass
    assert processes.cpu_s(os.getpid()) > before_s


def test_a_program_that_is_ended_ends_its_servers(tmp_path: Path) -> None:
    port = processes.free_port()
    program = f"""
from pathlib import Path
from loadtest.measure import processes
command = {[sys.executable, "-c", SERVER, str(port)]!r}
with processes.running(command, port={port}, ready_path="/", log=Path("log")) as pid:
    print(pid, flush=True)
    processes.time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.terminate()
    assert parent.returncode == 143
    assert ends(pid)


@pytest.mark.parametrize(
    ("used_s", "naps"),
    [([0.0, 0.3, 0.5, 0.51], 3), ([4.0, 4.0], 1), ([0.1 * turn for turn in range(100)], 50)],
    ids=["works something off", "is idle", "never rests"],
)
def test_a_load_is_over_when_the_servers_rest(used_s: list[float], naps: int) -> None:
    clock, slept = [0.0], list[float]()
    told = iter([used for used in used_s for _ in range(2)])  # each of two processes used half

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] = round(clock[0] + seconds, 6)

    processes.wait_idle([1, 2], used_s=lambda _: next(told) / 2, clock=lambda: clock[0], sleep=sleep)
    assert len(slept) == naps
