from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from darkroom.service.config.machine import (
    backlog_within,
    connections_within,
    cores_each,
    raise_open_files,
    usable_cores,
)

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


@pytest.mark.parametrize(
    ("open_files", "connections", "backlog"),
    [(16, 1, 3), (48, 1, 11), (49, 1, 12), (64, 16, 12), (128, 80, 12), (256, 192, 16), (1024, 768, 64),
     (4096, 3840, 64), (8447, 8191, 64), (8448, 8192, 64), (65536, 8192, 1024), (resource.RLIM_INFINITY, 8192, 1024)],
)  # fmt: skip
def test_connections_leave_open_files_to_the_engine(open_files: int, connections: int, backlog: int) -> None:
    held = connections_within(8192, open_files)
    assert (held, backlog_within(1024, held, open_files)) == (connections, backlog)
    assert connections_within(1, open_files) == 1


def test_a_hard_limit_that_may_not_be_reached_does_not_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_open_files() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
