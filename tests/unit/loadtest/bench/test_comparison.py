from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest

from darkroom.service.predict.image_guard import sniff
from loadtest.bench import comparison, report
from loadtest.bench.contenders import DARKROOM, MOSEC, Contender, mlserver, raw, tuned_mosec
from loadtest.bench.latency import LatencyResult
from loadtest.bench.limit import ENGINE, EnginePoint
from loadtest.bench.many_pictures import CaseResult, CaseRound, RequestCase, enlarged, outcome, rate_of
from loadtest.bench.wrk import WrkResult, read
from loadtest.traffic.pictures import form_body, load

if TYPE_CHECKING:
    from pathlib import Path

SAID = 'wrk {"requests": 1000, "microseconds": 2000000, "p50_us": 1500, "p99_us": 9000, "refused": %d, "lost": 0, "sent": 1000}\n'


def heard(per_s: float, *, failed: float = 0.0) -> WrkResult:
    return WrkResult(per_s=per_s, p50_ms=1.0, p99_ms=2.0, cpu_ms=0.5, failed=failed)


def findings() -> comparison.BenchmarkResult:
    """Two rounds of two servers; the machine was half as fast in the second."""
    found = comparison.BenchmarkResult(
        "digits", {"machine": "a machine", "command": "python -m loadtest.bench"}, {}, (1, 64), rounds=2, seconds=1.0
    )
    found.contenders = {"Darkroom": "as it is", "Mosec": "as it comes"}
    for count in found.connections:
        found.rates["Darkroom", count] = [heard(3000.0 * count), heard(1500.0 * count)]
        found.rates["Mosec", count] = [heard(1000.0 * count), heard(500.0 * count)]
    found.poisoned = {"Darkroom": [heard(1.0)] * 2, "Mosec": [heard(1.0, failed=0.6), heard(1.0, failed=0.62)]}
    found.limit = [EnginePoint(ENGINE, 8, 2, pictures_per_s=4500.0, call_ms=1.0, cpu_us=1.0, rounds_per_s=(4500.0,))]
    found.engine_per_s = {1: [4500.0, 2250.0], 64: [4500.0, 2250.0]}
    found.memory_mb = {"Darkroom": 700.0, "Mosec": 1500.0}
    found.capacity_per_s = 1000.0
    found.latencies = [LatencyResult("Darkroom", 0.5, 500.0, p50_ms=1.0, p99_ms=3.0, answered=1.0)]
    found.batches = [CaseResult("32 in JSON", 32, pictures_per_s=90.0, limit_per_s=100.0, share=0.9, single_ms=300.0)]
    return found


