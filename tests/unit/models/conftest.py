"""SavedModels that several tests use. Each is written once per session."""

from collections.abc import Callable
from pathlib import Path

import pytest

Build = Callable[[Path], Path]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Build], Path]:
    """Returns a function that writes a model with a builder of savedmodels.py, as version 1, once for each builder."""
    folders: dict[Build, Path] = {}

    def build(builder: Build) -> Path:
        if builder not in folders:
            folders[builder] = builder(tmp_path_factory.mktemp("model") / "1")
        return folders[builder]

    return build
