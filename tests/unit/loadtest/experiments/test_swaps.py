"""The swaps' own part: when a version serves, and which of the time is the program's."""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.experiments.swaps import SwapExperiment, TimedRequest, Window
from loadtest.traffic.connections import HttpResponse

if TYPE_CHECKING:
    import pytest

    from loadtest.traffic.connections import Done


class Told:
    """A pool that answers what it was told, one after the other, and keeps what it was asked."""

    def __init__(self, *states: dict[str, str]) -> None:
        self.states = list(states)
        self.asked: list[bytes] = []

    def ask(self, request: bytes, done: Done) -> None:
        self.asked.append(request)
        told = [{"version": version, "state": state} for version, state in self.states.pop(0).items()]
        done(HttpResponse(200, b"", json.dumps({"model_version_status": told}).encode(), 0.0))


def run_of(pool: Any = None) -> SwapExperiment:
    run = SwapExperiment(Namespace(pictures="digits", rate=100.0, swaps=1), Path("nowhere"), 1, 1)
    run._pool = pool
    return run


def test_a_swap_is_over_when_the_new_version_serves_and_the_old_one_is_gone() -> None:
    pool = Told({"1": "AVAILABLE", "2": "LOADING"}, {"1": "UNLOADING", "2": "AVAILABLE"}, {"2": "AVAILABLE"})
    asyncio.run(run_of(pool)._until("2", len_versions=1))
    assert pool.states == []
    assert {request.split()[1] for request in pool.asked} == {b"/v1/models/default"}


def test_times_count_from_when_a_request_was_due_and_tell_what_this_program_held_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = run_of()
    answer = json.dumps({"probability": [[1.0]]}).encode()
    run._expected = [[[1.0]]]
    run._windows = [Window(0.0, 1.0), Window(1.0, 2.0)]
    run._asks = [
        TimedRequest(0, 0.5, 0.502, HttpResponse(200, b"", answer, 0.501)),
        TimedRequest(0, 1.5, 1.520, HttpResponse(200, b"", answer, 1.515)),
    ]
    assert run.report() == 0
    quiet, late, swap, late_in_swap, *_ = capsys.readouterr().out.splitlines()[1:]
    assert (quiet.split()[-2], swap.split()[-2]) == ("2.0", "20.0")
    assert (late.split()[-2], late_in_swap.split()[-2]) == ("1.0", "15.0")


def test_an_answer_that_no_version_gives_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of()
    run._expected = [[[1.0]], [[2.0]]]
    run._windows = [Window(0.0, 1.0), Window(1.0, 2.0)]
    run._asks = [TimedRequest(0, 0.5, 0.6, HttpResponse(200, b"", b'{"probability": [[1.5]]}', 0.5))]
    assert run.report() == 1
    assert "1 failed" in capsys.readouterr().out
