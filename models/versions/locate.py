"""Finds the version folder that a command means: the one it was given, or the newest of a model's."""

from pathlib import Path

from darkroom.models.saved_model import FILE_NAME
from darkroom.models.versions.folder import versions


def locate(path: Path) -> tuple[Path, str, int]:
    """A version folder, its model's name and its number; `path` is that folder or the one above.

    Raises:
        LoadFailed: neither.
    """
    if (path / FILE_NAME).is_file():
        whole = path.resolve()
        is_number = whole.name.isascii() and whole.name.isdecimal()
        return (path, whole.parent.name, int(whole.name)) if is_number else (path, whole.name, 1)
    version, folder = max(versions(path).items())
    return folder, path.resolve().name, version
