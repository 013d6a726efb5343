"""--access_log: which answered requests are a line of the log."""

from __future__ import annotations

import math
from random import random
from typing import NamedTuple

# What load balancers and Prometheus ask every few seconds, by route; only `all` logs it.
PROBES = frozenset(
    (
        "/health",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/<name:str>/ready",
        "/v2/models/<name:str>/versions/<version:str>/ready",
        "/metrics",
        "/monitoring/prometheus/metrics",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
        "/inference.GRPCInferenceService/ModelReady",
    )
)
# What a switch may be; --access_log was one.
_SWITCH = dict.fromkeys(("true", "1", "yes", "on"), "all") | dict.fromkeys(("false", "0", "no", "", "()"), "off")
_FORMS = "off, errors, slow:MS, sample:SHARE or all, or several of them with commas"


class AccessPolicy(NamedTuple):
    """Which requests are logged; several reasons may hold.

    Attributes:
        text: as the setting says it.
        logs_all: every request.
        logs_errors: those with a status of 400 or more, and those whose client left.
        slow_s: those that took at least so long.
        share: so many of all, at random.
    """

    text: str
    logs_all: bool = False
    logs_errors: bool = False
    slow_s: float = math.inf
    share: float = 0.0

    @property
    def is_off(self) -> bool:
        """Whether no request is ever logged."""
        return self == AccessPolicy(self.text)

    def picks(self, route: str, code: int, duration_s: float) -> bool:
        """Whether a request of `route` that was answered with `code` after `duration_s` is logged; asked once of each."""
        if self.logs_all:
            return True
        is_told = (self.logs_errors and code >= 400) or duration_s >= self.slow_s
        return (is_told or (self.share > 0 and random() < self.share)) and route not in PROBES  # noqa: S311 - no secret


def parse_access_log(value: object) -> AccessPolicy:
    """The policy that a setting says.

    Raises:
        ValueError: it is of no known form; says which there are.
    """
    text = _SWITCH.get(str(value).lower(), str(value).lower())
    policy, seen = AccessPolicy(text), set()
    for part in text.split(","):
        name, colon, number = part.strip().partition(":")
        if name in seen:
            raise ValueError(f"{name} is given twice")
        seen.add(name)
        if name in {"slow", "sample"} and colon:
            policy = _with_number(policy, name, number)
        elif colon or name not in {"off", "errors", "all"}:
            raise ValueError(f"{part.strip()!r} is unknown: give {_FORMS}")
        else:
            policy = policy._replace(logs_all=policy.logs_all or name == "all", logs_errors="errors" in seen)
    if "off" in seen and len(seen) > 1:
        raise ValueError("off stands alone")
    return policy


def _with_number(policy: AccessPolicy, name: str, number: str) -> AccessPolicy:
    value = to_number(number)
    if name == "slow":
        if not 0 <= value < math.inf:
            raise ValueError(f"slow:MS is a number of milliseconds, such as slow:500, not {number!r}")
        return policy._replace(slow_s=value / 1000)
    if not 0 < value <= 1:
        raise ValueError(f"sample:SHARE is above 0 and at most 1, such as sample:0.01 for 1 %, not {number!r}")
    return policy._replace(share=value)


def to_number(text: str) -> float:
    """The number that a text says; not-a-number if it says none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
