from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from darkroom.service.telemetry.cgroup import Usage, read_usage

if TYPE_CHECKING:
    from pathlib import Path

V1 = "4:memory:/docker/1f\n2:cpu,cpuacct:/docker/1f\n0::/docker/1f\n"
V2 = "0::/system.slice/darkroom.service\n"
MEMORY_V1 = {
    "memory/memory.usage_in_bytes": "1000\n",
    "memory/memory.limit_in_bytes": "4000\n",
    "memory/memory.stat": "inactive_file 9\ntotal_inactive_file 200\n",
}
CPU_V1 = {"cpu/cpu.stat": "nr_periods 50\nnr_throttled 5\nthrottled_time 2500000000\n"}
MEMORY_V2 = {"memory.current": "1000\n", "memory.max": "4000\n", "memory.stat": "anon 1\ninactive_file 200\n"}
CPU_V2 = {"cpu.stat": "usage_usec 7\nnr_periods 50\nnr_throttled 5\nthrottled_usec 2500000\n"}
USED = Usage(memory_bytes=800, limit_bytes=4000, periods=50, throttled_periods=5, throttled_s=2.5)


def usage(mount: Path, own: str, files: dict[str, str]) -> Usage:
    for name, text in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(text)
    (mount / "own").write_text(own)
    return read_usage(mount, mount / "own")


@pytest.mark.parametrize(("own", "files"), [(V1, MEMORY_V1 | CPU_V1), ("0::/\n", MEMORY_V2 | CPU_V2)])
def test_a_container_sees_its_own_group_at_the_mount(tmp_path: Path, own: str, files: dict[str, str]) -> None:
    assert usage(tmp_path, own, files) == USED


def test_a_unit_of_systemd_is_found_below_the_mount(tmp_path: Path) -> None:
    files = {f"system.slice/darkroom.service/{name}": text for name, text in (MEMORY_V2 | CPU_V2).items()}
    assert usage(tmp_path, V2, files | {"memory.stat": "inactive_file 1\n"}) == USED


@pytest.mark.parametrize(
    ("own", "files"),
    [
        (V1, MEMORY_V1 | {"memory/memory.limit_in_bytes": "9223372036854771712\n", "cpu/cpu.stat": "nr_periods 0\n"}),
        (V2, MEMORY_V2 | {"memory.max": "max\n", "cpu.stat": "usage_usec 7\n"}),
    ],
)
def test_what_is_not_limited_has_no_limit(tmp_path: Path, own: str, files: dict[str, str]) -> None:
    assert usage(tmp_path, own, files) == Usage(memory_bytes=800)


def test_where_there_is_no_group_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert read_usage(tmp_path, tmp_path / "absent") == Usage()
