"""Every program of loadtest/ says how it is run, and is run so."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WORDS = "def main(arguments: Sequence[str] | None"
PROGRAMS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "loadtest").rglob("*.py")
    if WORDS in path.read_text(encoding="utf-8")
)
PACKAGES = {  # programs that a package's __main__ runs
    "loadtest.bench.comparison": "loadtest.bench",
    "loadtest.openloop.generator": "loadtest.openloop",
    "loadtest.simulate.simulate": "loadtest.simulate",
}


def test_the_programs_are_found() -> None:
    assert set(PACKAGES) < set(PROGRAMS)
    assert "loadtest.experiments.models.swaps" in PROGRAMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_shows_its_command_line_and_explains_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(name)
    command = f"python -m {PACKAGES.get(name, name)}"
    assert f"    {command}" in (module.__doc__ or "") or f"{command} " in (module.__doc__ or "")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {command} ")


@pytest.mark.parametrize("package", PACKAGES.values())
def test_a_package_runs_its_program(package: str) -> None:
    run = importlib.import_module(f"{package}.__main__").main
    assert {name: package for name in PACKAGES if importlib.import_module(name).main is run} == {
        run.__module__: package
    }
