"""Describes how a figure was measured: processor, cores, memory, versions, commit, date and command line."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from darkroom.models.runtime import memory
from darkroom.service.config.machine import usable_cores

_PACKAGES = ("tensorflow-cpu", "tensorflow", "sanic", "numpy")
CPU_INFO = Path("/proc/cpuinfo")
_EXTENSIONS = {"amx_tile": "AMX", "avx512_bf16": "AVX512_BF16", "avx512_vnni": "AVX512_VNNI"}
_RESULTS = "docs/benchmarks"  # files that a run writes there do not count as changes of the code


def describe(arguments: list[str] | None = None) -> dict[str, str]:
    """Returns a description of this run by name, to be printed with its figures.

    Args:
        arguments: the command line to quote; by default that of this process.
    """
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{usable_cores()} cores of {_processor()}{_extensions()}, {_memory_gib():.0f} GiB, {_system()}",
        "versions": f"Python {platform.python_version()}, {', '.join(_versions())}",
        "commit": commit(Path(__file__).parent),
        "command": command(sys.argv if arguments is None else arguments),
    }


def command(arguments: list[str]) -> str:
    """Returns a command line as one types it: `python -m loadtest.bench.limit model/digits`."""
    program, *rest = arguments
    path = Path(program).with_suffix("")
    parts = path.parts
    start = len(parts) - 1 - parts[::-1].index("loadtest") if "loadtest" in parts else -3
    module = ".".join(part for part in parts[start:] if part != "__main__")
    return shlex.join(["python", "-m", module, *rest])


def lines(circumstances: dict[str, str]) -> str:
    """Returns a description as an indented block of Markdown."""
    return "\n".join(f"    {name:<9} {text}" for name, text in circumstances.items())


def _versions() -> list[str]:
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return [*found, f"jemalloc {memory.jemalloc_version()}"] if memory.is_jemalloc() else found


def vendor() -> str:
    """Returns the processor's maker in one word, `intel` or `amd`, else the architecture; pages are kept by it."""
    known = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}
    return known.get(_cpu_info("vendor_id"), platform.machine())


def _processor() -> str:
    """Returns the processor's name if Linux tells it, else its architecture."""
    return _cpu_info("model name") or platform.machine()


def _extensions() -> str:
    """Returns what the processor has for neural networks, ` with AMX, AVX512_BF16`, or nothing."""
    flags = _cpu_info("flags").split()
    found = [name for flag, name in _EXTENSIONS.items() if flag in flags]
    return f" with {', '.join(found)}" if found else ""


def _cpu_info(key: str) -> str:
    """Returns a line of the first core in /proc/cpuinfo, or nothing."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in text.splitlines() if line.partition(":")[0].strip() == key)
    return next(found, "")


def _memory_gib() -> float:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return int(text.split()[1]) / 2**20


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def commit(folder: Path) -> str:
    """Returns the short hash of the commit, marked if files other than results were changed; `unknown` without git."""
    try:
        known = _git(folder, "describe", "--always")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", f":(top,exclude){_RESULTS}")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{known}, changed since" if changed else known


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=True, cwd=folder)  # noqa: S603, S607 - our own words
    return done.stdout.strip()
