"""Every program of docs/clients/ is run as it stands, against the server that the page names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "clients").glob("*.md"))
PROGRAMS = [
    (page.stem, *found)
    for page in PAGES
    for found in re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
]  # page, language, program
# language → (file name, the command that runs it)
COMMANDS = {
    "bash": ("client.sh", ["bash", "-euo", "pipefail"]),
    "python": ("client.py", [sys.executable]),
    "javascript": ("client.js", ["node"]),
    "go": ("client.go", ["go", "run"]),
}
DOCUMENTED = "127.0.0.1:8500"


@pytest.mark.parametrize(
    ("language", "program"), [p[1:] for p in PROGRAMS], ids=[f"{n}-{p[0]}-{p[1]}" for n, p in enumerate(PROGRAMS)]
)
def test_a_documented_program_runs_as_it_stands_and_knows_a_cat(
    efficientnet: str, tmp_path: Path, language: str, program: str
) -> None:
    name, command = COMMANDS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} on this machine")
    assert DOCUMENTED in program
    (tmp_path / name).write_text(program.replace(DOCUMENTED, efficientnet.removeprefix("http://")))
    surroundings = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    done = subprocess.run(
        [*command, str(tmp_path / name)],
        cwd=ROOT,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Egyptian cat" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_language_that_a_page_promises_is_there(page: Path) -> None:
    assert {language for name, language, _ in PROGRAMS if name == page.stem} == COMMANDS.keys()
