"""Version folders that are half copied, damaged, removed, forbidden or odd: what serves goes on, and good ones load later."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING

from tests.faults.fault import Broken, Group, Setup, compiler, mounts, root

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.stage import Stage

QUICK = ("--warmup_budget_ms=300",)
GROUP = Group("files", Setup(flags=QUICK))
DATA = "variables/variables.data-00000-of-00001"
LOOKS_S = 1.0  # five looks of the server: a fault lasts as long
NO_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")  # root that must keep to permissions

CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long offset_s(void) {
  char text[32] = {0};
  int file = open(OFFSET, O_RDONLY);
  if (file < 0) return 0;
  long size = read(file, text, 31);
  close(file);
  return size > 0 ? atol(text) : 0;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
  int status = syscall(SYS_clock_gettime, clock, now);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += offset_s();
  return status;
}
int gettimeofday(struct timeval *now, void *zone) {
  struct timespec exact;
  int status = clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return status;
}
time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return at ? (*at = now.tv_sec) : now.tv_sec;
}
"""  # a wall clock that is off by as many seconds as a file says
COMPILE = f"cc -shared -fPIC -w -DOFFSET='\"{{folder}}/offset\"' -o {{folder}}/clock.so -x c - <<'END'\n{CLOCK}\nEND\n[ -f {{folder}}/clock.so ]"


def good(stage: Stage) -> Path:
    """The version folder that every copy is made of."""
    return stage.models["default"]


def copy(stage: Stage, number: int) -> Path:
    """A whole copy as a version."""
    made = stage.server.base() / str(number)
    shutil.copytree(good(stage), made)
    return made


def is_served(stage: Stage, *numbers: int) -> bool:
    """Whether these versions are served, all of them."""
    states = stage.states()
    return all(states.get(str(number), ("", ""))[0] == "AVAILABLE" for number in numbers)


def must_not_be_served(stage: Stage, *numbers: int) -> None:
    """Raises Broken if one of these versions is served."""
    if served := [number for number in numbers if is_served(stage, number)]:
        raise Broken(f"versions {served} are served")


def clean(stage: Stage) -> None:
    """Ends a fault: a good version is still found and served, and then only version 1 is left."""
    last = copy(stage, 99)
    stage.until(partial(is_served, stage, 99), "a good version that comes later is served")
    for path in stage.server.base().iterdir():
        if path.name not in ("1", "99"):
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
    if not is_served(stage, 1):
        raise Broken(f"version 1 is not served any more: {stage.states()}")
    shutil.rmtree(last)
    stage.until(lambda: list(stage.states()) == ["1"], "only version 1 is left")


def last_for_looks(stage: Stage) -> None:
    """Lets the server look a few times, and waits until the clients are answered."""
    time.sleep(LOOKS_S)
    stage.wait_for_clients()


@GROUP.fault(short=True)
def half_copies(stage: Stage) -> None:
    """Twelve versions at once in states that copying programs leave, by name; none is served, and each is when it is whole."""
    base, source = stage.server.base(), good(stage)
    temporary = (".6eF6aBcD", ".gstmp", ".part", ".tmp", ".crdownload", ".filepart", "_.gstmp", "~")
    for number, ending in enumerate(temporary, 10):
        made = copy(stage, number)
        (made / DATA).rename(made / (DATA + ending))
    shutil.copytree(source, base / "20", ignore=shutil.ignore_patterns("variables"))
    shutil.copytree(source, base / "21", ignore=shutil.ignore_patterns("saved_model.pb", "variables.index"))
    made = copy(stage, 22)
    (made / "saved_model.pb").rename(made / ".saved_model.pb.Xy12Ab")
    (base / "23").mkdir()
    numbers = [*range(10, 18), 20, 21, 22, 23]
    last_for_looks(stage)
    must_not_be_served(stage, *numbers)
    for number in numbers:
        shutil.rmtree(base / str(number))
        copy(stage, number) if number in (10, 14, 21, 23) else None
    stage.until(partial(is_served, stage, 10, 14, 21, 23), "the whole ones are served")
    clean(stage)


