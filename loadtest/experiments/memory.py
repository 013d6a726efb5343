"""Memory of a server before and after a run, by kind, and with settings that change it.

    python -m loadtest.experiments.memory model/efficientnet_lite0
    python -m loadtest.experiments.memory model/efficientnet_lite0 --only "as it is" --only "batches of 8" --seconds 20

Each variant is a server of its own; the servers run one after the other. 64 clients send one picture at a time, then 4
clients send 32. Proportional size (Pss) divides a page by the number of processes that share it. A page of a file counts
too, although the kernel can reclaim it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from loadtest.bench.arguments import version_folder
from loadtest.bench.contenders import INTERPRETED, started
from loadtest.measure import machine, processes
from loadtest.measure.tables import number, table
from loadtest.traffic.closed_loop import capacity, show_progress
from loadtest.traffic.connections import ConnectionPool, request_bytes
from loadtest.traffic.pictures import KINDS, cycle, form_body, load

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadtest.bench.contenders import RunningServer
    from loadtest.traffic.pictures import Picture

JEMALLOC = ("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2")
KINDS_OF_MEMORY = ("TensorFlow's library", "other libraries", "heap and anonymous", "other files")


class ServerVariant(NamedTuple):
    """The flags and environment variables that a server is started with."""

    name: str
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}


VARIANTS = (
    ServerVariant("as it is"),
    ServerVariant("one process", ("--workers=1",)),
    ServerVariant("batches of 8", ("--max_batch_images=8",)),
    ServerVariant("one call at once", ("--max_inflight_batches=1",)),
    ServerVariant("MALLOC_ARENA_MAX=1", environment={"MALLOC_ARENA_MAX": "1"}),
    ServerVariant(
        "mmap over 1 MB", environment={"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
    ),
    ServerVariant("jemalloc", environment={"LD_PRELOAD": next((path for path in JEMALLOC if Path(path).exists()), "")}),
)


@dataclass(frozen=True, slots=True)
class MemorySize:
    """The memory of a server and its children at one time, in MB: resident, proportional, and proportional by kind."""

    processes: int
    resident: float
    proportional: float
    kinds: dict[str, float]


@dataclass(frozen=True, slots=True)
class VariantResult:
    """One variant: its memory when ready and after the run, and its rates in pictures/s."""

    variant: str
    ready: MemorySize
    after: MemorySize
    single_per_s: float
    many_per_s: float


def size_of(pid: int) -> MemorySize:
    """Returns the memory of a process and its descendants now."""
    kinds: Counter[str] = Counter()
    tree = processes.tree(pid)
    for each in tree:
        try:
            kinds.update(breakdown(Path(f"/proc/{each}/smaps").read_text().splitlines()))
        except OSError:  # the process has ended
            continue
    total = processes.memory(pid)
    megabytes = {kind: kinds[kind] / 1e6 for kind in KINDS_OF_MEMORY}
    return MemorySize(len(tree), total.resident / 1e6, total.proportional / 1e6, megabytes)


def breakdown(smaps: Iterable[str]) -> dict[str, int]:
    """Returns the proportional bytes by kind of mapping."""
    kinds: Counter[str] = Counter()
    path = ""
    for line in smaps:
        name, _, rest = line.partition(" ")
        if name == "Pss:":
            kinds[kind_of(path)] += int(rest.split()[0]) * 1024
        elif not name.endswith(":"):  # a mapping: range, rights, offset, device, inode, path
            fields = rest.split(maxsplit=4)
            path = fields[4].strip() if len(fields) > 4 else ""
    return dict(kinds)


def kind_of(path: str) -> str:
    """Returns the kind of a mapping by its path; without a path it is anonymous memory, which malloc uses."""
    if not path or path.startswith("["):
        return "heap and anonymous"
    if ".so" in path:
        return "TensorFlow's library" if "tensorflow" in path else "other libraries"
    return "other files"


async def drive(server: RunningServer, pictures: Sequence[Picture], seconds: float) -> tuple[float, float]:
    """Returns the pictures/s of 64 clients with one picture a request, and of 4 clients with 32."""
    host = f"127.0.0.1:{server.port}"
    singles = [request_bytes(host, form_body((picture,))) for picture in pictures]
    many = [request_bytes(host, form_body(cycle(tuple(pictures), start=0, rows=32)))]
    pool = ConnectionPool("127.0.0.1", server.port, limit=64)
    single_per_s = await capacity(pool, singles, clients=64, seconds=seconds)
    many_per_s = 32 * await capacity(pool, many, clients=4, seconds=seconds)
    await pool.close()
    return single_per_s, many_per_s


def measure(variant: ServerVariant, model: Path, pictures: Sequence[Picture], seconds: float) -> VariantResult:
    """Measures one server from its start to its end."""
    contender = replace(
        INTERPRETED,
        command=(*INTERPRETED.command, *variant.flags),
        environment={**INTERPRETED.environment, **variant.environment},
    )
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memory-")))
        server = stack.enter_context(started(contender, model, version_folder(model), logs))
        processes.wait_idle([server.pid])  # further processes start when the first one is ready
        ready = size_of(server.pid)
        rates = asyncio.run(drive(server, pictures, seconds))
        return VariantResult(variant.name, ready, size_of(server.pid), *rates)


def draw_table(rows: Iterable[VariantResult]) -> str:
    """Returns a line for each variant; sizes in MB."""
    heads = ("", "processes", "ready, Pss", "after, Pss", "after, Rss", *KINDS_OF_MEMORY, "pictures/s by 1", "by 32")
    return table(
        heads,
        (
            [
                row.variant,
                str(row.after.processes),
                *(
                    number(size, digits=0)
                    for size in (row.ready.proportional, row.after.proportional, row.after.resident)
                ),
                *(number(row.after.kinds[kind], digits=0) for kind in KINDS_OF_MEMORY),
                number(row.single_per_s),
                number(row.many_per_s),
            ]
            for row in rows
        ),
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, help="the model's folder")
    add("--pictures", choices=tuple(KINDS), default="photos", help="[%(default)s]")
    names = [variant.name for variant in VARIANTS]
    add("--only", action="append", choices=names, help="a variant; can be repeated [all]")
    add("--flags", default="", help="flags for every variant, such as --max_batch_images=16")
    add("--seconds", type=float, default=10.0, help="of each half of the run [%(default)s]")
    add("--json", type=Path, help="write the figures to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns 0, or 1 if a server does not start."""
    options = parse(arguments)
    pictures, rows = load(options.pictures), []
    for variant in VARIANTS:
        if (options.only and variant.name not in options.only) or variant.environment.get("LD_PRELOAD") == "":
            continue
        show_progress(f"starting: {variant.name}")
        try:
            flags = (*variant.flags, *options.flags.split())
            rows.append(measure(variant._replace(flags=flags), options.model, pictures, options.seconds))
        except processes.DidNotStart as err:
            print(f"memory: {variant.name}: {err}", file=sys.stderr)
            return 1
    show_progress("")
    circumstances = machine.describe()
    print(f"{machine.lines(circumstances)}\n\n{draw_table(rows)}")
    if options.json:
        options.json.write_text(json.dumps({**circumstances, "rows": [asdict(row) for row in rows]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
