"""Open-loop load: requests arrive at a fixed rate, whether or not the server keeps up, as from real clients.

    python -m loadtest.openloop --capacity                        # only measure the capacity, closed loop
    python -m loadtest.openloop --slo_ms 250                      # measure it, then offer 1, 2 and 4 times as much
    python -m loadtest.openloop --rate 120 --multiples 1,4 --poison 0.01 --json out.json --png out.png

Latency counts from the time at which a request was due, not from when a connection was free for it. A generator that
waits for slow answers before it sends the next request leaves out exactly the requests that suffer (coordinated
omission). Arrivals are a Poisson process with a seed, so that two runs offer the same load.
"""

import argparse
import asyncio
import ipaddress
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop

from loadtest.openloop.results import AnswerKind, RateFigures, RequestSample, draw_plot, draw_table, summary
from loadtest.traffic.answers import Expectations, NoAnswer, error_text, expect, parse_timing
from loadtest.traffic.closed_loop import SETTLE_S, capacity, show_progress
from loadtest.traffic.connections import ConnectionPool, HttpResponse, header, request_bytes, retry_after_s
from loadtest.traffic.pictures import KINDS, Picture, RequestBody, cycle, json_body, load, truncated

MAX_REQUESTS = 1_000_000  # of one rate: its samples stay in memory, about 200 bytes each


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """One request, ready to be sent: its bytes, its content, and the row of its broken picture, if it has one."""

    data: bytes
    body: RequestBody
    broken_row: int | None = None


class RequestMix(NamedTuple):
    """The requests to choose from, all made before the first is sent."""

    healthy: list[PreparedRequest]  # must be answered
    broken: list[PreparedRequest]  # each has one broken picture and must be refused


def darkroom_mix(options: argparse.Namespace, host: str) -> RequestMix:
    """Requests in Darkroom's own JSON, as the command line describes them."""
    pictures, rows = load(options.pictures), options.rows
    headers = {"X-Darkroom-Deadline-Ms": f"{options.deadline_ms:g}"} if options.deadline_ms else {}

    def make(group: tuple[Picture, ...], broken_row: int | None = None) -> PreparedRequest:
        body = json_body(group, model=options.model)
        return PreparedRequest(request_bytes(host, body, headers), body, broken_row)

    mix = RequestMix([], [])
    for start in range(len(pictures)):
        group, row = cycle(pictures, start=start, rows=rows), start % rows
        mix.healthy.append(make(group))
        mix.broken.append(make((*group[:row], truncated(group[row]), *group[row + 1 :]), row))
    return mix


def judge(request: PreparedRequest, reply: HttpResponse, expectations: Expectations) -> AnswerKind:
    """Returns how a request ended, by the status and the content of its answer."""
    if reply.status in {429, 503}:
        return AnswerKind.REFUSED
    if reply.status == 504:
        return AnswerKind.EXPIRED
    if request.broken_row is not None:
        is_named = reply.status == 400 and f"images[{request.broken_row}]" in error_text(reply.body)
        return AnswerKind.POISON_NAMED if is_named else AnswerKind.POISON_MISSED
    if reply.status != 200:
        return AnswerKind.FAILED
    return AnswerKind.OK if expectations.agrees(request.body, reply.body) else AnswerKind.WRONG


def arrivals_s(rate: float, seconds: float, chance: random.Random, *, is_poisson: bool) -> list[float]:
    """Returns the arrival times of `rate` requests/s during `seconds`, in order, in seconds from the start."""
    moments: list[float] = []
    at_s = 0.0
    while len(moments) < MAX_REQUESTS:
        at_s += chance.expovariate(rate) if is_poisson else 1 / rate
        if at_s >= seconds:
            break
        moments.append(at_s)
    return moments


class OpenLoop:
    """Sends a mix of requests at a rate and collects the outcome of each one."""

    def __init__(
        self, pool: ConnectionPool, mix: RequestMix, expectations: Expectations, options: argparse.Namespace
    ) -> None:
        self._pool, self._mix, self._expectations, self._options = pool, mix, expectations, options
        self._chance = random.Random(options.seed)  # noqa: S311 - arrivals, no secrets
        self._samples: list[RequestSample] = []
        self._start_s = 0.0
        self._unanswered = 0
        self._is_settled = asyncio.Event()

    async def run(self, rate: float, name: str) -> list[RequestSample]:
        """Offers one rate; returns its samples after the last answer, or --timeout_s after the last arrival."""
        options = self._options
        moments = arrivals_s(rate, options.seconds, self._chance, is_poisson=options.arrivals == "poisson")
        self._samples, self._start_s = [], time.perf_counter()
        sent, told_s = 0, 0.0
        while sent < len(moments):
            now_s = time.perf_counter() - self._start_s
            while sent < len(moments) and moments[sent] <= now_s:
                self._send(moments[sent])
                sent += 1
            if now_s - told_s >= 1:
                told_s = now_s
                show_progress(
                    f"{name}  {now_s:3.0f}/{options.seconds:.0f} s  sent {sent}  answered {len(self._samples)}"
                )
            if sent < len(moments):
                await asyncio.sleep(max(0.0, moments[sent] - (time.perf_counter() - self._start_s)))
        await self._settle()
        return self._samples

    async def _settle(self) -> None:
        """Waits for the last answers; requests without one after --timeout_s count as FAILED."""
        if self._unanswered:
            self._is_settled.clear()
            try:
                await asyncio.wait_for(self._is_settled.wait(), self._options.timeout_s)
            except TimeoutError:
                await self._pool.close()
        await asyncio.sleep(SETTLE_S)

    def _send(self, intended_s: float) -> None:
        is_broken = self._options.poison > 0 and self._chance.random() < self._options.poison
        request = self._chance.choice(self._mix.broken if is_broken else self._mix.healthy)

        def done(reply: HttpResponse) -> None:
            done_s = time.perf_counter() - self._start_s
            self._unanswered -= 1
            if not self._unanswered:
                self._is_settled.set()
            kind = judge(request, reply, self._expectations)
            timing = parse_timing(header(reply, "Server-Timing") if kind is AnswerKind.OK else None)
            retry_s = retry_after_s(reply) if kind is AnswerKind.REFUSED else None
            sent_s = done_s if reply.written_s is None else reply.written_s - self._start_s
            self._samples.append(RequestSample(kind, intended_s, sent_s, done_s, retry_s, timing))

        self._unanswered += 1
        self._pool.ask(request.data, done)


