"""gRPC over the life of real processes: nothing that was accepted is lost at a stop, and workers share the port."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from zlib import crc32

import grpc
import httpx
import numpy as np
import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.service.api.grpc import http2
from darkroom.service.api.grpc.http2 import frame
from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.settings import read_settings
from loadtest.measure.processes import free_port
from tests.grpc.calls import PREDICT, ask, channel, digests, predict, served, stub
from tests.grpc.test_limits import framed, headers, until, wire
from tests.held import Held, wait_for
from tests.pictures import picture
from tests.serving import Process, metric, running

DIGIT = Path(__file__).parents[2] / "loadtest/traffic/payloads/digits/digit_7.jpg"


def test_calls_in_flight_at_the_stop_are_answered_and_new_ones_refused() -> None:
    held = Held(fake_model(name="default"))
    with served(held.model) as (server, made):
        call = stub(made, PREDICT)
        with held.standing(server.url, lambda: ask(made, PREDICT, predict(picture(1)))):
            waiting = [call.future(predict(picture(number)), timeout=60) for number in range(10, 40)]
            wait_for(lambda: metric(server.url, "darkroom_queue_images") == len(waiting))
            server.loop.call_soon_threadsafe(server.stop)
            wait_for(lambda: server.darkroom.lifecycle.is_draining and not server.darkroom.lifecycle.is_serving)
            with pytest.raises(grpc.RpcError) as refused:
                call(predict(picture(2)), timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert [len(digests(answer.result())) for answer in waiting] == [1] * len(waiting)
        assert server.darkroom.lifecycle.unanswered == 0


@pytest.mark.slow
def test_a_process_under_load_answers_what_it_accepted_on_sigterm() -> None:
    sent = predict(DIGIT.read_bytes())
    process = Process("--model_base_path=model/digits", "--grpc_port=0", "--access_log")
    try:
        url = process.wait_ready()
        address = next(line.split()[-1] for line in process.lines if "gRPC on" in line)
        with channel(address) as made:
            call = stub(made, PREDICT)
            told = httpx.post(url, content=DIGIT.read_bytes(), headers={"Content-Type": "image/jpeg"}).json()
            floats = {
                name: tensor.float_val for name, tensor in call(sent, timeout=60).outputs.items() if tensor.float_val
            }
            assert floats
            for name, values in floats.items():  # one answer to the bit, by both ways
                assert np.ravel(np.array(told[name], np.float32)).tobytes() == np.array(values, np.float32).tobytes()
            futures = [call.future(sent, timeout=60) for _ in range(200)]
            next(iter(futures)).result()  # the server has begun
            status = process.stop(signal.SIGTERM)
            codes = Counter(future.code() for future in futures)
    finally:
        process.stop()
    assert status == 0
    assert codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}  # the latter: it came after the signal
    logged = [json.loads(line) for line in process.lines if f"/{PREDICT}" in line]
    answered = Counter(line["code"] for line in logged)
    assert answered.keys() <= {200, 503}
    assert answered[200] == codes[grpc.StatusCode.OK] + 1  # and the one before: each that was answered has arrived
    assert answered[200] > 1
    assert not [line for line in process.lines if "Traceback" in line]


@pytest.mark.slow
def test_workers_share_the_port_and_are_counted_together(tmp_path: Path) -> None:
    port = free_port()
    process = Process("--model_base_path=fake", f"--grpc_port={port}", "--workers=2", f"--cache_dir={tmp_path}")
    try:
        url = process.wait_ready()
        for number in range(20):
            with channel(f"127.0.0.1:{port}") as made:
                assert digests(ask(made, PREDICT, predict(picture(number)), wait_for_ready=True))
        assert metric(url, "darkroom_http_requests_total", route=f"/{PREDICT}", code="200") == 20
    finally:
        assert process.stop() == 0


@pytest.mark.slow
def test_nothing_of_grpc_is_imported_without_its_port() -> None:
    code = (
        "import sys; from darkroom.service.server import Server; "
        "print([name for name in sys.modules if re.match('(grpc|hpack|google.protobuf|darkroom.service.api.grpc)', name)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import re; {code}"], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"port": "8500", "grpc_port": "8500"}, "must not be --port"),
        ({"workers": "2", "grpc_port": "0"}, "nor 0 with several --workers"),
        ({"grpc_port": "70000"}, "grpc_port"),
    ],
)
def test_ports_that_cannot_be_are_refused_at_the_start(flags: dict[str, str], words: str) -> None:
    with pytest.raises(BadSettingsError) as refused:
        read_settings(flags, {})
    assert any(re.search(words, problem) for problem in refused.value.problems)


def test_a_port_that_is_taken_stops_the_start() -> None:
    with served(fake_model(name="default")) as (server, _):
        port: Any = int(server.grpc_address.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"), running(fake_model(name="default"), grpc_port=port):
            pass


def test_during_the_delay_of_a_stop_new_connections_calls_and_half_messages_are_answered() -> None:
    with ExitStack() as stack:
        server, made = stack.enter_context(served(fake_model(name="default"), drain_delay_ms=500))
        ask(made, PREDICT, predict(picture(1)))
        raw = stack.enter_context(wire(server))
        sent = framed(predict(picture(2)))
        raw.sendall(headers(1) + frame(http2.DATA, 0, 1, sent[:9]))
        server.loop.call_soon_threadsafe(server.stop)
        wait_for(lambda: server.darkroom.lifecycle.is_draining)
        with channel(server.grpc_address) as new:
            assert [digests(ask(each, PREDICT, predict(picture(3)))) for each in (made, new)] == [
                [crc32(picture(3))]
            ] * 2
        time.sleep(0.6)  # the delay is over
        raw.sendall(frame(http2.DATA, http2.END_STREAM, 1, sent[9:]))
        assert b"grpc-status\x010" in until(raw, b"grpc-status")
        until(raw, b"never")  # it is closed
    assert server.exit_status == 0
