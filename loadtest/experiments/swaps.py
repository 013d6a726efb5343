"""What a swap of versions costs those who ask meanwhile: two versions take turns under a steady rate of requests.

    python -m loadtest.experiments.swaps --versions model/digits/1 other/1 --pictures digits --rate 100 --swaps 30

It serves a folder of its own, copies a version into it, waits until it serves, takes the one before away, and so on,
while requests leave at fixed times. Before each swap lies a quiet window as long as the last swap took: each swap is
compared with the window before it, so that a machine that changes its pace changes both. A request fails where it is
not answered with what one of the two versions says of its picture.
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
from loadtest.traffic.closed_loop import show
from loadtest.traffic.connections import ConnectionPool, HttpResponse, request_bytes
from loadtest.traffic.pictures import json_body, load

if TYPE_CHECKING:
    from collections.abc import Sequence

CONNECTIONS = 64
TOLERANCE = 1e-3  # of a probability: batches of other sizes add in another order
SHARES = (0.5, 0.99)
LATE_S = 300.0  # a version that is not served by then fails the run


class TimedRequest(NamedTuple):
    """One request: which picture, when it was meant to leave and when it was answered, and with what."""

    picture: int
    intended_s: float
    done_s: float
    reply: HttpResponse

    @property
    def took_ms(self) -> float:
        """From the moment at which it was meant to leave to its answer."""
        return (self.done_s - self.intended_s) * 1000

    @property
    def late_ms(self) -> float:
        """How late this program wrote it: what is no fault of the server's."""
        return ((self.reply.written_s or self.done_s) - self.intended_s) * 1000


class Window(NamedTuple):
    """A stretch of the run: one before a swap, or the swap itself; they take turns."""

    start_s: float
    end_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 1 where a request failed."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.swaps", description=(__doc__ or "").partition("\n")[0]
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
    """Serves, swaps and reports."""
    port = processes.free_port()
    base = folder / "model"
    shutil.copytree(options.versions[0], base / "1")
    command = [sys.executable, "-m", "darkroom.service", "serve", "--host=127.0.0.1", f"--port={port}"]
    command += [f"--model_base_path={base}", "--reload_interval_ms=250", f"--cache_dir={folder / 'cache'}"]
    command += [] if options.cached else ["--max_cache_bytes=0"]  # one is kept: the other is always prepared anew
    with processes.running(command, port=port, ready_path="/v2/health/ready", log=folder / "log") as pid:
        run = SwapExperiment(options, base, port, pid)
        asyncio.run(run.go())
    return run.report()


class SwapExperiment:
    """One server, asked at a steady rate while its versions change."""

    def __init__(self, options: argparse.Namespace, base: Path, port: int, pid: int) -> None:
        self._options = options
        self._base = base
        self._pid = pid
        self._pool = ConnectionPool("127.0.0.1", port, limit=CONNECTIONS)
        bodies = [json_body((picture,)) for picture in load(options.pictures)]
        self._requests = [request_bytes(f"127.0.0.1:{port}", body) for body in bodies]
        self._question = f"GET /v1/models/default HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self._expected: list[list[Any]] = []  # version → picture → its probabilities
        self._asks: list[TimedRequest] = []
        self._windows: list[Window] = []
        self._resident_mb: list[float] = []
        self._is_over = False

    async def go(self) -> None:
        """Learns what the two versions say, then swaps while it asks."""
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
            show(f"swap {number - 1}/{self._options.swaps}  resident {self._resident_mb[-1]:.0f} MB")
        self._is_over = True
        await asking
        await asyncio.sleep(1.0)
        await self._pool.close()

    async def _swap(self, number: int) -> float:
        """Version `number` gives way to the next one; the seconds that it took."""
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
        """Waits until `version` serves among so many.

        It asks as the requests are asked: to make an httpx client takes 17 ms, in which this process reads no answer.
        """
        for _ in range(int(LATE_S / 0.05)):
            states = json.loads((await self._reply(self._question)).body)["model_version_status"]
            served = [state["version"] for state in states if state["state"] == "AVAILABLE"]
            if version in served and len(states) == len_versions:
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"version {version} is not served after {LATE_S:.0f} s: {states}")

    async def _learn(self) -> list[Any]:
        """What the version that serves says of each picture, alone."""
        return [json.loads((await self._reply(request)).body)["probability"][0] for request in self._requests]

    async def _reply(self, request: bytes) -> HttpResponse:
        """The answer to one request."""
        answered: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
        self._pool.ask(request, answered.set_result)
        return await answered

    async def _ask(self) -> None:
        """One request after another at its time, whether those before it are answered or not."""
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
        """Prints the figures; 1 where a request failed."""
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
        """Prints how long answers took, swap by swap beside the quiet before it."""
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
        """The requests that were meant to leave in a window."""
        return [ask for ask in self._asks if window.start_s <= ask.intended_s < window.end_s]

    def _quantile(self, window: Window, share: float) -> float:
        return _ms(LatencyHistogram(ask.took_ms for ask in self._asks_of(window)), share)

    def _is_right(self, ask: TimedRequest) -> bool:
        """Whether the answer is what one of the versions says."""
        if ask.reply.status != 200:
            return False
        got = json.loads(ask.reply.body)["probability"][0]
        return any(
            max(abs(one - other) for one, other in zip(got, expected[ask.picture], strict=True)) < TOLERANCE
            for expected in self._expected
        )


def _ms(times: LatencyHistogram, share: float) -> float:
    """A quantile, in milliseconds; 1 of nothing, so that it divides."""
    return times.quantile_ms(share) or 1.0


if __name__ == "__main__":
    sys.exit(main())
