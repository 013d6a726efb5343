"""Latency while versions change: two versions of a model replace each other under a steady rate of requests.

    python -m loadtest.experiments.models.swaps --versions model/digits/1 other/1 --pictures digits --rate 100 --swaps 30

It serves a temporary folder. It copies a version into it, waits until that version is served, removes the previous one,
and so on, while requests are sent at fixed times. Before each swap there is a quiet window as long as the last swap.
Each swap is compared with the window before it, so that background load affects both. A request fails if its answer is
not what one of the two versions says about its picture.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from loadtest.measure import processes
from loadtest.measure.latencies import LatencyHistogram
from loadtest.traffic.closed_loop import show_progress
from loadtest.traffic.connections import ConnectionPool, HttpResponse, request_bytes
from loadtest.traffic.pictures import json_body, load

if TYPE_CHECKING:
    from collections.abc import Sequence

CONNECTIONS = 64
TOLERANCE = 1e-3  # of a probability: the order of additions depends on the batch size
SHARES = (0.5, 0.99)
LATE_S = 300.0  # the run fails if a version is not served after this time


class TimedRequest(NamedTuple):
    """One request: its picture, when it was due, when it was answered, and the answer."""

    picture: int
    intended_s: float
    done_s: float
    reply: HttpResponse

    @property
    def took_ms(self) -> float:
        """Latency from the time at which the request was due."""
        return (self.done_s - self.intended_s) * 1000

    @property
    def late_ms(self) -> float:
        """How late this program wrote the request, which is not the server's latency."""
        return ((self.reply.written_s or self.done_s) - self.intended_s) * 1000


class Window(NamedTuple):
    """A part of the run: the time before a swap, or the swap itself; they alternate."""

    start_s: float
    end_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 1 if a request failed."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.models.swaps", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--versions", type=Path, nargs=2, required=True, help="two version folders that take turns")
    parser.add_argument("--pictures", choices=("digits", "photos"), default="digits", help="what is sent [digits]")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second; 0: none, only memory [100]")
    parser.add_argument("--swaps", type=int, default=30, help="how often versions change [30]")
    parser.add_argument("--cached", action="store_true", help="let the server keep both versions prepared")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="darkroom-swaps-") as folder:
        return _measure(options, Path(folder))


def _measure(options: argparse.Namespace, folder: Path) -> int:
    """Starts the server, swaps versions and reports."""
    port = processes.free_port()
    base = folder / "model"
    shutil.copytree(options.versions[0], base / "1")
    command = [sys.executable, "-m", "darkroom", "serve", "--host=127.0.0.1", f"--port={port}"]
    command += [
        f"--model_base_path={base}",
        "--workers=1",
        "--reload_interval_ms=250",
        f"--cache_dir={folder / 'cache'}",
    ]
    command += (
        [] if options.cached else ["--max_cache_bytes=0"]
    )  # the cache keeps one, so the other one is prepared at each swap
    with processes.running(command, port=port, ready_path="/v2/health/ready", log=folder / "log") as pid:
        run = SwapExperiment(options, base, port, pid)
        asyncio.run(run.go())
    return run.report()


