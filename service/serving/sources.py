"""Makes the source of each model's versions from the settings."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.models.errors import LoadFailed
from darkroom.models.rewriting.job import Job
from darkroom.models.saved_model.output_kinds import check_said, read_said
from darkroom.models.versions.cache import Cache
from darkroom.models.versions.folder import FolderSource, GivenSource
from darkroom.models.versions.loader import Loader
from darkroom.models.versions.policy import Policy
from darkroom.service.config.machine import cores_each

if TYPE_CHECKING:
    from darkroom.models.engine import LoadedModel
    from darkroom.models.versions.folder import Source
    from darkroom.service.config.model_config import ModelEntry
    from darkroom.service.config.settings import Settings

FAKE = "fake"  # --model_base_path=fake serves a model without TensorFlow
SETTLED_INTERVALS = 2  # files that did not change for so many scans are complete


class Sources:
    """Makes the sources. They share one cache and one loader."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        folder = settings.cache_dir
        if folder is None:  # as the XDG base directory specification says; a temporary folder if the user has no home
            try:
                folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkroom"
            except RuntimeError:
                folder = Path(tempfile.gettempdir()) / f"darkroom-{os.getuid()}"
        cache = Cache(folder, max_bytes=settings.max_cache_bytes)
        self._loader = Loader(cache, timeout_s=settings.load_timeout_ms / 1000)

    def of(self, entry: ModelEntry) -> Source:
        """The source of a model: its folder, or the fake model, which needs no folder and no TensorFlow."""
        if str(entry.base_path) == FAKE:
            from darkroom.models.engines.fakes import fake_model  # noqa: PLC0415 - rarely used

            return GivenSource({1: lambda: fake_model(name=entry.name)})

        def load(path: Path, version: int) -> LoadedModel:
            loaded = self._loader.load(self._job(entry, path, version))
            try:
                if entry.outputs:
                    check_said(loaded.spec, read_said(entry.outputs))
            except LoadFailed:
                loaded.close()
                raise
            return loaded

        return FolderSource(
            entry.base_path, load, settle_s=SETTLED_INTERVALS * self._settings.reload_interval_ms / 1000
        )

    def stop(self) -> None:
        """Ends the preparation that is running; later ones fail."""
        self._loader.stop()

    def _job(self, entry: ModelEntry, path: Path, version: int) -> Job:
        return Job(
            path,
            entry.name,
            version,
            intra_op_threads=self._settings.intra_op_threads or cores_each(self._settings.first_workers),
            inter_op_threads=self._settings.inter_op_threads,
            session_config=entry.session_config,
            custom_op_paths=tuple(map(Path, entry.custom_op_paths)),
            max_drift=self._settings.max_drift if self._settings.precision == "bf16" else None,
            pictures=entry.pictures,
            device=self._settings.device,
        )


def policy_of(entry: ModelEntry, settings: Settings) -> Policy:
    """The version policy of a model: its own, else the server's."""
    return Policy.parse(entry.model_version_policy or settings.model_version_policy)
