"""What clients notice of an engine that hangs, and of a server that is told to stop.

    python -m loadtest.experiments.outages hang --workers 2
    python -m loadtest.experiments.outages stop --workers 2 --model model/efficientnet_lite0 --pictures photos --rounds 3

`hang` serves a model whose calls can run for hours beside a good one. It sends such a request and prints when its caller
was told, when the server, or its worker, was not ready any more, when the process ended, and when another took its place;
and what the clients of the good model noticed meanwhile. They open new connections, as those of a balancer do.

`stop` keeps 64 keep-alive clients busy behind a balancer that asks every 5 s whether the server is ready, and sends
SIGTERM. The clients send until the balancer has seen that it is not ready. Every request that is not answered with 200 is
lost. Each round waits a different time before the signal. Both return 1 if a request was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from loadtest.measure.latencies import LatencyHistogram
from loadtest.traffic.connections import ConnectionPool, HttpResponse, request_bytes
from loadtest.traffic.pictures import RequestBody, json_body, load
from tests.savedmodels import spin
from tests.serving import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CLIENTS = 64
FOREVER = 2**31 - 1  # turns of the loop of `spin`: hours
WARMING = 8  # quick requests for each worker, so that no call that hangs is its first
LOOK_S = 0.1  # between two looks at the server's health
WAIT_S = 60.0  # what does not come within this time does not come


class Clients:
    """Clients that send the same requests without a pause, on keep-alive connections, until `stop`.

    Attributes:
        lost: the requests that were not answered with 200, by status; 0: the connection broke.
        took_ms: of each request that was answered with 200.
    """

    def __init__(self, url: str, requests: Sequence[bytes], *, clients: int = CLIENTS, pause_s: float = 0.0) -> None:
        address = urlsplit(url)
        self.lost: Counter[int] = Counter()
        self.took_ms: list[float] = []
        self._is_over = False
        self._pause_s = pause_s
        self._requests = requests
        self._pool = ConnectionPool(address.hostname or "", address.port or 0, limit=clients)
        self._tasks = [asyncio.ensure_future(self._ask(number)) for number in range(clients)]

    async def _ask(self, number: int) -> None:
        """One client."""
        while not self._is_over:
            started_s = time.perf_counter()
            reply = await self._pool.answer(self._requests[number % len(self._requests)])
            if reply.status == 200:
                self.took_ms.append((time.perf_counter() - started_s) * 1000)
            else:
                self.lost[reply.status] += 1
                await asyncio.sleep(0.05)
            await asyncio.sleep(self._pause_s)

    async def stop(self) -> None:
        """Sends no more, and waits for the answers that are to come."""
        self._is_over = True
        await asyncio.gather(*self._tasks)
        await self._pool.close()

    def report(self) -> str:
        """The counts and the latencies."""
        times = LatencyHistogram(self.took_ms)
        share = ", ".join(f"p{at * 100:g} {times.quantile_ms(at) or 0:.0f} ms" for at in (0.5, 0.99, 1.0))
        return f"{len(self.took_ms)} answered, {self.lost.total()} lost {dict(self.lost)}; {share}"


async def ask_once(url: str, path: str, body: object = None) -> HttpResponse:
    """Sends one request on a connection of its own."""
    address = urlsplit(url)
    pool = ConnectionPool(address.hostname or "", address.port or 0, limit=1)
    if body is None:
        request = f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode()
    else:
        request = request_bytes(
            address.netloc, RequestBody("application/json", json.dumps(body).encode(), ()), path=path
        )
    try:
        return await pool.answer(request)
    finally:
        await pool.close()


async def when(is_so: Callable[[], Any], since_s: float) -> str:
    """Waits until the coroutine that `is_so` makes returns True; returns the seconds since `since_s`, as text."""
    while time.perf_counter() - since_s < WAIT_S:
        if await is_so():
            return f"{time.perf_counter() - since_s:6.2f} s"
        await asyncio.sleep(LOOK_S)
    return f"not within {WAIT_S:g} s"


def events_of(
    process: Process, workers: int, hung: Sequence[asyncio.Future[HttpResponse]]
) -> dict[str, Callable[[], Any]]:
    """The events of an engine that hangs in the calls `hung`, and the questions whether they have come."""

    async def is_told() -> bool:
        return all(each.done() for each in hung)

    async def is_unready() -> bool:
        if workers == 1:
            return (await ask_once(process.url, "/v2/health/ready")).status == 503
        return (
            f'darkroom_workers{{state="ready"}} {workers - 1}.0'.encode()
            in (await ask_once(process.url, "/metrics")).body
        )

    async def is_ended() -> bool:
        return bool(process.process.poll() is not None) or '"status 70"' in "".join(process.lines)

    async def is_replaced() -> bool:
        return sum("worker is ready" in line for line in process.lines) > workers

    events = {
        ("a worker" if workers > 1 else "the server") + " is not ready": is_unready,
        "all their callers were told": is_told,
        "the process ends": is_ended,
    }
    if workers > 1:
        events["another worker took its place"] = is_replaced
    return events


async def hang(process: Process, options: argparse.Namespace) -> int:
    """Makes calls of one model hang and prints what happens when."""
    url, workers = process.url, options.workers
    body = json_body(load(options.pictures)[:1], model="good")
    clients = Clients(url, [request_bytes("x", body)], clients=8, pause_s=0.01)

    def spin_all(turns: int) -> list[asyncio.Future[HttpResponse]]:
        body = {"instances": [{"turns": [turns]}]}
        number = WARMING * workers if turns < FOREVER else options.hanging
        return [asyncio.ensure_future(ask_once(url, "/v1/models/spin:predict", body)) for _ in range(number)]

    await asyncio.gather(*spin_all(3))  # a first call may take ten times as long
    began_s = time.perf_counter()
    hung = spin_all(FOREVER)

    events = events_of(process, workers, hung)
    at = await asyncio.gather(*(when(event, began_s) for event in events.values()))
    for event, seconds in zip(events, at, strict=True):
        print(f"{seconds}  {event}")
    statuses = Counter(reply.status for reply in await asyncio.gather(*hung))
    print("statuses of the calls that hang:", dict(statuses))
    await clients.stop()
    print("clients of the good model:", clients.report())
    return 0


async def stop(process: Process, requests: Sequence[bytes], after_s: float, look_s: float) -> int:
    """Stops the server under load and prints what was lost."""
    clients = Clients(process.url, requests)
    loop = asyncio.get_running_loop()
    looking = loop.create_task(look_every(process.url, look_s))
    await asyncio.sleep(after_s)
    began_s = time.perf_counter()
    process.process.send_signal(signal.SIGTERM)
    await looking
    seen_s = time.perf_counter() - began_s
    await clients.stop()
    status = await loop.run_in_executor(None, process.process.wait)
    took_s = time.perf_counter() - began_s
    print(
        f"SIGTERM after {after_s:.1f} s: seen after {seen_s:.1f} s, exit {status} after {took_s:.1f} s; {clients.report()}"
    )
    return int(bool(clients.lost or status))


async def look_every(url: str, seconds: float) -> None:
    """Returns when a look at the server finds it not ready."""
    while (await ask_once(url, "/v2/health/ready")).status == 200:  # noqa: ASYNC110 - the server is no object of ours
        await asyncio.sleep(seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the two and prints its figures."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.outages", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("kind", choices=("hang", "stop"))
    parser.add_argument("--workers", type=int, default=1, help="server processes [1]")
    parser.add_argument("--model", type=Path, default=Path("model/digits"), help="the good model [model/digits]")
    parser.add_argument("--pictures", choices=("digits", "photos"), default="digits", help="what is sent [digits]")
    parser.add_argument("--hanging", type=int, default=1, help="requests of hang that never end [1]")
    parser.add_argument("--rounds", type=int, default=3, help="of stop [3]")
    parser.add_argument("--look_s", type=float, default=5.0, help="between two looks of the balancer [5]")
    parser.add_argument("--engine_timeout_ms", type=int, default=2000, help="of hang [2000]")
    parser.add_argument("--engine_kill_ms", type=int, default=6000, help="of hang [6000]")
    options = parser.parse_args(arguments)
    flags = [f"--workers={options.workers}", "--log_format=json"]
    with tempfile.TemporaryDirectory(prefix="darkroom-outages-") as folder:
        if options.kind == "hang":
            spin(Path(folder, "spin", "1"))
            models = {"spin": Path(folder, "spin"), "good": options.model.absolute()}
            entries = [{"name": name, "base_path": str(path)} for name, path in models.items()]
            Path(folder, "models.json").write_text(json.dumps({"model_config_list": entries}), encoding="utf-8")
            flags += [f"--model_config_file={folder}/models.json"]
            flags += [f"--{name}={getattr(options, name)}" for name in ("engine_timeout_ms", "engine_kill_ms")]
            return _with_server(flags, partial(hang, options=options))
        flags += [f"--model_base_path={options.model}", f"--drain_delay_ms={1000 * options.look_s + 1000:.0f}"]
        requests = [request_bytes("x", json_body((picture,))) for picture in load(options.pictures)]
        waits = [2.0 + options.look_s * number / options.rounds for number in range(options.rounds)]
        return max(
            _with_server(flags, partial(stop, requests=requests, after_s=wait_s, look_s=options.look_s))
            for wait_s in waits
        )


def _with_server(flags: Sequence[str], run: Callable[[Process], Any]) -> int:
    """Runs the coroutine that `run` makes beside a server that is ready."""
    process = Process("--warmup_budget_ms=5000", *flags)  # as users have it
    try:
        process.wait_ready()
        status: int = asyncio.run(run(process))
    finally:
        process.stop()
    return status


if __name__ == "__main__":
    sys.exit(main())
