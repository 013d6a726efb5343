"""Time and memory of a start: a server loads a model that was never prepared, then one that was.

    python -m loadtest.experiments.models.loading model/efficientnet_lite0

It looks at the server, and at the child that prepares the model, every 20 ms. Memory is the highest anonymous memory of
each, in MB: pages of files can be reclaimed. To compare two commits, run it in a checkout of each, by turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from loadtest.measure import machine, processes
from loadtest.measure.tables import number, table

if TYPE_CHECKING:
    from collections.abc import Sequence

PERIOD_S = 0.02
LIMIT_S = 900.0


class Start(NamedTuple):
    """One start: seconds until the child ended and until the server was ready, and the highest memory of both, in MB."""

    name: str
    prepared_s: float
    ready_s: float
    child: float
    server: float
    together: float


def anonymous(pid: int) -> float:
    """The anonymous memory of a process in MB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon:")), 0.0)


def start(name: str, model: Path, cache: Path, log: Path, flags: Sequence[str] = ()) -> Start:
    """Starts a server, looks at it until it is ready, and ends it.

    Raises:
        DidNotStart: it ended, or was not ready within LIMIT_S.
    """
    port = processes.free_port()
    command = [sys.executable, "-m", "darkroom", "serve", f"--port={port}", "--host=127.0.0.1", "--workers=1", *flags]
    command += [f"--model_base_path={model}", f"--cache_dir={cache}"]
    began_s = time.monotonic()
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)  # noqa: S603 - our own command
    child = highest = together = prepared_s = looked_s = 0.0
    try:
        while time.monotonic() - began_s < LIMIT_S and server.poll() is None:
            own = anonymous(server.pid)
            others = sum(map(anonymous, processes.tree(server.pid)[1:]))
            prepared_s = time.monotonic() - began_s if others > 1.0 else prepared_s
            child, highest, together = max(child, others), max(highest, own), max(together, own + others)
            if time.monotonic() - looked_s > 10 * PERIOD_S:
                looked_s = time.monotonic()
                if processes.is_ready(port, "/v2/health/ready"):
                    return Start(name, prepared_s, time.monotonic() - began_s, child, highest, together)
            time.sleep(PERIOD_S)
        raise processes.DidNotStart(log.read_text(errors="replace")[-2000:])
    finally:
        server.terminate()
        server.wait(processes.STOP_TIMEOUT_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.models.loading",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="the model's folder")
    parser.add_argument("--flags", default="", help="flags of the server, such as --warmup_budget_ms=0")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="loading-") as folder:
        cache, log = Path(folder, "cache"), Path(folder, "log")
        names = ("never prepared", "from --cache_dir")
        found = [start(name, options.model.resolve(), cache, log, options.flags.split()) for name in names]
    heads = ("", "child ended, s", "ready, s", "child, MB", "server, MB", "together, MB")
    rows = [[each.name, *(number(value, digits=1) for value in each[1:])] for each in found]
    print(f"{machine.lines(machine.describe())}\n\n{table(heads, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
