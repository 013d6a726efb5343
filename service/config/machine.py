"""The share of the machine that this process may use: cores, by affinity and container quota, and open files."""

from __future__ import annotations

import os
import resource
from pathlib import Path

CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2; "max 100000" or "150000 100000" (microseconds of a period)


def usable_cores(cpu_max: Path = CGROUP_CPU) -> int:
    """The number of cores that this process may use, at least 1: the container's quota rounded up, or its affinity.

    The smaller of the two counts. TensorFlow and `os.cpu_count` see the host's cores, and threads beyond the quota only
    throttle each other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        limit = -(-int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return cores
    return max(1, min(cores, limit))


def cores_each(workers: int, *, cores: int | None = None) -> int:
    """The share of one of `workers` processes in `cores` (None: the usable cores), at least 1."""
    return max(1, (usable_cores() if cores is None else cores) // workers)


def raise_open_files() -> int:
    """Raises the soft limit on open files to the hard limit, and returns it. Each connection is an open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
