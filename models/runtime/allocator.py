"""jemalloc in front of the C library's malloc, where it is installed: each thread's memory stays that thread's own.

oneDNN in TensorFlow takes a call's buffers from one pool for all threads, so that what a core has just written is soon
another's to write. Where two cores share no cache that costs a sixth of all throughput. Measured on 2 cores of an EPYC
that are now of one cache, now of two, EfficientNet-Lite0, two calls of 8 pictures at once, pictures a second in one
cache and in two: TensorFlow's pool 176 and 149, jemalloc 178 and 164 to 174 (docs/decisions/0027-allocator.md).
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

LIBRARY = "libjemalloc.so.2"  # its name in every distribution

# What is free is kept until `give_back`, and each arena serves buffers of all sizes. By its own choice jemalloc returns
# what was free for 10 s, and that the wrong pages: 4,400 page faults a picture of 12 megapixels, 46 pictures/s of 61.
KEPT = "dirty_decay_ms:-1,oversize_threshold:0"
PURGE_ALL = b"arena.4096.purge"  # 4096: of all arenas (MALLCTL_ARENAS_ALL)


def is_jemalloc() -> bool:
    """Whether this process allocates by jemalloc."""
    return hasattr(ctypes.CDLL(None), "mallctl")


def version() -> str:
    """The version of the jemalloc in use, as "5.3.0"; empty: the C library allocates."""
    if not is_jemalloc():
        return ""
    told, size = ctypes.c_char_p(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_char_p))
    ctypes.CDLL(None).mallctl(b"version", ctypes.byref(told), ctypes.byref(size), None, ctypes.c_size_t(0))
    return (told.value or b"").decode().partition("-")[0]


def installed() -> str:
    """A jemalloc that the loader finds, or else this Python's own folder of libraries has; empty: none.

    Tried by a child, 30 ms: it can't be loaded into a process that runs (its thread-local memory is the first's).
    """
    child = [sys.executable, "-I", "-S", "-c", "import ctypes; ctypes.CDLL(None).mallctl"]
    for name in (LIBRARY, str(Path(sys.prefix, "lib", LIBRARY))) if sys.platform == "linux" else ():
        environment = os.environ | {"LD_PRELOAD": name}
        if subprocess.run(child, env=environment, capture_output=True, check=False).returncode == 0:  # noqa: S603 - ours
            return name
    return ""


def use_jemalloc() -> None:
    """Starts this process's own command line anew, with jemalloc; does nothing where it is there already or nowhere.

    An allocator cannot be changed once a program runs. The process keeps its number; to be called before anything is
    open that must be closed.
    """
    before = os.environ.get("LD_PRELOAD", "")
    if is_jemalloc() or LIBRARY in before or not (name := installed()):
        return
    os.environ["LD_PRELOAD"] = f"{name} {before}".strip()
    os.environ.setdefault("MALLOC_CONF", KEPT)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line


def give_back() -> None:
    """Has jemalloc return what is free to the system; nothing without it."""
    if is_jemalloc():
        ctypes.CDLL(None).mallctl(PURGE_ALL, None, None, None, ctypes.c_size_t(0))
