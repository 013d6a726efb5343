"""Dashboards and alerts use only metrics that the server exports, and the dashboards' JSON is up to date."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from darkroom.service.telemetry.metrics import Metrics, ModelMetrics
from darkroom.service.workers.supervisor import worker_families

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "deploy/grafana"
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((GRAFANA / "dashboards").iterdir())
}
PANELS = [panel for board in DASHBOARDS.values() for panel in board["panels"] if panel["type"] != "row"]
BY_PROMETHEUS = {"up", "ALERTS"}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def exported() -> set[str]:
    """Every series name that a server can show."""
    metrics = Metrics(version="0", tensorflow="0")
    metrics.show_versions(lambda: [(ModelMetrics("model", 1), "AVAILABLE")])
    families = [*metrics.registry.collect(), *worker_families(ready=1, absent=0, restarts=0)]
    return {family.name + suffix for family in families for suffix in SUFFIXES.get(family.type, ("",))}


def named(expression: str) -> set[str]:
    """Every metric that a PromQL expression names: what is left without strings, labels, functions and keywords."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|ignoring|without)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"[a-zA-Z_:][\w:]*(?!\w)(?!\s*\()", bare)
    return set(words) - {"and", "or", "unless", "sum", "max", "min", "count", "Inf"}


def recorded() -> set[str]:
    """Every series that a recording rule makes."""
    groups = yaml.safe_load((ROOT / "deploy/prometheus/rules/recording.yml").read_text(encoding="utf-8"))["groups"]
    return {rule["record"] for group in groups for rule in group["rules"]}


def expressions() -> dict[str, str]:
    """Where each expression stands, and the expression."""
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules/alerts.yml").read_text(encoding="utf-8"))["groups"]
    found = {rule["alert"]: rule["expr"] for group in rules for rule in group["rules"]}
    for panel in PANELS:
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    assert len(found) > 100  # no two panels have one title
    return found


def test_the_names_in_an_expression_are_found() -> None:
    expression = 'sum by (le) (rate(a_bucket{b="c"}[1m])) / on (d) max(e) > 0.5 or vector(0) and changes(f[5m]) == 1'
    assert named(expression) == {"a_bucket", "e", "f"}


@pytest.mark.parametrize(("where", "expression"), expressions().items(), ids=expressions())
def test_every_metric_that_is_asked_for_is_exported(where: str, expression: str) -> None:
    names = named(expression) - BY_PROMETHEUS
    assert names or where in {"DarkroomDown", "DarkroomServerMissing", "Alerts firing A", "Servers up A"}
    assert names <= exported() | recorded()


def test_every_label_that_is_asked_for_is_in_the_contract() -> None:
    known = {"instance", "job", "model", "version", "outcome", "reason", "stage", "state", "route", "code", "le", "pod"}
    known |= {"alertname", "alertstate", "result", "task", "device", "images", "pass", "side", ""}
    for expression in expressions().values():
        groups = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression)
        matchers = re.findall(r'(\w+)=~?"', expression)
        assert {label.strip() for group in groups for label in group.split(",")} | set(matchers) <= known


def test_the_committed_dashboards_are_what_their_source_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(GRAFANA / "generate.py"), str(tmp_path)], check=True, timeout=60)
    made = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()}
    assert made == DASHBOARDS


def test_the_dashboards_are_four_and_lead_to_one_another() -> None:
    assert set(DASHBOARDS) == {"darkroom", "darkroom_batching", "darkroom_models", "darkroom_runtime"}
    for name, board in DASHBOARDS.items():
        assert board["uid"] == name
        assert set(board["links"][0]["tags"]) <= set(board["tags"])
    assert [panel["title"] for panel in DASHBOARDS["darkroom"]["panels"] if panel["type"] == "row"] == [
        "Is the service healthy?",
        "Is the error budget burning?",
        "What is saturated?",
        "Where does the time go?",
    ]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_explains_itself_and_has_a_unit(panel: dict[str, Any]) -> None:
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert all(target["legendFormat"] for target in panel["targets"])


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_the_chosen_datasource_at_the_steps_that_it_is_drawn_in(panel: dict[str, Any]) -> None:
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        windows = re.findall(r"\[([^\]]+)\]", target["expr"])
        assert set(windows) <= {"$__rate_interval"}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_no_value_rather_than_nan_where_nothing_arrived(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        divisors = re.findall(r"/ (\((?:sum|rate).*)", target["expr"].removesuffix(" or on () vector(0)"))
        assert all(divisor.endswith("> 0)") for divisor in divisors)
        assert "histogram_quantile" not in target["expr"] or target["expr"].endswith("> -Inf")
    assert panel["fieldConfig"]["defaults"]["noValue"]


def test_panels_do_not_overlap_and_stay_on_the_grid() -> None:
    for board in DASHBOARDS.values():
        cells: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not own & cells
            assert at["x"] + at["w"] <= 24
            cells |= own
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_grafana_is_told_where_dashboards_and_prometheus_are() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/darkroom.yml").read_text())["providers"]
    variables = {variable["name"]: variable for variable in DASHBOARDS["darkroom"]["templating"]["list"]}
    assert set(variables) == {"datasource", "instance", "model"}
    assert variables["datasource"]["current"]["value"] == source["uid"]
    assert source["url"] == "http://prometheus:9090"
    mounts = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounts
