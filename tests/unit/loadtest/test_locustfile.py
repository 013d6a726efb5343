"""The Locust users, run by the real Locust in a process of its own, since it rewires the one that it is in."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.measure.processes import free_port
from tests.unit.loadtest.pictureserver import PictureServer, serving

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


def locust(url: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--host", url, "--headless"]
    run = ["--only-summary", "-u", "4", "-r", "4", "-t", "2s", "--think-s", "0.01", "--pictures", "digits"]
    return subprocess.run([*command, *run, *more], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_a_run_that_keeps_its_promises_exits_with_0_and_tells_the_servers_times() -> None:
    with serving(PictureServer()) as server:
        done = locust(server.url, "--p99-ms", "60000", "--many-p99-ms", "60000", "--broken-share", "0.2")
    assert done.returncode == 0, done.stderr
    lines = {
        line.split("|")[1].strip(): line for line in done.stdout.splitlines() if line[:2] == "| " and "--" not in line
    }
    kinds = {f"{kind} 1 picture" for kind in ("json", "form", "raw", "row", "binary")}
    assert set(lines) == {"request", *kinds, "json 32 pictures", "json broken picture"}
    sent = {name: int(line.split("|")[2]) for name, line in lines.items() if name != "request"}
    assert all(sent.values())
    # 1.25 and 3.5 ms are what the server's header says: medians and p99, then the batch.
    assert lines["json 1 picture"].split("|")[6:11] == [
        "       1.2 ",
        "       1.2 ",
        "         3.5 ",
        "         3.5 ",
        "   8.0 ",
    ]


def test_wrong_answers_break_the_promise() -> None:
    with serving(PictureServer(right_answers=20)) as server:
        done = locust(server.url)
    assert done.returncode == 1
    assert "of requests failed, promised 0.00%" in done.stderr
    assert "200 with a wrong answer" in done.stdout + done.stderr


def test_a_p99_over_the_promise_exits_with_1() -> None:
    with serving(PictureServer()) as server:
        done = locust(server.url, "--p99-ms", "0.001")
    assert done.returncode == 1
    assert "p99 is" in done.stderr


def test_a_server_that_does_not_answer_exits_with_2() -> None:
    server = PictureServer()
    server.server_close()
    done = locust(server.url)
    assert done.returncode == 2
    assert "cannot begin" in done.stderr


def test_a_mix_sends_what_it_names_and_nothing_else() -> None:
    with serving(PictureServer()) as server:
        done = locust(server.url, "--mix", "binary=3,row=1", "--broken-share", "0", "--arrival-rate", "100")
    assert done.returncode == 0, done.stderr
    assert "| binary 1 picture" in done.stdout
    assert "| row 1 picture" in done.stdout
    assert "| json 1 picture" not in done.stdout


def test_a_mix_of_what_there_is_not_cannot_begin() -> None:
    with serving(PictureServer()) as server:
        done = locust(server.url, "--mix", "telegram=1")
    assert done.returncode == 2
    assert "there is no 'telegram'" in done.stderr


def test_a_shaped_run_has_its_users_and_its_end() -> None:
    with serving(PictureServer()) as server:
        done = locust(server.url, "-f", "loadtest/locustfile.py,loadtest/shapes.py", "--shape", "spike")
    assert done.returncode == 0, done.stderr
    assert "| json 1 picture" in done.stdout


def test_a_master_tells_all_that_its_workers_sent() -> None:
    port = f"--master-port={free_port()}"
    worker = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--worker", port]
    with (
        serving(PictureServer()) as server,
        subprocess.Popen(worker, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
    ):
        bound = port.replace("--master-port", "--master-bind-port")
        done = locust(server.url, "--master", "--expect-workers=1", bound, "--broken-share=0")
        process.wait(60)
    assert done.returncode == 0, done.stderr
    told = {
        line.split("|")[1].strip(): int(line.split("|")[2])
        for line in done.stdout.splitlines()
        if line.startswith("|") and "picture" in line
    }
    counted = re.search(r"^ +Aggregated +(\d+)", done.stdout + done.stderr, re.MULTILINE)
    assert counted
    assert sum(told.values()) == int(counted[1]) > 0
