"""What `darkroom check` tells of a model that takes pictures as tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from darkroom.models.engine import LoadedModel
from darkroom.models.engines.fakes import EchoEngine
from darkroom.models.saved_model.reader import read_meta_graph, read_signatures
from darkroom.models.spec import ModelSpec
from darkroom.service.cli.presets import picture_lines
from tests import savedmodels

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("shape", "what", "said"),
    [
        ((None, 8, 8, 3), "x takes numbers, 8x8 with 3 channels, nhwc", """{"default": {"preprocess": "PRESET"}}"""),
        (
            (None, None, None, 3),
            "x takes numbers, any size with 3 channels, nhwc",
            """{"default": {"preprocess": "PRESET", "size": [224, 224]}}""",
        ),
    ],
)
def test_what_is_to_be_typed_for_image_files_says_the_size_where_the_model_takes_any(
    tmp_path: Path, shape: tuple[int | None, ...], what: str, said: str
) -> None:
    folder = savedmodels.pixels(tmp_path / "1", shape=shape)
    specs, _ = read_signatures(read_meta_graph(folder))
    model = LoadedModel(ModelSpec("m", 1, specs), {"serving_default": EchoEngine(specs["serving_default"])})
    first, *_, last = picture_lines(folder, model, "serving_default", None)
    assert what in first
    assert f"--pictures='{said}'" in last
