"""Arguments that several command lines share: lists of numbers, and a model's version folder. Imports no TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def numbers(text: str) -> tuple[int, ...]:
    """Reads `1,2,4` as whole numbers.

    Raises:
        ValueError: one of them is no number of at least 1.
    """
    values = tuple(int(part) for part in text.split(","))
    if min(values) < 1:
        raise ValueError(text)
    return values


def version_folder(folder: Path) -> Path:
    """Returns `folder` if it is a version folder, else its version folder with the highest number.

    Raises:
        SystemExit: it has none.
    """
    if (folder / "saved_model.pb").is_file() and folder.name.isdigit():
        return folder
    versions = [each for each in folder.glob("*") if each.name.isdigit() and (each / "saved_model.pb").is_file()]
    if not versions:
        raise SystemExit(f"{folder}: no version folder with a saved_model.pb in it")
    return max(versions, key=lambda each: int(each.name))
