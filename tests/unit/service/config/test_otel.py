"""OpenTelemetry's variables: what they turn on, and what of them can't be followed."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.otel import TraceSettings, read_trace_settings
from tests.serving import certificate

if TYPE_CHECKING:
    from pathlib import Path

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
ON = {ENDPOINT: "http://collector:4318"}
DEFAULTS = TraceSettings(
    "http://collector:4318/v1/traces", {}, {"service.name": "darkroom"}, 1.0, True, 10.0, 5.0, 2048, None
)  # fmt: skip


@pytest.mark.parametrize(
    "variables",
    [{}, {ENDPOINT: " "}, ON | {"OTEL_SDK_DISABLED": "True"}, ON | {"OTEL_TRACES_EXPORTER": "none"}],
)
def test_nothing_is_traced_without_an_endpoint_or_where_it_is_turned_off(variables: dict[str, str]) -> None:
    assert read_trace_settings(variables) is None


@pytest.mark.parametrize(
    ("variables", "changed"),
    [
        ({}, {}),
        ({ENDPOINT: "http://collector:4318/"}, {}),
        ({ENDPOINT: "http://a/base"}, {"endpoint": "http://a/base/v1/traces"}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b:1/x?y=z"}, {"endpoint": "http://b:1/x?y=z"}),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_TRACES_EXPORTER": "otlp"}, {}),
        ({"OTEL_SERVICE_NAME": "cats"}, {"resource": {"service.name": "cats"}}),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.name=dogs, k8s.pod.name=a%2Cb,"},
            {"resource": {"service.name": "dogs", "k8s.pod.name": "a,b"}},
        ),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.name=dogs", "OTEL_SERVICE_NAME": "cats"},
            {"resource": {"service.name": "cats"}},
        ),
        (
            {"OTEL_EXPORTER_OTLP_HEADERS": "a=1,b=2", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "b=Bearer%20x=="},
            {"headers": {"a": "1", "b": "Bearer x=="}},
        ),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "500"}, {"timeout_s": 0.5}),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "500", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "250"}, {"timeout_s": 0.25}),
        ({"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_BSP_MAX_QUEUE_SIZE": "7"}, {"delay_s": 0.02, "max_waiting": 7}),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, {"follows_parent": False}),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, {"share": 0.0}),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, {"follows_parent": False}),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}, {"share": 0.01}),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.01"}, {}),  # the sampler takes none
    ],
)
def test_the_variables_mean_what_opentelemetry_says(variables: dict[str, str], changed: dict[str, Any]) -> None:
    assert read_trace_settings(ON | variables) == DEFAULTS._replace(**changed)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: 'zipkin' is none of otlp"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' is none of http/json, "),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "port of OTLP/HTTP, usually 4318"),
        ({ENDPOINT: "collector:4318"}, "'collector:4318/v1/traces' is no address such as http://collector:4318"),
        ({ENDPOINT: "http://"}, "is no address"),
        ({ENDPOINT: "http://a:b"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({ENDPOINT: "https://a", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere.pem"}, "OTEL_EXPORTER_OTLP_CERTIFICATE"),
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER: 'jaeger_remote' is none of always_on, "),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "'2' is no number from 0 to 1"),
        ({"OTEL_BSP_SCHEDULE_DELAY": "soon"}, "OTEL_BSP_SCHEDULE_DELAY: 'soon' is no number from 1 to 1e+09"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "token"}, "OTEL_EXPORTER_OTLP_HEADERS: expected key=value"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=secret%0d%0ab:c"}, "OTEL_EXPORTER_OTLP_HEADERS: expected key=value"),
    ],
)
def test_what_cannot_be_followed_is_named_with_its_variable(variables: dict[str, str], words: str) -> None:
    with pytest.raises(BadSettingsError) as refused:
        read_trace_settings(ON | variables)
    (problem,) = refused.value.problems
    assert words in problem
    assert "secret" not in problem


def test_a_collector_with_a_certificate_of_its_own_is_trusted_by_that(tmp_path: Path) -> None:
    pem, _ = certificate(tmp_path)
    found = read_trace_settings({ENDPOINT: "https://collector", "OTEL_EXPORTER_OTLP_CERTIFICATE": str(pem)})
    assert found is not None
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_REQUIRED
    assert len(found.tls.get_ca_certs()) == 1
