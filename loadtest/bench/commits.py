"""Two commits compared in one run: requests/s of the compiled server of each clone, and the ratio new/old.

    python -m loadtest.bench.commits --old ../before --new . --models model/digits model/efficientnet_lite0
    python -m loadtest.bench.commits --old ../before --new . --models model/digits --connections 64 --bodies json
    python -m loadtest.bench.commits --old ../before --new . --numbers --connections 1,8

`--numbers` sends 224x224x3 floats as JSON, in rows as TensorFlow Serving's clients do and in one flat list as the Open
Inference Protocol's do, to a model that only takes their mean, so that JSON is nearly all of the work. It takes
rounds x 2 sides x 2 bodies x (2 s + connections x seconds), and a start of the server for each round and side: some three
minutes as above.

Both clones need `make compiled`. The servers run one at a time and take turns (old, new, new, old, ...), so that a
machine that changes its pace changes both; each round gives one ratio, and the median of those counts. Before it is
measured, each server classifies every picture in every kind of body, and all answers must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from ctypes.util import find_library
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from loadtest.bench import wrk
from loadtest.bench.arguments import numbers, version_folder
from loadtest.bench.contenders import COMPILED, DARKROOM, RunningServer, raw, started
from loadtest.measure import machine, processes
from loadtest.measure.tables import number, table
from loadtest.traffic.answers import NoAnswer
from loadtest.traffic.closed_loop import show_progress
from loadtest.traffic.pictures import load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadtest.bench.contenders import Contender
    from loadtest.traffic.pictures import Picture

SIDES = ("old", "new")
BODIES = {"raw": raw(DARKROOM), "json": DARKROOM}
SHAPE = (1, 224, 224, 3)  # of `--numbers`
SETTLE_S = 2.0  # of uncounted load on each server, at the most connections
DIGITS = 4  # of a mean that must agree
LEAST = 0.97  # a smaller ratio than this is a slow-down; run-to-run noise on two shared cores is 2 to 3 %


def _pixels(picture: Picture) -> list[float]:
    """The bytes of a picture over and over, as floats of up to 17 digits."""
    return [byte / 255 for byte in islice(cycle(picture.data), 224 * 224 * 3)]


def _rows(picture: Picture) -> bytes:
    nested: list[object] = list(_pixels(picture))
    for size in reversed(SHAPE[1:]):
        nested = [nested[at : at + size] for at in range(0, len(nested), size)]
    return json.dumps({"instances": nested}).encode()


def _flat(picture: Picture) -> bytes:
    sent = {"name": "x", "shape": SHAPE, "datatype": "FP32", "data": _pixels(picture)}
    return json.dumps({"inputs": [sent]}).encode()


NUMBERS = {
    "rows": replace(
        DARKROOM,
        path="/v1/models/default:predict",
        encode=_rows,
        predicted=lambda body: round(json.loads(body)["predictions"][0], DIGITS),
    ),
    "flat": replace(
        DARKROOM,
        path="/v2/models/default/infer",
        encode=_flat,
        predicted=lambda body: round(json.loads(body)["outputs"][0]["data"][0], DIGITS),
    ),
}


def write_mean(folder: Path, side: int = SHAPE[1]) -> Path:
    """Writes a model whose work is nearly all JSON, `x: float32[n, side, side, 3]` to its mean; returns its folder."""
    from darkroom.models.runtime.tensorflow import tf  # noqa: PLC0415 - takes seconds to import

    root, spec = tf.Module(), tf.TensorSpec([None, side, side, 3], tf.float32, name="x")
    root.serve = tf.function(lambda x: {"mean": tf.reduce_mean(x, axis=[1, 2, 3])}, input_signature=[spec])
    tf.saved_model.save(root, str(folder / "mean" / "1"), signatures=root.serve)
    return folder / "mean"


class LoadPoint(NamedTuple):
    """What is measured on each side: one model, one kind of body, so many connections."""

    model: str
    body: str
    connections: int


Results = dict[LoadPoint, dict[str, list[wrk.WrkResult]]]  # by side, one of each round


def order(turn: int) -> tuple[str, ...]:
    """Which side goes first in this round: old, new, new, old, ..."""
    return SIDES if turn % 2 == 0 else SIDES[::-1]


def rate_ratios(sides: Mapping[str, Sequence[wrk.WrkResult]]) -> list[float]:
    """The rates' new/old of each round, in which one side was measured right after the other."""
    return [new.per_s / old.per_s for old, new in zip(sides["old"], sides["new"], strict=True)]


def draw_table(results: Results) -> str:
    """A line for each load: both sides' median rates, the ratios of the rounds, and the ratio of CPU time a request.

    CPU time says more than the rate where other programs take a part of the machine.
    """
    heads = ("model", "body", "connections", *(f"{side}, requests/s" for side in SIDES))
    rows = []
    for point, sides in results.items():
        ratios = rate_ratios(sides)
        cpu = median(new.cpu_ms / old.cpu_ms for old, new in zip(sides["old"], sides["new"], strict=True))
        rates = [number(median(result.per_s for result in sides[side])) for side in SIDES]
        told = [f"{value:.3f}" for value in (median(ratios), min(ratios), max(ratios), cpu)]
        rows.append([point.model, point.body, str(point.connections), *rates, *told])
    return table((*heads, "new/old", "smallest", "largest", "CPU new/old"), rows)


