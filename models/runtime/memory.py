"""The process's memory: what its allocator is, what it returns to the system, what the garbage collector may skip.

jemalloc, preloaded by the image and by `make serve`, keeps each thread's memory its own. Without it, oneDNN in
TensorFlow takes a call's buffers from one pool for all threads, so that one core soon writes what another has just
written. Where two cores share no cache, that costs a sixth of the throughput. Measured on 2 cores of an EPYC that
share a cache at some times and not at others, EfficientNet-Lite0, two calls of 8 pictures at once, pictures a second
with a shared cache and without: TensorFlow's pool 176 and 149, jemalloc 178 and 164 to 174
(docs/decisions/0027-allocator.md).
"""

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from darkroom.models.errors import LoadFailed

# Free memory is kept until `give_back`, and each arena serves buffers of all sizes. By its own default jemalloc returns
# what was free for 10 s, and the wrong pages: 4,400 page faults a picture of 12 megapixels, 46 pictures/s instead of 61.
MALLOC_CONF = "dirty_decay_ms:-1,oversize_threshold:0"
# For the child that prepares a version: what is free goes back at once, since the server needs memory at the same time.
FRUGAL_CONF = "dirty_decay_ms:0,muzzy_decay_ms:0"
PURGE_ALL = b"arena.4096.purge"  # 4096: of all arenas (MALLCTL_ARENAS_ALL)
STATM = Path("/proc/self/statm")  # Linux
GROWTH_BYTES = 128 << 20  # guess: to trim takes 20 to 60 ms, which a small model is not worth
HINT = (
    "for more throughput, and so that a call without memory does not stop all others for 10 s, start it with jemalloc "
    "(Debian: libjemalloc2): "
    f"LD_PRELOAD=libjemalloc.so.2 MALLOC_CONF={MALLOC_CONF} darkroom serve ..."
)


class _Group(NamedTuple):
    """The files of a cgroup that say how much memory it may have, and has; relative to `root`."""

    root: str
    limit: str
    usage: str
    files: str  # fields of memory.stat: pages of files, and those of them that are mapped or in a tmpfs and so have to stay
    kept: tuple[str, str]

    def left(self, folder: Path) -> int:
        """The bytes that are left in a cgroup; 2**63 where it has no limit, or is not here."""
        limit, usage = _read(folder / self.limit).strip(), _read(folder / self.usage).strip()
        if not (limit.isdecimal() and usage.isdecimal()):
            return 1 << 63
        stat = dict(line.split()[:2] for line in _read(folder / "memory.stat").splitlines())
        reclaimable = int(stat.get(self.files, 0)) - sum(int(stat.get(name, 0)) for name in self.kept)
        return max(0, int(limit) - int(usage) + max(0, reclaimable))


_V2 = _Group("sys/fs/cgroup", "memory.max", "memory.current", "file", ("file_mapped", "shmem"))
_V1 = _Group(
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_cache",
    ("total_mapped_file", "total_shmem"),
)


def free_bytes(root: Path = Path("/")) -> int:
    """The memory that this process may still take: of its container, and of the machine. 2**63 where neither says.

    Args:
        root: where `proc` and `sys` are.
    """
    meminfo = _read(root / "proc/meminfo")
    free = [int(line.split()[1]) << 10 for line in meminfo.splitlines() if line.startswith("MemAvailable:")]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds == "" or "memory" in kinds.split(","):
            group = _V1 if kinds else _V2
            inner = PurePosixPath(path.lstrip("/"))
            free += [group.left(root / group.root / each) for each in (inner, *inner.parents)]
    return min(free, default=1 << 63)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except OSError:
        return ""


def check_room(need_bytes: int, what: str, *, ask: Callable[[], int] = free_bytes) -> None:
    """Returns if so much memory is free. A load that takes more would be ended by the system, and its server with it.

    Raises:
        LoadFailed: it is not.
    """
    if need_bytes > (free := ask()):
        raise LoadFailed(
            f"{what} takes about {need_bytes >> 20} MB of memory and {free >> 20} MB are free: "
            "give the server more memory, or serve fewer models"
        )


def is_jemalloc() -> bool:
    """Whether this process allocates by jemalloc."""
    return hasattr(ctypes.CDLL(None), "mallctl")


def jemalloc_version() -> str:
    """The version of the jemalloc in use, as "5.3.0"; empty where the C library allocates."""
    if not is_jemalloc():
        return ""
    told, size = ctypes.c_char_p(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_char_p))
    ctypes.CDLL(None).mallctl(b"version", ctypes.byref(told), ctypes.byref(size), None, ctypes.c_size_t(0))
    return (told.value or b"").decode().partition("-")[0]


def jemalloc_environment() -> dict[str, str]:
    """The variables with which a child process allocates by jemalloc, as this one or as installed; {} where it is not."""
    library = os.environ.get("LD_PRELOAD") if is_jemalloc() else find_library("jemalloc")
    return {"LD_PRELOAD": library, "MALLOC_CONF": os.environ.get("MALLOC_CONF", MALLOC_CONF)} if library else {}


def freeze() -> None:
    """Excludes all objects that exist now from future collections, each of which would walk all that TensorFlow imported.

    Call it before a model is opened: the graph of a frozen model is never freed completely (measured on
    EfficientNet-Lite0: 35 MB of it stayed).
    """
    gc.collect()
    gc.freeze()


@contextmanager
def trimmed() -> Iterator[None]:
    """Context manager: if the process grew by more than GROWTH_BYTES inside it, freed memory goes back to the system.

    Measured on a ResNet50 of 102 MB: to make a callable of its graph takes 1.1 GB, of which 670 MB are free afterwards.
    They would still be resident when the next callable takes as much.
    """
    before = _resident_bytes()
    yield
    if _resident_bytes() - before > GROWTH_BYTES:
        trim()


def give_back() -> None:
    """Returns freed memory to the system. Call it in a thread, after a model was closed.

    Measured on EfficientNet-Lite0 with the C library's allocator: 640 MB resident after close, the same after a
    collection, 353 MB after malloc_trim, which takes 20 to 60 ms and does not hold the GIL. C libraries without
    malloc_trim keep what they have.
    """
    gc.collect()
    trim()


def trim() -> None:
    """Returns freed memory to the system, without a collection."""
    if (trim := _malloc_trim()) is not None:
        trim(0)
    if is_jemalloc():
        ctypes.CDLL(None).mallctl(PURGE_ALL, None, None, None, ctypes.c_size_t(0))


def _resident_bytes() -> int:
    """The process's resident memory; 0 where there is no /proc."""
    try:
        return int(STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def own_bytes() -> int:
    """The resident memory that this process shares with no file: about what one more process like it would take."""
    try:
        _, resident, shared, *_ = map(int, STATM.read_text("ascii").split())
    except OSError:
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


@cache
def _malloc_trim() -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
