"""Which allocator a server runs with, and that it answers with either."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from zlib import crc32

import httpx
import pytest
import uvloop

from models import allocator
from service.__main__ import main
from tests.pictures import picture
from tests.serving import Process

HERE = allocator.installed()
pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "workers"), [("mimalloc", 1), ("mimalloc", 2), ("system", 1)])
def test_the_server_allocates_by_what_it_is_told(chosen: str, workers: int) -> None:
    if chosen == "mimalloc" and not HERE:
        pytest.skip("mimalloc is not installed")
    data = picture(3)
    process = Process("--model_base_path=fake", f"--allocator={chosen}", f"--workers={workers}")
    try:
        url = process.wait_ready()
        maps = Path(f"/proc/{process.process.pid}/maps").read_text(encoding="utf-8")
        assert ("libmimalloc" in maps) == (chosen == "mimalloc")
        answer = httpx.post(url, content=data, headers={"Content-Type": "image/png"})
        assert answer.json()["digest"] == [crc32(data)]
    finally:
        process.stop()


def test_a_server_that_cannot_have_what_it_is_told_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(allocator, "is_mimalloc", lambda: False)
    monkeypatch.setattr(allocator, "installed", lambda: "")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert main(["serve", "--model_base_path=fake", "--allocator=mimalloc"]) == 2
    assert "--allocator=mimalloc: not installed" in capsys.readouterr().err


def test_a_library_that_cannot_be_loaded_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "is_mimalloc", lambda: False)
    monkeypatch.setattr(allocator, "installed", lambda: allocator.LIBRARIES[0])
    monkeypatch.setattr(os, "execv", lambda *command: started.append(command))
    monkeypatch.setenv("LD_PRELOAD", "libother.so")
    for name in allocator.KEPT:
        monkeypatch.setenv(name, "7")  # an operator's own, which stays
    started: list[object] = []
    allocator.use_mimalloc()
    assert os.environ["LD_PRELOAD"] == f"{allocator.LIBRARIES[0]} libother.so"
    assert os.environ["MIMALLOC_RESET_DELAY"] == "7"
    allocator.use_mimalloc()  # the process anew, without what it asked for
    assert len(started) == 1


def test_a_library_beside_the_packages_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(allocator, "LIBRARIES", ("libmimalloc-of-the-image.so.0",))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert allocator.installed() == ""
    place = tmp_path / "lib" / allocator.LIBRARIES[0]
    place.parent.mkdir()
    shutil.copy(uvloop.loop.__file__, place)  # any library will do
    assert allocator.installed() == str(place)


def test_nothing_happens_where_there_is_no_mimalloc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "LIBRARIES", ("libmimalloc-that-is-not.so.0",))
    monkeypatch.setattr(os, "execv", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    allocator.use_mimalloc()
    assert "LD_PRELOAD" not in os.environ
    assert allocator.installed() == ""