def compare(options: argparse.Namespace, folder: Path) -> Results:
    """All models, rounds and sides.

    Raises:
        DidNotStart, NoAnswer, RuntimeError: a server did not start, answered wrongly or failed under load.
    """
    results: Results = {}
    for model in options.models:
        pictures = load("digits" if model.name == "digits" else "photos")
        expected: dict[str, object] = {}
        for turn in range(options.rounds):
            for side in order(turn):
                show_progress(f"{model.name}, round {turn + 1}/{options.rounds}: {side}")
                contender = _contender(side, getattr(options, side), folder)
                with started(contender, model, version_folder(model), folder) as server:
                    check(server, pictures, options.bodies, expected)
                    for point, result in _measure(server, model.name, pictures, options, folder).items():
                        results.setdefault(point, {"old": [], "new": []})[side].append(result)
    show_progress("")
    return results


def check(
    server: RunningServer, pictures: Sequence[Picture], bodies: Sequence[str], expected: dict[str, object]
) -> None:
    """Asks for each picture in each kind of body; the first answer for a picture becomes what is expected of it.

    Raises:
        NoAnswer: the server did not answer, or not what was expected.
    """
    for body in bodies:
        for picture in pictures:
            answer = _as(server, body).ask(picture)
            if answer != expected.setdefault(picture.name, answer):
                name = server.contender.name
                raise NoAnswer(f"{name}, {picture.name} as {body}: {answer}, expected {expected[picture.name]}")


def _contender(side: str, clone: Path, folder: Path) -> Contender:
    """The compiled server of a clone, with a cache of prepared models of its own and the same allocator as the other."""
    command = (str(clone.resolve() / COMPILED), *DARKROOM.command[1:], f"--cache_dir={folder / side}")
    preload = os.environ.get("LD_PRELOAD") or find_library("jemalloc")
    settings = os.environ.get("MALLOC_CONF", "dirty_decay_ms:-1,oversize_threshold:0")  # as the image has them
    environment = {"LD_PRELOAD": preload, "MALLOC_CONF": settings} if preload else {}
    return replace(DARKROOM, name=side, command=command, environment=environment)


def _as(server: RunningServer, body: str) -> RunningServer:
    """The same server, asked in another kind of body."""
    like = (BODIES | NUMBERS)[body]
    return RunningServer(replace(like, name=server.contender.name), server.port, server.pid)


def _measure(
    server: RunningServer, model: str, pictures: Sequence[Picture], options: argparse.Namespace, folder: Path
) -> dict[LoadPoint, wrk.WrkResult]:
    """What wrk measured of one server with each kind of body and number of connections."""
    results = {}
    for body in options.bodies:
        asked = _as(server, body)
        bodies = [(picture.name, asked.contender.encode(picture)) for picture in pictures]
        files = wrk.write_bodies(asked, bodies, b"", folder / body)
        wrk.run(asked, files, connections=max(options.connections), seconds=SETTLE_S)
        for connections in options.connections:
            processes.wait_idle([server.pid])
            result = wrk.run(asked, files, connections=connections, seconds=options.seconds)
            if result.failed:
                raise RuntimeError(f"{server.contender.name}: {result.failed:.1%} failed at {connections} connections")
            results[LoadPoint(model, body, connections)] = result
    return results


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.commits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--old", type=Path, required=True, help="the clone of the commit before")
    add("--new", type=Path, default=Path(), help="the clone of the commit after [this one]")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--models", type=Path, nargs="+", help="folders of models; photographs are sent, or digits")
    what.add_argument(
        "--numbers", action="store_true", help="a model of 224x224x3 floats is written, and sent them as JSON"
    )
    add("--connections", type=numbers, default=(1, 64, 256), help="of wrk [1,64,256]")
    add("--bodies", type=_bodies, help="how a picture is sent [raw,json; rows,flat]")
    add("--rounds", type=int, default=3, help="pairs of measurements [%(default)s]")
    add("--seconds", type=float, default=5.0, help="of one measurement [%(default)s]")
    add("--least", type=float, default=LEAST, help="exit with 1 where a ratio is smaller [%(default)s]")
    return parser.parse_args(arguments)


def _bodies(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(BODIES | NUMBERS):
        raise ValueError(text)
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; 1 where a ratio is too small or a server fails, 2 where something is not installed."""
    options = parse(arguments)
    options.bodies = options.bodies or tuple(NUMBERS if options.numbers else BODIES)
    missing = [str(clone / COMPILED) for clone in (options.old, options.new) if not (clone / COMPILED).exists()]
    if missing or not wrk.is_here():
        print(f"commits: {'; '.join(missing)}: run `make compiled` there" if missing else wrk.MISSING, file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="commits-") as folder:
            options.models = [write_mean(Path(folder))] if options.numbers else options.models
            results = compare(options, Path(folder))
    except (processes.DidNotStart, NoAnswer, RuntimeError) as err:
        print(f"commits: {err}", file=sys.stderr)
        return 1
    circumstances = machine.describe() | {side: machine.commit(getattr(options, side)) for side in SIDES}
    print(f"{machine.lines(circumstances)}\n\n{draw_table(results)}")
    smallest = min(median(rate_ratios(sides)) for sides in results.values())
    print(f"\nsmallest ratio: {smallest:.3f}")
    return 0 if smallest >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
