"""gRPC beside HTTP on one server: requests/s and rows a batch at several numbers of calls in flight, in turns.

    python -m loadtest.experiments.grpc
    python -m loadtest.experiments.grpc --models model/digits --rounds 5 --in_flight 64
    python -m loadtest.experiments.grpc --darkroom build/compiled/bin/darkroom      # as the image is
    python -m loadtest.experiments.grpc --idle --in_flight 64 --rounds 40 --seconds 1

Each measurement takes --seconds and half a second before it. There are 15 of them in a round of 1, 16, 64 and 256 in flight, so
a model takes rounds x 15 x (seconds + 0.5), and half a minute to start: some four minutes as the defaults are, and the two models
eight. Nothing else may run meanwhile.

Starts the servers itself. HTTP sends the picture as base64 in JSON, on a connection for each request in flight. gRPC sends it in
`string_val` of a Predict call: on one connection, as one channel of a client does, and on a connection for each call.
A round has every way once, the next one in the other order, so that background load affects all of them. `HTTP, no gRPC` is a
second server without --grpc_port; the last line is what HTTP has beside an idle gRPC server, of what it has without one, as
the median of the rounds, with its 95 % interval where there are at least six. --idle measures these two alone, so that many short
rounds fit. One in flight also measures latency.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import statistics
import sys
import time
import urllib.request
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import uvloop

from loadtest.measure import machine
from loadtest.measure.exposition import total
from loadtest.measure.processes import cpu_s, free_port, running
from loadtest.measure.tables import number, ratio, table
from loadtest.traffic.connections import ConnectionPool, request_bytes
from loadtest.traffic.grpc_calls import GrpcPipe, call_frames
from loadtest.traffic.pictures import RequestBody, load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.traffic.pictures import Picture

    Ask = Callable[[bytes, Callable[[bool], None]], None]

PREDICT = "/tensorflow.serving.PredictionService/Predict"
HTTP, ALONE = "HTTP", "HTTP, no gRPC"
SETTLE_S = 0.5  # of a load, before it is counted


class Running(NamedTuple):
    """A server: its ports and its process."""

    port: int
    grpc_port: int
    pid: int


class Result(NamedTuple):
    """What one load measured: answers per second, median latency, rows a batch, the server's CPU time per answer."""

    rate: float
    median_ms: float
    rows: float
    cpu_us: float


def predict_message(model: str, name: str, picture: bytes) -> bytes:
    """A PredictRequest with one picture, in protobuf's wire format."""
    shape = _field(2, b"\x08\x01")  # dim { size: 1 }
    tensor = b"\x08\x07" + _field(2, shape) + _field(8, picture)  # dtype: DT_STRING, tensor_shape, string_val
    return _field(1, _field(1, model.encode())) + _field(2, _field(1, name.encode()) + _field(2, tensor))


def _field(key: int, data: bytes) -> bytes:
    size, digits = len(data), bytearray()
    while size >= 0x80:
        digits.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((key << 3 | 2, *digits, size)) + data


async def measure(ask: Ask, requests: Sequence[bytes], server: Running, *, in_flight: int, seconds: float) -> Result:
    """Keeps `in_flight` requests on their way; each answer sends the next.

    Raises:
        SystemExit: a request failed.
    """
    loop = asyncio.get_running_loop()
    sent, times_s, failed = cycle(requests), list[float](), 0
    is_over, over = False, loop.create_future()
    left = in_flight

    def send() -> None:
        nonlocal left
        if is_over:
            left -= 1
            if not left:
                over.set_result(None)
            return
        started_s = time.perf_counter()

        def done(is_ok: bool) -> None:  # noqa: FBT001 - a callback
            nonlocal failed
            times_s.append(time.perf_counter() - started_s)
            failed += not is_ok
            loop.call_soon(send)

        ask(next(sent), done)

    for _ in range(in_flight):
        send()
    await asyncio.sleep(SETTLE_S)
    times_s.clear()
    before = await asyncio.to_thread(_batches, server.port)
    started_s, used_s = time.perf_counter(), cpu_s(server.pid)
    await asyncio.sleep(seconds)
    count, taken_s, used_s = len(times_s), time.perf_counter() - started_s, cpu_s(server.pid) - used_s
    median_ms = statistics.median(times_s) * 1000
    after = await asyncio.to_thread(_batches, server.port)
    is_over = True
    await over
    if failed:
        raise SystemExit(f"{failed} requests failed")
    batches, rows = after[0] - before[0], after[1] - before[1]
    return Result(count / taken_s, median_ms, rows / batches if batches else 0.0, used_s / count * 1e6)


