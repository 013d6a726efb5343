"""A folder of models (`--model_repository`): which models there are now, and what each of them wants. It blocks."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, TypeAlias

from darkroom.models.errors import LoadFailed
from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.triton import FILE, read_entry

if TYPE_CHECKING:
    from pathlib import Path

    from darkroom.service.config.model_config import ModelEntry
    from darkroom.service.config.settings import Settings

_log = logging.getLogger("darkroom.service")
Wanted: TypeAlias = "ModelEntry | str"  # a model, or why it can't be served


class Repository:
    """The models of one folder. A model is a folder with a config.pbtxt, or with a folder that is named by a number.

    Folders whose name begins with a dot are no models, nor are those whose name can't be printed.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._folder = folder
        self._settings = settings
        self._said: dict[str, tuple[str, ...]] = {}  # the fields without effect of each model, as they were logged

    def scan(self) -> dict[str, Wanted]:
        """The models that exist now, by name; one that can't be served has the reason instead.

        Raises:
            LoadFailed: the folder can't be listed.
        """
        try:
            folders = [folder for folder in sorted(self._folder.iterdir()) if _is_model(folder)]
        except OSError as err:
            raise LoadFailed(f"--model_repository can't be listed: {err.strerror}") from err
        return {folder.name: self._read(folder) for folder in folders}

    def _read(self, folder: Path) -> Wanted:
        try:
            entry = read_entry(folder)
        except BadSettingsError as err:
            return "; ".join(err.problems)
        if entry.idle and self._said.get(entry.name) != entry.idle:
            self._said[entry.name] = entry.idle
            fields = {"model": entry.name, "fields": list(entry.idle)}
            _log.info(f"fields of {FILE} that have no effect", extra={"fields": fields})
        (said,) = self._settings.with_said((entry,))
        return said


def _is_model(folder: Path) -> bool:
    if folder.name.startswith(".") or not folder.name.isprintable():
        return False
    try:
        return (folder / FILE).exists() or any(each.name.isdecimal() for each in folder.iterdir())
    except OSError as err:  # of one that can't be entered the scan of its versions says so
        return err.errno != errno.ENOTDIR
