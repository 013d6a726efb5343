"""The share of the machine that this process may use: cores, by affinity and container quota, and open files."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

# Open files that connections may not use: for the engine, the cache, logs, pipes, connections that are not accepted yet
# and refused ones. Measured: a server without connections has 24 open; TensorFlow aborts the process when it can't open
# one.
MIN_KEPT_FILES, MAX_KEPT_FILES = 48, 256
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
    """Raises the soft limit on open files to the hard limit, if that is allowed. Returns the soft limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # the hard limit is above fs.nr_open
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connections_within(max_connections: int, open_files: int) -> int:
    """`max_connections`, or fewer if that many connections and what the process itself opens exceed `open_files`."""
    if open_files == resource.RLIM_INFINITY:
        return max_connections
    kept = max(MIN_KEPT_FILES, min(MAX_KEPT_FILES, open_files // 4))
    return max(1, min(max_connections, open_files - kept))


def backlog_within(backlog: int, max_connections: int, open_files: int | None = None) -> int:
    """`backlog`, or a shorter one: all of it may be accepted at once, before the connections that are too many are closed.

    `open_files` None stands for the hard limit of this process, to which `raise_open_files` raises the soft one.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if open_files is None else open_files
    return backlog if limit == resource.RLIM_INFINITY else max(1, min(backlog, (limit - max_connections) // 4))
