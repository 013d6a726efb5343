"""jemalloc: used where LD_PRELOAD names it, by workers too, and said in the log either way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import httpx
import pytest

from darkroom.models.runtime.memory import HINT, MALLOC_CONF, is_jemalloc, jemalloc_environment, jemalloc_version
from tests.pictures import picture
from tests.serving import Process

JEMALLOC = jemalloc_environment()
SYSTEM = {"LD_PRELOAD": ""}
pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
needs_jemalloc = pytest.mark.skipif(not JEMALLOC, reason="jemalloc is not installed")


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


@pytest.mark.slow
@needs_jemalloc
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_and_its_workers_allocate_by_what_is_preloaded_and_the_log_says_so(workers: int) -> None:
    data = picture(3)
    process = Process("--model_base_path=fake", f"--workers={workers}", environment=JEMALLOC)
    try:
        url = process.wait_ready()
        pid = process.process.pid
        served_by = [pid, *children(pid)] if workers > 1 else [pid]
        assert len(served_by) == (workers + 1 if workers > 1 else 1)
        assert all("libjemalloc" in maps(each) for each in served_by)
        answer = httpx.post(url, content=data, headers={"Content-Type": "image/png"})
        assert answer.json()["digest"] == [crc32(data)]
    finally:
        process.stop()
    (line,) = (line for line in process.lines if "darkroom.service: memory" in line or '"memory"' in line)
    assert "jemalloc" in line
    assert HINT not in line


@pytest.mark.slow
def test_a_server_without_jemalloc_says_how_to_have_it() -> None:
    process = Process("--model_base_path=fake", "--log_format=text", environment=SYSTEM)
    try:
        process.wait_ready()
        assert "libjemalloc" not in maps(process.process.pid)
    finally:
        process.stop()
    (line,) = (line for line in process.lines if "allocator" in line)
    assert "system" in line
    assert f"LD_PRELOAD=libjemalloc.so.2 MALLOC_CONF={MALLOC_CONF}" in line


FAULTS = """
import ctypes, resource
from darkroom.models.runtime.memory import give_back, jemalloc_version
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        buffer = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(36_000_000)))
        ctypes.memset(buffer, 1, 36_000_000)
        libc.free(buffer)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, kept = faults(1), faults(10)
give_back()
print(first, kept, faults(1), jemalloc_version())
"""


@needs_jemalloc
def test_a_large_buffer_s_pages_are_kept_for_the_next_one_until_they_are_given_back() -> None:
    told = subprocess.run(
        [sys.executable, "-c", FAULTS], env=os.environ | JEMALLOC, capture_output=True, text=True, check=True
    )
    *faults, version = told.stdout.split()
    first, kept, given_back = map(int, faults)
    assert kept < min(first, given_back)
    assert version.startswith("5.")


def test_a_version_is_told_of_the_allocator_in_use_alone() -> None:
    assert bool(jemalloc_version()) == is_jemalloc()
