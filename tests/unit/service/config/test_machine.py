from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from darkroom.service.config.machine import cores_each, raise_open_files, usable_cores

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("text", "limit"), [("50000 100000", 1), ("100000 100000", 1), ("9999900000 100000", 99_999)])
def test_a_container_s_quota_is_rounded_up_and_affinity_bounds_it(tmp_path: Path, text: str, limit: int) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(text)
    assert usable_cores(path) == min(limit, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("text", ["max 100000", "", "junk"])
def test_without_a_quota_affinity_decides(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(text)
    assert usable_cores(path) == len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path / "absent") == len(os.sched_getaffinity(0))


def test_workers_share_the_cores_out_and_each_has_one() -> None:
    assert [cores_each(workers, cores=8) for workers in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert raise_open_files() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
