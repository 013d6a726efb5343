"""The server as a process: how it starts, what it says, and how it stops."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest

from darkroom.models.engines.fakes import EchoEngine, SlowEngine, fake_model
from darkroom.models.errors import PredictFailed
from darkroom.models.rows import Rows
from tests.pictures import picture
from tests.serving import Process, metric, running, serving

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def _darkroom(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "darkroom", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_server_tells_how_to_ask_it_and_ends_with_0_on_sigterm() -> None:
    process = Process("--model_base_path=fake")
    url = process.wait_ready()
    assert httpx.post(url, files={"image": ("a", picture())}).status_code == 200
    assert process.stop(signal.SIGTERM) == 0
    text = "".join(process.lines)
    assert f"{url}/image_inference" in text
    assert "--data-binary" in text
    assert "Traceback" not in text


def test_sigterm_while_the_models_load_ends_with_0() -> None:
    process = Process("--model_base_path=model/digits")
    _until(lambda: process.url)
    assert process.stop(signal.SIGTERM) == 0
    assert "Traceback" not in "".join(process.lines)
    assert not any("darkroom: ready" in line for line in process.lines)


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_changes_nothing(workers: int) -> None:
    process = Process("--model_base_path=fake", f"--workers={workers}")
    url = process.wait_ready()
    process.process.send_signal(signal.SIGHUP)
    assert httpx.post(url, files={"image": ("a", picture())}).status_code == 200
    assert process.stop(signal.SIGTERM) == 0


def test_settings_come_from_the_environment_too() -> None:
    with serving(environment={"DARKROOM_MODEL_BASE_PATH": "fake", "DARKROOM_MODEL_NAME": "echo"}) as url:
        assert httpx.get(url + "/v1/models/echo").status_code == 200


@pytest.mark.parametrize("streams", [">/dev/full 2>&1", ">&- 2>&-", "2>&1 | :", "2>&1 | sleep 60"])
def test_a_server_starts_serves_and_ends_in_order_whatever_became_of_its_output(streams: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"{sys.executable} -m darkroom serve --host=127.0.0.1 --port={port} --model_base_path=fake"
    noisy = "ulimit -n 128; { " + command + " --access_log --log_format=json & echo $! >&3; wait $!; echo $? >&3; } "
    with subprocess.Popen(["bash", "-c", f"exec 3>&1; {noisy} {streams}"], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        url, is_ready = f"http://127.0.0.1:{port}", False
        while not is_ready:
            try:
                is_ready = httpx.get(url + "/v2/health/ready").status_code == 200
            except httpx.TransportError:
                assert shell.poll() is None
        with httpx.Client() as caller:  # 500 lines of the log: more than a pipe holds
            assert {caller.get(url + "/health").status_code for _ in range(500)} == {200}
        os.kill(pid, signal.SIGTERM)
        assert shell.stdout.readline() == "0\n"
        shell.kill()


def test_a_pod_of_a_service_of_the_same_name_starts_and_says_what_it_ignores() -> None:
    process = Process("--model_base_path=fake", environment={"DARKROOM_PORT": "tcp://10.0.0.1:8500"})
    process.wait_ready()
    assert process.stop(signal.SIGTERM) == 0
    assert sum("Kubernetes" in line and "DARKROOM_PORT" in line for line in process.lines) == 1


def test_settings_that_can_not_be_served_end_with_2_and_all_reasons() -> None:
    ended = _darkroom("serve", "--port=http", "--slo_ms=-1")
    assert ended.returncode == 2
    assert "port: " in ended.stderr
    assert "slo_ms: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_without_a_model_ends_with_1_and_the_reason(tmp_path: Path) -> None:
    ended = _darkroom("serve", "--host=127.0.0.1", "--port=0", f"--model_base_path={tmp_path}")
    assert ended.returncode == 1
    assert str(tmp_path) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_ends_with_1_and_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = _darkroom("serve", "--host=127.0.0.1", f"--port={port}", "--model_base_path=fake")
    assert ended.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in ended.stderr


def test_help_tells_every_command() -> None:
    ended = _darkroom("--help")
    assert ended.returncode == 0
    assert "serve" in ended.stdout
    assert "export" in ended.stdout


def test_what_was_accepted_is_answered_while_new_requests_are_refused() -> None:
    release = threading.Event()
    engine = SlowEngine(EchoEngine(), lambda _: 60, sleep=release.wait)
    answers: list[httpx.Response] = []
    with running(fake_model(engine, name="default"), max_inflight_batches=1) as server:
        darkroom = server.darkroom
        caller = threading.Thread(
            target=lambda: answers.append(httpx.post(server.url, files={"image": ("a", picture())}, timeout=60))
        )
        caller.start()
        _until(lambda: metric(server.url, "darkroom_batches_total") == 1)
        server.loop.call_soon_threadsafe(server.stop)
        _until(lambda: darkroom.lifecycle.is_draining)
        refused = httpx.post(server.url, files={"image": ("a", picture())})
        assert httpx.get(server.url + "/v2/health/ready").status_code == 503
        release.set()
        caller.join()
    assert answers[0].status_code == 200
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["connection"] == "close"


def test_before_it_refuses_a_stopping_server_still_answers_and_takes_what_has_begun_to_arrive() -> None:
    with running(fake_model(name="default"), drain_delay_ms=500) as server, ExitStack() as stack:
        address = urlsplit(server.url)
        kept = stack.enter_context(httpx.Client(base_url=server.url))
        assert "close" not in kept.get("/health").headers.get("connection", "")
        half = [
            stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=30))
            for _ in range(3)
        ]
        for connection, request in zip(half, _requests(), strict=True):
            connection.sendall(request[:-5])
        server.loop.call_soon_threadsafe(server.stop)
        _until(lambda: server.darkroom.lifecycle.is_draining)
        assert httpx.get(server.url + "/v2/health/ready").json()["ready"] is False
        for client in (kept, httpx):
            answer = client.post(server.url, files={"image": ("a", picture())})
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        time.sleep(0.6)  # the delay is over
        for connection, request in zip(half, _requests(), strict=True):
            connection.sendall(request[-5:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert server.exit_status == 0


def _requests() -> list[bytes]:
    """A picture by either path of the server, and a head alone."""
    head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
    size = len(picture())
    return [
        f"{head}Content-Length: {size}\r\n\r\n".encode() + picture(),
        f"{head}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n".encode() + picture() + b"\r\n0\r\n\r\n",
        b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n",
    ]


def test_a_call_that_hangs_is_answered_and_makes_the_server_unready_until_it_returns() -> None:
    release = threading.Event()
    slow = SlowEngine(EchoEngine(), lambda _: 60, sleep=release.wait)
    models = fake_model(slow, name="default"), fake_model(name="other")
    with running(*models, engine_timeout_ms=50, max_inflight_batches=1) as server:
        try:
            hung = httpx.post(server.url, files={"image": ("a", picture())}, timeout=60)
            assert (hung.status_code, hung.headers["x-darkroom-error"]) == (504, "engine_timeout")
            for path in ("/v2/health/ready", "/v2/health/live", "/health"):
                answer = httpx.get(server.url + path)
                assert answer.status_code == 503
                assert "an engine call of model 'default', version 1" in answer.text
            assert metric(server.url, "darkroom_engine_stuck", model="default") == 1
            body = {"instances": [{"b64": base64.b64encode(picture()).decode()}]}
            assert httpx.post(server.url + "/v1/models/other:predict", json=body).status_code == 200
        finally:
            release.set()
        _until(lambda: httpx.get(server.url + "/v2/health/ready").status_code == 200)
        assert httpx.post(server.url, files={"image": ("a", picture())}).status_code == 200
    assert server.exit_status == 0


def test_a_broken_engine_makes_the_server_unready_until_a_call_succeeds() -> None:
    broken = threading.Event()

    class Engine(EchoEngine):
        def run(self, rows: Rows) -> Rows:
            if broken.is_set():
                raise PredictFailed("InternalError: CUDA_ERROR_ILLEGAL_ADDRESS")
            return super().run(rows)

    model = fake_model(Engine(), name="default")
    model.samples["serving_default"] = (Rows({"images": [picture()]}),)
    with running(model, engine_timeout_ms=50) as server:

        def ready() -> int:
            return httpx.get(server.url + "/v2/health/ready").status_code

        broken.set()
        assert httpx.post(server.url, files={"image": ("a", picture())}).status_code == 500
        _until(lambda: ready() == 503)
        # The watchdog's next look tells so here, too.
        _until(lambda: "CUDA_ERROR_ILLEGAL_ADDRESS" in httpx.get(server.url + "/v2/health/live").text)
        assert metric(server.url, "darkroom_engine_failing", model="default") == 1
        broken.clear()
        _until(lambda: ready() == 200)
        assert httpx.post(server.url, files={"image": ("a", picture())}).status_code == 200
    assert server.exit_status == 0


def test_a_call_that_does_not_return_stops_the_server_with_70() -> None:
    release = threading.Event()
    slow = SlowEngine(EchoEngine(), lambda _: 60, sleep=release.wait)
    with running(
        fake_model(slow, name="default"), engine_timeout_ms=50, engine_kill_ms=500, max_inflight_batches=1
    ) as server:
        # On a busy machine the loop may stand still for so long, and this process runs the other tests too.
        server.darkroom.lifecycle.watchdog._end = lambda: None
        hung = httpx.post(server.url, files={"image": ("a", picture())}, timeout=60)
        assert hung.status_code == 504
        _until(lambda: server.is_stopping)
        release.set()
    assert server.exit_status == 70


def test_a_client_that_hangs_up_while_it_waits_takes_no_slot() -> None:
    release = threading.Event()
    engine = SlowEngine(EchoEngine(), lambda _: 60, sleep=release.wait)
    with running(fake_model(engine, name="default"), max_inflight_batches=1) as server:
        caller = threading.Thread(target=lambda: httpx.post(server.url, files={"image": ("a", picture())}, timeout=60))
        caller.start()
        _until(lambda: metric(server.url, "darkroom_batches_total") == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.url, files={"image": ("a", picture(1))}, timeout=0.2)
        _until(lambda: metric(server.url, "darkroom_requests_total", outcome="cancelled") == 1)
        assert metric(server.url, "darkroom_queue_images") == 0
        release.set()
        caller.join()
        assert metric(server.url, "darkroom_batches_total") == 1


def test_requests_that_wait_while_a_batch_runs_ride_together_in_the_next() -> None:
    release = threading.Event()
    engine = SlowEngine(EchoEngine(), lambda _: 60, sleep=release.wait)
    answers: dict[int, httpx.Response] = {}
    with running(fake_model(engine, name="default"), max_inflight_batches=1) as server:

        def call(seed: int) -> None:
            answers[seed] = httpx.post(server.url, files={"image": ("a", picture(seed))}, timeout=60)

        callers = [threading.Thread(target=call, args=(seed,)) for seed in range(9)]
        callers[0].start()
        _until(lambda: metric(server.url, "darkroom_batches_total") == 1)
        for caller in callers[1:]:
            caller.start()
        _until(lambda: metric(server.url, "darkroom_queue_images") == 8)
        release.set()
        for caller in callers:
            caller.join()
        assert metric(server.url, "darkroom_batches_total") == 2
    assert all('batch;desc="8"' in answers[seed].headers["server-timing"] for seed in range(1, 9))


def _until(is_so: object) -> None:
    """Waits for what must come; 30 s without it is a failure."""
    assert callable(is_so)
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come within 30 s")
