"""What is seen in a user's own model decides how it is exported, or the export stops and says which flag it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darkroom.models.errors import LoadFailed
from darkroom.models.export.errors import ExportFailed
from darkroom.models.export.export import load_reference
from darkroom.models.export.own_model import export_own_model
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.front.preprocess import Preprocess
from tests.pictures import photograph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIDE = 12
WEIGHTS = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
PICTURE = photograph("coffee")


def network(scale: Callable[[Any], Any], activation: Callable[[Any], Any], *, classes: int = 4) -> Callable[[Any], Any]:
    """A model of pixels: scaled, averaged, times a matrix, activated."""

    def model(x: Any) -> Any:
        return activation(tf.matmul(tf.reduce_mean(scale(x), [1, 2]), tf.constant(WEIGHTS[:, :classes])))

    return model


def export(model: Any, tmp_path: Path, answers: str = "", **said: Any) -> Any:
    """Exports a callable; returns the new signature and the lines that were printed."""
    lines: list[str] = []
    path = export_own_model(
        model,
        tmp_path / "m",
        Preprocess(wire="bytes", **{"size": (SIDE, SIDE)} | said),
        answers=answers,
        progress=lines.append,
    )
    return tf.saved_model.load(str(path)).signatures["serving_default"], lines


def direct(model: Callable[[Any], Any], *, scale: float = 1.0) -> Any:
    """The model's own answer to the picture."""
    return model(tf.image.resize(tf.io.decode_jpeg(PICTURE, 3), [SIDE, SIDE])[tf.newaxis] * scale)


@pytest.mark.parametrize(
    ("scale", "activation", "said", "output"),
    [
        (lambda x: x / 255.0, tf.nn.softmax, {}, "raw probability"),
        (lambda x: x * (1 / 127.5) - 1.0, tf.nn.softmax, {}, "raw probability"),
        (lambda x: (x - [123.0, 116.0, 103.0]) / 58.0, tf.nn.softmax, {}, "raw probability"),
        (lambda x: x * 255.0, tf.nn.softmax, {}, "unit probability"),
        (lambda x: x / 255.0, tf.nn.sigmoid, {}, "raw output_0"),
        (lambda x: x, tf.nn.softmax, {"preprocess": "unit"}, "unit probability"),
        (lambda x: x / 255.0, tf.nn.softmax, {"preprocess": "unit"}, "unit probability"),
    ],
    ids=["/ 255", "to -1..1", "mean and std", "from 0..1", "sigmoid", "said", "said against what is seen"],
)
def test_the_export_gives_the_model_s_own_answer(
    tmp_path: Path,
    scale: Callable[[Any], Any],
    activation: Callable[[Any], Any],
    said: dict[str, Any],
    output: str,
) -> None:
    kind, answers = output.split()
    model = network(scale, activation)
    signature, lines = export(model, tmp_path, **said)
    expected = direct(model, scale=1 / 255 if kind == "unit" else 1.0)
    np.testing.assert_allclose(signature(images=tf.constant([PICTURE]))[answers], expected, rtol=1e-4, atol=1e-6)
    assert lines[-1].startswith("one picture")
    assert any(f"takes {kind} pixels" in line for line in lines) is not bool(said)


def test_logits_get_a_softmax_or_stay_as_they_are_as_the_flag_says(tmp_path: Path) -> None:
    model = network(lambda x: x / 255.0, tf.identity)
    with pytest.raises(ExportFailed, match="--answers=logits adds a softmax, --answers=values leaves"):
        export(model, tmp_path)
    for answers, output, expected in (
        ("logits", "probability", tf.nn.softmax(direct(model))),
        ("values", "output_0", direct(model)),
    ):
        signature, _ = export(model, tmp_path / answers, answers)
        np.testing.assert_allclose(signature(images=tf.constant([PICTURE]))[output], expected, rtol=1e-4, atol=1e-6)


def test_several_heads_keep_their_names_and_shapes(tmp_path: Path) -> None:
    def model(x: Any) -> Any:
        return {"boxes": x[:, :2, :2, 0] / 255.0, "score": tf.reduce_mean(x / 255.0, [1, 2, 3])}

    signature, _ = export(model, tmp_path, preprocess="raw")
    answer = signature(images=tf.constant([PICTURE, PICTURE]))
    assert {name: tuple(value.shape) for name, value in answer.items()} == {"boxes": (2, 2, 2), "score": (2,)}


@pytest.mark.parametrize("scale", [lambda x: x, lambda x: x * 1.5, lambda x: x - 0.5], ids=["none", "* 1.5", "- 0.5"])
def test_a_range_that_can_not_be_known_is_asked_for(tmp_path: Path, scale: Callable[[Any], Any]) -> None:
    with pytest.raises(ExportFailed, match="must be said: --preprocess=tf"):
        export(network(scale, tf.nn.softmax), tmp_path)
    assert not (tmp_path / "m").exists()


def test_a_model_that_can_not_be_traced_or_labelled_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match=r"it cannot be traced for float32\[None, 12, 12, 3\]"):
        export(lambda x: tf.reshape(x, [-1, 5]) @ tf.ones([7, 2]), tmp_path)
    with pytest.raises(LoadFailed, match="'caffe' is for 3 channels"):
        export_own_model(
            network(tf.identity, tf.nn.softmax),
            tmp_path / "m",
            Preprocess(preprocess="caffe"),
            channels=1,
            progress=lambda _: None,
        )
    (tmp_path / "broken.keras").write_bytes(b"no zip")
    with pytest.raises(ExportFailed, match=r"cannot load it: .* package\.module:factory"):
        load_reference(str(tmp_path / "broken.keras"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras saves its weights so
@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_a_keras_file_says_its_size_channels_scaling_and_activation_itself(tmp_path: Path, kind: str) -> None:
    layers = tf.keras.layers
    scaled = [layers.Input((10, 14, 1)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3, "softmax")]
    model = tf.keras.Sequential(scaled)
    model.save(tmp_path / f"mine.{kind}")
    path = export_own_model(
        load_reference(str(tmp_path / f"mine.{kind}")),
        tmp_path / "m",
        Preprocess(wire="bytes"),
        progress=lambda _: None,
    )
    answer = tf.saved_model.load(str(path)).signatures["serving_default"](images=tf.constant([PICTURE]))
    pixels = tf.image.resize(tf.io.decode_jpeg(PICTURE, 1), [10, 14])[tf.newaxis]
    np.testing.assert_allclose(answer["probability"], model(pixels), rtol=1e-4, atol=1e-6)
