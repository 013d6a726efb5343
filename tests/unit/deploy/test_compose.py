"""Properties of docker-compose.yml: pinned images, health checks, limits, ports on loopback only."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
each_service = pytest.mark.parametrize("name", SERVICES)


def test_the_house_is_complete() -> None:
    assert set(SERVICES) == {"server", "balancer", "prometheus", "alertmanager", "grafana", "locust", "locust-worker"}


@each_service
def test_an_image_is_built_here_or_pinned_to_a_full_version(name: str) -> None:
    service = SERVICES[name]
    assert "build" in service or re.fullmatch(r"[a-z./]+:v?\d+\.\d+\.\d+", service["image"])


@each_service
def test_a_service_has_a_health_check(name: str) -> None:
    service = SERVICES[name]
    is_in_its_image = "build" in service and "HEALTHCHECK" in (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    assert is_in_its_image or service["healthcheck"]["test"]


@each_service
def test_a_service_waits_until_what_it_needs_is_healthy(name: str) -> None:
    conditions = [need["condition"] for need in SERVICES[name].get("depends_on", {}).values()]
    assert set(conditions) <= {"service_healthy"}
    assert conditions or name in {"server", "alertmanager"}


@each_service
def test_a_service_may_take_so_much_and_no_more(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert limits["cpus"]
    assert limits["memory"]
    assert SERVICES[name]["logging"]["options"]["max-size"]


@each_service
def test_a_service_runs_with_nothing_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


@each_service
def test_a_port_is_open_to_this_machine_alone_by_default(name: str) -> None:
    assert all(re.match(r"\$\{[A-Z_]+_ADDRESS:-127\.0\.0\.1\}:", port) for port in SERVICES[name].get("ports", []))


@each_service
def test_a_mounted_file_is_there_and_cannot_be_written(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        # A variable has a volume as its default, and a folder of the host as its value.
        source, _, *mode = re.sub(r"\$\{[A-Z_]+:-(\w+)\}", r"\1", mount).split(":")
        if source != mount.split(":")[0]:
            assert mode == ["ro"]
        if source.startswith("."):
            assert (ROOT / source).exists()
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


def test_what_serves_comes_back_and_a_load_run_does_not() -> None:
    policies = {name: service["restart"] for name, service in SERVICES.items()}
    assert policies.pop("locust") == policies.pop("locust-worker") == "no"
    assert set(policies.values()) == {"unless-stopped"}


def test_what_a_server_alone_does_not_need_is_asked_for() -> None:
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"balancer": ["balance"], "locust": ["load"], "locust-worker": ["load"]}


def test_servers_that_are_scaled_need_not_share_a_port() -> None:
    (port,) = SERVICES["server"]["ports"]
    assert ":${SERVER_PORTS-8500}:" in port  # empty: a free port for each


def test_load_is_asked_for_ends_by_itself_and_keeps_its_page() -> None:
    locust = SERVICES["locust"]
    command = " ".join(locust["command"])
    assert "--autostart" in command
    assert "--run-time=" in command
    assert "--headless" not in command
    assert "--autoquit" not in command


def test_the_run_waits_for_as_many_workers_as_there_are() -> None:
    workers = "${LOADTEST_WORKERS:-1}"
    assert f"--expect-workers={workers}" in SERVICES["locust"]["command"]
    assert SERVICES["locust-worker"]["deploy"]["replicas"] == workers
    assert "--master-host=locust" in SERVICES["locust-worker"]["command"]


def test_locust_is_the_version_that_the_tests_run() -> None:
    pinned = re.search(r"^locust==(\S+)", (ROOT / "requirements/dev.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned
    for name in ("locust", "locust-worker"):
        assert SERVICES[name]["image"] == f"locustio/locust:{pinned[1]}"


def test_a_draining_server_is_not_killed_before_its_drain_is_over() -> None:
    from darkroom.service.config.settings import Settings  # noqa: PLC0415 - only this test needs the service

    grace_s = float(SERVICES["server"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().drain_timeout_ms / 1000 + 2


def test_every_variable_of_the_server_is_a_setting_and_every_other_has_a_default() -> None:
    from darkroom.service.config.settings import Settings  # noqa: PLC0415 - only this test needs the service

    names = {name for name in SERVICES["server"]["environment"] if name.startswith("DARKROOM_")}
    assert {name.removeprefix("DARKROOM_").lower() for name in names} <= set(Settings.model_fields)
    values = {**SERVICES["server"]["environment"], **SERVICES["locust"]["environment"]}.values()
    assert all(":-" in value for value in values if "${" in value)


def test_grafana_asks_for_a_password_of_its_own_where_others_can_reach_it() -> None:
    password = SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]
    assert re.search(r"\$\{GRAFANA_ADDRESS:\+\$\{GRAFANA_ADMIN_PASSWORD:\?", password)


class _Loader(yaml.SafeLoader):
    """Knows compose's own tag for a value that is taken away."""


_Loader.add_constructor("!reset", lambda _, __: None)


def test_secrets_come_in_files_and_prometheus_differs_only_in_its_token() -> None:
    text = (ROOT / "deploy/docker-compose.secrets.yml").read_text(encoding="utf-8")
    overlay = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    used = {name for service in overlay["services"].values() for name in service["secrets"]}
    assert used == set(overlay["secrets"])
    command = overlay["services"]["prometheus"]["command"]
    assert command[1:] == SERVICES["prometheus"]["command"][1:]
    folder = ROOT / "deploy/prometheus"
    secured = yaml.safe_load((folder / Path(command[0]).name).read_text(encoding="utf-8"))
    (job,) = (job for job in secured["scrape_configs"] if job["job_name"] == "darkroom")
    assert job.pop("authorization") == {"credentials_file": "/run/secrets/metrics_token"}
    assert secured == yaml.safe_load((folder / "prometheus.yml").read_text(encoding="utf-8"))
    environments = [service.get("environment", {}) for service in overlay["services"].values()]
    paths = {value for environment in environments for value in environment.values() if value}
    assert paths <= {f"/run/secrets/{name}" for name in used}


@pytest.mark.parametrize("overlay", ["", "deploy/docker-compose.gpu.yml", "deploy/docker-compose.secrets.yml"])
def test_compose_itself_takes_the_files(overlay: str) -> None:
    compose = ROOT / ".bench/release/bin/docker-compose"
    if not compose.exists():
        pytest.skip("docker-compose is not installed (make .bench/release.done)")
    files = [word for name in ("docker-compose.yml", overlay) if name for word in ("--file", name)]
    command = [str(compose), *files, "--profile=*", "config", "--format=json"]
    environment = {"PATH": os.environ["PATH"], "MODELS_DIR": "./mymodels", "SERVER_PORTS": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    server = yaml.safe_load(done.stdout)["services"]["server"]
    mounted = {mount["target"]: mount for mount in server["volumes"]}["/srv/models"]
    assert (mounted["source"], mounted["read_only"]) == (str(ROOT / "mymodels"), True)