class SwapExperiment:
    """One server under a steady rate of requests while its versions change."""

    def __init__(self, options: argparse.Namespace, base: Path, port: int, pid: int) -> None:
        self._options = options
        self._base = base
        self._pid = pid
        self._pool = ConnectionPool("127.0.0.1", port, limit=CONNECTIONS)
        bodies = [json_body((picture,)) for picture in load(options.pictures)]
        self._requests = [request_bytes(f"127.0.0.1:{port}", body) for body in bodies]
        self._question = f"GET /v1/models/default HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self._expected: list[list[Any]] = []  # by version and picture: probabilities
        self._asks: list[TimedRequest] = []
        self._windows: list[Window] = []
        self._resident_mb: list[float] = []
        self._is_over = False

    async def go(self) -> None:
        """Learns the answers of both versions, then swaps them under load."""
        self._expected.append(await self._learn())
        took_s = await self._swap(1)
        self._expected.append(await self._learn())
        self._windows.clear()
        asking = asyncio.create_task(self._ask())
        for number in range(2, self._options.swaps + 2):
            start_s = time.perf_counter()
            await asyncio.sleep(took_s)
            self._windows.append(Window(start_s, time.perf_counter()))
            took_s = await self._swap(number)
            show_progress(f"swap {number - 1}/{self._options.swaps}  resident {self._resident_mb[-1]:.0f} MB")
        self._is_over = True
        await asking
        await asyncio.sleep(1.0)
        await self._pool.close()

    async def _swap(self, number: int) -> float:
        """Replaces version `number` by the next one; returns the seconds that it took."""
        start_s = time.perf_counter()
        source = self._options.versions[number % 2]
        await asyncio.to_thread(shutil.copytree, source, self._base / str(number + 1))
        await self._until(str(number + 1), len_versions=2)
        await asyncio.to_thread(shutil.rmtree, self._base / str(number))
        await self._until(str(number + 1), len_versions=1)
        self._windows.append(Window(start_s, time.perf_counter()))
        self._resident_mb.append(processes.memory(self._pid).resident / 1e6)
        return self._windows[-1].end_s - start_s

    async def _until(self, version: str, *, len_versions: int) -> None:
        """Waits until `version` is served and so many versions exist.

        It uses the pool, because creating an httpx client takes 17 ms in which this process reads no answers.
        """
        for _ in range(int(LATE_S / 0.05)):
            states = json.loads((await self._pool.answer(self._question)).body)["model_version_status"]
            served = [state["version"] for state in states if state["state"] == "AVAILABLE"]
            if version in served and len(states) == len_versions:
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"version {version} is not served after {LATE_S:.0f} s: {states}")

    async def _learn(self) -> list[Any]:
        """Returns the probabilities of each picture, asked alone, of the version that is served."""
        return [json.loads((await self._pool.answer(request)).body)["probability"][0] for request in self._requests]

    async def _ask(self) -> None:
        """Sends requests at their times, whether or not earlier ones are answered."""
        if not self._options.rate:
            return
        start_s, number = time.perf_counter(), 0
        while not self._is_over:
            intended_s = start_s + number / self._options.rate
            await asyncio.sleep(max(0.0, intended_s - time.perf_counter()))
            picture = number % len(self._requests)
            self._pool.ask(self._requests[picture], partial(self._answered, picture, intended_s))
            number += 1

    def _answered(self, picture: int, intended_s: float, reply: HttpResponse) -> None:
        self._asks.append(TimedRequest(picture, intended_s, time.perf_counter(), reply))

    def report(self) -> int:
        """Prints the figures; returns 1 if a request failed."""
        failed = [ask for ask in self._asks if not self._is_right(ask)]
        print(
            f"{len(self._asks)} requests at {self._options.rate:g}/s, {self._options.swaps} swaps, {len(failed)} failed"
        )
        for ask in failed[:3]:
            print(f"  {ask.reply.status} {ask.reply.body[:200]!r}")
        if self._asks:
            self._report_times()
        print("resident MB after each swap:", " ".join(f"{size:.0f}" for size in self._resident_mb))
        return 1 if failed else 0

    def _report_times(self) -> None:
        """Prints the latencies of the swaps and of the quiet windows before them."""
        pairs = list(zip(self._windows[::2], self._windows[1::2], strict=True))
        for name, windows in (("no change", self._windows[::2]), ("during a swap", self._windows[1::2])):
            late_ms = median(
                _ms(LatencyHistogram(ask.late_ms for ask in self._asks_of(window)), 0.99) for window in windows
            )
            seconds = median(window.end_s - window.start_s for window in windows)
            shown = "  ".join(
                f"p{share * 100:g} {median(self._quantile(window, share) for window in windows):.1f} ms"
                for share in SHARES
            )
            print(f"{name:14} {len(windows)} windows of {seconds:.1f} s, medians of their  {shown}")
            print(f"{'':14} of that, this program wrote them late by  p99 {late_ms:.1f} ms")
        for share in SHARES:
            ratios = [self._quantile(swap, share) / self._quantile(quiet, share) for quiet, swap in pairs]
            print(f"p{share * 100:g} of a swap / of the window before it: median {median(ratios):.2f}")

    def _asks_of(self, window: Window) -> list[TimedRequest]:
        """Returns the requests that were due in a window."""
        return [ask for ask in self._asks if window.start_s <= ask.intended_s < window.end_s]

    def _quantile(self, window: Window, share: float) -> float:
        return _ms(LatencyHistogram(ask.took_ms for ask in self._asks_of(window)), share)

    def _is_right(self, ask: TimedRequest) -> bool:
        """Returns whether the answer is that of one of the versions."""
        if ask.reply.status != 200:
            return False
        got = json.loads(ask.reply.body)["probability"][0]
        return any(
            max(abs(one - other) for one, other in zip(got, expected[ask.picture], strict=True)) < TOLERANCE
            for expected in self._expected
        )


def _ms(times: LatencyHistogram, share: float) -> float:
    """Returns a quantile in milliseconds; 1 if there is none, so that it can be a divisor."""
    return times.quantile_ms(share) or 1.0


if __name__ == "__main__":
    sys.exit(main())
