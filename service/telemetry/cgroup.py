"""Memory and CPU throttling of this process's control group: a container, or a unit of systemd. Reads cgroup v1 and v2."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MOUNT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")  # lines of "number:controllers:/path"; v2 has one line, "0::/path"
NO_LIMIT = 1 << 62  # bytes; v1 says that there is no limit by the largest number of whole pages


class Usage(NamedTuple):
    """What the group uses; None where the kernel does not tell, or there is no group.

    Attributes:
        memory_bytes: in use, without files that the kernel drops when it needs the memory (Kubernetes' working set).
        limit_bytes: at which the kernel ends a process; None also if there is no limit.
        periods: of the CPU quota that have passed; None also if there is no quota.
        throttled_periods: those of them in which the group had to stop.
        throttled_s: how long its threads stood still, all together.
    """

    memory_bytes: int | None = None
    limit_bytes: int | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_s: float | None = None


def read_usage(mount: Path = MOUNT, own: Path = OWN) -> Usage:
    """What the group of this process uses now."""
    paths = _paths(own)
    memory, cpu = _folder(mount, paths, "memory"), _folder(mount, paths, "cpu")
    is_v1 = "memory" in paths
    used = _number(memory / ("memory.usage_in_bytes" if is_v1 else "memory.current"))
    limit = _number(memory / ("memory.limit_in_bytes" if is_v1 else "memory.max"))
    dropped = _fields(memory / "memory.stat").get("total_inactive_file" if is_v1 else "inactive_file", 0)
    times = _fields(cpu / "cpu.stat")
    throttled = times.get("throttled_time", times.get("throttled_usec", 0) * 1000)  # v1: nanoseconds; v2: microseconds
    has_quota = times.get("nr_periods", 0) > 0
    return Usage(
        memory_bytes=None if used is None else max(0, used - dropped),
        limit_bytes=None if limit is None or limit >= NO_LIMIT else limit,
        periods=times["nr_periods"] if has_quota else None,
        throttled_periods=times.get("nr_throttled") if has_quota else None,
        throttled_s=throttled / 1e9 if has_quota else None,
    )


def _paths(own: Path) -> dict[str, str]:
    """The path of the group by controller; by "" of cgroup v2."""
    with suppress(OSError, ValueError):
        lines = (line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines())
        return {name: path for _, names, path in lines for name in names.split(",")}
    return {}


def _folder(mount: Path, paths: dict[str, str], controller: str) -> Path:
    """Where the group's files of a controller are.

    v1 mounts each controller in a folder of its own. Inside a container the mount is the group itself, and the path, which
    may be the host's, leads nowhere.
    """
    top = mount / controller if controller in paths else mount
    group = top / paths.get(controller, paths.get("", "/")).lstrip("/")
    return group if group.is_dir() else top


def _number(file: Path) -> int | None:
    """The number in a file; None: "max", or there is no such file."""
    with suppress(OSError, ValueError):
        return int(file.read_text(encoding="ascii"))
    return None


def _fields(file: Path) -> dict[str, int]:
    """The lines of "name number" in a file; empty: there is no such file."""
    with suppress(OSError, ValueError):
        return {name: int(value) for name, value in map(str.split, file.read_text(encoding="ascii").splitlines())}
    return {}
