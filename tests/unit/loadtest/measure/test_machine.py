from __future__ import annotations

import platform
import subprocess
from typing import TYPE_CHECKING

import pytest

from loadtest.measure import machine

if TYPE_CHECKING:
    from pathlib import Path


def test_the_circumstances_name_machine_versions_date_and_command() -> None:
    found = machine.describe(["/somewhere/loadtest/bench/limit.py", "model/my digits"])
    assert found["command"] == "python -m loadtest.bench.limit 'model/my digits'"
    assert "cores of" in found["machine"]
    assert "Python 3." in found["versions"]
    assert found["date"].endswith("UTC")
    assert found["commit"]
    assert machine.lines(found).count("\n") == len(found) - 1


def test_pages_are_kept_by_the_makers_name_and_the_extensions_for_neural_networks_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text("vendor_id\t: GenuineIntel\nmodel name\t: A Xeon\nflags\t\t: fpu amx_tile avx512_bf16\n\n" * 2)
    monkeypatch.setattr(machine, "CPU_INFO", cpu_info)
    assert machine.vendor() == "intel"
    assert "cores of A Xeon with AMX, AVX512_BF16, " in machine.describe()["machine"]
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "none")
    assert machine.vendor() == platform.machine()
    assert f"cores of {platform.machine()}, " in machine.describe()["machine"]


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("/home/loadtest/loadtest/bench/commits.py", "loadtest.bench.commits"),
        ("/home/darkroom/loadtest/experiments/models/grow.py", "loadtest.experiments.models.grow"),
        ("/home/darkroom/loadtest/bench/__main__.py", "loadtest.bench"),
        ("/home/darkroom/loadtest/load.py", "loadtest.load"),
    ],
)
def test_the_command_is_the_one_that_one_would_type(program: str, module: str) -> None:
    assert machine.command([program, "--quick"]) == f"python -m {module} --quick"


def test_results_that_a_run_wrote_do_not_change_the_commit_that_the_next_one_names(tmp_path: Path) -> None:
    page, code = tmp_path / "docs/benchmarks/digits.md", tmp_path / "loadtest/bench/bench.py"
    for path in (page, code):
        path.parent.mkdir(parents=True)
        path.write_text("before")
    who = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    for words in (("init", "--quiet"), ("add", "."), (*who, "commit", "--quiet", "-m", "all")):
        subprocess.run(["git", *words], check=True, cwd=tmp_path)
    page.write_text("after")
    clean = machine.commit(code.parent)
    assert clean.isalnum()
    code.write_text("after")
    assert machine.commit(code.parent) == f"{clean}, changed since"


def test_outside_a_clone_the_commit_is_unknown(tmp_path: Path) -> None:
    assert machine.commit(tmp_path) == "unknown"
