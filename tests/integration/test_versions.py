"""Versions that come, go and break under a real server that is being asked all the while."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from darkroom.models.runtime.tensorflow import tf
from loadtest.experiments.outages import Clients, ask_once
from loadtest.measure import processes
from loadtest.traffic.connections import request_bytes
from loadtest.traffic.pictures import RequestBody
from tests import savedmodels
from tests.asked import CLIENTS, ROWS, load, until
from tests.serving import Process, metric, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.asked import States

pytestmark = pytest.mark.slow
QUICK = "--reload_interval_ms=100"
PATIENT = ("--request_timeout_ms=600000", "--engine_timeout_ms=0")  # a machine that is busy fails no request
NO_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")  # root that must keep to permissions
WAITS = "its files are still being written: the variables.data files are missing"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1, 2 and 3: each multiplies by its number."""
    folder = tmp_path_factory.mktemp("built")
    for factor in (1, 2, 3):
        savedmodels.numbers(folder / str(factor), _times(factor))
    return folder


def _times(factor: int) -> Callable[[Any], Any]:
    return lambda x: x * float(factor)


def _is_served(version: str, states: States) -> bool:
    return states.get(version) == ("AVAILABLE", "")


def _is_alone(version: str, states: States) -> bool:
    return list(states) == [version]


def test_versions_are_swapped_under_load_and_every_answer_is_wholly_of_one(built: Path, tmp_path: Path) -> None:
    base = tmp_path / "model"
    shutil.copytree(built / "1", base / "1")
    with serving(f"--model_base_path={base}", QUICK) as url, load(url) as clients:
        for old, new in ((1, 2), (2, 3), (3, 1)):
            number = str(old + 1)
            shutil.copytree(built / str(new), base / number)
            until(url, partial(_is_served, number))
            shutil.rmtree(base / str(old))
            until(url, partial(_is_alone, number))
        asked = len(clients.factors)
        assert {1.0, 2.0, 3.0} <= set(clients.factors)
        until(url, lambda _: len(clients.factors) >= asked + 2 * CLIENTS)
        assert set(clients.factors[asked + CLIENTS :]) == {1.0}
        assert metric(url, "darkroom_model_state", state="AVAILABLE") == 1


def test_nothing_that_happens_to_the_folders_stops_the_version_that_serves(built: Path, tmp_path: Path) -> None:
    base = tmp_path / "model"
    shutil.copytree(built / "1", base / "1")
    with serving(f"--model_base_path={base}", QUICK) as url, load(url) as clients:
        (base / "2").mkdir()  # half copied: the graph is there, its variables are not whole
        shutil.copy(built / "2" / "saved_model.pb", base / "2")
        (base / "2" / "variables").mkdir()
        shutil.copy(built / "2" / "variables" / "variables.index", base / "2" / "variables")
        (base / "3").mkdir()  # damaged
        (base / "3" / "saved_model.pb").write_bytes(b"\xff" * 1000)
        (base / "4").write_text("a stray file")
        (base / "5").mkdir()
        until(url, lambda states: states.get("3") == ("END", "saved_model.pb is damaged: it is no SavedModel protobuf"))
        until(url, lambda states: states.get("2") == ("START", WAITS))
        (base / "1" / "saved_model.pb").write_bytes(b"\xff")  # what serves is corrupted, then goes with all the rest
        (base / "1" / "variables" / "variables.index").unlink()
        shutil.rmtree(base)
        for _ in range(10):  # while the server looks for the folder, and at what was left of it, several times
            until(url, lambda states: states.get("1") == ("AVAILABLE", ""))
            time.sleep(0.1)
        assert set(clients.factors) == {1.0}
        assert httpx.get(f"{url}/v2/health/ready").status_code == 200
        shutil.copytree(built / "2", base / "2")
        until(url, lambda states: states == {"2": ("AVAILABLE", "")})


@pytest.mark.timeout(900)
def test_no_bad_version_costs_one_of_64_connections_a_request(built: Path, tmp_path: Path) -> None:
    base, bad = tmp_path / "model", tmp_path / "bad"
    shutil.copytree(built / "1", base / "1")
    savedmodels.aborts(bad / "3")
    graph = savedmodels.numbers(bad / "4", tf.nn.softsign) / "saved_model.pb"
    graph.write_bytes(graph.read_bytes().replace(b"Softsign", b"Softsing"))
    shutil.copytree(built / "2", bad / "5", ignore=shutil.ignore_patterns("variables.data*"))  # half copied
    savedmodels.counter_without_inputs(bad / "6")
    process = Process(f"--model_base_path={base}", QUICK, "--model_version_policy=all", "--log_format=json", *PATIENT)
    try:
        url = process.wait_ready()
        with _asked_by(64, url) as clients:
            savedmodels.numbers(base / "2", tf.nn.softplus)  # prepared by no test before, so by a child
            until(url, lambda states: _has_failed("2", "SIGKILL", states) or _kill_child(process))
            shutil.rmtree(base / "2")
            for folder in sorted(bad.iterdir()):
                folder.rename(base / folder.name)
            until(url, lambda states: states.get("6") == ("AVAILABLE", ""))
            until(url, lambda states: _has_failed("3", "SIGABRT", states))
            until(url, lambda states: _has_failed("4", "has no op Softsing", states))
            until(url, lambda states: states.get("5") == ("START", WAITS))
            count = {"signature_name": "get_counter", "inputs": {}}
            assert httpx.post(f"{url}/v1/models/default/versions/6:predict", json=count).json() == {"outputs": 0.0}
            for version in (3, 4):
                assert metric(url, "darkroom_model_load_failures_total", version=str(version)) >= 1
        assert (clients.not_ready, dict(clients.lost)) == (0, {})
        assert clients.answered > 64
        failed = [json.loads(line) for line in process.lines if '"model can\'t be served"' in line]
        assert {2, 3, 4} == {line["version"] for line in failed}
        assert all(line["reason"] for line in failed)
    finally:
        assert process.stop() == 0


