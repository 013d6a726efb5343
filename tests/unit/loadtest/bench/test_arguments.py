from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loadtest.bench.arguments import numbers, version_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_numbers_are_at_least_1() -> None:
    assert numbers("1,64") == (1, 64)
    with pytest.raises(ValueError, match="0,1"):
        numbers("0,1")


def test_the_highest_version_of_a_folder_is_taken(tmp_path: Path) -> None:
    for name in ("2", "10", "notes", "11"):
        (tmp_path / name).mkdir()
    for name in ("2", "10", "notes"):
        (tmp_path / name / "saved_model.pb").touch()
    assert version_folder(tmp_path) == tmp_path / "10"
    assert version_folder(tmp_path / "2") == tmp_path / "2"
    with pytest.raises(SystemExit, match="no version folder"):
        version_folder(tmp_path / "11")
