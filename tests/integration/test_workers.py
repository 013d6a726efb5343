"""`--workers`: several processes that serve one address as one server would."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from darkroom.service.config.machine import usable_cores
from tests.collector import attributes, collecting
from tests.pictures import picture
from tests.savedmodels import spin
from tests.serving import Process, certificate, metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow
FAKE = "--model_base_path=fake"
DIGITS = Path(__file__).parents[2] / "model" / "digits"


@contextmanager
def _two_workers(*flags: str, environment: dict[str, str] | None = None) -> Iterator[Process]:
    """A server of two workers that are ready; none of its processes is left behind."""
    process = Process("--workers=2", "--log_format=json", *(flags or (FAKE,)), environment=environment)
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()
        _until(lambda: not any(map(_is_alive, _pids(process).elements())))


def _pids(process: Process) -> Counter[int]:
    """The process ids of the workers that became ready so far."""
    lines = [json.loads(line) for line in process.lines if '"worker is ready"' in line]
    return Counter(line["pid"] for line in lines)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _end(pid: int, number: signal.Signals) -> None:
    """Ends a worker, and waits until the supervisor has noticed."""
    os.kill(pid, number)
    _until(lambda: not _is_alive(pid))


def _ask(client: httpx.Client) -> tuple[int, str]:
    """The status of a prediction, and a word that only the worker who made it says."""
    answer = client.post("/", files={"image": ("a", picture())})
    return answer.status_code, answer.headers["x-request-id"].split("-")[0]


def test_each_worker_logs_and_traces_its_own_requests_and_they_are_counted_together() -> None:
    with collecting() as collector:
        flags = (FAKE, "--access_log=sample:1")
        with _two_workers(*flags, environment=collector.variables()) as process:
            for seed in range(20):  # a connection each
                httpx.post(process.url, content=picture(seed), headers={"Content-Type": "image/png"})
            _until(lambda: metric(process.url, "darkroom_traces_total", result="sent") == 20)
            lines = [json.loads(line) for line in list(process.lines) if '"darkroom.access"' in line]
        roots = [span for span in collector.spans if span.kind == 2]
        instances = {attributes(each.resource_spans[0].resource)["service.instance.id"] for each in collector.requests}
    assert {line["worker"] for line in lines} == {1, 2}
    assert {(line["trace_id"], line["span_id"]) for line in lines} == {
        (root.trace_id.hex(), root.span_id.hex()) for root in roots
    }
    assert len({line["request_id"] for line in lines}) == len(roots) == 20
    assert len(instances) == 2


def test_connections_that_stay_are_shared_out_evenly() -> None:
    with _two_workers() as process, ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=process.url)) for _ in range(6)]
        served = Counter(_ask(client)[1] for client in clients)
        assert list(served.values()) == [3, 3]
        again = Counter(_ask(client)[1] for client in clients)
        assert again == served


def test_a_scrape_and_the_live_page_of_either_worker_tell_what_all_of_them_did() -> None:
    with _two_workers() as process, ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=process.url)) for _ in range(2)]
        for times, client in zip((3, 5), clients, strict=True):
            assert {_ask(client)[0] for _ in range(times)} == {200}
        for _ in range(3):  # whichever answers
            assert metric(process.url, "darkroom_requests_total", outcome="ok") == 8
            assert metric(process.url, "darkroom_batch_images_count") == 8
            assert metric(process.url, "darkroom_http_requests_total", route="/") == 8
        asked = clients[0].get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        assert asked.headers["content-type"].startswith("application/openmetrics-text")
        assert asked.text.endswith("# EOF\n")
        assert metric(process.url, "darkroom_build_info") == 1
        assert metric(process.url, "darkroom_model_state") == 1
        assert metric(process.url, "darkroom_workers", state="ready") == 2
        for client in clients:  # a second is told once it has ended
            _until(lambda client=client: _answered_lately(client) == 8)  # type: ignore[misc]
            assert client.get("/live/events").json()["server"]["workers"] == 2


def _answered_lately(client: httpx.Client) -> int:
    """The requests of the last minutes that `/live/events` tells."""
    seconds = client.get("/live/events").json()["seconds"]
    return sum(model["requests"].get("ok", 0) for second in seconds for model in second["models"])


def test_a_worker_that_is_killed_takes_its_own_connections_along_and_is_replaced() -> None:
    with _two_workers() as process, ExitStack() as stack:
        url = process.url
        clients = [stack.enter_context(httpx.Client(base_url=url)) for _ in range(4)]
        words = [_ask(client)[1] for client in clients]
        assert metric(url, "darkroom_requests_total", outcome="ok") == 4
        before = _pids(process)
        _end(next(iter(before)), signal.SIGKILL)
        survived = {_answer_or_nothing(client) for client in clients} - {None}
        assert len(survived & set(words)) == 1
        assert [_ask(client)[0] for client in clients] == [200] * 4  # by new connections, where need be
        assert metric(url, "darkroom_requests_total", outcome="ok") >= 4 + 2 + 4
        _until(lambda: metric(url, "darkroom_workers", state="ready") == 2)
        assert metric(url, "darkroom_worker_restarts_total") == 1
        assert len(_pids(process) - before) == 1
        assert "SIGKILL" in "".join(process.lines)


def test_a_worker_that_hangs_is_replaced_and_its_clients_hear_of_it() -> None:
    with _two_workers(FAKE, "--worker_timeout_ms=1500") as process, ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=process.url, timeout=60)) for _ in range(2)]
        words = [_ask(client)[1] for client in clients]
        hung = next(iter(_pids(process)))
        os.kill(hung, signal.SIGSTOP)
        answers = [_answer_or_nothing(client) for client in clients]  # one of them waits until the other end is gone
        assert sorted(answer in words for answer in answers) == [False, True]
        _until(lambda: _ready_workers(process.url) == 2)
        assert not _is_alive(hung)
        assert metric(process.url, "darkroom_worker_restarts_total") == 1
        assert "event loop stands still" in "".join(process.lines)
        assert [_ask(client)[0] for client in clients] == [200, 200]


def _ready_workers(url: str) -> float:
    """How many are ready; none if the one that is asked is about to be replaced."""
    with suppress(httpx.TransportError):
        return metric(url, "darkroom_workers", state="ready")
    return 0


def _answer_or_nothing(client: httpx.Client) -> str | None:
    try:
        return _ask(client)[1]
    except httpx.TransportError:
        return None


def test_who_was_told_that_it_is_ready_is_served_whichever_worker_gets_the_next_connection() -> None:
    process = Process("--workers=2", FAKE)
    try:
        _until(lambda: bool(process.url))
        _until(lambda: httpx.get(process.url + "/v2/health/ready", timeout=60).status_code == 200)
        assert {httpx.post(process.url, files={"image": ("a", picture())}).status_code for _ in range(8)} == {200}
    finally:
        process.stop()


def test_who_comes_while_a_worker_is_replaced_gets_one_that_is_ready() -> None:
    with _two_workers() as process:
        for pid in _pids(process):
            _end(pid, signal.SIGTERM)
            assert {httpx.get(process.url + "/v2/health/ready").status_code for _ in range(8)} == {200}
            _until(lambda: metric(process.url, "darkroom_workers", state="ready") == 2)


def test_a_worker_whose_engine_hangs_is_replaced_while_the_other_goes_on(tmp_path: Path) -> None:
    spin(tmp_path / "spin" / "1")
    base = f"--model_base_path={tmp_path / 'spin'}"
    with _two_workers(base, "--engine_timeout_ms=500", "--engine_kill_ms=1000") as process:
        url = f"{process.url}/v1/models/default:predict"
        with httpx.Client(timeout=60) as client:
            hung = client.post(url, json={"instances": [{"turns": [2**31 - 1]}]})
        assert (hung.status_code, hung.headers["x-darkroom-error"]) == (504, "engine_timeout")
        _until(lambda: any('"status 70"' in line for line in process.lines))
        assert httpx.post(url, json={"instances": [{"turns": [3]}]}).json() == {"predictions": [[3]]}


def test_sigterm_ends_every_process_with_0_and_loses_no_request_of_those_who_ask_on() -> None:
    counts: list[int] = [0] * 8
    is_over = threading.Event()

    def keep_asking(number: int) -> set[int]:
        """On one connection as long as it is kept; an error of the connection fails the test."""
        found = set()
        with httpx.Client(base_url=process.url, timeout=60) as client:
            while not is_over.is_set():
                found.add(_ask(client)[0])
                counts[number] += 1
        return found

    with _two_workers(FAKE, "--drain_delay_ms=3000") as process, ThreadPoolExecutor(len(counts)) as threads:
        asking = [threads.submit(keep_asking, number) for number in range(len(counts))]
        _until(lambda: min(counts) > 3)
        process.process.send_signal(signal.SIGTERM)
        _until(lambda: "still answering" in "".join(process.lines))
        before = list(counts)
        _until(lambda: all(now > then + 2 for now, then in zip(counts, before, strict=True)))
        is_over.set()
        assert [each.result() for each in asking] == [{200}] * len(counts)
        pids = _pids(process)
        assert len(pids) == 2
        assert process.process.wait(60) == 0
        assert not any(map(_is_alive, pids))
        assert "Traceback" not in "".join(process.lines)


def test_workers_do_not_outlive_a_supervisor_that_is_killed() -> None:
    with _two_workers() as process:
        process.process.kill()
        _until(lambda: not any(map(_is_alive, _pids(process))))


def test_what_the_operator_does_to_a_model_reaches_every_worker_also_those_that_come_later() -> None:
    with _two_workers() as process, ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=process.url)) for _ in range(2)]
        assert clients[0].put("/admin/models/default/labels", json={"stable": 1}).status_code == 200
        labelled = [client.get("/v1/models/default/labels/stable").status_code for client in clients]
        assert labelled == [200, 200]
        traffic = "/admin/models/default/traffic"
        assert clients[0].put(traffic, json={"split": {"2": 1}}).status_code == 404
        assert clients[0].put(traffic, json={"split": {"stable": 1}}).status_code == 200
        assert [client.get(traffic).json()["shares"] for client in clients] == [{"1": 1.0}] * 2
        assert clients[0].post("/admin/models/other/unload").status_code == 404
        assert clients[0].post("/admin/models/default/unload").status_code == 200
        assert {_ask(client)[0] for client in clients} == {503}
        _end(next(iter(_pids(process))), signal.SIGKILL)
        _until(lambda: len(_pids(process)) == 3)
        assert {httpx.post(process.url, files={"image": ("a", picture())}).status_code for _ in range(8)} == {503}
        assert httpx.post(process.url + "/v2/repository/models/default/load").status_code == 200
        assert {httpx.get(process.url + traffic).json()["split"]["stable"] for _ in range(8)} == {1.0}
        assert {httpx.post(process.url, files={"image": ("a", picture())}).status_code for _ in range(8)} == {200}


def test_workers_speak_tls(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    with _two_workers(FAKE, "--enable_ssl", f"--secret_pem={pem}", f"--secret_key={key}") as process:
        with socket.create_connection(("127.0.0.1", int(process.url.rsplit(":", 1)[1]))) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            with suppress(ConnectionResetError):
                assert plain.recv(4096)[:4] != b"HTTP"
        with httpx.Client(base_url=process.url, verify=ssl.create_default_context(cafile=pem)) as client:
            assert _ask(client)[0] == 200
        assert "Traceback" not in "".join(process.lines)


@pytest.mark.skipif(usable_cores() == 1, reason="one core has one process")
def test_by_default_a_small_model_gets_more_processes_and_no_request_is_lost_while_they_come() -> None:
    process = Process("--workers=auto", "--log_format=json", f"--model_base_path={DIGITS}")
    picture_of_one, is_over = picture(), threading.Event()
    body = {"data": {"images": [base64.b64encode(picture_of_one).decode()]}}

    def keep_asking(url: str) -> list[tuple[int, str]]:
        with httpx.Client(base_url=url, timeout=60) as client:
            found = []
            while not is_over.wait(0.02):  # the second process starts beside these requests
                answer = client.post("/", json=body)
                found.append((answer.status_code, answer.headers["x-request-id"].split("-")[0]))
            return found

    try:
        _until(lambda: bool(process.url))
        _until(lambda: httpx.get(process.url + "/v2/health/ready", timeout=60).status_code == 200)
        with ThreadPoolExecutor(4) as threads:  # they come while the first process is the only one, and stay
            asked = [threads.submit(keep_asking, process.url) for _ in range(4)]
            process.wait_ready()
            (told,) = [json.loads(line) for line in process.lines if '"--workers=auto"' in line]
            assert told["workers"] == metric(process.url, "darkroom_workers", state="ready") > 1
            taken = metric(process.url, "darkroom_http_requests_total", route="/")
            _until(lambda: metric(process.url, "darkroom_http_requests_total", route="/") > taken + 40)
            is_over.set()
            answers = [future.result() for future in asked]
        assert {status for one in answers for status, _ in one} == {200}
        assert {one[0][1] for one in answers} < {one[-1][1] for one in answers}  # some have moved to another process
    finally:
        assert process.stop() == 0


def _serve(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "darkroom", "serve", "--host=127.0.0.1", "--workers=2", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_port_that_is_taken_ends_with_1_and_names_it_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = _serve(f"--port={port}", FAKE)
    assert ended.returncode == 1
    assert ended.stderr.count(f"can't listen on 127.0.0.1:{port}") == 1


def test_a_folder_without_a_model_ends_with_1_and_the_reason_once(tmp_path: Path) -> None:
    ended = _serve("--port=0", f"--model_base_path={tmp_path}")
    assert ended.returncode == 1
    assert ended.stderr.count("no model could be loaded") == 1
    assert str(tmp_path) in ended.stderr
    assert "Traceback" not in ended.stderr


def _until(is_so: Callable[[], object]) -> None:
    """Waits for what must come; 60 s without it is a failure."""
    for _ in range(1200):
        if is_so():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come within 60 s")
