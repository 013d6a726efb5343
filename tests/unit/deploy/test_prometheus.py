"""The configurations and alerts of Prometheus and Alertmanager, checked by promtool and amtool if they are installed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/prometheus"
ALERTMANAGER = ROOT / "deploy/alertmanager/alertmanager.yml"
TESTS = ("alerts_test.yml", "burn_test.yml")
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
@pytest.mark.parametrize("rules", [*TESTS, "recording_test.yml"])
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
    tests = [test for name in TESTS for test in yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))["tests"]]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_who_is_woken_and_what_is_wrong(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_leads_who_is_woken_to_its_explanation(rule: dict[str, Any]) -> None:
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    page = (ROOT / path).read_text(encoding="utf-8")
    assert rule["alert"].lower() == anchor
    assert re.search(rf"^### {rule['alert']}$", page, re.MULTILINE)


def test_the_operators_page_explains_no_alert_that_is_gone() -> None:
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (Darkroom\w+)$", page, re.MULTILINE)) == {rule["alert"] for rule in RULES}


def test_the_server_is_scraped_often_and_by_name() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "darkroom")
    assert config["global"]["scrape_interval"] == "5s"
    assert job["dns_sd_configs"][0]["names"] == ["server"]


@pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed (Debian: prometheus-alertmanager)")
def test_amtool_takes_the_configuration_of_alertmanager(tmp_path: Path) -> None:
    broken = tmp_path / "alertmanager.yml"
    broken.write_text(ALERTMANAGER.read_text(encoding="utf-8").replace("receiver: nobody", "receiver: gone", 1))
    for file, status in ((ALERTMANAGER, 0), (broken, 1)):
        done = subprocess.run(["amtool", "check-config", file], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == status, done.stdout + done.stderr


def test_alertmanager_gets_the_alerts_and_silences_only_some_that_exist() -> None:
    (target,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))["alerting"]["alertmanagers"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert {host.partition(":")[0] for host in target["static_configs"][0]["targets"]} <= services.keys()
    config = yaml.safe_load(ALERTMANAGER.read_text(encoding="utf-8"))
    named = set(re.findall(r"Darkroom\w+", str(config["inhibit_rules"])))
    assert named <= {rule["alert"] for rule in RULES}
    assert {rule["labels"]["severity"] for rule in RULES} == set(
        re.findall(r'severity = "(\w+)"', str(config["route"]))
    )
