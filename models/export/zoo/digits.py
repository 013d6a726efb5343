"""A small network for handwritten digits, white on black, 28x28 grey. It is trained here in seconds, with JPEG noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from darkroom.models.export.errors import ExportFailed
from darkroom.models.export.export import check_free, export_image_model
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.front.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIDE_PIXELS: Final = 28
MIN_ACCURACY: Final = 0.97
_INK_PIXELS: Final = 20  # the digit's size; a black border of 4 pixels is around it, as in MNIST
_HELD_OUT: Final = 0.2
_COPIES: Final = 8  # augmented copies of each training picture: 11,496 in all
EPOCHS: Final = 15
_BATCH: Final = 128
_LEARNING_RATE: Final = 3e-3
_SEED: Final = 1
_SAMPLE_QUALITY: Final = 90


class Pictures(NamedTuple):
    """Pictures `uint8[n, 28, 28, 1]` and the digits `int64[n]` that they show."""

    pixels: np.ndarray
    digits: np.ndarray


def build(
    base_path: Path,
    *,
    version: int,
    wire: str,
    reduced_scale: bool = False,
    force: bool,
    progress: Callable[[str], None],
    epochs: int = EPOCHS,
) -> Path:
    """Writes `base_path/<version>` and returns that folder; see `darkroom.models.export.zoo.build`.

    Raises:
        ExportFailed: the version exists, or the accuracy on the held-out pictures is below MIN_ACCURACY.
    """
    check_free(base_path, version, force=force)
    training, held_out = load_pictures()
    progress(f"digits: training on {len(training.digits) * _COPIES:,} pictures, {epochs} epochs")
    model = train(training, progress, epochs=epochs)
    is_right = model(_scaled(held_out.pixels)).numpy().argmax(axis=1) == held_out.digits
    progress(f"digits: test accuracy {is_right.mean():.2%} on {len(is_right)} held-out pictures")
    if is_right.mean() < MIN_ACCURACY:
        raise ExportFailed(f"digits: accuracy {is_right.mean():.2%} is under {MIN_ACCURACY:.0%}; nothing was written")
    labels = tuple(str(digit) for digit in range(10))
    return export_image_model(
        model, base_path, recipe(wire, reduced_scale=reduced_scale), version=version, labels=labels, force=force
    )


def recipe(wire: str = "base64", *, reduced_scale: bool = False) -> Recipe:
    """Returns the recipe of the network's input: 28x28 grey, from 0 to 1."""
    return Recipe(size=(SIDE_PIXELS, SIDE_PIXELS), channels=1, wire=wire, reduced_scale=reduced_scale)


def sample_digits() -> list[tuple[int, bytes]]:
    """Returns a JPEG of each digit from 0 to 9, as (digit, picture bytes). None of them was used for training."""
    _, held_out = load_pictures()
    firsts = [held_out.pixels[np.argmax(held_out.digits == digit)] for digit in range(10)]
    return [(digit, tf.io.encode_jpeg(each, quality=_SAMPLE_QUALITY).numpy()) for digit, each in enumerate(firsts)]


def load_pictures() -> tuple[Pictures, Pictures]:
    """Returns 1,437 training pictures and 360 held-out pictures. The split is fixed; both have every digit."""
    data = load_digits()
    ink = tf.image.resize(data.images[..., None] * (255 / 16), (_INK_PIXELS, _INK_PIXELS), method="bicubic")
    border = (SIDE_PIXELS - _INK_PIXELS) // 2
    pixels = np.pad(_to_uint8(ink), ((0, 0), (border, border), (border, border), (0, 0)))
    digits = data.target.astype(np.int64)
    split = train_test_split(pixels, digits, test_size=_HELD_OUT, random_state=0, stratify=digits)
    return Pictures(split[0], split[2]), Pictures(split[1], split[3])


def train(training: Pictures, progress: Callable[[str], None], *, epochs: int = EPOCHS) -> Any:
    """Returns the trained Keras model. On one machine with one TensorFlow version the weights are always the same."""
    tf.keras.utils.set_random_seed(_SEED)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(_SEED)
    copies = _scaled(np.concatenate([_augment(training.pixels, rng) for _ in range(_COPIES)]))
    digits = np.tile(training.digits, _COPIES)
    model = _network()
    starts = range(0, len(copies), _BATCH)
    model.compile(
        tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, EPOCHS * len(starts))),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    for epoch in range(epochs):
        order = rng.permutation(len(copies))
        for start in starts:  # not fit(): its tf.data pipeline logs errors of TensorFlow itself, and is not faster here
            rows = order[start : start + _BATCH]
            loss = model.train_on_batch(copies[rows], digits[rows])
        progress(f"digits: epoch {epoch + 1} of {epochs}, loss {loss:.3f}")
    return model


def _network() -> Any:
    """Returns a network of 38,970 weights.

    It has one convolution of stride 4. Two of stride 2 took a third more time at n = 64 and were not more accurate.
    """
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input((SIDE_PIXELS, SIDE_PIXELS, 1)),
            layers.Conv2D(16, 7, strides=4, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(48, activation="relu"),
            layers.Dense(10),
        ]
    )


def _augment(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns each picture a little rotated, sheared, scaled, moved, dimmed, with noise, and JPEG-compressed, at random."""
    count = len(pixels)
    angle, shear = rng.uniform(-0.2, 0.2, count), rng.uniform(-0.15, 0.15, count)
    scale = rng.uniform(0.8, 1.2, (2, count))
    move = rng.uniform(-2.5, 2.5, (2, count))
    # Output (x, y) is input (a x + b y + c, d x + e y + f); c and f rotate it about the centre and move it.
    a, b = np.cos(angle) / scale[0], shear - np.sin(angle)
    d, e = np.sin(angle), np.cos(angle) / scale[1]
    middle = (SIDE_PIXELS - 1) / 2
    c, f = middle * (1 - a - b) + move[0], middle * (1 - d - e) + move[1]
    nothing = np.zeros(count)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels.astype(np.float32),
        transforms=np.stack([a, b, c, d, e, f, nothing, nothing], axis=1).astype(np.float32),
        output_shape=[SIDE_PIXELS, SIDE_PIXELS],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    ).numpy()
    each = (count, 1, 1, 1)
    noisy = moved * rng.uniform(0.6, 1.1, each) + rng.normal(0, 1, moved.shape) * rng.uniform(0, 12, each)
    qualities = rng.integers(30, 96, count)
    jpegs = [
        tf.io.encode_jpeg(picture, quality=int(quality))
        for picture, quality in zip(_to_uint8(noisy), qualities, strict=True)
    ]
    return np.stack([np.asarray(tf.io.decode_jpeg(jpeg, channels=1).numpy(), np.uint8) for jpeg in jpegs])


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """Scales pixels from 0 to 1, as the recipe does."""
    return pixels / np.float32(255)


def _to_uint8(pixels: Any) -> np.ndarray:
    return np.asarray(np.clip(np.rint(pixels), 0, 255), np.uint8)
