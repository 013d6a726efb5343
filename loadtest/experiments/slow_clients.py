"""Effect of slow clients on good ones: p99 of 32 clients with and without 500 idle and 200 trickling connections.

    python -m loadtest.experiments.slow_clients --url http://127.0.0.1:8500 --picture loadtest/traffic/payloads/digits/digit_7.jpg

Rounds with and without them alternate, so that background load affects both. The good clients form a closed loop; the
slow ones send one byte of a request head, or of a body, each second.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from loadtest.traffic.connections import ConnectionPool, request_bytes
from loadtest.traffic.pictures import RequestBody

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 1 if a good client was not answered, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.slow_clients", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--url", default="http://127.0.0.1:8500", help="the server [http://127.0.0.1:8500]")
    parser.add_argument("--picture", type=Path, required=True, help="the picture that the good clients send")
    parser.add_argument("--clients", type=int, default=32, help="good clients [32]")
    parser.add_argument("--idle", type=int, default=500, help="connections that say nothing [500]")
    parser.add_argument("--trickling", type=int, default=200, help="connections that send a byte a second [200]")
    parser.add_argument("--seconds", type=float, default=5, help="of a round [5]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each [3]")
    return asyncio.run(compare(parser.parse_args(arguments)))


async def compare(parsed: argparse.Namespace) -> int:
    """Measures rounds without and with slow connections in turn; prints the medians of p50, p99 and rate."""
    found: dict[str, list[tuple[float, float, float]]] = {"without": [], "with": []}
    failed = 0
    for _ in range(parsed.rounds):
        for side, rounds in found.items():
            slow = await _open_slow(parsed) if side == "with" else []
            times_s, failures = await _good(parsed)
            failed += failures
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
            if not times_s:
                continue
            p99 = statistics.quantiles(times_s, n=100)[98] if len(times_s) > 1 else times_s[0]
            rounds.append((statistics.median(times_s) * 1000, p99 * 1000, len(times_s) / parsed.seconds))
    for side, rounds in found.items():
        p50, p99, rate = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{side}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, {rate:.0f} requests/s; p99 of the rounds: "
              + ", ".join(f"{each[1]:.2f}" for each in rounds))  # fmt: skip
    print(f"{failed} good requests failed")
    return 1 if failed else 0


async def _good(parsed: argparse.Namespace) -> tuple[list[float], int]:
    """Returns the latencies of the good clients in seconds, and the number of requests without a 200."""
    parts = urlsplit(parsed.url)
    pool = ConnectionPool(parts.hostname or "", parts.port or 80, limit=parsed.clients)
    request = request_bytes(
        parts.netloc, RequestBody("image/jpeg", parsed.picture.read_bytes(), (parsed.picture.name,))
    )
    times_s: list[float] = []
    failures = 0
    end_s = time.perf_counter() + parsed.seconds

    async def client() -> None:
        nonlocal failures
        while time.perf_counter() < end_s:
            started_s = time.perf_counter()
            if (await pool.answer(request)).status == 200:
                times_s.append(time.perf_counter() - started_s)
            else:
                failures += 1

    await asyncio.gather(*(client() for _ in range(parsed.clients)))
    await pool.close()
    return times_s, failures


async def _open_slow(parsed: argparse.Namespace) -> list[asyncio.Task[None]]:
    """Opens the slow connections."""
    parts = urlsplit(parsed.url)
    tasks = []
    for number in range(parsed.idle + parsed.trickling):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        is_trickling = number >= parsed.idle
        tasks.append(asyncio.create_task(_hold(reader, writer, is_trickling=is_trickling, in_body=number % 2 == 0)))
    return tasks


async def _hold(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_trickling: bool, in_body: bool
) -> None:
    """Holds a connection until it is cancelled or the server closes it."""
    try:
        if is_trickling and in_body:
            writer.write(HEAD)
        while not reader.at_eof():
            if is_trickling:
                writer.write(b"x")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(100), timeout=1)
    except OSError:
        pass
    finally:
        writer.close()


if __name__ == "__main__":
    sys.exit(main())
