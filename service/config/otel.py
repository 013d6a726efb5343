"""OpenTelemetry's own variables, `OTEL_*`: where traces are sent, as what, and how many."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from darkroom.service.config.access_log import to_number
from darkroom.service.config.model_config import BadSettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

GRPC_PORT = 4317  # of OTLP/gRPC; 4318 is that of OTLP/HTTP
GRPC_REMEDY = "; give the collector's port of OTLP/HTTP, usually 4318"
# What each sampler does with a request whose caller says nothing of a trace; None: as OTEL_TRACES_SAMPLER_ARG says.
_SHARES = {"always_on": 1.0, "always_off": 0.0, "traceidratio": None}
_PARENT_BASED = "parentbased_"


class TraceSettings(NamedTuple):
    """How requests are traced.

    Attributes:
        endpoint: the address that spans are posted to.
        headers: of these posts.
        resource: what this server is: `service.name` and whatever the operator adds.
        share: of the requests whose caller does not decide, so many are traced.
        follows_parent: whether the caller's sampled flag decides, where there is one.
        timeout_s: of one post.
        delay_s: how long spans may wait to be sent.
        max_waiting: traced requests that may wait; more are dropped.
        tls: None for http.
    """

    endpoint: str
    headers: dict[str, str]
    resource: dict[str, str]
    share: float
    follows_parent: bool
    timeout_s: float
    delay_s: float
    max_waiting: int
    tls: ssl.SSLContext | None

    @property
    def shown(self) -> str:
        """The endpoint for the log, without what may be secret in it."""
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def read_trace_settings(environment: Mapping[str, str]) -> TraceSettings | None:
    """What the variables say; None if they turn traces off, as having no endpoint does.

    Raises:
        BadSettingsError: lists every variable with a value that this server can't follow.
    """
    given = _Variables(environment)
    is_off = given.text("OTEL_SDK_DISABLED").lower() == "true" or given.text("OTEL_TRACES_EXPORTER") == "none"
    if is_off or not given.of_traces("ENDPOINT"):
        return None
    given.check("OTEL_TRACES_EXPORTER", ("otlp",))
    given.check("OTEL_EXPORTER_OTLP_PROTOCOL", ("http/json", "http/protobuf"), GRPC_REMEDY)
    given.check("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", ("http/json", "http/protobuf"), GRPC_REMEDY)
    endpoint = given.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    sampler = given.check("OTEL_TRACES_SAMPLER", [*_SHARES, *(_PARENT_BASED + name for name in _SHARES)])
    sampler = sampler or "parentbased_always_on"
    share = _SHARES.get(sampler.removeprefix(_PARENT_BASED))
    resource = {"service.name": "darkroom"} | given.pairs("OTEL_RESOURCE_ATTRIBUTES")
    found = TraceSettings(
        endpoint := endpoint or f"{given.of_traces('ENDPOINT').rstrip('/')}/v1/traces",
        given.pairs("OTEL_EXPORTER_OTLP_HEADERS") | given.pairs("OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
        resource | {"service.name": given.text("OTEL_SERVICE_NAME") or resource["service.name"]},
        given.number("OTEL_TRACES_SAMPLER_ARG", 1.0, 0.0, 1.0) if share is None else share,
        sampler.startswith(_PARENT_BASED),
        given.number("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", given.number("OTEL_EXPORTER_OTLP_TIMEOUT", 10_000.0)) / 1000,
        given.number("OTEL_BSP_SCHEDULE_DELAY", 5_000.0) / 1000,
        int(given.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048.0)),
        given.tls(endpoint),
    )
    if given.problems:
        raise BadSettingsError(given.problems)
    return found


class _Variables:
    """The `OTEL_*` variables that have a value; what can't be read of them is noted in `problems`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._values = {name: value.strip() for name, value in environment.items() if name.startswith("OTEL_")}

    def text(self, name: str) -> str:
        """The value; empty without one."""
        return self._values.get(name, "")

    def of_traces(self, name: str) -> str:
        """The exporter's value for traces, else the one for all signals."""
        return self.text(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or self.text(f"OTEL_EXPORTER_OTLP_{name}")

    def check(self, name: str, known: Collection[str], remedy: str = "") -> str:
        """The value, which is one of `known`, or empty."""
        value = self.text(name)
        if value and value not in known:
            self.problems.append(f"{name}: {value!r} is none of {', '.join(known)}{remedy}")
        return value

    def number(self, name: str, default: float, least: float = 1.0, most: float = 1e9) -> float:
        """The value as a number within limits."""
        value = to_number(self.text(name)) if self.text(name) else default
        if not least <= value <= most:
            self.problems.append(f"{name}: {self.text(name)!r} is no number from {least:g} to {most:g}")
        return value

    def pairs(self, name: str) -> dict[str, str]:
        """The pairs of `key=value,key=value`, values URL-encoded. No message has a value: it may be a secret."""
        found = {}
        for pair in filter(None, map(str.strip, self.text(name).split(","))):
            key, equals, value = (part.strip() for part in pair.partition("="))
            found[key] = value = unquote(value)
            if not equals or not key.isascii() or not key.isprintable() or " " in key or not value.isprintable():
                self.problems.append(f"{name}: expected key=value pairs with commas, values URL-encoded")
                break
        return found

    def tls(self, endpoint: str) -> ssl.SSLContext | None:
        """The TLS context of an endpoint, None for http."""
        try:
            parts = urlsplit(endpoint)
            if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and endpoint.isascii():
                is_http = parts.scheme == "http"
                return None if is_http else ssl.create_default_context(cafile=self.of_traces("CERTIFICATE") or None)
            self.problems.append(
                f"OTEL_EXPORTER_OTLP_ENDPOINT: {endpoint!r} is no address such as http://collector:4318"
            )
        except (OSError, ValueError) as err:  # the port is no number, or the file of certificates can't be read
            self.problems.append(f"OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_CERTIFICATE: {err}")
        return None
