"""The list of equivalent mutants says what the code says."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest

from tests.mutants import __main__ as program
from tests.mutants.__main__ import EQUIVALENT, Mutant, equivalents

LISTED = equivalents(EQUIVALENT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("mutant", LISTED, ids=lambda mutant: f"{mutant.function}: {mutant.after}")
def test_each_has_a_reason_and_its_line_is_still_there(mutant: Mutant) -> None:
    assert LISTED[mutant]
    module, *names = mutant.function.split(".")
    place: Any = import_module(f"darkroom.{module}")
    for name in names:
        found = getattr(place, name, None)
        place = import_module(f"{place.__name__}.{name}") if found is None else found
    source = inspect.getsource(getattr(place, "fget", place))
    assert mutant.before in " ".join(line.strip() for line in source.splitlines())


def test_without_mutmut_the_program_says_what_it_does_and_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "find_spec", lambda _: None)
    assert program.main(["--help"]) == 0
    assert "make mutants" in capsys.readouterr().out
    assert program.main(["batching/driver"]) == 2
    assert "pip install --require-hashes -r requirements/mutants.txt" in capsys.readouterr().err
