"""Compares Darkroom with its physical limit and with other servers: same model and pictures, in turn, in rounds.

    python -m loadtest.bench model/efficientnet_lite0 --batch 8 --workers 2
    python -m loadtest.bench model/digits --pictures digits --batch 64 --workers 2 --own_workers 2 --interpreted
    python -m loadtest.bench model/digits --pictures digits --quick

Needs wrk, the compiled Darkroom (`make compiled`) and the other servers' environments, which `make bench` creates under
.bench/; a server without its environment is left out. All servers run at the same time, listen on loopback only, and
end with this program in any case.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from loadtest.bench import latency, limit, many_pictures, report, wrk
from loadtest.bench.arguments import numbers, version_folder
from loadtest.bench.contenders import (
    COMPILED,
    DARKROOM,
    INTERPRETED,
    MOSEC,
    Contender,
    mlserver,
    raw,
    started,
    tuned_darkroom,
    tuned_mosec,
)
from loadtest.measure import machine, processes
from loadtest.traffic.answers import NoAnswer
from loadtest.traffic.closed_loop import show_progress
from loadtest.traffic.pictures import KINDS, cycle, load, truncated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from loadtest.bench.contenders import RunningServer
    from loadtest.traffic.pictures import Picture

CONNECTIONS = (1, 16, 64, 256)
MIDDLE = 64  # connections at which CPU time and failures are compared
SETTLE_S = 2.0  # of uncounted load on each server before the first round; also the wait before a server is asked again
PATIENCE = 5  # attempts; Mosec answered 408 for some seconds after 256 connections were closed
PEERS = ("mosec", "mosec_tuned", "mlserver")


@dataclass(slots=True)
class BenchmarkResult:
    """Everything that one benchmark measured; `rates` and `poisoned` have one entry per round."""

    model: str
    circumstances: dict[str, str]
    contenders: dict[str, str]
    connections: tuple[int, ...]
    rounds: int
    seconds: float
    rates: dict[tuple[str, int], list[wrk.WrkResult]] = field(default_factory=dict)
    poisoned: dict[str, list[wrk.WrkResult]] = field(default_factory=dict)
    limit: list[limit.EnginePoint] = field(default_factory=list)
    engine_per_s: dict[int, list[float]] = field(
        default_factory=dict
    )  # the engine's rate right before Darkroom's rounds, by connections
    memory_mb: dict[str, float] = field(default_factory=dict)
    capacity_per_s: float = 0.0
    latencies: list[latency.LatencyResult] = field(default_factory=list)
    batches: list[many_pictures.CaseResult] = field(default_factory=list)

    @property
    def middle(self) -> int:
        """The number of connections at which details are reported."""
        return MIDDLE if MIDDLE in self.connections else max(self.connections)

    def as_json(self) -> str:
        """Returns everything as JSON, for another program."""
        document = asdict(self)
        document["rates"] = [
            {"contender": name, "connections": count, "rounds": [asdict(each) for each in rounds]}
            for (name, count), rounds in self.rates.items()
        ]
        return json.dumps(document, indent=1) + "\n"


def choose_contenders(options: argparse.Namespace) -> list[Contender]:
    """Returns Darkroom and the requested servers that are installed; prints which ones are not."""
    made = {
        "mosec": MOSEC,
        "mosec_tuned": tuned_mosec(options.workers, options.batch),
        "mlserver": mlserver(options.batch),
    }
    asked = [made[name] for name in options.peers]
    for contender in asked:
        if not contender.is_installed:
            print(
                f"bench: {contender.name} is left out: no .bench/{contender.needs}; `make bench` makes it",
                file=sys.stderr,
            )
    more = [tuned_darkroom(options.own_workers, options.batch)] if options.own_workers else []
    if options.interpreted:
        more.append(INTERPRETED)
    return [DARKROOM, *(contender for contender in asked if contender.is_installed), *more]


def check_agreement(servers: Sequence[RunningServer], pictures: Sequence[Picture]) -> dict[str, int]:
    """Returns the class of each picture, on which all servers must agree.

    Raises:
        NoAnswer: a server did not answer, or gave another class.
    """
    expected: dict[str, int] = {}
    for picture in pictures:
        said = {server.contender.name: _ask_patiently(server, picture) for server in servers}
        if len({str(each) for each in said.values()}) != 1:
            raise NoAnswer(f"{picture.name}: the servers disagree: {said}")
        (expected[picture.name],) = next(iter(said.values()))  # type: ignore[misc]  # a list of one class
    return expected


def _ask_patiently(server: RunningServer, picture: Picture) -> object:
    """Returns the class of a picture; asks again while the server is still busy with requests that wrk left behind.

    Raises:
        NoAnswer: it did not answer at the last attempt.
    """
    for _ in range(PATIENCE):
        try:
            return server.ask(picture)
        except NoAnswer:
            time.sleep(SETTLE_S)
    return server.ask(picture)


def measure_throughput(
    found: BenchmarkResult,
    servers: Sequence[RunningServer],
    model: limit.MeasuredModel,
    options: argparse.Namespace,
    folder: Path,
) -> None:
    """Measures the engine's limit and each server with wrk, round after round, into `found`.

    A round begins with all points of the limit; the best point is measured again before the servers at each number of
    connections. Each measurement waits until all servers are idle.
    """
    rounds, seconds, pictures = found.rounds, found.seconds, load(options.pictures)
    limit_s = min(1.0, seconds)

    def caller(way: str, images: int) -> Callable[[], object]:
        return model.caller(way, cycle(pictures, start=0, rows=images))

    def load_server(server: RunningServer, count: int, *, poison: bool = False) -> wrk.WrkResult:
        processes.wait_idle([each.pid for each in servers])
        return wrk.run(server, bodies_of[server.contender.name], connections=count, seconds=seconds, poison=poison)

    sweeps: list[list[limit.EnginePoint]] = []
    bodies_of = {}
    all_forms = [*servers, *_raw_forms(found, servers)]
    for server in all_forms:
        encode = server.contender.encode
        bodies = [(picture.name, encode(picture)) for picture in pictures]
        bodies_of[server.contender.name] = wrk.write_bodies(server, bodies, encode(truncated(pictures[0])), folder)
        wrk.run(server, bodies_of[server.contender.name], connections=found.middle, seconds=SETTLE_S)

    for turn in range(rounds):
        processes.wait_idle([each.pid for each in servers])
        sweeps.append(limit.sweep(caller, limit.SweepOptions(options.sizes, (1, 2), limit_s, 1), (limit.ENGINE,)))
        top = limit.best(limit.merge(sweeps))
        for count in found.connections:
            processes.wait_idle([each.pid for each in servers])
            call = caller(limit.ENGINE, top.images)
            sample = limit.measure(call, images=top.images, calls=top.calls, seconds=seconds)
            found.engine_per_s.setdefault(count, []).append(sample.pictures_per_s)
            for server in all_forms:
                name = server.contender.name
                show_progress(f"round {turn + 1}/{rounds}  {count} connections  {name}")
                found.rates.setdefault((name, count), []).append(load_server(server, count))
        for server in servers:
            name = server.contender.name
            show_progress(f"round {turn + 1}/{rounds}  1 % truncated pictures  {name}")
            found.poisoned.setdefault(name, []).append(load_server(server, found.middle, poison=True))
    found.limit = limit.merge(sweeps)


def _raw_forms(found: BenchmarkResult, servers: Sequence[RunningServer]) -> list[RunningServer]:
    """Returns Darkroom's and Mosec's servers with the cheapest body, and names them in `found`."""
    forms = [
        replace(server, contender=raw(server.contender))
        for server in servers
        if server.contender.name in {DARKROOM.name, MOSEC.name}
    ]
    found.contenders.update({form.contender.name: form.contender.about for form in forms})
    return forms


async def measure_open_loop_and_batches(
    found: BenchmarkResult, servers: Sequence[RunningServer], model: limit.MeasuredModel, options: argparse.Namespace
) -> None:
    """Measures open-loop latency of Darkroom and the first other server, then Darkroom with many and large pictures."""
    pictures = load(options.pictures)
    expected = check_agreement(servers, pictures)
    processes.wait_idle([each.pid for each in servers])
    if len(servers) > 1:
        found.capacity_per_s, found.latencies = await latency.latencies(
            servers, pictures, expected, seconds=found.seconds, rounds=found.rounds
        )
    tried = many_pictures.cases(options.pictures)
    found.batches = await many_pictures.compare(servers[0], model, tried, seconds=found.seconds, rounds=found.rounds)


@contextmanager
def _all_started(contenders: Sequence[Contender], model: Path, folder: Path) -> Iterator[list[RunningServer]]:
    """Starts the servers one after the other, with their logs in `folder`; ends them with the block."""
    version = version_folder(model)
    with ExitStack() as stack:
        servers = []
        for contender in contenders:
            show_progress(f"starting {contender.name}")
            servers.append(stack.enter_context(started(contender, model, version, folder)))
        yield servers


def run(options: argparse.Namespace) -> BenchmarkResult:
    """Runs the whole benchmark.

    Raises:
        DidNotStart, NoAnswer, RuntimeError: a server or wrk failed; the message says which.
    """
    contenders = choose_contenders(options)
    found = BenchmarkResult(
        model=options.model.name,
        circumstances=machine.describe(),
        contenders={contender.name: contender.about for contender in contenders},
        connections=options.connections,
        rounds=options.rounds,
        seconds=options.seconds,
    )
    show_progress("loading the model for the limit")
    model = limit.MeasuredModel(options.model)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        with _all_started(contenders, options.model, Path(folder)) as servers:
            check_agreement(servers, load(options.pictures))
            measure_throughput(found, servers, model, options, Path(folder))
            for server in servers:
                found.memory_mb[server.contender.name] = processes.memory(server.pid).proportional / 1e6
        # New processes: after truncated pictures Mosec 0.9.8 answered nothing but 408.
        with _all_started(contenders[:2], options.model, Path(folder)) as servers:
            gc.freeze()  # a garbage collection over all of TensorFlow stops the load generator for 0.2 s
            uvloop.run(measure_open_loop_and_batches(found, servers, model, options))
    model.close()
    return found


def write(found: BenchmarkResult, folder: Path, name: str) -> Path:
    """Writes the page, its plots and the figures as JSON; returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = report.draw(found, folder, name)
    (folder / f"{name}.json").write_text(found.as_json(), encoding="utf-8")
    path = folder / f"{name}.md"
    path.write_text(report.page(found, plots), encoding="utf-8")
    return path


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", type=Path, help="the model's folder")
    add("--pictures", choices=tuple(KINDS), default="photos", help="[%(default)s]")
    add("--peers", type=_names, default=PEERS, help=f"other servers, of {','.join(PEERS)} [all]")
    add(
        "--batch", type=int, default=64, help="largest batch of the tuned servers: use the best one for this model [64]"
    )
    add("--workers", type=int, default=2, help="processes of tuned Mosec [2]")
    add("--own_workers", type=int, default=0, help="also measure Darkroom with so many workers and --batch [0: no]")
    add("--interpreted", action="store_true", help="also measure Darkroom without `make compiled`")
    add("--connections", type=numbers, default=CONNECTIONS, help="of wrk [1,16,64,256]")
    add("--sizes", type=numbers, default=(1, 2, 4, 8, 16, 32, 64), help="tried for the limit [1,2,4,8,16,32,64]")
    add("--seconds", type=float, default=8.0, help="of one measurement [8]")
    add("--rounds", type=int, default=3, help="[3]")
    add("--quick", action="store_true", help="one round of one second each: a check that it works, not a measurement")
    add("--out", type=Path, help="where the page, its plots and its JSON go [docs/benchmarks; --quick: .bench/quick]")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    options.out = options.out or Path(".bench/quick" if options.quick else "docs/benchmarks")
    return options


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    if not set(names) <= set(PEERS):
        raise ValueError(text)
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns 1 if a server failed, 2 if wrk or the compiled server is missing."""
    options = parse(arguments)
    if not wrk.is_here():
        print(f"bench: {wrk.MISSING}", file=sys.stderr)
        return 2
    if not COMPILED.exists():
        print(f"bench: {COMPILED} is missing: `make compiled` makes it", file=sys.stderr)
        return 2
    try:
        found = run(options)
    except (processes.DidNotStart, NoAnswer, RuntimeError) as err:
        print(f"bench: {err}", file=sys.stderr)
        return 1
    path = write(found, options.out, f"{options.model.name}-{machine.vendor()}")
    print(path.read_text(encoding="utf-8"))
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
