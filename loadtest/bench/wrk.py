"""Runs wrk, the closed-loop load generator in C: each connection sends again as soon as it is answered."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.measure import processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.bench.contenders import RunningServer

SCRIPT = Path(__file__).with_name("wrk.lua")
BROKEN_EVERY = 100  # with poison, every hundredth picture is truncated
TIMEOUT_S = 30  # of a request
MISSING = "wrk is missing: `apt-get install wrk` (or `brew install wrk`), then run this again"


@dataclass(frozen=True, slots=True)
class WrkResult:
    """The result of one run: a rate a second, times in milliseconds; `failed` is the share of failed intact requests."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # CPU time of the server and its children, per request
    failed: float


@dataclass(frozen=True, slots=True)
class WrkBodies:
    """The files with a server's request bodies: those of intact pictures, and one of a truncated picture."""

    bodies: tuple[Path, ...]
    broken: Path


def is_here() -> bool:
    """Returns whether wrk is installed."""
    return shutil.which("wrk") is not None


def run(
    server: RunningServer, files: WrkBodies, *, connections: int, seconds: float, poison: bool = False
) -> WrkResult:
    """Loads `server` over so many connections for `seconds`, rounded to whole seconds, at least 1.

    Raises:
        RuntimeError: wrk failed.
    """
    every = BROKEN_EVERY if poison else 0
    # One thread sends far more than a server on the same cores can answer, and leaves it the other cores.
    load = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT_S}s"]
    asked = [server.contender.content_type, every, files.broken, *files.bodies]
    started_s = processes.cpu_s(server.pid)
    done = subprocess.run(  # noqa: S603 - our own words
        [*load, "-s", str(SCRIPT), server.url, "--", *map(str, asked)],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 2 * TIMEOUT_S,
    )
    return read(done.stdout, cpu_s=processes.cpu_s(server.pid) - started_s, broken_every=every)


def read(output: str, *, cpu_s: float, broken_every: int) -> WrkResult:
    """Reads the figures that wrk printed.

    Every `broken_every`-th picture that was sent is broken and must be refused; every further refusal counts as a
    failure of an intact picture. If nothing was answered, the rate is 0, all requests failed and the times are NaN.

    Raises:
        RuntimeError: wrk printed no figures.
    """
    found = [line for line in output.splitlines() if line.startswith("wrk {")]
    if not found:
        raise RuntimeError(f"wrk failed: {output[-500:]}")
    said = json.loads(found[0].removeprefix("wrk "))
    if not said["requests"]:
        return WrkResult(0.0, math.nan, math.nan, math.nan, failed=1.0)
    requests = said["requests"]
    # Of what was sent, not of what was answered: the last answers may be those of broken pictures.
    broken = said["sent"] // broken_every if broken_every else 0
    failed = max(0.0, said["refused"] - broken) + said["lost"]
    return WrkResult(
        per_s=requests / said["microseconds"] * 1e6,
        p50_ms=said["p50_us"] / 1000,
        p99_ms=said["p99_us"] / 1000,
        cpu_ms=cpu_s / requests * 1000,
        failed=min(1.0, failed / (requests - broken)),
    )


def write_bodies(
    server: RunningServer, pictures: Sequence[tuple[str, bytes]], broken: bytes, folder: Path
) -> WrkBodies:
    """Writes named request bodies into `folder`, where wrk reads them."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, data: bytes) -> Path:
        path = folder / f"{server.contender.name}-{name}".replace(" ", "_").replace(",", "")
        path.write_bytes(data)
        return path

    return WrkBodies(tuple(write(name, data) for name, data in pictures), write("broken", broken))