def _batches(port: int) -> tuple[float, float]:
    """The engine calls and their rows so far, from /metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return total(text, "darkroom_batch_images_count"), total(text, "darkroom_batch_images_sum")


async def over_http(requests: Sequence[bytes], server: Running, *, in_flight: int, seconds: float) -> Result:
    """HTTP, on a connection for each request in flight."""
    pool = ConnectionPool("127.0.0.1", server.port, limit=in_flight)

    def ask(request: bytes, done: Callable[[bool], None]) -> None:
        pool.ask(request, lambda reply: done(reply.status == 200))

    try:
        return await measure(ask, requests, server, in_flight=in_flight, seconds=seconds)
    finally:
        await pool.close()


async def over_grpc(
    calls: Sequence[bytes], server: Running, *, connections: int, in_flight: int, seconds: float
) -> Result:
    """gRPC, on `connections` connections in turn."""
    loop = asyncio.get_running_loop()
    pipes = [(await loop.create_connection(GrpcPipe, "127.0.0.1", server.grpc_port))[1] for _ in range(connections)]
    turn = cycle(pipes)
    try:
        return await measure(
            lambda call, done: next(turn).ask(call, done), calls, server, in_flight=in_flight, seconds=seconds
        )
    finally:
        for pipe in pipes:
            pipe.close()


async def compare(
    options: argparse.Namespace, pictures: Sequence[Picture], server: Running, alone: Running
) -> dict[tuple[str, int], list[Result]]:
    """Every way at every number in flight, a round at a time."""
    texts = [base64.urlsafe_b64encode(picture.data).decode() for picture in pictures]
    bodies = [json.dumps({"data": {"images": [text]}}).encode() for text in texts]
    requests = [request_bytes("127.0.0.1", RequestBody("application/json", body, ("",))) for body in bodies]
    messages = [predict_message("default", "images", picture.data) for picture in pictures]
    calls = [call_frames(PREDICT, f"127.0.0.1:{server.grpc_port}", message) for message in messages]
    found: dict[tuple[str, int], list[Result]] = defaultdict(list)
    for round_number in range(options.rounds):
        for in_flight in options.in_flight:
            load_of = {"in_flight": in_flight, "seconds": options.seconds}
            ways = {
                ALONE: partial(over_http, requests, alone, **load_of),
                HTTP: partial(over_http, requests, server, **load_of),
            }
            if not options.idle:
                ways["gRPC, 1 connection"] = partial(over_grpc, calls, server, connections=1, **load_of)
            if not options.idle and in_flight > 1:
                ways["gRPC, a connection each"] = partial(over_grpc, calls, server, connections=in_flight, **load_of)
            for way in ways if round_number % 2 == 0 else reversed(ways):
                found[way, in_flight].append(await ways[way]())
            print(f"\rround {round_number + 1}, {in_flight} in flight ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.grpc",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--models", type=Path, nargs="+", default=[Path("model/digits"), Path("model/efficientnet_lite0")],
        help="folders of models' versions; photographs are sent, or digits [model/digits model/efficientnet_lite0]",
    )  # fmt: skip
    parser.add_argument("--darkroom", default=f"{sys.executable} -m darkroom", help="the command to measure")
    parser.add_argument("--idle", action="store_true", help="HTTP alone: beside an idle gRPC server, and without one")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each [3]")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load [4]")
    parser.add_argument("--in_flight", type=int, nargs="+", default=[1, 16, 64, 256], help="[1 16 64 256]")
    options = parser.parse_args(arguments)
    print(machine.lines(machine.describe()))
    for model in options.models:
        report(model.name, measure_model(model, options))
    return 0


def measure_model(model: Path, options: argparse.Namespace) -> dict[tuple[str, int], list[Result]]:
    """Starts two servers of a model, one of them without gRPC, and compares the ways to ask them."""
    command = [*options.darkroom.split(), "serve", "--host=127.0.0.1", "--workers=1", f"--model_base_path={model}"]
    pictures = load("digits" if model.name == "digits" else "photos")
    with TemporaryDirectory() as folder, ExitStack() as stack:
        servers = []
        for one in (0, free_port()):  # one without gRPC, one with it
            port = free_port()
            flags = [f"--port={port}", *([f"--grpc_port={one}"] if one else [])]
            log = Path(folder) / f"{port}.log"
            pid = stack.enter_context(running([*command, *flags], port=port, ready_path="/v2/health/ready", log=log))
            servers.append(Running(port, one, pid))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(compare(options, pictures, servers[1], servers[0]))


def report(model: str, found: dict[tuple[str, int], list[Result]]) -> None:
    """Prints the medians of the rounds, and what an idle gRPC server costs HTTP."""
    rows = []
    for (name, in_flight), results in sorted(found.items(), key=lambda item: item[0][1]):
        best = [statistics.median(result[place] for result in results) for place in range(4)]
        base = statistics.median(result.rate for result in found[HTTP, in_flight])
        rows.append(
            [f"{in_flight}: {name}", number(best[0], digits=0), number(best[0] / base, digits=2),
             number(best[1], digits=2), number(best[2]), number(best[3], digits=0)]
        )  # fmt: skip
    print(f"\n{model}\n\n{table(['in flight', 'requests/s', 'of HTTP', 'median ms', 'rows a batch', 'CPU us'], rows)}")
    for (name, in_flight), results in found.items():
        if name == HTTP:
            pairs = list(zip(results, found[ALONE, in_flight], strict=True))
            rates = ratio([one.rate / other.rate for one, other in pairs])
            costs = ratio([one.cpu_us / other.cpu_us for one, other in pairs])
            print(
                f"\nHTTP beside an idle gRPC server, of HTTP without one, {in_flight} in flight: rate {rates}, CPU {costs}"
            )


if __name__ == "__main__":
    sys.exit(main())
