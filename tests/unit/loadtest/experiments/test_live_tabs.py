"""The cost of open live tabs: they follow a real server's events beside a load, and the ratios are of pairs of rounds."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from darkroom.models.engines.fakes import fake_model
from loadtest.experiments.live_tabs import Round, measure, report
from loadtest.traffic.connections import request_bytes
from loadtest.traffic.pictures import json_body, load
from tests.serving import running


def loaded(*, tabs: int, **settings: Any) -> Round:
    body = json_body(load("digits")[:1])
    requests = [request_bytes("127.0.0.1", body, body.headers)]
    with running(fake_model(name="default"), **settings) as server:
        port = int(server.url.rpartition(":")[2])
        return asyncio.run(measure(port, os.getpid(), requests, clients=2, tabs=tabs, seconds=0.1))


def test_tabs_read_events_while_clients_are_answered() -> None:
    found = loaded(tabs=3)
    assert found.rate > 0
    assert found.events >= 1
    assert found.p50_ms <= found.p99_ms


def test_a_stream_that_is_refused_ends_the_program() -> None:
    with pytest.raises(SystemExit, match="told nothing"):
        loaded(tabs=1, enable_auth=True, auth_password="secret")


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    none = [Round(100.0, 1.0, 2.0, 50.0, 0.0), Round(200.0, 1.0, 2.0, 40.0, 0.0), Round(100.0, 1.0, 2.0, 50.0, 0.0)]
    some = [Round(90.0, 1.0, 2.0, 55.0, 4.0), Round(200.0, 1.0, 2.0, 40.0, 4.0), Round(100.0, 1.0, 2.0, 50.0, 4.0)]
    idle = [Round(0.0, 0.0, 0.0, 2500.0, 4.0)]
    told = report({(16, 0): none, (16, 10): some, (0, 0): idle, (0, 10): idle}, 16, 10)
    assert told.endswith("with 10 tabs, of none: 1.000 of the rate, 1.000 of the CPU a request")
    assert "0.25 % of a core" in told
