"""`make serve`: it compiles once, and whatever keeps it from that, it says in a line what to do, and serves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile, with an environment that is set up and sources that are none."""
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    for name in ("setup.py", "pyproject.toml", "requirements/models.txt", "requirements/build.txt", "batching/one.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("models", "service", ".venv/bin"):
        (tmp_path / name).mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for name in ("models.done", "dev.done", "build.done"):
        (tmp_path / ".venv" / name).touch()
    return tmp_path


def compile_once(checkout: Path, *variables: str) -> str:
    """What `make` prints of the step; it must not fail."""
    command = ["make", "--silent", "compiled-once", *variables]
    ended = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60, check=True)
    return ended.stdout


def test_without_a_compiler_or_the_headers_of_python_a_line_says_what_to_install(checkout: Path) -> None:
    assert "served interpreted" in compile_once(checkout, "CC=no-such-compiler")
    assert "Debian: gcc, python3-dev" in compile_once(checkout, "CC=no-such-compiler")
    without_headers = checkout / ".venv/bin/python"
    without_headers.write_text("#!/bin/sh\necho /nowhere\n")
    assert "no Python headers" in compile_once(checkout, "CC=true")


def test_what_can_not_be_compiled_is_served_nevertheless(checkout: Path) -> None:
    headers = checkout / "Python.h"
    headers.touch()
    (checkout / ".venv/bin/python").write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {checkout} || exit 1\n')
    assert "it could not be compiled: it is served interpreted" in compile_once(checkout, "CC=true")


def test_what_is_compiled_stays_so_until_the_code_changes_and_is_then_left_to_make_compiled(checkout: Path) -> None:
    compiled = checkout / "build/compiled/bin/darkroom"
    compiled.parent.mkdir(parents=True)
    compiled.touch(0o755)
    assert compile_once(checkout) == ""
    os.utime(compiled, (0, 0))
    assert "the code has changed since it was compiled" in compile_once(checkout)
    assert "make compiled" in compile_once(checkout)
