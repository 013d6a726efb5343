"""The manifests for Kubernetes and KServe name only probes, ports, settings and metrics that the code has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from darkroom.models.engines.fakes import fake_model
from darkroom.service.config.settings import read_settings
from tests.serving import running
from tests.unit.deploy.test_dashboard import exported, named

if TYPE_CHECKING:
    from darkroom.service.config.settings import Settings

DEPLOY = Path(__file__).parents[3] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
RECORDED = {
    rule["record"]: rule["expr"]
    for group in yaml.safe_load((DEPLOY / "prometheus/rules/recording.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}
ALERTED = [
    rule["expr"]
    for group in yaml.safe_load((DEPLOY / "prometheus/rules/alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
TESTED = {
    test["expr"]
    for each in yaml.safe_load((DEPLOY / "prometheus/recording_test.yml").read_text(encoding="utf-8"))["tests"]
    for test in each["promql_expr_test"]
}
kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def read(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text(encoding="utf-8"))


POD = read("kubernetes/base/deployment.yaml")["spec"]["template"]["spec"]
RUNTIME = read("kserve/runtime.yaml")["spec"]
CONTAINERS = {"kubernetes": POD["containers"][0], "kserve": RUNTIME["containers"][0]}
each_container = pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)


def settings_of(container: dict[str, Any]) -> Settings:
    """What the server makes of the container's arguments and environment, above the image's."""
    command, *flags = container["args"]
    assert command == "serve"
    image, _, _ = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").partition("FROM bare AS gpu")
    environment = dict(re.findall(r"^ {4}(DARKROOM_\w+)=(\S+)", image, re.MULTILINE))
    environment |= {each["name"]: each["value"] for each in container.get("env", [])}
    pairs = (flag.removeprefix("--").split("=", 1) for flag in flags)
    return read_settings({name: value.replace("{{.Name}}", "mine") for name, value in pairs}, environment)


def rendered(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@each_container
def test_the_server_takes_the_settings_and_listens_where_the_probes_ask(container: dict[str, Any]) -> None:
    settings = settings_of(container)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    probes = [probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")]
    assert {ports.get(probe["port"], probe["port"]) for probe in probes} == {settings.port}
    assert settings.drain_delay_ms > 0


def test_what_the_probes_ask_for_is_answered() -> None:
    asked = {
        probe["httpGet"]["path"]
        for container in CONTAINERS.values()
        for name, probe in container.items()
        if "Probe" in name
    }
    asked |= {read("kubernetes/components/monitoring/service_monitor.yaml")["spec"]["endpoints"][0]["path"]}
    asked |= {RUNTIME["annotations"]["prometheus.kserve.io/path"]}
    assert len(asked) == 3
    with running(fake_model(name="default")) as server:
        assert {httpx.get(server.url + path).status_code for path in asked} == {200}


def test_a_pod_has_the_time_that_its_drain_takes() -> None:
    settings = settings_of(POD["containers"][0])
    drain_s = (settings.drain_delay_ms + settings.drain_timeout_ms) / 1000
    assert POD["terminationGracePeriodSeconds"] > drain_s + 4  # 4 s later the process ends itself


@each_container
def test_a_container_runs_with_nothing_that_it_does_not_need(container: dict[str, Any]) -> None:
    context = POD["securityContext"] | container["securityContext"]
    assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 10001)
    assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


def test_no_pod_can_ask_the_cluster_anything() -> None:
    assert POD["automountServiceAccountToken"] is False
    assert read("kubernetes/base/service_account.yaml")["automountServiceAccountToken"] is False
    assert read("kubernetes/base/network_policy.yaml")["spec"]["egress"] == []


@pytest.mark.parametrize(("name", "expression"), RECORDED.items())
def test_a_recording_rule_asks_for_metrics_that_are_exported_and_is_tested(name: str, expression: str) -> None:
    assert named(expression) <= exported() | set(RECORDED)
    assert name in TESTED or name in set.union(*map(named, [*RECORDED.values(), *ALERTED]))  # alerts are tested


def test_autoscalers_ask_for_recorded_series_by_queries_that_are_tested() -> None:
    triggers = read("kubernetes/components/autoscale-keda/scaled_object.yaml")["spec"]["triggers"]
    assert {trigger["metadata"]["query"] for trigger in triggers} <= TESTED
    rules = read("kubernetes/components/autoscale-hpa/adapter_rules.yaml")["rules"]["custom"]
    for rule in rules:
        series = rule["seriesQuery"].partition("{")[0]
        filled = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.Series>>", series)
        assert filled.replace("<<.LabelMatchers>>", 'namespace="n", pod=~"a|b|c"') in TESTED
    metrics = read("kubernetes/components/autoscale-hpa/autoscaler.yaml")["spec"]["metrics"]
    assert {each["pods"]["metric"]["name"] for each in metrics} == {rule["name"]["as"] for rule in rules}


def test_the_rules_for_the_operator_are_those_of_prometheus(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    made = tmp_path / "deploy/kubernetes/components/monitoring/prometheus_rule.yaml"
    made.unlink()
    generate = tmp_path / "deploy/kubernetes/generate.py"
    subprocess.run([sys.executable, str(generate)], check=True, timeout=60)
    committed = KUBERNETES / "components/monitoring/prometheus_rule.yaml"
    assert made.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8")


@kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_complete(overlay: str) -> None:
    kinds = {each["kind"]: each for each in rendered(KUBERNETES / "overlays" / overlay)}
    assert {"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"} <= set(kinds)
    assert ("replicas" in kinds["Deployment"]["spec"]) is not overlay.startswith("autoscale")
    assert {"ServiceMonitor", "PrometheusRule"} <= set(kinds) or overlay in {"cpu", "gpu"}
    (container,) = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert settings_of(container).port == 8500
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) is (overlay == "gpu")


@kubectl
def test_all_components_go_together(tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    mine = tmp_path / "kubernetes/overlays/mine"
    mine.mkdir()
    chosen = [name for name in COMPONENTS if name not in {"autoscale-hpa", "models-image"}]
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../../base"],
        "components": [f"../../components/{name}" for name in chosen],
    }
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    kinds = {each["kind"]: each for each in rendered(mine)}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    settings = settings_of(pod["containers"][0])
    assert (settings.grpc_port, str(settings.model_base_path)) == (9000, "/mnt/models")
    assert {volume["name"] for volume in pod["volumes"]} == {"scratch", "models"}
    assert {port["name"] for port in kinds["Service"]["spec"]["ports"]} == {"http", "grpc"}
    assert {port["port"] for port in kinds["NetworkPolicy"]["spec"]["ingress"][0]["ports"]} == {"http", "grpc"}
