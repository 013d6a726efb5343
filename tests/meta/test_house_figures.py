"""The arithmetic of the house's figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.meta.house_figures import entries, figures, main

if TYPE_CHECKING:
    from pathlib import Path

FIRST = '''
def used_once(x):
    """Three lines."""
    return x


def used_twice():
    return used_once(1)


class Thing:
    def public(self):
        return self._private() + used_twice()

    def _private(self):
        def inner():
            return 1

        return inner() + used_twice()

    def __len__(self):
        return 0
'''
SECOND = "async def used_nowhere(): ...\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in {"batching/first.py": FIRST, "service/api/second.py": SECOND, "tests/third.py": FIRST}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (tmp_path / "models").mkdir()
    (tmp_path / "batching/__init__.py").touch()
    return tmp_path


def test_functions_are_counted_with_their_lines(tree: Path) -> None:
    found = figures(tree)
    assert found.files == 3
    assert {function.name: function.lines for function in found.functions} == {
        "used_once": 3, "used_twice": 2, "public": 2, "_private": 5, "inner": 2, "__len__": 2, "used_nowhere": 1,
    }  # fmt: skip
    assert (found.median_lines, found.longest.name) == (2, "_private")


def test_a_helper_that_one_place_names_is_found_and_no_method_or_inner_function(tree: Path) -> None:
    found = figures(tree)
    assert [helper.name for helper in found.named_once] == ["used_once", "_private"]
    assert found.share_named_once == pytest.approx(2 / 7)


def test_a_folders_own_page_is_no_entry(tree: Path) -> None:
    assert entries(tree / "batching") == {"first.py"}


def test_the_program_prints_folders_and_names_helpers(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tree), "--list", "batching"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "3 files, 7 functions: median 2 lines, longest 5 (_private of batching/first.py)"
    assert "  batching: 1 entries, 2 of 6 functions named once" in told
    assert told[-1] == "batching/first.py: _private, 5 lines"
