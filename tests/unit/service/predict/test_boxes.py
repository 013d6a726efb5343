"""The objects of one picture, from whatever a detector gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from darkroom.models.saved_model.front.geometry import place
from darkroom.models.saved_model.output_kinds import Detection
from darkroom.models.spec import PictureFit
from darkroom.service.predict.boxes import objects_in

BOXES = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]], np.float32)
WHERE = place(PictureFit(), 100, 200)
LABELS = ("cat", "dog")


def found(threshold: float | None = None, **named: Any) -> list[dict[str, object]]:
    names: dict[str, Any] = {name: name for name in named}
    detection = Detection(**names)
    others = {name: np.array(value, np.float32) for name, value in named.items()}
    return objects_in(BOXES, detection, WHERE, others, labels=LABELS, threshold=threshold)


def test_boxes_alone_are_objects_with_edges_only() -> None:
    assert found() == [
        {"left": 0.0, "top": 0.0, "right": 50.0, "bottom": 100.0},
        {"left": 50.0, "top": 100.0, "right": 100.0, "bottom": 200.0},
    ]


def test_only_as_many_boxes_as_the_count_says_are_objects() -> None:
    assert [len(found(count=count)) for count in (0, 1, [1], -1, 9)] == [0, 1, 1, 0, 2]


def test_a_score_at_the_threshold_counts_and_one_that_is_no_number_does_not() -> None:
    assert [each["score"] for each in found(0.5, scores=[0.5, np.nan])] == [0.5]
    assert len(found(scores=[0.5, np.nan])) == 2


def test_scores_of_every_class_give_the_class_too() -> None:
    objects = found(scores=[[0.25, 0.75], [0.5, 0.125]])
    assert [(each["class"], each["label"], each["score"]) for each in objects] == [(1, "dog", 0.75), (0, "cat", 0.5)]


@pytest.mark.parametrize(("number", "label"), [(0, "cat"), (1, "dog"), (2, None), (-1, None), (np.nan, "cat")])
def test_a_class_without_a_label_has_none(number: float, label: str | None) -> None:
    assert found(classes=[number, 0])[0].get("label") == label
