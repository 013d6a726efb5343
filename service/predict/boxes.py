"""Boxes of a detector in the pixels of the picture that the client sent, and the objects in them. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from darkroom.models.saved_model.front.geometry import orientation_of, place
from darkroom.models.spec import PictureFit
from darkroom.service.predict.image_guard import measure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from darkroom.models.saved_model.front.geometry import Placement
    from darkroom.models.saved_model.output_kinds import Detection

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
_DECIMALS = 3  # of a pixel
_TURNED = 5  # the first of the EXIF orientations that exchange width and height


def placements(pictures: Sequence[bytes], fit: PictureFit | None) -> list[Placement]:
    """Where the model's input lies in each encoded picture; None as `fit`: it is the whole picture.

    Raises:
        InvalidInput: the size of a picture cannot be read.
    """
    fit = fit or PictureFit()
    placed = []
    for data in pictures:
        _, width, height, _, _ = measure(data)
        is_turned = fit.orient and orientation_of(data) >= _TURNED
        placed.append(place(fit, height, width) if is_turned else place(fit, width, height))
    return placed


def to_pixels(boxes: Array, detection: Detection, placement: Placement) -> Array:
    """Boxes `[k, 4]` of one picture in its own pixels, cut at its edges, as float32 in the same order."""
    found = edges(boxes.astype(np.float32), detection.order) / _whole(detection)
    found = found * np.tile(placement.scales, 2) + np.tile(placement.offsets, 2)
    found = np.clip(found, 0.0, np.tile([placement.height, placement.width], 2))
    return _in_order(found.round(_DECIMALS), detection.order).astype(np.float32)


def _whole(detection: Detection) -> Array:
    """What the edges of a box that covers the model's input are."""
    is_pixels = detection.unit == "pixels" and detection.fit is not None
    return np.tile(np.asarray(detection.fit.size if is_pixels and detection.fit else (1, 1), np.float32), 2)


def objects_in(
    boxes: Array,
    detection: Detection,
    placement: Placement,
    others: Mapping[str, Array],
    *,
    labels: Sequence[str],
    threshold: float | None,
) -> list[dict[str, object]]:
    """The objects of one picture: their edges in its pixels, score, class and label, as far as the model gives them.

    Args:
        boxes: `[k, 4]`, as the model gives them.
        detection: what belongs to the boxes.
        placement: where the model's input lies in the picture.
        others: of the outputs that belong to the boxes, the values of this picture: scores `[k]` or `[k, classes]`,
            classes `[k]`, the count.
        labels: of the model.
        threshold: objects with a smaller score are left out; None: none are.
    """
    scores, numbers = others.get(detection.scores), others.get(detection.classes)
    if scores is not None and scores.ndim > 1:
        numbers = scores.argmax(-1) if numbers is None else numbers
        scores = scores.max(-1)
    count = len(boxes) if detection.count not in others else int(np.ravel(others[detection.count])[0])
    found = edges(to_pixels(boxes, detection, placement), detection.order)
    objects = []
    for index in range(min(max(count, 0), len(boxes))):
        if threshold is not None and scores is not None and not scores[index] >= threshold:
            continue
        each: dict[str, object] = dict(zip(("top", "left", "bottom", "right"), found[index], strict=True))
        if scores is not None:
            each["score"] = np.float32(scores[index])
        if numbers is not None:
            each |= _named(numbers[index], detection, labels)
        objects.append(each)
    return objects


def _named(number: Any, detection: Detection, labels: Sequence[str]) -> dict[str, object]:
    """The class of an object, and its label if it has one."""
    found = int(np.nan_to_num(np.float64(number)))
    place_of = found - detection.first_class
    return {"class": found} | ({"label": labels[place_of]} if 0 <= place_of < len(labels) else {})


def edges(boxes: Array, order: str) -> Array:
    """Boxes `[k, 4]` in any order as top, left, bottom, right."""
    if order in {"yxyx", "xyxy"}:
        return boxes if order == "yxyx" else boxes[:, [1, 0, 3, 2]]
    size = boxes[:, 3:1:-1]
    start = boxes[:, 1::-1] - (size / 2 if order == "cxcywh" else 0)
    return np.concatenate([start, start + size], -1)


def _in_order(found: Array, order: str) -> Array:
    """The inverse of `edges`."""
    if order in {"yxyx", "xyxy"}:
        return found if order == "yxyx" else found[:, [1, 0, 3, 2]]
    size = found[:, 2:] - found[:, :2]
    start = found[:, :2] + (size / 2 if order == "cxcywh" else 0)
    return np.concatenate([start, size], -1)[:, [1, 0, 3, 2]]