@GROUP.fault()
def a_slow_copy(stage: Stage) -> None:
    """A version that grows by 10 KB at a time for seconds, the biggest file last; served once it is whole."""
    made = stage.server.base() / "2"
    shutil.copytree(good(stage), made, ignore=shutil.ignore_patterns("variables.data*"))
    data = (good(stage) / DATA).read_bytes()
    with (made / DATA).open("wb") as out:
        for place in range(0, len(data), 10_000):
            out.write(data[place : place + 10_000])
            out.flush()
            time.sleep(0.15)
    stage.until(partial(is_served, stage, 2), "the whole copy is served")
    clean(stage)


@GROUP.fault(short=True)
def damaged(stage: Stage) -> None:
    """Versions whose graph is cut off, is text, or is empty, or whose weights are cut off: each fails with its reason."""
    graph, data = (good(stage) / "saved_model.pb").read_bytes(), (good(stage) / DATA).read_bytes()
    broken = {
        30: ("saved_model.pb", graph[:20_000]), 31: ("saved_model.pb", b"no graph" * 100), 32: ("saved_model.pb", b""),
        33: (DATA, data[:50_000]), 34: (DATA, b""), 35: ("variables/variables.index", bytes(487)),
    }  # fmt: skip
    logged = stage.server.log.stat().st_size
    for number, (name, content) in broken.items():
        shutil.copytree(good(stage), stage.folder / str(number))
        (stage.folder / str(number) / name).write_bytes(content)
        (stage.folder / str(number)).rename(stage.server.base() / str(number))
    stage.until(lambda: all(_has_reason(stage, number, logged) for number in broken), "each says why it is not served")
    must_not_be_served(stage, *broken)
    clean(stage)


def _has_reason(stage: Stage, number: int, logged: int) -> bool:
    """Whether a version says why it is not served; one that could still be a half copy waits, and says so once in the log.

    The log counts from byte `logged` on: while one version waits, others are tried again and again.
    """
    state, message = stage.states().get(str(number), ("", ""))
    return bool(message) or (
        state != "AVAILABLE" and f"version {number}".encode() in stage.server.log.read_bytes()[logged:]
    )


@GROUP.fault(short=True)
def the_served_version_is_removed(stage: Stage) -> None:
    """The folder of the only version is removed, later the folder above it too, and both come back."""
    base, aside = stage.server.base(), stage.folder / "aside"
    (base / "1").rename(aside)
    last_for_looks(stage)
    base.rmdir()
    last_for_looks(stage)
    base.mkdir()
    aside.rename(base / "1")
    last_for_looks(stage)
    clean(stage)


@GROUP.fault()
def removed_while_it_loads(stage: Stage) -> None:
    """Ten times a version appears and is removed again, at another moment of its loading each time."""
    for number in range(2, 12):
        made = copy(stage, number)
        time.sleep(number * 0.15)
        shutil.rmtree(made)
    clean(stage)


@GROUP.fault()
def written_in_place(stage: Stage) -> None:
    """The files of the served version are written again in place, touched, and given other times (1970 and 2100)."""
    made = stage.server.base() / "1"
    for when_s in (0.0, 4.1e9, time.time()):
        for path in made.rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes())
                os.utime(path, (when_s, when_s))
        last_for_looks(stage)
    clean(stage)


@GROUP.fault()
def odd_names(stage: Stage) -> None:
    """Folders and files that are almost version numbers, huge numbers, files in place of folders, thousands of others."""
    base = stage.server.base()
    for name in ("2.tmp", ".2", "_2", "v2", "1e3", "-3", "\u0663", "2 ", "9" * 30, "0x2", "lost+found", ".git"):
        (base / name).mkdir()
    for name in ("3", "README.md", ".DS_Store"):
        (base / name).write_bytes(b"x")
    for number in range(2_000):
        (base / f"other-{number}").write_bytes(b"")
    last_for_looks(stage)
    clean(stage)


