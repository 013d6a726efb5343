"""Where a box of the model's input lies in the picture, against what the decode front makes of pictures."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.models.errors import LoadFailed
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.front.decode import model_input
from darkroom.models.saved_model.front.geometry import fit_of, orientation_of, place, read_fit
from darkroom.models.saved_model.front.orientation import orientation
from darkroom.models.saved_model.front.recipe import Recipe
from darkroom.models.saved_model.output_kinds import Detection
from darkroom.models.spec import PictureFit
from darkroom.service.predict.boxes import placements, to_pixels
from tests.pictures import photograph, red_square

SQUARE = (300, 160, 380, 280)  # left, top, right, bottom
OTHER = red_square(SQUARE, orientation=6)


@cache
def front(fit: PictureFit) -> Any:
    recipe = Recipe(size=fit.size, fit=fit.fit, orient=fit.orient, std=1.0, wire="bytes")
    return tf.function(lambda images: model_input(images, recipe), input_signature=[tf.TensorSpec([None], tf.string)])


def found(picture: bytes, fit: PictureFit) -> Any:
    """The edges of the red square in the model's input, as fractions: top, left, bottom, right."""
    (x,) = front(fit)(tf.constant([picture])).numpy()
    down, across = np.nonzero((x[..., 0] > 150) & (x[..., 1:].max(-1) < 100))
    edges = [down.min(), across.min(), down.max() + 1, across.max() + 1]
    return np.array([edges], np.float32) / np.tile(fit.size, 2).astype(np.float32)


@cache
def in_the_graph() -> Any:
    """The orientation of a picture, read in a graph of a session, as a server does."""
    with tf.Graph().as_default() as graph:
        data = tf.compat.v1.placeholder(tf.string, [])
        found = orientation(data)
    session = tf.compat.v1.Session(graph=graph)
    return lambda picture: int(session.run(found, {data: picture}))


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("picture_size", [(640, 480), (333, 431)])
def test_a_box_in_the_model_s_input_lies_where_the_picture_has_it(
    size: tuple[int, int], fit: str, picture_size: tuple[int, int]
) -> None:
    laid = PictureFit(size, fit)
    width, height = picture_size
    left, top, right, bottom = (width // 2 - 40, height // 2 - 30, width // 2 + 40, height // 2 + 30)
    picture = red_square((left, top, right, bottom), size=picture_size, kind="PNG")
    (where,) = placements([picture], laid)
    box = to_pixels(found(picture, laid), Detection(fit=laid), where)[0]
    most = max(np.divide(where.scales, size))  # a pixel of the model's input
    np.testing.assert_allclose(box, [top, left, bottom, right], atol=most)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("oriented", range(1, 9))
def test_a_turned_picture_has_its_boxes_where_a_viewer_shows_them(oriented: int, fit: str) -> None:
    laid = PictureFit((64, 64), fit, orient=True)
    picture = red_square(SQUARE, orientation=oriented)
    assert orientation_of(picture) == in_the_graph()(picture) == oriented
    (where,) = placements([picture], laid)
    assert (where.width, where.height) == (640, 480)
    box = to_pixels(found(picture, laid), Detection(fit=laid), where)[0]
    np.testing.assert_allclose(box, [160, 300, 280, 380], atol=10)


def test_without_orient_the_boxes_are_those_of_the_stored_picture() -> None:
    (where,) = placements([OTHER], PictureFit((64, 64), "pad"))
    assert (where.width, where.height) == (480, 640)


@pytest.mark.parametrize("order", ["yxyx", "xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("unit", ["normalised", "pixels"])
def test_boxes_come_back_in_the_order_and_from_the_unit_that_the_model_has(order: str, unit: str) -> None:
    box = {
        "yxyx": [0.25, 0.5, 0.75, 1.0],
        "xyxy": [0.5, 0.25, 1.0, 0.75],
        "xywh": [0.5, 0.25, 0.5, 0.5],
        "cxcywh": [0.75, 0.5, 0.5, 0.5],
    }[order]
    fit = PictureFit((100, 100), "stretch")
    given_box = np.array([box], np.float32) * (100 if unit == "pixels" else 1)
    made = to_pixels(given_box, Detection(order=order, unit=unit, fit=fit), place(fit, 400, 200))
    across, down = np.array([400.0, 200.0])
    scale = [down, across, down, across] if order == "yxyx" else [across, down, across, down]
    np.testing.assert_allclose(made[0], np.multiply(box, scale))


def test_a_box_beyond_the_picture_is_cut_at_its_edges() -> None:
    fit = PictureFit((64, 64), "pad")
    made = to_pixels(np.array([[0.0, -1.0, 1.0, 2.0]]), Detection(fit=fit), place(fit, 640, 480))
    assert made.tolist() == [[0.0, 0.0, 480.0, 640.0]]


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_the_orientation_is_the_one_that_the_graph_reads_whatever_the_bytes(data: st.DataObject) -> None:
    picture = bytearray(OTHER[:400])
    for _ in range(data.draw(st.integers(0, 3))):
        picture[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    cut = bytes(picture[: data.draw(st.integers(0, 400))])
    assert orientation_of(cut) == in_the_graph()(cut)


def test_a_photograph_without_exif_is_upright() -> None:
    assert orientation_of(photograph("chelsea")) == 1
    assert orientation_of(b"") == 1


@pytest.mark.parametrize(
    "said", [{"size": [0, 1]}, {"size": 3}, {"size": [1, 2, 3]}, {"fit": "squeeze"}, {"orient": 1}, {"side": 1}]
)
def test_a_fit_that_cannot_be_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        fit_of(said)


def test_what_an_export_wrote_is_read_and_anything_else_is_told(tmp_path: Any) -> None:
    assert read_fit(tmp_path) is None
    extra = tmp_path / "assets.extra"
    extra.mkdir()
    (extra / "front.json").write_text('{"size": [3, 4], "fit": "pad", "orient": true}')
    assert read_fit(tmp_path) == PictureFit((3, 4), "pad", orient=True)
    (extra / "front.json").write_text('{"size": [3')
    with pytest.raises(LoadFailed, match=r"front\.json"):
        read_fit(tmp_path)
