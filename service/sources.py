"""From the settings' words to where a model's versions come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.plan import Policy
from models.repository import FolderSource
from models.source import GivenSource
from service.machine import usable_cores

if TYPE_CHECKING:
    from models.loaded import LoadedModel
    from models.source import Source
    from service.model_config import ModelEntry
    from service.settings import Settings

FAKE = "fake"  # --model_base_path=fake serves a model without TensorFlow


def source_of(entry: ModelEntry, settings: Settings) -> Source:
    """The folder of a model's versions; or the model that needs neither a folder nor TensorFlow."""
    if str(entry.base_path) == FAKE:
        from models.fake import fake_model  # noqa: PLC0415 - shipped, but seldom asked for

        return GivenSource({1: lambda: fake_model(name=entry.name)})

    def load(path: Path, version: int) -> LoadedModel:
        from models.loader import Loader  # noqa: PLC0415 - TensorFlow takes seconds to import; this runs in a thread

        loader = Loader(
            entry.name,
            session_config=entry.session_config,
            custom_op_paths=[Path(folder) for folder in entry.custom_op_paths],
            intra_op_threads=settings.intra_op_threads or usable_cores(),
            inter_op_threads=settings.inter_op_threads,
        )
        return loader.load(path, version)

    return FolderSource(entry.base_path, load, settle_s=2 * settings.reload_interval_ms / 1000)


def policy_of(entry: ModelEntry, settings: Settings) -> Policy:
    """The model's own policy, else the server's."""
    return Policy.parse(entry.model_version_policy or settings.model_version_policy)
