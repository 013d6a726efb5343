"""mimalloc in front of the C library's malloc, for who asks for it: each thread's memory stays that thread's own.

oneDNN in TensorFlow takes a call's buffers from one pool for all threads, so that what a core has just written is soon
another's to write. Where the two cores share no cache that costs a quarter of all throughput. Measured on 2 cores of an
EPYC that are now of one cache, now of two, EfficientNet-Lite0, two calls of 8 pictures at once, pictures a second in
one cache and in two: TensorFlow's pool 183 and 153, mimalloc 193 and 187, the C library's malloc 164 and 158
(docs/decisions/0027-allocator.md).
"""

import ctypes
import os
import sys
from pathlib import Path

# How long free memory is kept, in ms, by the names of mimalloc 2.0 and later. EfficientNet-Lite0, MB after a load: 0 ms
# 746, at less than half of the speed; 1 ms 810; 4 ms 857, as fast as its own choice, 908. TensorFlow's pool: 829.
KEPT = {"MIMALLOC_RESET_DELAY": "4", "MIMALLOC_PURGE_DELAY": "4"}
LIBRARIES = ("libmimalloc.so.3", "libmimalloc.so.2")  # by the names that Debian's packages install


def is_mimalloc() -> bool:
    """Whether this process allocates by mimalloc."""
    return hasattr(ctypes.CDLL(None), "mi_version")


def installed() -> str:
    """A mimalloc that the loader finds, or else this Python's own folder of libraries has; empty: none."""
    beside = [str(Path(sys.prefix, "lib", name)) for name in LIBRARIES]
    for name in (*LIBRARIES, *beside) if sys.platform == "linux" else ():
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return ""


def use_mimalloc() -> None:
    """Starts this process's own command line anew, with mimalloc; does nothing where it is there already or nowhere.

    An allocator cannot be changed once a program runs. The process keeps its number; to be called before anything is
    open that must be closed.
    """
    before = os.environ.get("LD_PRELOAD", "")
    if is_mimalloc() or any(name in before for name in LIBRARIES) or not (name := installed()):
        return
    os.environ["LD_PRELOAD"] = f"{name} {before}".strip()
    for variable, value in KEPT.items():
        os.environ.setdefault(variable, value)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line


def give_back() -> None:
    """Has mimalloc return what is free to the system; nothing without it."""
    if is_mimalloc():
        ctypes.CDLL(None).mi_collect(ctypes.c_bool(True))
