"""The classes of Triton's classification extension: value, index and label of the largest values."""

from __future__ import annotations

import numpy as np
import pytest

from darkroom.models.errors import InvalidInput
from darkroom.models.spec import ModelSpec
from darkroom.service.api.open_inference.response import classify


def classes(
    column: np.ndarray[tuple[int, ...], np.dtype[np.generic]], model: ModelSpec, k: int = 2
) -> list[list[bytes]]:
    made = classify(column, k, model.labels, "y", own=model.output_labels.get("y"))
    assert isinstance(made, np.ndarray)
    return made.tolist()  # type: ignore[no-any-return]  # nested lists


def test_whole_numbers_are_written_whole_and_floats_with_six_places() -> None:
    model = ModelSpec("m", 1, {})
    assert classes(np.array([[1, 10, 5]], np.int32), model) == [[b"10:1", b"5:2"]]
    assert classes(np.array([[1, 10, 5]], np.float32), model) == [[b"10.000000:1", b"5.000000:2"]]


def test_an_output_with_labels_of_its_own_has_these_as_far_as_they_go() -> None:
    model = ModelSpec("m", 1, {}, labels=("a", "b", "c"), output_labels={"y": ("one", "two")})
    assert classes(np.array([[1, 3, 2]], np.uint8), model, 3) == [[b"3:1:two", b"2:2", b"1:0:one"]]


def test_another_one_has_the_model_s_if_there_are_as_many_as_values() -> None:
    model = ModelSpec("m", 1, {}, labels=("a", "b", "c"))
    assert classes(np.array([[1, 3, 2]], np.uint8), model) == [[b"3:1:b", b"2:2:c"]]
    assert classes(np.array([[1, 3]], np.uint8), model) == [[b"3:1", b"1:0"]]


def test_what_is_no_vector_of_numbers_has_no_classes() -> None:
    with pytest.raises(InvalidInput, match="holds no vector of numbers a row"):
        classes(np.array([1, 2]), ModelSpec("m", 1, {}))
