"""Prometheus' configuration and alerts, checked by promtool if it is installed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/prometheus"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "rules/alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")


def run_promtool(*arguments: str, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60)


@promtool
def test_promtool_takes_the_configuration_and_its_rules() -> None:
    done = run_promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
@pytest.mark.parametrize("rules", ["alerts_test.yml", "recording_test.yml"])
def test_the_rules_pass_their_tests_on_a_condition_and_on_a_similar_one(rules: str) -> None:
    done = run_promtool("test", "rules", rules)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_the_alerts_own_test_can_fail(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    alerts = tmp_path / "rules/alerts.yml"
    alerts.write_text(alerts.read_text(encoding="utf-8").replace("> 0.01", "> 0.5"), encoding="utf-8")
    done = run_promtool("test", "rules", "alerts_test.yml", folder=tmp_path)
    assert done.returncode != 0
    assert "DarkroomErrors" in done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_who_is_woken_and_what_is_wrong(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_explained_to_who_is_woken(rule: dict[str, Any]) -> None:
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert re.search(rf"^### {rule['alert']}$", page, re.MULTILINE)


def test_the_operators_page_explains_no_alert_that_is_gone() -> None:
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (Darkroom\w+)$", page, re.MULTILINE)) == {rule["alert"] for rule in RULES}


def test_the_server_is_scraped_often_and_by_name() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "darkroom")
    assert config["global"]["scrape_interval"] == "5s"
    assert job["dns_sd_configs"][0]["names"] == ["server"]
