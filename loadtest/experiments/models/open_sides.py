"""A network whose input has open sides, behind a decode front, beside the same network with fixed sides.

    python -m loadtest.experiments.models.open_sides                       # MobileNetV3Small, which takes any size
    python -m loadtest.experiments.models.open_sides --way save --starts 5 --connections 1,16,64

Both are served with `--pictures` by one server, and loaded in turn with the same number of requests. What a server finds
when it times its engine (shards, row prefix, batches on the event loop) depends on the moment, so each figure is the
median over several servers, which load the two models in turn first and second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections import defaultdict
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
    from collections.abc import Sequence

OPEN, FIXED = "open", "fixed"
SIDE = 224
WARM_UP = 50  # requests that are not counted, of each model and number of connections


class Turn(NamedTuple):
    """One model in one turn: answers a second, and milliseconds of the server's CPU for each."""

    per_s: float
    cpu_ms: float


def load_once(port: int, pid: int, model: str, connections: int, requests: int) -> Turn:
    """Sends photographs as JSON to one model.

    Raises:
        RuntimeError: an answer was not 200.
    """
    bodies = [json_body((picture,), model=model) for picture in load("photos")]
    whole = [request_bytes(f"127.0.0.1:{port}", body, path=body.path) for body in bodies]

    def done(_: int, reply: HttpResponse) -> None:
        if reply.status != 200:
            raise RuntimeError(f"{model}: {reply.status} {reply.body[:200]!r}")

    def send(count: int) -> float:
        pool = ConnectionPool("127.0.0.1", port, limit=connections)
        asked = answer_each(
            pool, lambda place: whole[place % len(whole)], clients=connections, requests=count, done=done
        )
        return asyncio.run(asked)

    send(WARM_UP)
    processes.wait_idle([pid])
    before_s = processes.cpu_s(pid)
    took_s = send(requests)
    return Turn(requests / took_s, (processes.cpu_s(pid) - before_s) / requests * 1000)


def serve(made: Path, names: Sequence[str], options: argparse.Namespace) -> dict[tuple[str, int], list[Turn]]:
    """Starts a server that loads the models in this order, and loads them in turn; returns the turns of each."""
    pictures = {"preprocess": "raw", "size": [SIDE, SIDE]}
    entries = [{"name": name, "base_path": str(made / name), "pictures": pictures} for name in names]
    config, port = made / "models.json", processes.free_port()
    config.write_text(json.dumps({"model_config_list": entries}))
    command = [sys.executable, "-m", "darkroom", "serve", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    found: dict[tuple[str, int], list[Turn]] = defaultdict(list)
    flags = [*command, f"--model_config_file={config}"]
    with processes.running(flags, port=port, ready_path="/v2/health/ready", log=made / "log") as pid:
        for turn in range(options.rounds):
            for connections in options.connections:
                for name in names if turn % 2 == 0 else reversed(names):
                    found[name, connections].append(load_once(port, pid, name, connections, options.requests))
    return found


def compare(options: argparse.Namespace) -> int:
    """Prints the medians of both models; returns 1 if the one with open sides is slower than `--least` of the other."""
    found: dict[tuple[str, int], list[Turn]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        save(options.model, options.way, made / OPEN / "1")
        save(options.model, options.way, made / FIXED / "1", shape=(SIDE, SIDE, 3))
        for start in range(options.starts):
            names = (OPEN, FIXED) if start % 2 == 0 else (FIXED, OPEN)
            turns = serve(made, names, options)
            for key, each in turns.items():
                found[key] += each
            print(f"server {start + 1}: {shares(turns, options.connections)}", flush=True)
    print(machine.lines(machine.describe()))
    print(table(("connections", "open, a second", "fixed", "open / fixed", "CPU, ms", "fixed", "open / fixed"),
                [row(found, connections) for connections in options.connections]))  # fmt: skip
    return int(min(share(found, connections) for connections in options.connections) < options.least)


def median(found: dict[tuple[str, int], list[Turn]], name: str, connections: int) -> Turn:
    """The median rate and the median CPU time of a model."""
    return Turn(*(statistics.median(column) for column in zip(*found[name, connections], strict=True)))


def share(found: dict[tuple[str, int], list[Turn]], connections: int) -> float:
    """The rate of the model with open sides, as a part of the other's."""
    return median(found, OPEN, connections).per_s / median(found, FIXED, connections).per_s


def shares(found: dict[tuple[str, int], list[Turn]], connections: Sequence[int]) -> str:
    """The same at each number of connections, in words."""
    return ", ".join(f"{each} connections {share(found, each):.2f}" for each in connections)


def row(found: dict[tuple[str, int], list[Turn]], connections: int) -> list[str]:
    """One line of the table."""
    one, other = (median(found, name, connections) for name in (OPEN, FIXED))
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
    add("--starts", type=int, default=3, help="servers [%(default)s]")
    add("--rounds", type=int, default=2, help="of each server [%(default)s]")
    add("--requests", type=int, default=400, help="of a turn [%(default)s]")
    add("--connections", type=numbers, default=(1, 16), help="[1,16]")
    add("--least", type=float, default=0.9, help="ratio below which the exit status is 1 [%(default)s]")
    return compare(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
