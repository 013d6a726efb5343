"""Freed memory goes back to the system."""

import os
from pathlib import Path

import pytest

from darkroom.models.errors import LoadFailed
from darkroom.models.runtime.memory import check_room, free_bytes, give_back

MEBIBYTE = 1 << 20
V1 = {
    "proc/self/cgroup": "4:memory:/a/b\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "5",
    "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1000",
    "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "700",
    "sys/fs/cgroup/memory/a/memory.stat": "cache 5\ntotal_cache 160\ntotal_mapped_file 40\ntotal_shmem 20\n",
}
V2 = {
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.max": "2000\n",
    "sys/fs/cgroup/memory.current": "1900\n",
    "sys/fs/cgroup/memory.stat": "anon 5\nfile 450\nfile_mapped 100\nshmem 50\n",
}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 1 << 63),
        (V1, 400),
        (V2, 400),
        (V2 | {"sys/fs/cgroup/memory.max": "max\n"}, 1 << 63),
        (V2 | {"sys/fs/cgroup/memory.current": "9000\n"}, 0),
        (V2 | {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  0 kB\n"}, 0),
    ],
    ids=["nothing is said", "cgroup v1, above", "cgroup v2", "no limit", "over the limit", "a full machine"],
)
def test_what_is_free_is_read_from_the_container_and_the_machine(
    tmp_path: Path, files: dict[str, str], free: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_bytes(tmp_path) == free


def test_what_has_no_room_is_a_failed_load_with_both_numbers() -> None:
    check_room(5, "to open it", ask=lambda: 5)
    with pytest.raises(LoadFailed, match="to open it takes about 7 MB of memory and 3 MB are free: give the server"):
        check_room(7 << 20, "to open it", ask=lambda: 3 << 20)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="only glibc has malloc_trim")
def test_what_was_freed_below_something_that_stays_goes_back_too() -> None:
    pieces = [bytes([1]) * 16_384 for _ in range(6_400)]  # 100 MiB, each below what malloc would map by itself
    last = pieces[-1]
    del pieces
    before = resident_bytes()
    give_back()
    assert resident_bytes() < before - 50 * MEBIBYTE
    assert len(last) == 16_384