def _keeps_to_permissions() -> str:
    """Why no process can be started here that may not read a folder of mode 000; empty where one can."""
    if os.geteuid():
        return ""
    if (
        shutil.which("setpriv")
        and not subprocess.run([*NO_OVERRIDE, "true"], check=False, capture_output=True).returncode
    ):
        return ""
    return "root can't give up reading all files here"


@pytest.mark.skipif(bool(_keeps_to_permissions()), reason=_keeps_to_permissions())
def test_a_version_that_may_not_be_read_fails_alone_at_the_start_and_later(built: Path, tmp_path: Path) -> None:
    base = tmp_path / "model"
    for version in (1, 2):
        shutil.copytree(built / str(version), base / str(version))
    (base / "2").chmod(0)
    prefix = () if os.geteuid() else NO_OVERRIDE
    process = Process(f"--model_base_path={base}", QUICK, "--model_version_policy=all", prefix=prefix)
    try:
        url = process.wait_ready()
        until(url, lambda states: states.get("1") == ("AVAILABLE", "") and _has_failed("2", "", states))
        shutil.copytree(built / "1", tmp_path / "3")
        (tmp_path / "3").chmod(0)
        (tmp_path / "3").rename(base / "3")
        shutil.copytree(built / "1", base / "4")
        (shutil.copytree(built / "1", base / "5") / "variables").chmod(0)
        until(url, lambda states: states.get("4") == ("AVAILABLE", "") and _has_failed("3", "", states))
        until(url, lambda states: _has_failed("5", "", states))
        (base / "2").chmod(0o755)
        until(url, lambda states: states.get("2") == ("AVAILABLE", ""))
    finally:
        for version in (2, 3):
            (base / str(version)).chmod(0o755)
        (base / "5" / "variables").chmod(0o755)
        assert process.stop() == 0


def _has_failed(version: str, reason: str, states: States) -> bool:
    state, message = states.get(version, ("", ""))
    return state == "END" and reason in message


def _kill_child(process: Process) -> bool:
    """Kills the child process of a server, if there is one at the moment; False, since nobody has heard of it yet."""
    for child in processes.tree(process.process.pid)[1:2]:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return False


class Connections(threading.Thread):
    """Keep-alive connections that ask for version 1 again and again, and one that asks whether the server is ready.

    Attributes:
        lost: the requests that were not answered with 200, by status.
        answered: the others.
        not_ready: how often the server was not ready.
    """

    def __init__(self, count: int, url: str) -> None:
        super().__init__()
        self.lost: Counter[int] = Counter()
        self.answered = self.not_ready = 0
        self.is_over = threading.Event()
        self._count, self._url = count, url

    def run(self) -> None:
        asyncio.run(self._ask())

    async def _ask(self) -> None:
        body = json.dumps({"model_version": 1, "data": {"x": ROWS}}).encode()
        requests = [request_bytes("x", RequestBody("application/json", body, ()))]
        clients = Clients(self._url, requests, clients=self._count, pause_s=0.5)
        while not self.is_over.is_set():
            self.not_ready += (await ask_once(self._url, "/v2/health/ready")).status != 200
            await asyncio.sleep(0.05)
        await clients.stop()
        self.lost, self.answered = clients.lost, len(clients.took_ms)


@contextmanager
def _asked_by(count: int, url: str) -> Iterator[Connections]:
    clients = Connections(count, url)
    clients.start()
    try:
        yield clients
    finally:
        clients.is_over.set()
        clients.join()


def test_models_that_merged_batches_would_break_answer_each_caller_right(tmp_path: Path) -> None:
    savedmodels.numbers(tmp_path / "reduces" / "1", lambda x: x - tf.reduce_mean(x, 0))
    savedmodels.numbers(tmp_path / "mixes" / "1", lambda x: tf.reverse(x, [0]))
    savedmodels.counter(tmp_path / "counts" / "1")
    names = ("reduces", "mixes", "counts")
    config = {"model_config_list": [{"name": name, "base_path": str(tmp_path / name)} for name in names]}
    (tmp_path / "models.json").write_text(json.dumps(config))
    with serving(f"--model_config_file={tmp_path / 'models.json'}") as url:

        def ask(number: int) -> list[int]:
            """One client: five requests to each model, its own numbers in them."""
            rows = [[number, number + 1, 0, 0], [number * 3, 5, 0, 1]]
            middle = [(one + other) / 2 for one, other in zip(*rows, strict=True)]
            counted = []
            with httpx.Client(timeout=60) as client:
                for _ in range(5):
                    reduced, mixed, count = (
                        client.post(url, json={"model_name": name, "data": {"x": x}})
                        for name, x in (("reduces", rows), ("mixes", rows), ("counts", [float(number)]))
                    )
                    assert reduced.json() == {"y": [[x - m for x, m in zip(row, middle, strict=True)] for row in rows]}
                    assert mixed.json() == {"y": rows[::-1]}
                    assert count.json()["y"] == [float(number)]
                    counted += count.json()["calls"]
            return counted

        with ThreadPoolExecutor(32) as threads:
            counted = [count for counts in threads.map(ask, range(32)) for count in counts]
        assert sorted(counted) == list(range(1, 161))  # exactly once a request, and no run before the first of them
        for name in names:
            described = httpx.get(f"{url}/v1/models/{name}").json()["signatures"]["serving_default"]
            assert described["batched"] is False
            assert described["unbatched_reason"]
