"""Which allocator a server runs with, and that it answers with either."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import httpx
import pytest

from darkroom.models.runtime import allocator
from darkroom.service.__main__ import main
from tests.pictures import picture
from tests.serving import Process

HERE = allocator.installed()
pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "workers"), [("auto", 1), ("jemalloc", 1), ("jemalloc", 2), ("system", 1)])
def test_the_server_allocates_by_what_it_is_told(chosen: str, workers: int) -> None:
    if chosen == "jemalloc" and not HERE:
        pytest.skip("jemalloc is not installed")
    data = picture(3)
    process = Process("--model_base_path=fake", f"--allocator={chosen}", f"--workers={workers}")
    try:
        url = process.wait_ready()
        maps = Path(f"/proc/{process.process.pid}/maps").read_text(encoding="utf-8")
        assert ("libjemalloc" in maps) == (chosen != "system" and HERE != "")
        answer = httpx.post(url, content=data, headers={"Content-Type": "image/png"})
        assert answer.json()["digest"] == [crc32(data)]
    finally:
        process.stop()


FAULTS = """
import ctypes, resource
from darkroom.models.runtime import allocator
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
allocator.give_back()
print(first, kept, faults(1), allocator.version())
"""


@pytest.mark.skipif(not HERE, reason="jemalloc is not installed")
def test_a_large_buffer_s_pages_are_kept_for_the_next_one_until_they_are_given_back() -> None:
    environment = os.environ | {"LD_PRELOAD": HERE, "MALLOC_CONF": allocator.KEPT}
    told = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    *faults, version = told.stdout.split()
    first, kept, given_back = map(int, faults)
    assert kept < min(first, given_back)
    assert version.startswith("5.")


def test_a_server_that_cannot_have_what_it_is_told_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(allocator, "is_jemalloc", lambda: False)
    monkeypatch.setattr(allocator, "installed", lambda: "")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert main(["serve", "--model_base_path=fake", "--allocator=jemalloc"]) == 2
    assert "--allocator=jemalloc: not installed" in capsys.readouterr().err


def test_a_library_that_cannot_be_loaded_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "is_jemalloc", lambda: False)
    monkeypatch.setattr(allocator, "installed", lambda: allocator.LIBRARY)
    monkeypatch.setattr(os, "execv", lambda *command: started.append(command))
    monkeypatch.setenv("LD_PRELOAD", "libother.so")
    monkeypatch.setenv("MALLOC_CONF", "narenas:2")  # an operator's own, which stays
    started: list[object] = []
    allocator.use_jemalloc()
    assert os.environ["LD_PRELOAD"] == f"{allocator.LIBRARY} libother.so"
    assert os.environ["MALLOC_CONF"] == "narenas:2"
    allocator.use_jemalloc()  # the process anew, without what it asked for
    assert len(started) == 1


@pytest.mark.skipif(not HERE, reason="jemalloc is not installed")
def test_a_library_beside_the_packages_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maps = "import re, sys; print(re.search(r'/.*libjemalloc.*', open('/proc/self/maps').read())[0])"
    told = subprocess.run([sys.executable, "-c", maps], env={"LD_PRELOAD": HERE}, capture_output=True, check=True)
    monkeypatch.setattr(allocator, "LIBRARY", "libjemalloc-of-the-image.so.0")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    installed = allocator.installed
    assert installed() == ""
    place = tmp_path / "lib" / allocator.LIBRARY
    place.parent.mkdir()
    shutil.copy(told.stdout.decode().strip(), place)
    assert installed() == str(place)


def test_nothing_happens_where_there_is_no_jemalloc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "LIBRARY", "libjemalloc-that-is-not.so.0")
    monkeypatch.setattr(os, "execv", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    allocator.use_jemalloc()
    assert "LD_PRELOAD" not in os.environ
    assert allocator.installed() == ""
