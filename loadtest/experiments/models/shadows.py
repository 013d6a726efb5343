"""What a shadow costs the answers: rounds with half of the requests given to a second version as well, and without, in turns.

    python -m loadtest.experiments.models.shadows
    python -m loadtest.experiments.models.shadows --model model/efficientnet_lite0/1 --pictures photos --rate 60 --darkroom build/compiled/bin/darkroom

It serves two copies of a version and offers a rate below the capacity, Poisson arrivals. Latency counts from when a request
was due. Version 1 answers in every round; the rule of the shadow comes and goes by the admin API. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import uvloop

from loadtest.measure import machine
from loadtest.measure.exposition import total
from loadtest.measure.processes import free_port, running
from loadtest.measure.tables import number, ratio, table
from loadtest.openloop import generator
from loadtest.openloop.results import AnswerKind
from loadtest.traffic.answers import expect
from loadtest.traffic.connections import ConnectionPool
from loadtest.traffic.pictures import load

if TYPE_CHECKING:
    from collections.abc import Sequence

WITHOUT, WITH = "without", "with a shadow"
RULES = {WITHOUT: {"split": {"1": 1}}, WITH: {"split": {"1": 1}, "shadow": {"version": 2, "share": 0.5}}}
COMPARED = 'outcome="(?:same|different|unranked)"'


def put(url: str, rule: object) -> None:
    """Sets the rule of the model."""
    data = json.dumps(rule).encode()
    asked = urllib.request.Request(f"{url}/admin/models/default/traffic", data, method="PUT")  # noqa: S310 - loopback
    with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310 - loopback
        answer.read()


def compared(url: str) -> float:
    """How many rows of a shadow were compared so far."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:  # noqa: S310 - loopback
        return total(answer.read().decode(), "darkroom_shadow_images_total", COMPARED)


async def compare(url: str, options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """p50 and p99 in ms of each round.

    Raises:
        SystemExit: a request got no right answer.
    """
    flags = [f"--url={url}", f"--pictures={options.pictures}", f"--seconds={options.seconds}", f"--rate={options.rate}"]
    load_options = generator.parse(flags)
    pool = ConnectionPool("127.0.0.1", int(url.rpartition(":")[2]), limit=load_options.connections)
    expectations = await asyncio.to_thread(expect, url, load(options.pictures))
    mix = generator.darkroom_mix(load_options, url.removeprefix("http://"))
    found: dict[str, list[tuple[float, float]]] = {WITHOUT: [], WITH: []}
    for turn in range(options.rounds + 1):
        for name in (WITHOUT, WITH)[:: -1 if turn % 2 else 1]:
            await asyncio.to_thread(put, url, RULES[name])
            samples = await generator.OpenLoop(pool, mix, expectations, load_options).run(options.rate, name)
            if any(sample.kind is not AnswerKind.OK for sample in samples):
                raise SystemExit(f"{name}: a request got no right answer")
            cuts = statistics.quantiles([sample.latency_ms for sample in samples], n=100)
            if turn:  # the first round warms up
                found[name].append((cuts[49], cuts[98]))
    await pool.close()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.models.shadows",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=Path, default=Path("model/digits/1"), help="folder of a version [%(default)s]")
    add("--pictures", default="digits", help="what is sent: digits or photos [%(default)s]")
    add("--darkroom", default=f"{sys.executable} -m darkroom", help="the command to measure")
    add("--rate", type=float, default=1000.0, help="requests/s [1000]")
    add("--rounds", type=int, default=10, help="of each, after one that is not counted [10]")
    add("--seconds", type=float, default=4.0, help="of a round [4]")
    options = parser.parse_args(arguments)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    print(machine.lines(machine.describe()))
    with TemporaryDirectory() as name:
        folder = Path(name)
        for version in "12":
            shutil.copytree(options.model, folder / "model" / version)
        command = [*options.darkroom.split(), "serve", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
        command += [f"--model_base_path={folder / 'model'}", f"--traffic={json.dumps({'default': RULES[WITH]})}"]
        with (
            running(command, port=port, ready_path="/v2/health/ready", log=folder / "log"),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            found = runner.run(compare(url, options))
            rows = compared(url)
    cells = [
        [each, *(number(statistics.median(column), digits=2) for column in zip(*rounds, strict=True))]
        for each, rounds in found.items()
    ]
    pairs = list(zip(found[WITH], found[WITHOUT], strict=True))
    print(f"\n{table(['', 'p50 ms', 'p99 ms'], cells)}\n")
    for place, quantile in enumerate(("p50", "p99")):
        print(f"{quantile} with a shadow, of without: {ratio([one[place] / other[place] for one, other in pairs])}")
    print(f"pictures compared: {rows:,.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
