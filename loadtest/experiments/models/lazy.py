"""A fleet of lazy models under a limit: random requests, how many had to wait for a load, and the memory after each part.

    python -m loadtest.experiments.models.lazy --model model/digits --models 50 --limit 8 --loads 300

It copies a model many times and serves the copies with `--load=lazy`. Clients ask one after the other for models that are
chosen at random, some far more often than others (Zipf). A request fails if it is not answered, not by the model that it
names, or not with what the first answer said of its picture. The page cache keeps the files, and the server keeps one
prepared model, since the copies are the same; so a load here is what it costs when both are warm.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from loadtest.measure import processes
from loadtest.measure.exposition import total
from loadtest.measure.latencies import LatencyHistogram
from loadtest.traffic.closed_loop import show_progress
from loadtest.traffic.connections import ConnectionPool, HttpResponse, header, request_bytes
from loadtest.traffic.pictures import RequestBody, load

if TYPE_CHECKING:
    from collections.abc import Sequence

TOLERANCE = 1e-3  # of a probability: the order of additions depends on the batch size
PARTS = 10  # of the run, each with as many loads: the memory is noted after each
SEED = 1


class RunPart(NamedTuple):
    """A part of the run: its end, and what the server had done and held by then."""

    end_s: float
    requests: int
    loads: int
    resident_mb: float
    private_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 1 if a request failed."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.models.lazy", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--model", type=Path, default=Path("model/digits"), help="the model to copy [model/digits]")
    parser.add_argument("--models", type=int, default=50, help="how many copies are served [50]")
    parser.add_argument("--limit", type=int, default=8, help="the server's --max_loaded_models [8]")
    parser.add_argument("--clients", type=int, default=8, help="clients that ask at the same time [8]")
    parser.add_argument("--loads", type=int, default=300, help="the run ends after so many loads [300]")
    parser.add_argument("--skew", type=float, default=1.0, help="Zipf's exponent; 0: all models alike [1]")
    parser.add_argument("--warmup-ms", type=float, default=5000.0, help="the server's --warmup_budget_ms [5000]")
    parser.add_argument("--timeout-ms", type=float, default=120_000, help="the server's --request_timeout_ms [120000]")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="darkroom-lazy-") as folder:
        return _measure(options, Path(folder))


def _measure(options: argparse.Namespace, folder: Path) -> int:
    """Starts the server, asks it and reports."""
    port = processes.free_port()
    names = [f"model-{number}" for number in range(options.models)]
    for name in names:
        shutil.copytree(options.model, folder / name)
    entries = [{"name": name, "base_path": str(folder / name)} for name in names]
    (folder / "models.json").write_text(json.dumps({"model_config_list": entries}))
    command = [sys.executable, "-m", "darkroom", "serve", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--model_config_file={folder / 'models.json'}", "--load=lazy", f"--max_loaded_models={options.limit}"]
    command += [f"--cache_dir={folder / 'cache'}", f"--warmup_budget_ms={options.warmup_ms}"]
    command += [f"--request_timeout_ms={options.timeout_ms}"]
    with processes.running(command, port=port, ready_path="/v2/health/ready", log=folder / "log") as pid:
        run = LazyExperiment(options, names, port, pid)
        asyncio.run(run.go())
    return run.report()


class LazyExperiment:
    """One server with more models than it may have in memory."""

    def __init__(self, options: argparse.Namespace, names: Sequence[str], port: int, pid: int) -> None:
        self._options = options
        self._names = names
        self._host = f"127.0.0.1:{port}"
        self._pid = pid
        self._pool = ConnectionPool("127.0.0.1", port, limit=options.clients + 1)
        self._pictures = load("digits")
        self._weights = [(place + 1) ** -options.skew for place in range(options.models)]
        self._random = random.Random(SEED)  # noqa: S311 - no secret
        self._expected: list[list[float]] = []  # by picture: probabilities
        self._failed: list[HttpResponse] = []
        self._found, self._waited = LatencyHistogram(), LatencyHistogram()
        self._parts: list[RunPart] = []
        self._most_loaded = 0
        self._is_over = False

    async def go(self) -> None:
        """Learns the right answers, then asks until enough models were loaded."""
        for picture in range(len(self._pictures)):
            reply = await self._pool.answer(self._request(0, picture))
            self._expected.append(json.loads(reply.body)["outputs"][0]["data"])
        await self._end_part()
        clients = [asyncio.create_task(self._client()) for _ in range(self._options.clients)]
        first = self._parts[0].loads
        for part in range(1, PARTS + 1):
            while await self._count("darkroom_model_load_seconds_count") - first < self._options.loads * part / PARTS:
                self._most_loaded = max(self._most_loaded, await self._count("darkroom_models_loaded"))
                await asyncio.sleep(0.5)
            await self._end_part()
        self._is_over = True
        await asyncio.wait(clients)
        await self._pool.close()

    async def _client(self) -> None:
        while not self._is_over:
            (place,) = self._random.choices(range(self._options.models), self._weights)
            picture = self._random.randrange(len(self._pictures))
            start_s = time.perf_counter()
            reply = await self._pool.answer(self._request(place, picture))
            has_waited = "load;" in (header(reply, "Server-Timing") or "")
            (self._waited if has_waited else self._found).add((time.perf_counter() - start_s) * 1000)
            if not self._is_right(reply, place, picture):
                self._failed.append(reply)

    def _request(self, place: int, picture: int) -> bytes:
        """A request of the Open Inference Protocol, whose answers name the model."""
        name = self._names[place]
        data = self._pictures[picture].data
        head = {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {}}]}
        head["inputs"][0]["parameters"] = {"binary_data_size": len(data) + 4}
        text = json.dumps(head).encode()
        body = text + len(data).to_bytes(4, "little") + data
        path = f"/v2/models/{name}/infer"
        asked = RequestBody("application/octet-stream", body, (name,), path, "open", len(text))
        return request_bytes(self._host, asked, asked.headers, path=path)

    def _is_right(self, reply: HttpResponse, place: int, picture: int) -> bool:
        if reply.status != 200:
            return False
        said: dict[str, Any] = json.loads(reply.body)
        pairs = zip(said["outputs"][0]["data"], self._expected[picture], strict=True)
        return bool(said["model_name"] == self._names[place] and all(abs(one - two) < TOLERANCE for one, two in pairs))

    async def _end_part(self) -> None:
        loads = await self._count("darkroom_model_load_seconds_count")
        held = processes.memory(self._pid)
        resident_mb, private_mb = held.resident / 1e6, held.unique / 1e6
        requests = len(self._found) + len(self._waited)
        self._parts.append(RunPart(time.perf_counter(), requests, loads, resident_mb, private_mb))
        show_progress(f"{requests} requests, {loads} loads, resident {resident_mb:.0f} MB, {len(self._failed)} failed")

    async def _count(self, metric: str) -> int:
        """The sum of a metric over all models."""
        question = f"GET /metrics HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode()
        text = (await self._pool.answer(question)).body.decode()
        return int(total(text, metric))

    def report(self) -> int:
        """Prints the figures; returns 1 if a request failed, or more models were loaded than may be."""
        first, last = self._parts[0], self._parts[-1]
        seconds, loads, requests = (
            last.end_s - first.end_s,
            last.loads - first.loads,
            len(self._found) + len(self._waited),
        )
        print(f"{self._options.models} models, {self._options.limit} at a time, {self._options.clients} clients")
        print(f"{requests} requests in {seconds:.0f} s ({requests / seconds:.1f}/s), {len(self._failed)} failed")
        print(f"{loads} loads ({loads / seconds:.2f}/s), at most {self._most_loaded} models in memory")
        for name, times in (("model in memory", self._found), ("waited for its load", self._waited)):
            shown = "  ".join(f"p{share * 100:g} {times.quantile_ms(share) or 0:.1f} ms" for share in (0.5, 0.99))
            print(f"  {name:20} {len(times) / max(1, requests):6.1%}  {shown}")
        print("resident MB after each part:", " ".join(f"{part.resident_mb:.0f}" for part in self._parts))
        print("private MB after each part: ", " ".join(f"{part.private_mb:.0f}" for part in self._parts))
        for reply in self._failed[:3]:
            print(f"  {reply.status} {reply.body[:200]!r}")
        return 1 if self._failed or self._most_loaded > self._options.limit else 0


if __name__ == "__main__":
    sys.exit(main())
