"""How the default server uses many cores: pictures/s a core, the share of the busiest event loop and p99, by number of cores.

    python -m loadtest.many_cores                                     # both models; half of the cores at most
    python -m loadtest.many_cores --models model/efficientnet_lite0 --cores 1,2,4,8 --seconds 4

One server at a time, with every default, compiled if `make compiled` has run. It may use the first cores of the machine, as `taskset`
says; wrk uses the others, or all if there are none. A start takes 15 to 60 s: with both models and four numbers of cores six to eight
minutes. The event loop is the main thread of a process; the busiest one of all processes is told, as a share of one core.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from loadtest.bench import wrk
from loadtest.bench.arguments import numbers, version_folder
from loadtest.bench.contenders import COMPILED, DARKROOM, INTERPRETED, started
from loadtest.measure import machine, processes
from loadtest.measure.tables import number, table
from loadtest.traffic.closed_loop import show_progress
from loadtest.traffic.pictures import load, truncated

if TYPE_CHECKING:
    from collections.abc import Sequence

SETTLE_S = 3.0  # of a load, before it counts; further processes have started by then
_TICKS = os.sysconf("SC_CLK_TCK")


def loops_s(pid: int) -> dict[int, float]:
    """CPU seconds of the main thread of a process and of each of its children, by process."""
    found = {}
    for each in processes.tree(pid):
        fields = Path(f"/proc/{each}/task/{each}/stat").read_text().rpartition(")")[2].split()
        found[each] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def measure(model: Path, cores: int, options: argparse.Namespace, folder: Path) -> list[list[str]]:
    """A line of the table for each number of connections, of a server on the first `cores` cores."""
    usable = sorted(os.sched_getaffinity(0))
    own, spare = ",".join(map(str, usable[:cores])), usable[cores:] or usable
    usual = DARKROOM if COMPILED.exists() else INTERPRETED
    contender = replace(usual, command=("taskset", "-c", own, *usual.command))
    pictures = load("digits" if model.name == "digits" else "photos")
    lines = []
    with started(contender, model, version_folder(model), folder) as server:
        bodies = [(picture.name, contender.encode(picture)) for picture in pictures]
        files = wrk.write_bodies(server, bodies, contender.encode(truncated(pictures[0])), folder / "bodies")
        os.sched_setaffinity(0, spare)  # of wrk, which inherits it
        wrk.run(server, files, connections=max(options.connections), seconds=SETTLE_S)
        for connections in options.connections:
            before, began_s = loops_s(server.pid), time.perf_counter()
            found = wrk.run(server, files, connections=connections, seconds=options.seconds)
            took_s, after = time.perf_counter() - began_s, loops_s(server.pid)
            busiest = max(after[pid] - before.get(pid, 0.0) for pid in after) / took_s
            show_progress(f"{model.name}  {cores} cores  {connections} connections")
            lines.append(
                [f"{model.name}, {cores}", str(connections), number(found.per_s), number(found.per_s / cores),
                 number(found.cpu_ms, digits=3), str(len(after)), number(busiest, digits=2), number(found.p99_ms)]
            )  # fmt: skip
    return lines


def run(options: argparse.Namespace) -> list[list[str]]:
    """All lines of the table."""
    usable = os.sched_getaffinity(0)
    lines = []
    with TemporaryDirectory(prefix="many-cores-") as name:
        for model in options.models:
            for cores in options.cores:
                folder = Path(name, f"{model.name}-{cores}")
                folder.mkdir()
                lines += measure(model, cores, options, folder)
                os.sched_setaffinity(0, usable)
    return lines


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.many_cores",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, cores = parser.add_argument, len(os.sched_getaffinity(0))
    usual = tuple(count for count in (1, 2, 4, 8, 16, 32, 64) if count <= max(1, cores // 2))
    models = [Path("model/efficientnet_lite0"), Path("model/digits")]
    add("--models", type=Path, nargs="+", default=models, help="folders of models' versions [both that ship]")
    add(
        "--cores", type=numbers, default=usual, help="numbers of cores of the server [1, 2, 4, … half of the machine's]"
    )
    add("--connections", type=numbers, default=(64, 256), help="of wrk [64,256]")
    add("--seconds", type=float, default=6.0, help="of each load [6]")
    options = parser.parse_args(arguments)
    if not 1 <= min(options.cores) <= max(options.cores) <= cores:
        parser.error(f"--cores: this machine lends 1 to {cores}")
    if missing := [name for name in ("wrk", "taskset") if shutil.which(name) is None]:
        parser.error(f"{' and '.join(missing)}: not installed (Debian: wrk, util-linux)")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0."""
    options = parse(arguments)
    heads = (
        "model, cores",
        "connections",
        "requests/s",
        "a core",
        "CPU ms a request",
        "processes",
        "busiest loop",
        "p99 ms",
    )
    lines = run(options)
    print(f"{machine.lines(machine.describe())}\n\n{table(heads, lines)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