@GROUP.fault(short=True)
def symbolic_links(stage: Stage) -> None:
    """Versions that are links: to a good folder elsewhere (served), to nothing, to themselves, to the folder above."""
    base = stage.server.base()
    shutil.copytree(good(stage), stage.folder / "elsewhere")
    (base / "2").symlink_to(stage.folder / "elsewhere")
    for number, target in ((3, stage.folder / "nothing"), (4, base / "4"), (5, base), (6, base / "README.md")):
        (base / str(number)).symlink_to(target)
    stage.until(partial(is_served, stage, 2), "the link to a good folder is served")
    last_for_looks(stage)
    must_not_be_served(stage, 3, 4, 5, 6)
    (base / "new").symlink_to(good(stage))
    (base / "new").rename(base / "2")  # as Kubernetes swaps the contents of a volume
    last_for_looks(stage)
    clean(stage)


@GROUP.fault(setup=Setup(flags=(*QUICK, "--cache_dir={folder}/cache"), prefix=NO_OVERRIDE), needs=(root,))
def forbidden(stage: Stage) -> None:
    """The server has to keep to permissions; a version, a file of one, and later the whole folder may not be read."""
    base = stage.server.base()
    copy(stage, 2).chmod(0)
    (copy(stage, 3) / "saved_model.pb").chmod(0)
    last_for_looks(stage)
    must_not_be_served(stage, 2, 3)
    base.chmod(0)
    last_for_looks(stage)
    for path in (base, base / "2", base / "3" / "saved_model.pb"):
        path.chmod(0o755)
    stage.until(partial(is_served, stage, 2, 3), "they are served once they may be read")
    clean(stage)


@GROUP.fault(setup=Setup(flags=(*QUICK, "--cache_dir={folder}/cache")))
def the_cache_is_damaged(stage: Stage) -> None:
    """Every file of the cache is emptied, then is text, then zeros; then the cache is removed: versions load all the same."""
    cache = stage.server.folder / "cache"
    for number, content in enumerate((b"", b"no model", bytes(100_000)), 2):
        for path in cache.rglob("*"):
            if path.is_file():
                path.write_bytes(content)
        copy(stage, number)
        stage.until(partial(is_served, stage, number), f"version {number} is served")
    shutil.rmtree(cache)
    clean(stage)


@GROUP.fault(
    short=True,
    setup=Setup(
        flags=(*QUICK, "--cache_dir={folder}/full/cache"),
        prefix=(
            "unshare", "-m", "sh", "-c",
            'mkdir -p {folder}/full && mount -t tmpfs -o size=64k none {folder}/full && exec "$@"', "sh",
        ),
    ),
    needs=(mounts,),
)  # fmt: skip
def the_disk_is_full(stage: Stage) -> None:
    """The cache is on a disk of 64 KB, which is full at once: versions load all the same, they are only not kept."""
    copy(stage, 2)
    stage.until(partial(is_served, stage, 2), "version 2 is served")
    clean(stage)


@GROUP.fault(needs=(mounts,))
def a_mount_comes_and_goes(stage: Stage) -> None:
    """A file system is mounted over a version while it serves, is empty, and goes away again."""
    made = stage.server.base() / "1"
    for _ in range(3):
        stage.command("mount", "-t", "tmpfs", "none", str(made))
        try:
            last_for_looks(stage)
        finally:
            stage.command("umount", "-l", str(made))
        last_for_looks(stage)
    clean(stage)


@GROUP.fault(
    setup=Setup(
        flags=QUICK,
        prefix=("sh", "-c", f'{COMPILE} && LD_PRELOAD="{{folder}}/clock.so $LD_PRELOAD" exec "$@"', "sh"),
    ),
    needs=(compiler,),
)
def the_clock_is_stepped(stage: Stage) -> None:
    """The wall clock of the process jumps a day ahead, a week back and to 1970 while versions come and go."""
    for number, seconds in enumerate((86_400, -600_000, -int(time.time())), 2):
        (stage.server.folder / "offset").write_text(f"{seconds}", encoding="ascii")
        copy(stage, number)
        stage.until(partial(is_served, stage, number), f"version {number} is served")
    clean(stage)
