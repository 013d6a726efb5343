"""Memory of a model step by step: import, open, warm-up, run, close; all in this one process.

    python -m loadtest.experiments.footprint model/efficientnet_lite0

Private memory is anonymous memory: Python objects, tensors and malloc. Pages of files, nearly all of TensorFlow's library,
can be reclaimed by the kernel and are shared by processes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from darkroom.models.rewriting.job import Job
from darkroom.models.rows import fill
from darkroom.models.runtime.memory import give_back
from darkroom.models.versions.cache import Cache
from darkroom.models.versions.loader import Loader
from darkroom.service.config.machine import usable_cores
from darkroom.service.serving.warmup import sweep_sizes, warm_up
from loadtest.measure import machine
from loadtest.measure.tables import number, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from darkroom.models.engine import Engine
    from darkroom.models.rows import Rows

MAX_CACHE_BYTES = 4 << 30
MAX_IMAGES = 32  # the server's default


class MemoryStep(NamedTuple):
    """The process after one step, in MB: its anonymous memory and its pages of files."""

    name: str
    private: float
    files: float


def step(name: str) -> MemoryStep:
    """Returns the memory of this process now, after freed memory was returned to the system."""
    give_back()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.partition(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines}
    return MemoryStep(name, sizes["Anonymous"], sizes["Rss"] - sizes["Anonymous"])


def steps(folder: Path, seconds: float) -> list[MemoryStep]:
    """Goes through the life of a model, with calls of all sizes to its first signature; returns the memory after each step."""
    found = [step("the interpreter and our own modules")]
    with tempfile.TemporaryDirectory(prefix="footprint-") as kept:
        loader = Loader(Cache(Path(kept), max_bytes=MAX_CACHE_BYTES), timeout_s=300)
        newest = max((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
        job = Job(newest.resolve(), "footprint", int(newest.name), usable_cores(), -1)
        import darkroom.models.engines.open  # noqa: F401, PLC0415 - the import is a step

        found.append(step("TensorFlow imported"))
        model = loader.load(job)
    found.append(step("the model opened"))
    name, engine = next(iter(model.engines.items()))
    findings = warm_up(engine, model.samples[name], sizes=sweep_sizes(MAX_IMAGES), cores=usable_cores())
    found.append(step(f"warmed up, to {findings.ended_at or MAX_IMAGES} rows a call"))
    _run(engine, model.samples[name], seconds, findings.ended_at or MAX_IMAGES)
    found.append(step("run"))
    print("; ".join(f"{each.name}: {each.reason}" for each in engine.passes if each.reason))
    model.close()
    return [*found, step("closed")]


def _run(engine: Engine, singles: Sequence[Rows], seconds: float, largest: int) -> None:
    """Calls the engine with all sizes, one after another."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        for size in sweep_sizes(largest):
            engine.run(fill(singles, size))


def draw_table(found: Sequence[MemoryStep]) -> str:
    """Returns a line for each step: MB after it, and how much it added."""
    heads = ("after", "private, MB", "added", "files, MB", "together")
    rows = []
    before = 0.0
    for each in found:
        sizes = (each.private, each.private - before, each.files, each.private + each.files)
        rows.append([each.name, *(number(size, digits=0) for size in sizes)])
        before = each.private
    return table(heads, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.footprint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="the model's folder")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the run [%(default)s]")
    options = parser.parse_args(arguments)
    found = steps(options.model, options.seconds)
    print(f"{machine.lines(machine.describe())}\n\n{draw_table(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
