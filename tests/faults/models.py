"""The models of a run: a good one, whose answers are known, and others that misbehave on demand."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from darkroom.models.runtime.tensorflow import deprecation, tf
from tests import savedmodels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loadtest.traffic.pictures import Picture


def build(folder: Path, good: Path) -> dict[str, Path]:
    """The version folders of every model, by name; `default` is `good`, the others are new."""
    made = {
        "spin": savedmodels.spin,
        "raises": savedmodels.raises,
        "nan": savedmodels.nan,
        "few_rows": savedmodels.few_rows,
        "hungry": savedmodels.hungry,
    }
    return {"default": good} | {name: write(folder / name / "1") for name, write in made.items()}


def truth(folder: Path, pictures: Sequence[Picture]) -> dict[str, tuple[float, ...]]:
    """What TensorFlow itself says about each picture: its probabilities, by the plain signature, one at a time.

    Raises:
        ValueError: it says the same about two of them, so that swapped answers could not be noticed.
    """
    with deprecation.silence():
        signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    found = {}
    for picture in pictures:
        text = tf.constant([base64.urlsafe_b64encode(picture.data).decode()])
        found[picture.name] = tuple(signature(images=text)["probability"].numpy()[0].tolist())
    if len({tuple(round(each, 3) for each in row) for row in found.values()}) < len(found):
        raise ValueError("two pictures have the same answer")
    return found
