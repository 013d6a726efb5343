"""Latency of a single request over a keep-alive connection, compared with a plain call of the signature.

    python -m loadtest.experiments.single_request --url http://127.0.0.1:8500 --model model/digits/1 --picture loadtest/traffic/payloads/digits/digit_7.jpg

Start the server first, as its own process. The signature is called eagerly in this process, as TensorFlow's guide does.
Rounds alternate, so that background load affects both.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from loadtest.measure.plain_signature import PlainSignature

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.single_request", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--url", default="http://127.0.0.1:8500", help="the server [http://127.0.0.1:8500]")
    parser.add_argument("--model", type=Path, default=Path("model/digits/1"), help="the version folder that it serves")
    parser.add_argument("--picture", type=Path, required=True, help="what is sent")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each [20]")
    parser.add_argument("--calls", type=int, default=100, help="calls a round [100]")
    parsed = parser.parse_args(arguments)

    text = base64.urlsafe_b64encode(parsed.picture.read_bytes()).decode()
    signature = PlainSignature(parsed.model).caller([text.encode()])
    ways = {"server": _server(parsed.url, text), "signature": signature}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(parsed.rounds + 1):
        for name, call in ways.items():
            taken = [_time(call) for _ in range(parsed.calls)]
            times[name] += taken if number else []  # the first round warms up
        print(f"\rround {number}/{parsed.rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    medians = {name: statistics.median(found) * 1e6 for name, found in times.items()}
    for name, found in times.items():
        p99 = statistics.quantiles(found, n=100)[98] * 1e6
        print(f"{name:10} median {medians[name]:7.0f} us   p99 {p99:7.0f} us   of {len(found)} calls")
    print(f"server / signature: {medians['server'] / medians['signature']:.2f}")
    return 0


def _server(url: str, text: str) -> Callable[[], None]:
    """Returns a call that sends one request over one connection and reads its answer."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port or 80)
    body = json.dumps({"data": {"images": [text]}})
    headers = {"Content-Type": "application/json"}

    def call() -> None:
        connection.request("POST", "/", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the server said {answer.status}: {content[:200]!r}")

    return call


def _time(call: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


if __name__ == "__main__":
    sys.exit(main())
