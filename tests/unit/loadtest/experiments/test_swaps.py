"""The figures of a swap: from when times count, which of the time is the program's own, and what is a failure."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.experiments.models.swaps import SwapExperiment, TimedRequest, Window
from loadtest.traffic.connections import HttpResponse

if TYPE_CHECKING:
    import pytest


def experiment() -> SwapExperiment:
    return SwapExperiment(Namespace(pictures="digits", rate=100.0, swaps=1), Path("nowhere"), 1, 1)


def test_times_count_from_when_a_request_was_due_and_tell_what_this_program_held_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = experiment()
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
    run = experiment()
    run._expected = [[[1.0]], [[2.0]]]
    run._windows = [Window(0.0, 1.0), Window(1.0, 2.0)]
    run._asks = [TimedRequest(0, 0.5, 0.6, HttpResponse(200, b"", b'{"probability": [[1.5]]}', 0.5))]
    assert run.report() == 1
    assert "1 failed" in capsys.readouterr().out
