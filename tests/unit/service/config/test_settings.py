from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import pytest

from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.settings import (
    REMOVED,
    Settings,
    add_flags,
    kubernetes_names,
    read_settings,
    settings_from_flags,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_a_flag_wins_over_the_environment_and_the_environment_over_the_default() -> None:
    assert read_settings({}, {}).port == 8500
    assert read_settings({}, {"DARKROOM_PORT": "1"}).port == 1
    assert read_settings({"port": "2"}, {"DARKROOM_PORT": "1"}).port == 2


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("1", True), ("False", False), ("0", False)]
)
def test_a_switch_reads_as_it_says_also_where_sts_read_false_as_true(text: str, value: bool) -> None:
    assert read_settings({"enable_cors": text}, {}).enable_cors is value


def test_all_problems_are_told_at_once_and_no_secret_with_them() -> None:
    environment = {"DARKROOM_PROT": "1", "DARKROOM_SLO_MS": "-1", "DARKROOM_AUTH_PASSWORD": "hunter2", "PATH": "x"}
    with pytest.raises(BadSettingsError) as caught:
        read_settings({"port": "http"}, environment)
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "DARKROOM_PROT: there is no such setting; is DARKROOM_PORT meant?" in text
    assert "port: " in text
    assert "slo_ms: " in text
    assert "hunter2" not in text


def injected(service: str, address: str = "10.0.0.1") -> dict[str, str]:
    """What Kubernetes sets in every pod for a Service of this name with the ports http and metrics."""
    host = f"[{address}]" if ":" in address else address
    variables = {
        "SERVICE_HOST": address, "SERVICE_PORT": "8500", "SERVICE_PORT_HTTP": "8500", "SERVICE_PORT_METRICS_2": "9090",
        "PORT": f"tcp://{host}:8500",
    } | {
        f"PORT_{port}_{kind.upper()}{end}": value
        for port, kind in ((8500, "tcp"), (9090, "udp"), (1, "sctp"))
        for end, value in (
            ("", f"{kind}://{host}:{port}"), ("_PROTO", kind), ("_PORT", str(port)), ("_ADDR", address),
        )
    }  # fmt: skip
    return {f"{service.upper().replace('-', '_')}_{name}": value for name, value in variables.items()}


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_what_kubernetes_injects_for_a_service_of_this_name_is_no_setting(address: str) -> None:
    for service in ("darkroom", "darkroom-web", "darkroom-0", "darkroom-model-port", "darkroom-service"):
        environment = injected(service, address)
        assert kubernetes_names(environment | {"PATH": "x", "WEB_PORT": "tcp://10.0.0.1:1"}) == sorted(environment)
        settings = read_settings({}, environment)
        assert (settings.port, settings.changed()) == (8500, {})
        assert read_settings({}, environment | {"DARKROOM_PORT": "1"}).port == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"), ("PORT", "tcp://"), ("PORT", "tcp://10.0.0.1"), ("PORT", ""), ("PORT", "http://10.0.0.1:80"),
        ("PORTS", "tcp://10.0.0.1:8500"), ("PROT", "tcp://10.0.0.1:8500"), ("WEB_PORT", "8500"),
        ("SERVICE_HOST", "localhost"), ("SERVICE_HOST", ""), ("SERVICE_PORT", "http"), ("SERVICE", "8500"),
        ("PORT_8500_TCP", "8500"), ("PORT_8500_TCP_ADDR", "tcp"), ("PORT_8500_TCP_PROTO", "6"), ("PORT_HTTP", "8500"),
        ("SERVICE_HOSTS", "10.0.0.1"), ("HOST_SERVICE", "10.0.0.1"), ("port_8500_tcp_port", "8500"),
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_still_a_mistake(name: str, value: str) -> None:
    with pytest.raises(BadSettingsError) as caught:
        read_settings({}, {f"DARKROOM_{name}": value})
    assert len(caught.value.problems) == 1


