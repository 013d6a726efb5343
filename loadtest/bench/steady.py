"""Latency under a load that does not wait: several servers at the same arrival rates, in turn, in an open loop."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from loadtest.openloop.openloop import OpenLoop, Request, parse
from loadtest.openloop.outcome import summary
from loadtest.traffic.answers import Expectations
from loadtest.traffic.closedloop import capacity, show
from loadtest.traffic.connections import Pool, request_bytes
from loadtest.traffic.pictures import Body

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from loadtest.bench.contenders import Running
    from loadtest.openloop.outcome import Row
    from loadtest.traffic.pictures import Picture

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the capacity of the slowest, with this generator beside it
CLIENTS = 64
CONNECTIONS = 256


class Shots(NamedTuple):
    """The requests of one contender; none is broken."""

    healthy: list[Request]
    broken: list[Request]


@dataclass(frozen=True, slots=True)
class Latency:
    """What one server's callers waited at one rate; medians of the rounds, from the intended arrival."""

    contender: str
    share: float
    offered_per_s: float
    p50_ms: float
    p99_ms: float
    answered: float  # share of the requests that got the right answer


async def latencies(
    servers: Sequence[Running], pictures: Sequence[Picture], expected: dict[str, int], *, seconds: float, rounds: int
) -> tuple[float, list[Latency]]:
    """The capacity of the slowest, requests a second, and each server's latencies at the same shares of it."""
    options = parse(["--seconds", str(seconds), "--timeout_s", "60"])
    loops = {}
    for server in servers:
        host = f"127.0.0.1:{server.port}"
        shots = Shots([_request(server, picture, host) for picture in pictures], [])
        loops[server.contender.name] = (Pool("127.0.0.1", server.port, limit=CONNECTIONS), shots)
    rate = min([await _capacity(*loop, seconds) for loop in loops.values()])
    rows: dict[tuple[str, float], list[Row]] = {}
    for turn in range(rounds):
        for share in SHARES:
            for name, (pool, shots) in loops.items():
                label = f"round {turn + 1}/{rounds}  {name}, {rate * share:.0f}/s"
                row = await _offer(pool, shots, expected, options, rate=rate * share, label=label)
                rows.setdefault((name, share), []).append(row)
    for pool, _ in loops.values():
        await pool.close()
    show("")
    return rate, [_latency(name, share, rate * share, found) for (name, share), found in rows.items()]


def _request(server: Running, picture: Picture, host: str) -> Request:
    contender = server.contender
    body = Body(contender.content_type, contender.encode(picture), (picture.name,))
    return Request(request_bytes(host, body, path=contender.path), body)


async def _capacity(pool: Pool, shots: Shots, seconds: float) -> float:
    return await capacity(pool, [request.data for request in shots.healthy], clients=CLIENTS, seconds=seconds)


async def _offer(
    pool: Pool, shots: Shots, expected: dict[str, int], options: Namespace, *, rate: float, label: str
) -> Row:
    samples = await OpenLoop(pool, shots, Expectations(expected), options).run(rate, label)
    return summary(samples, multiple=1, seconds=options.seconds, slo_ms=0)


def _latency(name: str, share: float, rate: float, rows: Sequence[Row]) -> Latency:
    p50_ms, p99_ms = (
        median([getattr(row, field) or float("nan") for row in rows]) for field in ("ok_p50_ms", "ok_p99_ms")
    )
    answered = sum(row.ok_per_s for row in rows) / sum(row.offered_per_s for row in rows)
    return Latency(name, share, rate, p50_ms, p99_ms, answered)