async def run(options: argparse.Namespace) -> list[RateFigures]:
    """Runs the whole experiment: measures the capacity unless --rate gives it, then offers one rate after the other."""
    address = urlsplit(options.url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    expectations = await asyncio.to_thread(expect, options.url, load(options.pictures), model=options.model)
    if not expectations.tells_apart:
        show_progress("the model gives every picture the same class: swapped answers cannot be noticed\n")
    mix = darkroom_mix(options, f"{host}:{port}")
    pool = ConnectionPool(host, port, limit=options.connections)
    try:
        rate = options.rate or await measured_rate(pool, mix, options)
        return await offer(pool, mix, expectations, options, rate=rate)
    finally:
        await pool.close()


async def measured_rate(pool: ConnectionPool, mix: RequestMix, options: argparse.Namespace) -> float:
    """Measures and prints the capacity in requests/s.

    Raises:
        NoAnswer: no request was answered with 200.
    """
    rate = await capacity(
        pool, [request.data for request in mix.healthy], clients=options.clients, seconds=options.seconds
    )
    show_progress("")
    if not rate:
        raise NoAnswer(f"{options.url}: not one 200 in {options.seconds:g} s")
    print(f"capacity: {rate:.1f} requests/s with {options.clients} clients, {options.rows} picture(s) a request")
    return rate


async def offer(
    pool: ConnectionPool, mix: RequestMix, expectations: Expectations, options: argparse.Namespace, *, rate: float
) -> list[RateFigures]:
    """Offers each multiple of the rate, one after the other; none with --capacity."""
    rows: list[RateFigures] = []
    for multiple in () if options.capacity else options.multiples:
        loop = OpenLoop(pool, mix, expectations, options)
        samples = await loop.run(rate * multiple, f"{multiple:g}x")
        rows.append(summary(samples, multiple=multiple, seconds=options.seconds, slo_ms=options.slo_ms))
    show_progress("")
    return rows


def is_loopback(url: str) -> bool:
    """Returns whether the address is on this machine: `localhost`, 127.0.0.0/8 or ::1."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.openloop",
        description="Open-loop load at multiples of a server's capacity: goodput, p99, refusals, wrong answers.",
    )
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8500", help="the server [%(default)s]")
    add(
        "--allow_remote",
        action="store_true",
        help="allow --url to be another machine; only load machines that are yours",
    )
    add("--capacity", action="store_true", help="only measure the capacity, closed loop")
    add("--rate", type=float, default=0.0, help="requests/s that count as 1x; 0 measures the capacity first [0]")
    add("--multiples", type=numbers, default=(1.0, 2.0, 4.0), help="loads to offer, as multiples [1,2,4]")
    add("--seconds", type=float, default=15.0, help="how long each load, and the closed loop, lasts [%(default)s]")
    add("--slo_ms", type=float, default=0.0, help="what counts as goodput; 0: every right answer [0]")
    add(
        "--deadline_ms", type=float, default=0.0, help="send X-Darkroom-Deadline-Ms with each request; 0: no header [0]"
    )
    add("--poison", type=float, default=0.0, help="share of requests with one truncated JPEG in them [0]")
    add("--rows", type=int, default=1, help="pictures in a request [1]")
    add("--pictures", choices=tuple(KINDS), default="photos", help="[%(default)s]")
    add("--model", default="default", help="model_name of the requests [%(default)s]")
    add("--arrivals", choices=("poisson", "constant"), default="poisson", help="[%(default)s]")
    add("--clients", type=int, default=32, help="clients of the closed loop [%(default)s]")
    add("--connections", type=int, default=1000, help="most connections at once [%(default)s]")
    add("--timeout_s", type=float, default=10.0, help="how long to wait for the last answers [%(default)s]")
    add("--seed", type=int, default=1, help="seed of arrivals and choices [%(default)s]")
    add("--json", type=Path, help="write the figures to this file")
    add("--png", type=Path, help="draw the figures into this file")
    options = parser.parse_args(arguments)
    if not options.allow_remote and not is_loopback(options.url):
        parser.error(f"{options.url} is another machine: pass --allow_remote if you may load it")
    if min(options.seconds, options.rows, options.clients, options.connections, *options.multiples) <= 0:
        parser.error("--seconds, --rows, --clients, --connections and --multiples must be above 0")
    return options


def numbers(text: str) -> tuple[float, ...]:
    """Reads `1,2,4` as numbers."""
    return tuple(float(part) for part in text.split(","))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, prints the table and writes the files; returns 1 if the server does not answer."""
    options = parse(arguments)
    try:
        rows = uvloop.run(run(options))
    except NoAnswer as err:
        print(f"no answer to begin with: {err}", file=sys.stderr)
        return 1
    if rows:
        print(draw_table(rows))
    if options.json:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        document = {"options": settings, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.png and rows:
        title = f"Open loop, {options.rows} picture(s) a request, {options.arrivals} arrivals"
        draw_plot(rows, slo_ms=options.slo_ms, title=title, path=options.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
