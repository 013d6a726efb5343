"""Clients that send pictures as JSON numbers: how many requests a second, and how long `/health` takes meanwhile.

    python -m loadtest.experiments.models.pixel_lists
    python -m loadtest.experiments.models.pixel_lists --clients 8 --seconds 30 --side 224

It serves a model of `float32[n, side, side, 3]` that only computes a mean, so that the cost is that of the numbers. The
clients are a process of their own. To compare two commits, run it in a checkout of each, by turns.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loadtest.bench.commits import write_mean
from loadtest.measure import machine
from loadtest.measure.processes import cpu_s, free_port, running
from loadtest.traffic.closed_loop import WARM_UP_S, capacity
from loadtest.traffic.connections import ConnectionPool, request_bytes
from loadtest.traffic.pictures import RequestBody

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

PAUSE_S = 0.01  # between two looks at /health


def body_of(side: int) -> RequestBody:
    """One picture as a client of TensorFlow Serving sends it: every number as Python writes it."""
    pixels = np.random.default_rng(1).random((1, side, side, 3)).astype(np.float32)
    return RequestBody(
        "application/json", json.dumps({"instances": pixels.tolist()}).encode(), (), "/v1/models/default:predict"
    )


def load(port: int, side: int, clients: int, seconds: float) -> float:
    """Answers a second to these clients."""
    body = body_of(side)
    whole = request_bytes(f"127.0.0.1:{port}", body, body.headers, path=body.path)
    pool = ConnectionPool("127.0.0.1", port, limit=clients)
    return asyncio.run(capacity(pool, [whole], clients=clients, seconds=seconds))


def look(port: int, until: Future[float]) -> list[float]:
    """The milliseconds of each `GET /health` over one connection while the load runs, without its warm-up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    counted_s = time.monotonic() + WARM_UP_S
    took_ms = []
    while not until.done():
        began_s = time.monotonic()
        connection.request("GET", "/health")
        connection.getresponse().read()
        if began_s > counted_s:
            took_ms.append((time.monotonic() - began_s) * 1000)
        time.sleep(PAUSE_S)
    return took_ms


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; 1 if the 99th percentile of /health is over --most_ms."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.models.pixel_lists", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--side", type=int, default=224, help="of a picture, in pixels")
    parser.add_argument("--most_ms", type=float, default=50.0, help="p99 above which the exit status is 1")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made, ProcessPoolExecutor(1) as others:
        model = write_mean(Path(made), options.side)
        port = free_port()
        command = [sys.executable, "-m", "darkroom", "serve", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
        command.append(f"--model_base_path={model}")
        with running(command, port=port, ready_path="/v2/health/ready", log=Path(made) / "log") as pid:
            used_s = cpu_s(pid)
            loading = others.submit(load, port, options.side, options.clients, options.seconds)
            took_ms = look(port, loading)
            rate, used_s = loading.result(), cpu_s(pid) - used_s
    middle, high = np.percentile(took_ms, [50, 99])
    print(machine.lines(machine.describe()))
    print(f"{rate:.1f} requests/s, {used_s / (rate * (options.seconds + WARM_UP_S)) * 1000:.1f} ms of CPU each")
    print(f"/health: p50 {middle:.1f} ms, p99 {high:.1f} ms, longest {max(took_ms):.1f} ms of {len(took_ms)}")
    return int(high > options.most_ms)


if __name__ == "__main__":
    sys.exit(main())
