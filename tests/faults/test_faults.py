"""The fault suite itself: its clients notice what is wrong, its verdicts are computed, and its lists are whole."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from loadtest.traffic.pictures import load
from tests.faults import __main__ as program
from tests.faults import report, soak
from tests.faults.checked_clients import CheckedClients, Exchange, Outcome, questions
from tests.faults.fault import Fault, Setup
from tests.faults.result import Result, longest_gap_s
from tests.faults.server import Resources
from tests.httpserver import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PICTURES = load("digits")
TRUTH = {picture.name: (number / 10, 1 - number / 10) for number, picture in enumerate(PICTURES)}
QUESTIONS = [question for question in questions(PICTURES, TRUTH) if question.form == "raw"][:1]
Answer = tuple[int, bytes, bool]  # status, body, and whether it has an error code


def _said(*row: float) -> bytes:
    return json.dumps({"probability": [row]}).encode()


@contextmanager
def _served(answer: Callable[[], Answer | None]) -> Iterator[str]:
    """A server that answers as it is told; None: it closes instead."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            said = answer()
            if said is None:
                self.close_connection = True
                return
            self.send_response(said[0])
            if said[2]:
                self.send_header("X-Darkroom-Error", "bad_request")
            self.send_header("Content-Length", str(len(said[1])))
            self.end_headers()
            self.wfile.write(said[1])

        def log_message(self, *_: Any) -> None:
            pass

    with in_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ((200, _said(0.0, 1.0), False), Outcome.RIGHT),
        ((200, _said(0.1, 0.9), False), Outcome.WRONG),
        ((200, b'{"probability": []}', False), Outcome.WRONG),
        ((200, b"{}", False), Outcome.WRONG),
        ((200, b"\xff", False), Outcome.WRONG),
        ((400, b'{"error": "why"}', True), Outcome.REFUSED),
        ((503, b'{"error": "why"}', False), Outcome.WRONG),
        ((500, b"Internal Server Error", True), Outcome.WRONG),
        (None, Outcome.LOST_AFTER),
    ],
)
def test_a_checked_client_tells_a_right_answer_from_everything_else(answer: Answer | None, outcome: Outcome) -> None:
    with _served(lambda: answer) as url, CheckedClients(url, QUESTIONS, count=1) as clients:
        found = _first(clients)
    assert found.outcome is outcome


def test_a_client_without_an_answer_hangs_and_one_without_a_connection_has_lost_nothing() -> None:
    release = threading.Event()

    def wait() -> None:
        release.wait()

    with _served(wait) as url:
        with CheckedClients(url, QUESTIONS, count=1, patience_s=0.2) as clients:
            assert _first(clients).outcome is Outcome.HUNG
        release.set()
    with CheckedClients(url, QUESTIONS, count=1) as clients:
        assert _first(clients).outcome is Outcome.LOST_BEFORE


def _first(clients: CheckedClients) -> Exchange:
    """The first request that is over."""
    while not (found := clients.overlapping(0.0)):
        time.sleep(0.01)
    return found[0]


def _fault(**promise: Any) -> Fault:
    return Fault("group", "name", "Does it.", lambda _: None, Setup(), **promise)


def _result(outcome: Outcome, *, status: int = 0, **promise: Any) -> Result:
    return Result(_fault(**promise), exchanges=(Exchange(0, 1, "raw", outcome, status),), recovery_s=0.1)


@pytest.mark.parametrize(
    ("result", "problems"),
    [
        (_result(Outcome.RIGHT), []),
        (_result(Outcome.WRONG, may_lose=True, may_refuse=frozenset({503})), ["1 wrong"]),
        (_result(Outcome.HUNG, may_lose=True), ["1 hung"]),
        (_result(Outcome.LOST_AFTER), ["1 lost"]),
        (_result(Outcome.LOST_AFTER, may_disconnect=True), ["1 lost"]),
        (_result(Outcome.LOST_AFTER, may_lose=True), []),
        (_result(Outcome.LOST_BEFORE), ["1 disconnected"]),
        (_result(Outcome.LOST_BEFORE, may_disconnect=True), []),
        (_result(Outcome.REFUSED, status=503), ["refused with [503]"]),
        (_result(Outcome.REFUSED, status=503, may_refuse=frozenset({503})), []),
        (_result(Outcome.REFUSED, status=500, may_refuse=frozenset({503})), ["refused with [500]"]),
        (_result(Outcome.RIGHT)._replace(recovery_s=None), ["not recovered"]),
        (_result(Outcome.RIGHT)._replace(broken="it lies"), ["it lies"]),
        (_result(Outcome.RIGHT)._replace(after=Resources(0, 50, 0)), ["50 descriptors more"]),
        (_result(Outcome.RIGHT)._replace(after=Resources(0, 50, 0), is_same_process=False), []),
        (Result(_fault(), skipped="needs root"), []),
    ],
)
def test_the_verdict_follows_from_what_the_fault_promises(result: Result, problems: list[str]) -> None:
    assert result.problems == problems
    assert (result.verdict in ("ok", "skipped")) == (not problems)


def test_the_longest_gap_counts_right_answers_only() -> None:
    answers = [(1.0, Outcome.RIGHT), (2.0, Outcome.REFUSED), (4.5, Outcome.RIGHT), (5.0, Outcome.RIGHT)]
    exchanges = tuple(Exchange(0, ended_s, "raw", outcome) for ended_s, outcome in answers)
    assert longest_gap_s(exchanges, 0.0, 5.5) == 3.5


def test_the_table_goes_between_the_markers_of_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{report.BEGIN}\n\nold\n\n{report.END}\n\nafter\n", encoding="utf-8")
    result = _result(Outcome.RIGHT)._replace(faulty=Counter({"400": 2}))
    report.put_between_markers(page, report.markdown([result], {"date": "today"}))
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert "1 faults, 0 skipped, 0 broken. Good requests: 1 right" in text
    assert "400: 2" in text
    assert text.startswith("before")
    assert text.endswith(f"{report.END}\n\nafter\n")
    assert json.loads(report.as_json([result], {}))["faults"][0]["verdict"] == "ok"


def test_every_fault_has_a_sentence_and_a_name_of_its_own_and_the_short_list_reaches_every_group() -> None:
    names = [(fault.group, fault.name) for fault in program.FAULTS]
    assert len(set(names)) == len(names)
    assert [fault.name for fault in program.FAULTS if not fault.does.endswith(".")] == []
    assert {fault.group for fault in program.FAULTS if fault.is_short} >= {
        "clients",
        "pictures",
        "engine",
        "files",
        "process",
    }


def test_a_soak_compares_its_end_with_its_beginning_without_the_samples_of_a_swap() -> None:
    def at(second: float, memory: float, *, children: int = 0, threads: int = 9) -> soak.Sample:
        return soak.Sample(second, memory, 20, threads, children, 0, 0)

    steady = [at(second, 500.0) for second in range(0, 1_800, 5)]
    assert soak.drift([*steady, at(1_800, 900.0, children=1)]).problems == []
    grown = [*steady[:300], *(at(second, 520.0, threads=10) for second in range(1_500, 1_800, 5))]
    assert soak.drift(grown).problems == ["memory grew to 1.040 of what it was", "+1 threads"]
