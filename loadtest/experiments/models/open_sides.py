"""A network whose input has open sides, behind a decode front, beside the same network with fixed sides.

    python -m loadtest.experiments.models.open_sides                       # MobileNetV3Small, which takes any size
    python -m loadtest.experiments.models.open_sides --way save --starts 5 --connections 1,16,64

Each is served with `--pictures` by a server of its own, and both are loaded in many short turns, so that other work on the
machine falls on both alike. What a server finds when it times its engine (shards, row prefix, calls at once) depends on the
moment, so there are several pairs of servers, one started after the other, and each says what it found. On a busy machine
leave it nothing to find: `--flags "--intra_op_threads=1 --max_inflight_batches=2"`. The rate is the median of the turns, the
CPU time the mean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from loadtest.bench.arguments import numbers
from loadtest.experiments.models.decode_front import save
from loadtest.measure import machine, processes
from loadtest.measure.tables import number, table
from loadtest.traffic.closed_loop import answer_each
from loadtest.traffic.connections import ConnectionPool, HttpResponse, request_bytes
from loadtest.traffic.pictures import json_body, load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OPEN, FIXED = "open", "fixed"
SIDE = 224
WARM_UP = 50  # requests of each server that are not counted


class Pace(NamedTuple):
    """One model in one turn: answers a second, and milliseconds of the server's CPU for each."""

    per_s: float
    cpu_ms: float


class ModelServer(NamedTuple):
    """Where a server listens, and its process."""

    port: int
    pid: int


def load_once(server: ModelServer, connections: int, requests: int) -> Pace:
    """Sends photographs as JSON.

    Raises:
        RuntimeError: an answer was not 200.
    """
    bodies = [json_body((picture,)) for picture in load("photos")]
    whole = [request_bytes(f"127.0.0.1:{server.port}", body, path=body.path) for body in bodies]

    def done(_: int, reply: HttpResponse) -> None:
        if reply.status != 200:
            raise RuntimeError(f"{reply.status} {reply.body[:200]!r}")

    before_s = processes.cpu_s(server.pid)
    pool = ConnectionPool("127.0.0.1", server.port, limit=connections)
    took_s = asyncio.run(
        answer_each(pool, lambda at: whole[at % len(whole)], clients=connections, requests=requests, done=done)
    )
    return Pace(requests / took_s, (processes.cpu_s(server.pid) - before_s) / requests * 1000)


@contextmanager
def served(folder: Path, more: Sequence[str]) -> Iterator[ModelServer]:
    """A server of one model; prints what it found when it timed the engine."""
    pictures = json.dumps({"default": {"preprocess": "raw", "size": [SIDE, SIDE]}})
    log, port = folder / "log", processes.free_port()
    command = [sys.executable, "-m", "darkroom", "serve", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    flags = [*command, f"--model_base_path={folder}", f"--pictures={pictures}", *more]
    with processes.running(flags, port=port, ready_path="/v2/health/ready", log=log) as pid:
        server = ModelServer(port, pid)
        load_once(server, WARM_UP, WARM_UP)
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        for line in lines:
            if line["message"] == "warmed up" and line["signature"] == "serving_default":
                print(f"{folder.name}: {line['inflight']} calls at once, ms a call by rows {line['call_ms']}")
            if line["message"] == "model is served":
                print(f"{folder.name}: {line['serving_default']}")
        yield server


def take_turns(made: Path, names: Sequence[str], options: argparse.Namespace) -> dict[tuple[str, int], list[Pace]]:
    """Starts a server of each model in this order, and loads them in turn; returns the turns of each."""
    found: dict[tuple[str, int], list[Pace]] = defaultdict(list)
    with ExitStack() as stack:
        servers = {name: stack.enter_context(served(made / name, options.flags.split())) for name in names}
        for turn in range(options.rounds):
            for connections in options.connections:
                for name in names if turn % 2 == 0 else reversed(names):
                    found[name, connections].append(load_once(servers[name], connections, options.requests))
    return found


def compare(options: argparse.Namespace) -> int:
    """Prints the figures of both models; returns 1 if the one with open sides is slower than `--least` of the other."""
    found: dict[tuple[str, int], list[Pace]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        save(options.model, options.way, made / OPEN / "1")
        save(options.model, options.way, made / FIXED / "1", shape=(SIDE, SIDE, 3))
        for start in range(options.starts):
            names = (OPEN, FIXED) if start % 2 == 0 else (FIXED, OPEN)
            turns = take_turns(made, names, options)
            for key, each in turns.items():
                found[key] += each
            print(f"pair {start + 1}: {shares(turns, options.connections)}", flush=True)
    print(machine.lines(machine.describe()))
    print(table(("connections", "open, a second", "fixed", "open / fixed", "CPU, ms", "fixed", "open / fixed"),
                [row(found, connections) for connections in options.connections]))  # fmt: skip
    return int(min(share(found, connections) for connections in options.connections) < options.least)


def middle(found: dict[tuple[str, int], list[Pace]], name: str, connections: int) -> Pace:
    """The median rate and the mean CPU time of a model: the clock of CPU times counts hundredths of a second."""
    rates, times_ms = zip(*found[name, connections], strict=True)
    return Pace(statistics.median(rates), statistics.fmean(times_ms))


def share(found: dict[tuple[str, int], list[Pace]], connections: int) -> float:
    """The rate of the model with open sides, as a part of the other's."""
    return middle(found, OPEN, connections).per_s / middle(found, FIXED, connections).per_s


def shares(found: dict[tuple[str, int], list[Pace]], connections: Sequence[int]) -> str:
    """The same at each number of connections, in words."""
    return ", ".join(f"{each} connections {share(found, each):.2f}" for each in connections)


def row(found: dict[tuple[str, int], list[Pace]], connections: int) -> list[str]:
    """One line of the table."""
    one, other = (middle(found, name, connections) for name in (OPEN, FIXED))
    per_s = [number(one.per_s), number(other.per_s), f"{one.per_s / other.per_s:.2f}"]
    return [str(connections), *per_s, number(one.cpu_ms), number(other.cpu_ms), f"{one.cpu_ms / other.cpu_ms:.2f}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; see `compare`."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.models.open_sides",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default="MobileNetV3Small", help="of keras.applications [%(default)s]")
    add(
        "--way",
        choices=("export", "save"),
        default="export",
        help="model.export() or tf.saved_model.save [%(default)s]",
    )
    add("--starts", type=int, default=3, help="pairs of servers [%(default)s]")
    add("--rounds", type=int, default=20, help="of each pair [%(default)s]")
    add("--requests", type=int, default=40, help="of a turn [%(default)s]")
    add("--connections", type=numbers, default=(1, 16), help="[1,16]")
    add("--least", type=float, default=0.9, help="ratio below which the exit status is 1 [%(default)s]")
    add(
        "--flags", default="", help="more flags for the servers, such as those that leave nothing to be found by timing"
    )
    return compare(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
