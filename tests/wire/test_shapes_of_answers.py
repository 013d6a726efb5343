"""A request whose parts are answered in different shapes runs again whole, as TensorFlow would have run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from darkroom.models.engine import LoadedModel, PassReport
from darkroom.models.engines.fakes import ECHO
from darkroom.models.rows import Rows
from darkroom.models.spec import ModelSpec, SignatureSpec, TensorSpec
from tests.pictures import picture, url_safe
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = SignatureSpec(
    name="serving_default",
    inputs=ECHO.inputs,
    outputs=(TensorSpec("boxes", "int64", (None, None)),),
    wire=ECHO.wire,
    image_input="images",
    formats=ECHO.formats,
)


class Padded:
    """Answers each picture's length, padded with zeros to as many columns as the call had rows, at most 3."""

    spec = SPEC
    passes: tuple[PassReport, ...] = ()

    def __init__(self) -> None:
        self.calls: list[int] = []

    def run(self, rows: Rows) -> Rows:
        self.calls.append(len(rows))
        boxes = np.zeros((len(rows), min(len(rows), 3)), np.int64)
        boxes[:, 0] = [len(data) for data in rows.columns["images"]]
        return Rows({"boxes": boxes})

    def close(self) -> None: ...


@pytest.fixture
def engine() -> Padded:
    return Padded()


@pytest.fixture
def url(engine: Padded) -> Iterator[str]:
    model = LoadedModel(ModelSpec("default", 1, {"serving_default": SPEC}), {"serving_default": engine})
    with running(model, max_batch_images=4) as server:
        yield server.url


def test_parts_of_different_shapes_run_again_whole(url: str, engine: Padded) -> None:
    pictures = [picture(seed) for seed in range(5)]
    answer = httpx.post(url + "/", json={"data": {"images": [url_safe(data) for data in pictures]}})
    assert answer.status_code == 200
    assert answer.json() == {"boxes": [[len(data), 0, 0] for data in pictures]}
    assert engine.calls[-1] == 5, "one call for the whole request"


def test_parts_of_one_shape_are_joined(url: str, engine: Padded) -> None:
    pictures = [picture(seed) for seed in range(8)]
    answer = httpx.post(url + "/", json={"data": {"images": [url_safe(data) for data in pictures]}})
    assert answer.json() == {"boxes": [[len(data), 0, 0] for data in pictures]}
    assert 8 not in engine.calls