def test_a_setting_that_was_removed_says_what_became_of_it_as_a_flag_and_as_a_variable() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    assert "--xla" not in parser.format_help()
    for command in (["--xla"], ["--xla=true"], ["--xla", "false"]):
        with pytest.raises(BadSettingsError) as caught:
            settings_from_flags(parser.parse_args(command))
        assert caught.value.problems == (f"--xla was removed: {REMOVED['xla']}",)
    with pytest.raises(BadSettingsError) as caught:
        read_settings({}, {"DARKROOM_XLA": "0"})
    assert caught.value.problems == (f"DARKROOM_XLA was removed: {REMOVED['xla']}",)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"enable_auth": "true"}, "needs --auth_password"),
        ({"model_platform": "onnx"}, "only 'tensorflow'"),
        ({"allowed_batch_sizes": "8,4"}, "must rise"),
        ({"allowed_batch_sizes": "1,2"}, "--max_batch_images"),
        ({"max_queue_images": "1"}, "--max_batch_images"),
        ({"model_version_policy": "newest"}, "latest:N"),
        ({"enable_ssl": "true", "secret_pem": "/nowhere"}, "no such file: /nowhere"),
        ({"session_config": "{"}, "session_config"),
        *(
            ({"metrics_path": path}, "is a path of the server itself")
            for path in ("/docs", "/v2/metrics", "/live", "/live/metrics")
        ),
    ],
)
def test_settings_that_contradict_each_other_stop_the_start(flags: dict[str, str], words: str) -> None:
    with pytest.raises(BadSettingsError) as caught:
        read_settings(flags, {})
    assert words in str(caught.value)


def test_the_effective_settings_show_no_password() -> None:
    settings = read_settings({"enable_auth": "1", "auth_password": "hunter2"}, {})
    assert "hunter2" not in json.dumps(settings.redacted())
    assert settings.auth_password.get_secret_value() == "hunter2"


def test_a_config_file_of_sts_names_its_models(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    own = {"model_version_policy": "latest:2", "version_labels": {"stable": 1}}
    entry = {"name": "a", "base_path": "x", "platform": "tensorflow", "session_config": {"allow_growth": True}}
    path.write_text(json.dumps({"model_config_list": [entry, {"name": "b", "base_path": "y"} | own]}))
    settings = Settings(model_config_file=path)
    models = settings.models
    path.unlink()
    assert settings.models is models  # it is read once
    assert [model.name for model in models] == ["a", "b"]
    assert models[0].session_config == {"allow_growth": True}
    assert models[0].model_version_policy is None
    assert (models[1].model_version_policy, models[1].version_labels) == ("latest:2", {"stable": 1})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSONDecodeError"),
        ("{}", "model_config_list"),
        ('{"model_config_list": []}', "is empty"),
        ('{"model_config_list": [{"name": "a"}]}', "base_path"),
        (
            '{"model_config_list": [{"name":"a","base_path":"x"},{"name":"a","base_path":"y"}]}',
            "two models are called 'a'",
        ),
        ('{"model_config_list": [{"name":"a","base_path":"x","platform":"mxnet"}]}', "'mxnet' can't be served"),
    ],
)
def test_a_config_file_that_can_not_be_served_says_why(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(text)
    with pytest.raises(BadSettingsError) as caught:
        _ = Settings(model_config_file=path).models
    assert words in str(caught.value)


def test_every_setting_is_a_flag_with_words_and_an_origin() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    text = " ".join(parser.format_help().split())
    for name, field in Settings.model_fields.items():
        assert f"--{name} " in text
        assert field.description
        assert field.description.rstrip().endswith(")"), f"{name} tells no origin"


def test_a_bare_switch_means_true() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    parsed = vars(parser.parse_args(["--enable_cors", "--port", "9"]))
    assert read_settings(parsed, {}).enable_cors is True


@pytest.mark.parametrize(("given", "level"), [("INFO", "info"), ("warning", "warning"), ("CRITICAL", "critical")])
def test_a_log_level_may_be_written_as_sts_took_it(given: str, level: str) -> None:
    assert read_settings({"log_level": given}, {}).effective_log_level == level
