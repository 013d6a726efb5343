"""What open tabs of the page "Live" cost a server under load: rounds with ten of them and with none, in turns, in one run.

    python -m loadtest.experiments.live_tabs
    python -m loadtest.experiments.live_tabs --model model/efficientnet_lite0 --pictures photos --clients 64
    python -m loadtest.experiments.live_tabs --darkroom build/compiled/bin/darkroom      # as the image is

Starts the server itself. A tab is what the page is to the server: a connection that follows /live/events and reads what comes.
Each round takes 2 x (1 + seconds): some three minutes as the defaults are. Then both are measured without requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import uvloop

from loadtest.measure import machine
from loadtest.measure.processes import cpu_s, free_port, running
from loadtest.measure.tables import number, table
from loadtest.traffic.connections import ConnectionPool, request_bytes
from loadtest.traffic.pictures import json_body, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

SETTLE_S = 1.0  # of each load, before it is counted
STREAM = b"GET /live/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"


class Round(NamedTuple):
    """What one load measured: answers per second, latencies, the server's CPU time per answer, the events of one tab."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    events: float


@asynccontextmanager
async def tabs_open(port: int, count: int) -> AsyncIterator[list[int]]:
    """Follows /live/events on `count` connections; yields how many events each has read, which grows.

    Raises:
        SystemExit: one of them was not a stream of events to the end of the block.
    """
    events = [0] * count
    pipes = [await asyncio.open_connection("127.0.0.1", port, limit=1 << 24) for _ in range(count)]

    async def follow(tab: int, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            if line.startswith(b"data: "):
                json.loads(line.removeprefix(b"data: "))
                events[tab] += 1

    for _, writer in pipes:
        writer.write(STREAM)
    tasks = [asyncio.create_task(follow(tab, reader)) for tab, (reader, _) in enumerate(pipes)]
    try:
        yield events
        if any(task.done() for task in tasks) or not all(events):
            raise SystemExit("a stream of /live/events ended, or told nothing")
    finally:
        for task, (_, writer) in zip(tasks, pipes, strict=True):
            task.cancel()
            writer.close()
        await asyncio.gather(*tasks, *(writer.wait_closed() for _, writer in pipes), return_exceptions=True)


async def measure(port: int, pid: int, requests: Sequence[bytes], *, clients: int, tabs: int, seconds: float) -> Round:
    """Loads the server with `clients` connections beside so many tabs; without clients only its CPU time is measured.

    Raises:
        SystemExit: a request was not answered with 200, or a tab was told nothing.
    """
    pool = ConnectionPool("127.0.0.1", port, limit=max(1, clients))
    times_s: list[float] = []
    is_over, failed = False, 0

    async def client(place: int) -> None:
        nonlocal failed
        while not is_over:
            started_s = time.perf_counter()
            failed += (await pool.answer(requests[place % len(requests)])).status != 200
            times_s.append(time.perf_counter() - started_s)
            place += clients

    loads = [asyncio.ensure_future(client(place)) for place in range(clients)]
    try:
        async with tabs_open(port, tabs) as events:
            await asyncio.sleep(SETTLE_S)
            times_s.clear()
            started_s, used_s = time.perf_counter(), cpu_s(pid)
            await asyncio.sleep(seconds)
            used_s, taken_s = cpu_s(pid) - used_s, time.perf_counter() - started_s
            counted = list(times_s)
    finally:
        is_over = True
        await asyncio.gather(*loads)
        await pool.close()
    if failed:
        raise SystemExit(f"{failed} requests failed")
    cuts = statistics.quantiles(counted, n=100) if len(counted) > 1 else [0.0] * 99
    share = used_s / len(counted) if counted else used_s / taken_s
    return Round(len(counted) / taken_s, cuts[49] * 1e3, cuts[98] * 1e3, share * 1e6, statistics.fmean(events or [0]))


async def compare(options: argparse.Namespace, port: int, pid: int) -> dict[tuple[int, int], list[Round]]:
    """Rounds by clients and tabs; each round has both, the next one in the other order."""
    bodies = [json_body((picture,)) for picture in load(options.pictures)]
    requests = [request_bytes("127.0.0.1", body, body.headers) for body in bodies]
    found: dict[tuple[int, int], list[Round]] = {}
    for clients in (options.clients, 0):
        for turn in range(options.rounds):
            for tabs in (0, options.tabs)[:: -1 if turn % 2 else 1]:
                made = await measure(port, pid, requests, clients=clients, tabs=tabs, seconds=options.seconds)
                found.setdefault((clients, tabs), []).append(made)
                print(f"\rround {turn + 1}, {clients} clients, {tabs} tabs ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def report(found: dict[tuple[int, int], list[Round]], clients: int, tabs: int) -> str:
    """A table of medians, and the medians of the rounds' ratios."""
    rows = []
    for (loaded, opened), rounds in found.items():
        rate, p50, p99, cpu, events = (statistics.median(column) for column in zip(*rounds, strict=True))
        if loaded:
            told = [number(rate, digits=0), number(p50, digits=2), number(p99, digits=2), f"{cpu:.1f} us a request"]
        else:
            told = ["-", "-", "-", f"{cpu / 1e4:.2f} % of a core"]
        rows.append([f"{loaded} clients, {opened} tabs", *told, number(events)])
    pairs = list(zip(found[clients, tabs], found[clients, 0], strict=True))
    rates = statistics.median(one.rate / other.rate for one, other in pairs)
    cpus = statistics.median(one.cpu_us / other.cpu_us for one, other in pairs)
    heads = ["load", "requests/s", "p50 ms", "p99 ms", "CPU of the server", "events a tab"]
    return (
        f"{table(heads, rows)}\n\nwith {tabs} tabs, of none: {rates:.3f} of the rate, {cpus:.3f} of the CPU a request"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.live_tabs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", type=Path, default=Path("model/digits"), help="folder of the model's versions [%(default)s]"
    )
    parser.add_argument("--pictures", default="digits", help="what is sent: digits or photos [%(default)s]")
    parser.add_argument("--darkroom", default=f"{sys.executable} -m darkroom", help="the command to measure")
    parser.add_argument(
        "--clients", type=int, default=16, help="connections that send, each the next as it is answered [16]"
    )
    parser.add_argument("--tabs", type=int, default=10, help="open tabs [10]")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of each [8]")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load [4]")
    options = parser.parse_args(arguments)
    port = free_port()
    command = [*options.darkroom.split(), "serve", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command.append(f"--model_base_path={options.model}")
    print(machine.lines(machine.describe()))
    with (
        TemporaryDirectory() as folder,
        running(command, port=port, ready_path="/v2/health/ready", log=Path(folder) / "log") as pid,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        found = runner.run(compare(options, port, pid))
    print(f"\n{report(found, options.clients, options.tabs)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
