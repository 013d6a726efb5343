"""Clients that name some outputs beside clients that want all: requests/s and rows a batch of the mix, and of each kind alone.

    python -m loadtest.experiments.models.mixed_outputs --model model/digits --pictures digits

Starts the server itself. One half sends base64 in JSON and gets every output, the other the Open Inference Protocol's
binary form and names one. To compare two commits, run it in a checkout of each.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import uvloop

from loadtest.experiments.grpc import Result, Running, over_http
from loadtest.measure.processes import free_port, running
from loadtest.measure.tables import number, table
from loadtest.traffic.connections import request_bytes
from loadtest.traffic.pictures import binary_body, json_body, load

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.models.mixed_outputs", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--model", type=Path, default=Path("model/digits"), help="folder of the model's versions")
    parser.add_argument("--pictures", default="digits", help="what is sent: digits or photos [digits]")
    parser.add_argument("--darkroom", default=f"{sys.executable} -m darkroom", help="the command to measure")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each [3]")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load [4]")
    parser.add_argument("--in_flight", type=int, default=64, help="requests at once [64]")
    options = parser.parse_args(arguments)
    pictures = load(options.pictures)
    bodies = [[make((picture,)) for picture in pictures] for make in (json_body, binary_body)]
    every, some = [[request_bytes("127.0.0.1", each, each.headers, path=each.path) for each in kind] for kind in bodies]
    mix = [request for pair in zip(every, some, strict=True) for request in pair]
    kinds = {"all outputs, JSON": every, "one output, binary": some, "half of each": mix}
    found: dict[str, list[Result]] = defaultdict(list)
    with TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        port = free_port()
        command = [*options.darkroom.split(), "serve", "--host=127.0.0.1", f"--port={port}"]
        command.append(f"--model_base_path={options.model}")
        with running(command, port=port, ready_path="/v2/health/ready", log=Path(folder, "log")) as pid:
            for _ in range(options.rounds):
                for kind, requests in kinds.items():
                    load_of = over_http(
                        requests, Running(port, 0, pid), in_flight=options.in_flight, seconds=options.seconds
                    )
                    found[kind].append(runner.run(load_of))
    rows = []
    for kind, results in found.items():
        rate, _, size, cpu_us = (statistics.median(column) for column in zip(*results, strict=True))
        rows.append([kind, number(rate, digits=0), number(size), number(cpu_us, digits=0)])
    print(table(["", "requests/s", "rows a batch", "CPU us"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
