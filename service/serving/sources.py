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
from darkroom.models.versions.folder import MODEL_FOLDER, FolderSource, GivenSource
from darkroom.models.versions.loader import Loader
from darkroom.models.versions.policy import Policy
from darkroom.models.versions.stores.mirror import Mirror, MirrorCache
from darkroom.models.versions.stores.source import StoreSource
from darkroom.service.config.machine import cores_each
from darkroom.service.config.model_config import ModelEntry
from darkroom.service.config.repository import RepositoryEntry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from darkroom.models.engine import LoadedModel
    from darkroom.models.versions.folder import Found, Source
    from darkroom.service.config.settings import Settings
    from darkroom.service.serving.repository import Repository, Wanted

FAKE = "fake"  # --model_base_path=fake serves a model without TensorFlow
LEASE_S = 600.0  # guess: a version that no process asked for so long, not even to load it, is needed no longer
SETTLED_INTERVALS = 2  # files that did not change for so many scans are complete


class BrokenSource:
    """The source of a model that can't be served whatever its versions are: every scan says why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def scan(self) -> Mapping[int, Found]:
        """Raises LoadFailed."""
        raise LoadFailed(self._reason)

    def load(self, version: int) -> LoadedModel:  # noqa: ARG002 - a Source
        """Raises LoadFailed."""
        raise LoadFailed(self._reason)


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
        self._mirrors = MirrorCache(folder / "stores", max_bytes=settings.store_cache_bytes)
        self._loader = Loader(cache, timeout_s=settings.load_timeout_ms / 1000)

    def repository(self) -> Repository | None:
        """The folder of models that is followed; None without --model_repository."""
        if self._settings.model_repository is None:
            return None
        from darkroom.service.serving.repository import Repository  # noqa: PLC0415 - protobuf, only for a repository

        return Repository(self._settings, self._settings.model_repository)

    def of(self, entry: Wanted) -> Source:
        """The source of a model: its folder, or the fake model, which needs no folder and no TensorFlow."""
        if isinstance(entry, str):
            return BrokenSource(entry)
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
            if not isinstance(entry, RepositoryEntry):
                return loaded
            from darkroom.service.serving.triton import apply_config  # noqa: PLC0415 - as above

            return apply_config(loaded, entry)

        inner = entry.model_folder if isinstance(entry, RepositoryEntry) else MODEL_FOLDER
        settle_s = SETTLED_INTERVALS * self._settings.reload_interval_ms / 1000
        if isinstance(entry.base_path, Path):
            return FolderSource(entry.base_path, load, settle_s=settle_s, model_folder=inner)
        mirror = Mirror(self._mirrors, entry.base_path)
        return StoreSource(
            entry.base_path,
            mirror,
            FolderSource(mirror.folder, load, settle_s=0, model_folder=inner),
            policy=policy_of(entry, self._settings),
            poll_s=self._settings.store_poll_ms / 1000,
            settle_s=settle_s,
            lease_s=LEASE_S,
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
            device=settings_of(entry, self._settings).device,
        )


def policy_of(entry: Wanted, settings: Settings) -> Policy:
    """The version policy of a model: its own, else the server's."""
    own = None if isinstance(entry, str) else entry.model_version_policy
    return Policy.parse(own or settings.model_version_policy)


def is_lazy(entry: Wanted | None, settings: Settings) -> bool:
    """Whether a model is loaded when a request needs it: as it says itself, else as the server does. None: it was given."""
    own = entry.load if isinstance(entry, ModelEntry) else None
    return entry is not None and (own or settings.load) == "lazy"


def settings_of(entry: Wanted, settings: Settings) -> Settings:
    """The settings of a model: its own, else the server's. Limits that depend on its own ones are moved with them."""
    if not isinstance(entry, RepositoryEntry) or not entry.overrides:
        return settings
    update = dict(entry.overrides)
    if most := update.get("max_batch_images"):
        update["max_queue_images"] = max(settings.max_queue_images, most)
        sizes = [size for size in settings.allowed_batch_sizes if size < most]
        update["allowed_batch_sizes"] = (*sizes, most) if settings.allowed_batch_sizes else ()
    return settings.model_copy(update=update)
