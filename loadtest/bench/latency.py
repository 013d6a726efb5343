"""Latency of several servers under open-loop load: all get the same arrival rates, in turn."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from loadtest.openloop.generator import OpenLoop, PreparedRequest, RequestMix, parse
from loadtest.openloop.results import summary
from loadtest.traffic.answers import Expectations
from loadtest.traffic.closed_loop import capacity, show_progress
from loadtest.traffic.connections import ConnectionPool, request_bytes
from loadtest.traffic.pictures import RequestBody

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from loadtest.bench.contenders import RunningServer
    from loadtest.openloop.results import RateFigures
    from loadtest.traffic.pictures import Picture

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the slowest server's capacity, measured with this generator on the same cores
CLIENTS = 64
CONNECTIONS = 256


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """One server's latency at one rate, from the intended arrival; medians of the rounds."""

    contender: str
    share: float
    offered_per_s: float
    p50_ms: float
    p99_ms: float
    answered: float  # share of the requests that got the right answer


async def latencies(
    servers: Sequence[RunningServer],
    pictures: Sequence[Picture],
    expected: dict[str, int],
    *,
    seconds: float,
    rounds: int,
) -> tuple[float, list[LatencyResult]]:
    """Returns the slowest server's capacity in requests/s, and each server's latencies at the same shares of it."""
    options = parse(["--seconds", str(seconds), "--timeout_s", "60"])
    loops = {}
    for server in servers:
        host = f"127.0.0.1:{server.port}"
        mix = RequestMix([_request(server, picture, host) for picture in pictures], [])
        loops[server.contender.name] = (ConnectionPool("127.0.0.1", server.port, limit=CONNECTIONS), mix)
    rate = min([await _capacity(*loop, seconds) for loop in loops.values()])
    rows: dict[tuple[str, float], list[RateFigures]] = {}
    for turn in range(rounds):
        for share in SHARES:
            for name, (pool, mix) in loops.items():
                label = f"round {turn + 1}/{rounds}  {name}, {rate * share:.0f}/s"
                row = await _offer(pool, mix, expected, options, rate=rate * share, label=label)
                rows.setdefault((name, share), []).append(row)
    for pool, _ in loops.values():
        await pool.close()
    show_progress("")
    return rate, [_latency(name, share, rate * share, found) for (name, share), found in rows.items()]


def _request(server: RunningServer, picture: Picture, host: str) -> PreparedRequest:
    contender = server.contender
    body = RequestBody(contender.content_type, contender.encode(picture), (picture.name,))
    return PreparedRequest(request_bytes(host, body, path=contender.path), body)


async def _capacity(pool: ConnectionPool, mix: RequestMix, seconds: float) -> float:
    return await capacity(pool, [request.data for request in mix.healthy], clients=CLIENTS, seconds=seconds)


async def _offer(
    pool: ConnectionPool, mix: RequestMix, expected: dict[str, int], options: Namespace, *, rate: float, label: str
) -> RateFigures:
    samples = await OpenLoop(pool, mix, Expectations(expected), options).run(rate, label)
    return summary(samples, multiple=1, seconds=options.seconds, slo_ms=0)


def _latency(name: str, share: float, rate: float, rows: Sequence[RateFigures]) -> LatencyResult:
    p50_ms, p99_ms = (
        median([getattr(row, field) or float("nan") for row in rows]) for field in ("ok_p50_ms", "ok_p99_ms")
    )
    answered = sum(row.ok_per_s for row in rows) / sum(row.offered_per_s for row in rows)
    return LatencyResult(name, share, rate, p50_ms, p99_ms, answered)