def cells(table: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_wrk_is_read_and_broken_pictures_are_expected_to_be_refused() -> None:
    clean = read("noise\n" + SAID % 0, cpu_s=0.5, broken_every=0)
    assert (clean.per_s, clean.p50_ms, clean.p99_ms, clean.cpu_ms, clean.failed) == (500.0, 1.5, 9.0, 0.5, 0.0)
    assert read(SAID % 10, cpu_s=1, broken_every=100).failed == 0
    assert read(SAID % 604, cpu_s=1, broken_every=100).failed == pytest.approx(0.6)
    assert read(SAID % 100, cpu_s=1, broken_every=0).failed == pytest.approx(0.1)


def test_the_answers_of_broken_pictures_that_are_still_due_at_the_end_are_not_counted_as_failures() -> None:
    more_sent = SAID.replace('"sent": 1000', '"sent": 1064')
    assert read(more_sent % 10, cpu_s=1, broken_every=100).failed == 0
    assert read(more_sent % 11, cpu_s=1, broken_every=100).failed == pytest.approx(1 / 990)


def test_a_server_that_answers_nothing_in_time_has_a_rate_of_0() -> None:
    nothing = read(SAID.replace("1000", "0", 1) % 0, cpu_s=1, broken_every=0)
    assert (nothing.per_s, nothing.failed) == (0.0, 1.0)
    assert report.ratio([heard(10.0)], [nothing]) == math.inf


def test_wrk_that_fails_is_told() -> None:
    with pytest.raises(RuntimeError, match="unable to connect"):
        read("unable to connect", cpu_s=0, broken_every=0)


def test_a_ratio_is_of_rounds_so_that_the_machines_pace_falls_out() -> None:
    found = findings()
    assert report.ratio(found.rates["Darkroom", 64], found.rates["Mosec", 64]) == 3
    ratios = cells(report.ratio_table(found))
    assert ratios["Darkroom : Mosec"] == ["3.00", "3.00"]
    assert ratios["Darkroom : the limit"] == ["0.67", "42.67"]


def test_workers_are_compared_with_peers_and_not_with_one_process() -> None:
    found = findings()
    found.contenders["Darkroom, 2 workers"] = "two"
    for count in found.connections:
        found.rates["Darkroom, 2 workers", count] = [heard(2 * each.per_s) for each in found.rates["Darkroom", count]]
    ratios = cells(report.ratio_table(found))
    assert ratios["Darkroom, 2 workers : Mosec"] == ["6.00", "6.00"]
    assert "Darkroom : Darkroom, 2 workers" not in ratios


def test_json_is_compared_with_json_and_raw_with_raw_and_the_defaults_with_the_best_settings() -> None:
    found = findings()
    for name, factor in {"Darkroom, raw": 2, "Mosec, raw": 4, "Darkroom, tuned": 1.25}.items():
        found.contenders[name] = "another way"
        for count in found.connections:
            rounds = found.rates[name.partition(",")[0], count]
            found.rates[name, count] = [heard(factor * each.per_s) for each in rounds]
    ratios = cells(report.ratio_table(found))
    assert ratios["Darkroom : Darkroom, raw"] == ["0.50", "0.50"]
    assert ratios["Darkroom : Darkroom, tuned"] == ["0.80", "0.80"]
    assert ratios["Darkroom, raw : Mosec, raw"] == ["1.50", "1.50"]
    assert "Darkroom, raw : Mosec" not in ratios
    assert "Darkroom : Mosec, raw" not in ratios


def test_the_page_has_every_table_and_plot(tmp_path: Path) -> None:
    path = comparison.write(findings(), tmp_path, "digits")
    text = path.read_text()
    assert cells(report.details_table(findings()))["Mosec"] == ["1.00", "2.00", "0.500", "61.0%", "1,500"]
    for part in ("python -m loadtest.bench", "limit: the engine, 8 x 2", "| 50%", "32 in JSON", "90%"):
        assert part in text
    for kind in ("throughput", "latency", "batches"):
        assert f"(digits-{kind}.png)" in text
        assert (tmp_path / f"digits-{kind}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "digits.json").read_text())["rates"][0]["rounds"][1]["per_s"] == 1500


def test_a_rate_counts_what_came_after_the_first_answer() -> None:
    assert rate_of([10.0, 10.5, 11.0, 12.0]) == 1.5


def test_a_photograph_is_enlarged_to_the_size_that_is_asked_for() -> None:
    picture = enlarged(load("photos")[0], (400, 300))
    header = sniff(picture.data)
    assert (header.format, header.width, header.height) == ("jpeg", 400, 300)


@pytest.mark.parametrize(
    "contender", [DARKROOM, MOSEC, raw(MOSEC), tuned_mosec(2, 8), mlserver(8)], ids=lambda each: each.name
)
def test_a_contender_is_told_its_port_and_its_model_and_stays_on_loopback(contender: Contender) -> None:
    told = " ".join([*contender.command, *contender.environment.values()])
    assert "{port}" in told
    assert "{model}" in told or "{version}" in told
    assert "127.0.0.1" in told


def test_a_peer_that_is_not_installed_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    contenders = comparison.choose_contenders(comparison.parse(["model/digits"]))
    assert [contender.name for contender in contenders] == ["Darkroom"]
    assert "Mosec is left out" in capsys.readouterr().err


def test_quick_is_short_and_does_not_overwrite_the_figures_of_the_docs() -> None:
    options = comparison.parse(["model/digits", "--quick"])
    assert (options.rounds, options.seconds, str(options.out)) == (1, 1.0, ".bench/quick")
    assert str(comparison.parse(["model/digits"]).out) == "docs/benchmarks"


def test_without_wrk_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert comparison.main(["model/digits"]) == 2
    assert "apt-get install wrk" in capsys.readouterr().err


def test_the_limit_of_a_case_is_the_size_that_is_best_by_its_median_not_the_lucky_ones() -> None:
    def engine(by_images: dict[int, float]) -> list[EnginePoint]:
        return [EnginePoint(ENGINE, images, 2, per_s, 1.0, 1.0, (per_s,)) for images, per_s in by_images.items()]

    rounds = [
        CaseRound(90.0, engine({8: 100.0, 16: 60.0}), 0.1),
        CaseRound(45.0, engine({8: 50.0, 16: 200.0}), 0.3),  # a stroke of luck for 16
        CaseRound(80.0, engine({8: 100.0, 16: 60.0}), 0.2),
    ]
    found = outcome(RequestCase("32 in a form", (), 32, form_body), rounds)
    assert found == CaseResult("32 in a form", 32, pictures_per_s=80.0, limit_per_s=100.0, share=0.9, single_ms=200.0)
