"""One model of `--model_repository`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads it
from typing import Any

from pydantic import ConfigDict, Field

from darkroom.models.versions.folder import MODEL_FOLDER
from darkroom.service.config.model_config import ModelEntry


class RepositoryEntry(ModelEntry):
    """One model of `--model_repository`, as `read_entry` in `triton.py` makes it.

    Attributes:
        overrides: settings of the server that are different for this model, by name.
        model_folder: the folder in each version folder that has the SavedModel, if the version folder itself has none.
        config: the serialized `ModelConfig` of its config.pbtxt; None if it has no such file.
        idle: the fields of config.pbtxt that have no effect, each with the reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    base_path: Path
    overrides: dict[str, Any] = Field(default_factory=dict)
    model_folder: str = MODEL_FOLDER
    config: bytes | None = None
    idle: tuple[str, ...] = ()
