"""What this process may use of the machine: cores, by affinity and the container's quota, and open files."""

from __future__ import annotations

import os
import resource
from pathlib import Path

CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2; "max 100000" or "150000 100000" (microseconds of a period)


def usable_cores(cpu_max: Path = CGROUP_CPU) -> int:
    """Cores that may run at once, at least 1: a container's quota rounded up, never more than its affinity allows.

    TensorFlow and `os.cpu_count` see the host's cores; threads past the quota only throttle each other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        limit = -(-int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return cores
    return max(1, min(cores, limit))


def cores_each(workers: int) -> int:
    """The share of one of `workers` processes in the usable cores, at least 1."""
    return max(1, usable_cores() // workers)


def raise_open_files() -> int:
    """Raises the soft limit on open files to the hard one, and returns it: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
