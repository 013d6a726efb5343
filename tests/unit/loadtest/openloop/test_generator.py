"""The open-loop generator, against a server of a hundred lines."""

import json
from pathlib import Path
from random import Random

import pytest

from loadtest.openloop.generator import PreparedRequest, arrivals_s, is_loopback, judge, main, parse
from loadtest.openloop.results import AnswerKind
from loadtest.traffic.answers import Expectations
from loadtest.traffic.connections import HttpResponse, retry_after_s
from loadtest.traffic.pictures import json_body, load
from tests.unit.loadtest.pictureserver import PictureServer, serving


def chance(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - arrivals, no secrets


def test_the_same_seed_offers_the_same_arrivals_in_order_and_in_time() -> None:
    first, second = (arrivals_s(500, 2.0, chance(7), is_poisson=True) for _ in range(2))
    assert first == second == sorted(first)
    assert 0 < first[0] < first[-1] < 2.0
    assert 800 < len(first) < 1200  # six standard deviations either way; the seed is fixed


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert arrivals_s(4, 1.1, chance(1), is_poisson=False) == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:8500", "http://[::1]:80", "http://127.9.9.9"])
def test_this_machine_may_be_loaded(url: str) -> None:
    assert is_loopback(url)


@pytest.mark.parametrize(
    "url", ["http://example.org", "http://10.0.0.1:8500", "http://localhost.example.org", "http://"]
)
def test_another_machine_may_not_without_saying_so(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_loopback(url)
    with pytest.raises(SystemExit):
        parse(["--url", url])
    assert "--allow_remote" in capsys.readouterr().err
    assert parse(["--url", url, "--allow_remote"]).url == url


@pytest.mark.parametrize("flag", ["--seconds", "--rows", "--clients", "--connections", "--multiples"])
def test_counts_of_nothing_are_refused(flag: str) -> None:
    with pytest.raises(SystemExit):
        parse([flag, "0"])


HEALTHY = PreparedRequest(b"", json_body(load("photos")[:2]))
POISONED = PreparedRequest(b"", json_body(load("photos")[:2]), broken_row=1)
KNOWN = Expectations({"astronaut": 1, "chelsea": 2})


@pytest.mark.parametrize(
    ("request_", "status", "body", "kind"),
    [
        (HEALTHY, 200, b'{"predict":[1,2]}', AnswerKind.OK),
        (HEALTHY, 200, b'{"predict":[2,1]}', AnswerKind.WRONG),
        (HEALTHY, 400, b'{"error":"images[1]: bad"}', AnswerKind.FAILED),
        (HEALTHY, 0, b"", AnswerKind.FAILED),
        (HEALTHY, 429, b"", AnswerKind.REFUSED),
        (HEALTHY, 503, b"", AnswerKind.REFUSED),
        (HEALTHY, 504, b"", AnswerKind.EXPIRED),
        (POISONED, 400, b'{"error":"images[1]: bad"}', AnswerKind.POISON_NAMED),
        (POISONED, 400, b'{"error":"images[0]: bad"}', AnswerKind.POISON_MISSED),
        (POISONED, 200, b'{"predict":[1,2]}', AnswerKind.POISON_MISSED),
        (POISONED, 500, b'{"error":"images[1]: bad"}', AnswerKind.POISON_MISSED),
        (POISONED, 429, b"", AnswerKind.REFUSED),
    ],
)
def test_an_answer_is_judged_by_status_and_content(
    request_: PreparedRequest, status: int, body: bytes, kind: AnswerKind
) -> None:
    assert judge(request_, HttpResponse(status, b"", body, 0.0), KNOWN) is kind


@pytest.mark.parametrize(
    ("head", "seconds"),
    [(b"\r\nretry-after: 2", 2.0), (b"", None), (b"\r\nRetry-After: Wed, 21 Oct 2026 07:28:00 GMT", None)],
)
def test_retry_after_is_read_in_seconds(head: bytes, seconds: float | None) -> None:
    assert retry_after_s(HttpResponse(429, b"HTTP/1.1 429" + head, b"", 0.0)) == seconds


def arguments(server: PictureServer, *more: str) -> list[str]:
    return ["--url", server.url, "--pictures", "digits", "--seconds", "0.5", "--clients", "2", *more]


def test_every_request_of_a_run_is_accounted_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("--json", str(tmp_path / "out.json"), "--png", str(tmp_path / "out.png"))
    with serving(PictureServer()) as server:
        load_ = ("--rate", "80", "--multiples", "1,2", "--rows", "3", "--poison", "0.3", "--slo_ms", "10000")
        assert main(arguments(server, *load_, *files)) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["multiple"] for row in rows] == [1, 2]
    for row in rows:
        assert row["poison_named"] > 0
        assert row["sent"] == round(row["ok_per_s"] * 0.5) + row["poison_named"]
        assert (row["queue_p50_ms"], row["execute_p50_ms"], row["batch_mean"]) == (1.25, 3.5, 8)
    assert "| 2x " in capsys.readouterr().out
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_wrong_answers_are_seen(tmp_path: Path) -> None:
    with serving(PictureServer(right_answers=20)) as server:
        main(arguments(server, "--rate", "80", "--multiples", "1", "--json", str(tmp_path / "out.json")))
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["sent"] - row["wrong"] == 10  # ten went into the expectations


def test_refusals_are_seen_with_what_they_said(tmp_path: Path) -> None:
    with serving(PictureServer(right_answers=20, is_full=True)) as server:
        main(arguments(server, "--rate", "80", "--multiples", "1", "--json", str(tmp_path / "out.json")))
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["sent"] - row["refused"] == 10
    assert (row["retry_after_p50_s"], row["retry_after_missing"]) == (3, 0)


def test_capacity_is_what_a_closed_loop_gets(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(PictureServer()) as server:
        assert main(arguments(server, "--capacity")) == 0
    told = capsys.readouterr().out
    assert "capacity: " in told
    assert "| load" not in told


def test_a_server_that_is_not_there_is_told_from_one_that_is_slow(capsys: pytest.CaptureFixture[str]) -> None:
    server = PictureServer()
    server.server_close()
    assert main(arguments(server, "--rate", "10")) == 1
    assert "ConnectionRefusedError" in capsys.readouterr().err
