"""A folder of whole files by key, bounded, and used only where no other user can write."""

import errno
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from darkroom.models.versions.cache import Cache


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_read_and_what_was_not_is_missed(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "a" / "b", max_bytes=100)
    assert cache.read("x") is None
    cache.write("x", b"data")
    assert bytes(cache.read("x") or b"") == b"data"
    assert names(tmp_path / "a" / "b") == ["x.artifact"]
    cache.discard("x")
    assert cache.read("x") is None


def test_one_at_a_time_may_make_what_belongs_under_a_key_and_leaves_no_lock(tmp_path: Path) -> None:
    one, other = Cache(tmp_path, max_bytes=100), Cache(tmp_path, max_bytes=100)
    with one.turn("x") as is_ones, other.turn("x") as is_others, other.turn("y") as is_another:
        assert (is_ones, is_others, is_another) == (True, False, True)
    with other.turn("x") as is_others:
        assert is_others
    assert names(tmp_path) == []


def test_where_no_lock_can_be_had_everybody_may(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    cache = Cache(tmp_path, max_bytes=100)
    with cache.turn("x") as is_first, cache.turn("x") as is_second:
        assert (is_first, is_second) == (True, True)
    assert names(tmp_path) == []


def test_the_least_used_go_above_the_bound_and_the_newest_stays_even_alone_above_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=10)
    for age_s, key in ((300, "old"), (200, "used"), (100, "middle")):
        cache.write(key, b"1234")
        os.utime(tmp_path / f"{key}.artifact", (time.time() - age_s,) * 2)
    assert bytes(cache.read("used") or b"") == b"1234"
    cache.write("new", b"1234")
    assert names(tmp_path) == ["new.artifact", "used.artifact"]
    cache.write("huge", b"x" * 99)
    assert names(tmp_path) == ["huge.artifact"]


def test_what_an_interrupted_write_left_is_taken_away_in_time(tmp_path: Path) -> None:
    for name in ("old.part", "young.part"):
        (tmp_path / name).touch()
    os.utime(tmp_path / "old.part", (time.time() - 7200,) * 2)
    Cache(tmp_path, max_bytes=100).write("x", b"data")
    assert names(tmp_path) == ["x.artifact", "young.part"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "x.artifact" / "in the way").mkdir(parents=True)
    Cache(tmp_path, max_bytes=100).write("x", b"data")
    assert names(tmp_path) == ["x.artifact"]


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    tmp_path.chmod(0o700)
    cache = Cache(tmp_path, max_bytes=100)
    cache.write("x", b"data")
    tmp_path.chmod(mode)
    assert cache.read("x") is None
    with caplog.at_level(logging.WARNING):
        cache.write("y", b"data")
        cache.write("z", b"data")
    assert names(tmp_path) == ["x.artifact"]
    assert [record.getMessage() for record in caplog.records] == [
        "prepared models are not kept in --cache_dir: others can write to it"
    ]


def test_a_folder_that_can_not_be_made_keeps_nothing_and_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file" / "folder", max_bytes=100)
    cache.write("x", b"data")
    assert cache.read("x") is None


def test_a_cache_that_was_filled_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cache(tmp_path, max_bytes=100).write("x", b"data")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("utime", "open", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    cache = Cache(tmp_path, max_bytes=100)
    assert bytes(cache.read("x") or b"") == b"data"
    with cache.turn("y") as is_first, cache.turn("y") as is_second:
        assert (is_first, is_second) == (True, True)


def test_the_lock_of_a_process_that_does_not_run_is_given_up_and_that_of_one_that_does_is_not(tmp_path: Path) -> None:
    one, other, third = (Cache(tmp_path, max_bytes=100) for _ in range(3))
    hold = (
        "import fcntl, os, sys, signal; lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT);"
        "fcntl.flock(lock, fcntl.LOCK_EX); print(flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    )
    lock = tmp_path / "x.lock"
    with subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE) as stopped:
        assert stopped.stdout is not None
        stopped.stdout.readline()
        with one.turn("x") as is_ours:
            assert not is_ours
        os.utime(lock, (time.time() - 60,) * 2)
        with one.turn("x") as is_ours:
            assert is_ours
            with other.turn("x") as is_others, third.turn("x") as is_third:
                assert (is_others, is_third) == (False, False)
        assert names(tmp_path) == []
        stopped.kill()


def test_who_holds_a_lock_shows_that_it_runs(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    lock.touch()
    os.utime(lock, (time.time() - 10,) * 2)
    with Cache(tmp_path, max_bytes=100).turn("x") as is_ours:
        assert is_ours
        while time.time() - lock.stat().st_mtime > 5:
            pass  # the first sign comes at once, from a thread
    assert names(tmp_path) == []


def test_a_temporary_file_is_beside_the_models_unless_they_can_not_be_there_or_there_is_more_room_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for folder, is_there in ((tmp_path / "cache", True), (tmp_path / "file", False)):
        with Cache(folder, max_bytes=1).temporary() as file:
            place = str(Path(f"/proc/self/fd/{file.fileno()}").readlink())
            file.write(b"x")
        assert place.startswith(f"{folder}/") is is_there

    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=0 if folder == tmp_path / "cache" else 1)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with Cache(tmp_path / "cache", max_bytes=1).temporary() as file:
        assert not str(Path(f"/proc/self/fd/{file.fileno()}").readlink()).startswith(str(tmp_path))
