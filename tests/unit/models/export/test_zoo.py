"""The registry of the zoo, and its models."""

from base64 import urlsafe_b64encode
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from darkroom.models.export.zoo import (
    ZOO,
    ExportFailed,
    MissingPackage,
    UnknownZooModel,
    build,
    digits,
    efficientnet_lite0,
    require,
)

PHOTOGRAPHS = Path(__file__).parents[3] / "images"
CONVOLUTIONS_OF_A_BLOCK = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}


def ignore(_line: str) -> None:
    """No progress is wanted."""


def answers(folder: Path, pictures: list[bytes]) -> tuple[list[str], np.ndarray]:
    """The label and the probabilities of each picture."""
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    answer = signature(tf.constant([urlsafe_b64encode(picture) for picture in pictures]))
    labels = (folder / "assets.extra" / "labels.txt").read_text(encoding="utf-8").splitlines()
    return [labels[index] for index in answer["predict"].numpy()], answer["probability"].numpy()


def test_an_unknown_name_is_answered_with_those_that_ship(tmp_path: Path) -> None:
    with pytest.raises(UnknownZooModel, match=r"'mnist' .*digits, efficientnet_lite0"):
        build("mnist", tmp_path, progress=ignore)


def test_a_missing_package_is_named_with_the_remedy() -> None:
    with pytest.raises(MissingPackage, match=r"no-such-package: .*requirements/models\.txt.*`make models`"):
        require(("numpy", "no-such-package"), wanted_by="digits")


@pytest.mark.parametrize("name", ZOO)
def test_every_model_of_the_registry_has_its_packages_and_a_build(name: str) -> None:
    require(ZOO[name].packages, wanted_by=name)
    assert callable(import_module(ZOO[name].module).build)


@pytest.mark.parametrize("name", ZOO)
def test_a_version_that_exists_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "1").mkdir()
    lines: list[str] = []
    with pytest.raises(ExportFailed, match="exists"):
        build(name, tmp_path, progress=lines.append)
    assert lines == []


@pytest.mark.slow
def test_digits_reaches_its_accuracy_and_knows_its_samples(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = build("digits", tmp_path, progress=lines.append)
    accuracy = next(line for line in lines if "test accuracy" in line)
    assert float(accuracy.split("accuracy ")[1].split("%")[0]) >= 100 * digits.MIN_ACCURACY
    samples = digits.sample_digits()
    assert [digit for digit, _ in samples] == list(range(10))
    labels, _ = answers(folder, [picture for _, picture in samples])
    assert labels == list("0123456789")


def test_digits_that_are_not_learnt_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="is under 97%"):
        digits.build(tmp_path, version=1, wire="base64", force=False, progress=ignore, epochs=0)
    assert list(tmp_path.iterdir()) == []


def test_the_held_out_digits_are_not_in_the_training_set() -> None:
    training, held_out = digits.load_pictures()
    assert (len(training.digits), len(held_out.digits)) == (1437, 360)
    seen = {picture.tobytes() for picture in training.pixels}
    assert not seen & {picture.tobytes() for picture in held_out.pixels}


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("efficientnet_lite0", tmp_path_factory.mktemp("efficientnet"), progress=ignore)


def test_efficientnet_names_the_cat_and_the_coffee(efficientnet: Path) -> None:
    pictures = [(PHOTOGRAPHS / name).read_bytes() for name in ("chelsea.jpg", "coffee.jpg")]
    labels, probability = answers(efficientnet, pictures)
    assert labels == ["Egyptian cat", "espresso"]
    assert probability.max(axis=1) == pytest.approx([0.780, 0.905], abs=0.01)


def test_efficientnet_carries_the_licences_of_its_weights_and_labels(efficientnet: Path) -> None:
    notice = (efficientnet / "assets.extra" / "NOTICE.txt").read_text(encoding="utf-8")
    assert "Apache License, Version 2.0" in notice
    assert "MIT License" in notice


def test_the_labels_are_a_thousand_different_names() -> None:
    labels = efficientnet_lite0.labels()
    assert len(labels) == len(set(labels)) == efficientnet_lite0.CLASSES
    assert (labels[0], labels[285], labels[967]) == ("tench", "Egyptian cat", "espresso")


def plain_network(weights: dict[str, np.ndarray], x: Any) -> Any:
    """The network as its paper writes it, with every batch norm where it was: convolution, norm, ReLU6."""

    def layer(x: Any, conv: str, norm: str, stride: int) -> Any:
        kernel = weights[f"{conv}.weight"]
        if conv.endswith("_depthwise_conv"):
            y = tf.nn.depthwise_conv2d(x, kernel.transpose(2, 3, 0, 1), [1, stride, stride, 1], "SAME")
        else:
            y = tf.nn.conv2d(x, kernel.transpose(2, 3, 1, 0), stride, "SAME")
        parts = [weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "bias", "weight")]
        return tf.nn.batch_normalization(y, *parts, variance_epsilon=1e-3)

    x = tf.nn.relu6(layer(x, "_conv_stem", "_bn0", 2))
    for index in range(16):
        y = x
        for conv, norm in CONVOLUTIONS_OF_A_BLOCK.items():
            name = f"_blocks.{index}.{conv}"
            if f"{name}.weight" in weights:
                stride = 2 if conv == "_depthwise_conv" and index in {1, 3, 5, 11} else 1
                y = layer(y, name, f"_blocks.{index}.{norm}", stride)
                y = y if conv == "_project_conv" else tf.nn.relu6(y)
        x = x + y if x.shape == y.shape else y
    x = tf.reduce_mean(tf.nn.relu6(layer(x, "_conv_head", "_bn1", 1)), axis=[1, 2])
    return tf.matmul(x, weights["_fc.weight"], transpose_b=True) + weights["_fc.bias"]


def test_folding_the_batch_norms_moves_no_probability_by_more_than_1e_5() -> None:
    weights = efficientnet_lite0.read_weights()
    pixels = [tf.io.decode_jpeg((PHOTOGRAPHS / f"{name}.jpg").read_bytes()) for name in ("chelsea", "rocket")]
    x = (tf.stack([tf.image.resize(each, (224, 224)) for each in pixels]) - 127.0) / 128.0
    folded = tf.nn.softmax(efficientnet_lite0.EfficientNetLite0(weights)(x))
    np.testing.assert_allclose(folded, tf.nn.softmax(plain_network(weights, x)), atol=1e-5)
