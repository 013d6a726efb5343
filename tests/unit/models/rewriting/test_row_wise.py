"""A signature is batched only if each caller gets the answer, and the shape, that TensorFlow gives to its row alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.models.engines.open import prepare
from darkroom.models.rewriting import rewriter
from darkroom.models.runtime.tensorflow import SessionOptions, tf
from tests import savedmodels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from darkroom.models.spec import SignatureSpec


def down_the_columns(x: Any) -> Any:
    return tf.where(x > 500.0, tf.cumsum(x, axis=1), x)


# What a layer makes of float32[n, 4]; about half of them look at other rows, some only beyond a limit no sample reaches.
LAYERS: dict[str, Callable[[Any], Any]] = {
    "scale": lambda x: x * 1.5,
    "softmax": tf.nn.softmax,
    "own maximum": lambda x: x - tf.reduce_max(x, 1, keepdims=True),
    "attention": lambda x: tf.reshape(tf.matmul(*[tf.reshape(x, [-1, 2, 2])] * 2), [-1, 4]),
    "by row": lambda x: tf.map_fn(lambda row: row / (1.0 + tf.reduce_sum(tf.abs(row))), x),
    "brightest of all": lambda x: tf.cond(tf.reduce_max(x) > 500.0, lambda: x * 2.0, lambda: x),
    "any": lambda x: tf.where(tf.reduce_any(x < -500.0), x * 0.0, x),
    "neighbour": lambda x: x + tf.nn.relu(tf.roll(x, 1, 0) - 500.0),
    "first row": lambda x: x + x[:1],
    "sorted": lambda x: tf.sort(x, 0),
    "bright beside the first": lambda x: tf.where(x > 500.0, x - x[:1], x),
    "bright by rank": lambda x: (
        x + tf.where(x > 500.0, tf.reshape(tf.cast(tf.unique(tf.reshape(x, [-1]))[1], x.dtype), tf.shape(x)), 0.0)
    ),
    "bright down the columns": lambda x: tf.reshape(down_the_columns(tf.reshape(x, [4, -1])), [-1, 4]),
}
HEADS: dict[str, Callable[[Any], Any]] = {
    "same": lambda x: x,
    "sum": lambda x: tf.reduce_sum(x, 1),
    "open size": lambda x: tf.repeat(x, tf.shape(x)[1], axis=1)[:, : tf.shape(x)[1] * 2],
    "padded to the longest": lambda x: tf.sequence_mask(tf.reduce_sum(tf.cast(x > 0.0, tf.int32), 1)),
    "ragged": lambda x: tf.RaggedTensor.from_tensor(x[:, :3], padding=0.0).to_tensor(),
    "positive": lambda x: tf.ragged.boolean_mask(x, x > 0.0).to_tensor(),
}
VALUES = st.sampled_from([0.0, 0.5, -1.0, 3.0, -1000.0, 1000.0])


def spec_of(folder: Path) -> SignatureSpec:
    artifact = prepare(folder, name="m", version=1, options=SessionOptions())
    return artifact.spec.signatures["serving_default"]


def test_merged_rows_get_their_lone_answers_in_values_and_shape(tmp_path_factory: pytest.TempPathFactory) -> None:
    outcomes = set()

    @settings(max_examples=25, deadline=None, database=None)
    @given(
        st.lists(st.sampled_from(sorted(LAYERS)), max_size=2),
        st.sampled_from(sorted(HEADS)),
        st.lists(st.lists(VALUES, min_size=4, max_size=4), min_size=2, max_size=5),
    )
    def check(layers: list[str], head: str, rows: list[list[float]]) -> None:
        def network(x: Any) -> Any:
            for layer in layers:
                x = LAYERS[layer](x)
            return HEADS[head](x)

        folder = savedmodels.numbers(tmp_path_factory.mktemp("model") / "1", network)
        spec = spec_of(folder)
        outcomes.add(spec.batched)
        assert spec.batched or spec.unbatched_reason
        if spec.batched:
            batch = np.array(rows, np.float32)
            together = network(tf.constant(batch)).numpy()
            for index in range(len(batch)):
                alone = network(tf.constant(batch[index : index + 1])).numpy()
                np.testing.assert_allclose(together[index : index + 1], alone, rtol=1e-4, atol=1e-4, strict=True)

    check()
    assert outcomes == {True, False}


@pytest.mark.parametrize("shape", [(None, None, None, 3), (None, 9, None, 1)])
def test_pictures_of_any_size_are_proven_on_sizes_that_a_picture_has(
    tmp_path: Path, shape: tuple[int | None, ...]
) -> None:
    def pooled(x: Any) -> Any:  # 0/0 on fewer than 8 columns
        return tf.reduce_mean(tf.nn.avg_pool2d(x, (1, 8), (1, 8), "VALID"), [1, 2])

    assert spec_of(savedmodels.numbers(tmp_path / "1", pooled, shape=shape)).batched


def test_a_row_whose_answer_takes_the_shape_of_its_neighbours_is_served_alone(tmp_path: Path) -> None:
    spec = spec_of(savedmodels.numbers(tmp_path / "1", HEADS["padded to the longest"]))
    assert spec.unbatched_reason.startswith("output 'y' depends on the rows beside it: Max (")


@pytest.mark.parametrize("fault", [ValueError("all the input array dimensions must match"), MemoryError("3 GB")])
def test_a_proof_that_fails_in_our_own_code_means_unbatched_and_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fails(*_: object) -> str:
        raise fault

    monkeypatch.setattr(rewriter, "not_row_wise", fails)
    spec = spec_of(savedmodels.numbers(tmp_path / "1", lambda x: x))
    assert not spec.batched
    assert "cannot be proven row-wise" in spec.unbatched_reason


def test_a_branch_that_no_sample_takes_is_no_proof(tmp_path: Path) -> None:
    """A branch for a whole batch of texts, which no generated text takes."""

    def branch(_: Any, x: Any) -> dict[str, Any]:
        is_rare = tf.reduce_any(tf.equal(tf.strings.substr(x, 0, 4), b"rare"))
        return {"y": tf.cond(is_rare, lambda: tf.strings.length(x) * 0, lambda: tf.strings.length(x))}

    spec = spec_of(savedmodels._save(tmp_path / "1", branch, x=tf.TensorSpec([None], tf.string)))
    assert "the sample rows take one branch only" in spec.unbatched_reason


def row_groups(x: Any) -> Any:
    """Dense layers on a sequence, as Keras' tensordot does: all steps of all rows are rows of one matrix."""
    shape = tf.shape(x)
    steps = tf.matmul(tf.reshape(x, [shape[0] * shape[1], 3]), tf.ones([3, 2]))
    return tf.reduce_max(tf.reshape(steps, [shape[0], shape[1], 2]), 1)


def dilated(x: Any) -> Any:
    return tf.reduce_mean(tf.nn.conv2d(x, tf.ones([3, 3, 3, 2]), 1, "SAME", dilations=2), [1, 2])


def blocks(x: Any) -> Any:
    """Right where pictures are smaller than two blocks."""
    side = tf.maximum(tf.shape(x)[1] // 200, 1)
    parts = tf.space_to_batch(x[:, : side * 64, : side * 64], [side, side], [[0, 0], [0, 0]])
    return tf.reduce_mean(parts, [1, 2])


OPEN, SEQUENCE, PICTURE = (None, None), (None, None, 3), (None, None, None, 3)
Networks = dict[str, tuple[tuple[int | None, ...], "Callable[[Any], Any]"]]
ONE_SIZE_ONLY: Networks = {
    "four": (OPEN, lambda x: tf.reshape(x, [-1, 4])),
    "flat": (OPEN, lambda x: tf.reshape(x, [-1])),
    "quarter": (OPEN, lambda x: tf.reshape(x, [tf.size(x) // 4, 4])),
    "turned": (OPEN, lambda x: tf.reshape(x, [tf.shape(x)[1], -1])),
    "product": (OPEN, lambda x: tf.reshape(x, [tf.shape(x)[0] * tf.shape(x)[1], -1])),
    "reduced": (SEQUENCE, lambda x: tf.reduce_max(tf.reshape(x, [-1, 3]), 1)),
    "steps_first": (SEQUENCE, lambda x: tf.reshape(tf.transpose(x, [1, 0, 2]), [tf.shape(x)[0], -1, 3])[:, 0]),
    "tiled_pairs": (OPEN, lambda x: tf.reshape(tf.reshape(tf.tile(x, [1, 2]), [-1, 2]), [-1, 2])),
    "tiled_rows": (OPEN, lambda x: tf.tile(x, [tf.shape(x)[1], 1])[:, :1]),
    "broadcast": (OPEN, lambda x: x[:, :1] + tf.cast(tf.range(tf.shape(x)[1])[:, None], tf.float32)),
    "blocks": (PICTURE, blocks),
}
EVERY_SIZE: Networks = {
    "rows_first": (SEQUENCE, lambda x: tf.reshape(x, [tf.shape(x)[0], -1])),
    "computed": (SEQUENCE, lambda x: tf.reshape(x, [-1, tf.shape(x)[1] * 3])),
    "computed_sum": (SEQUENCE, lambda x: tf.reduce_sum(tf.reshape(x, [-1, tf.shape(x)[1] * 3]), 1)),
    "matmul": (OPEN, lambda x: tf.matmul(x, tf.ones([9, 2]))),
    "rows_first_nine": (OPEN, lambda x: tf.matmul(tf.reshape(x, [tf.shape(x)[0], 9]), tf.ones([9, 2]))),
    "nine": (
        OPEN,
        lambda x: tf.matmul(tf.reshape(tf.ensure_shape(x, [None, 9]), [tf.size(x) // 9, 9]), tf.ones([9, 2])),
    ),
    "row_groups": (SEQUENCE, row_groups),
    "dilated": (PICTURE, dilated),
    "twice": (PICTURE, lambda x: tf.reduce_max(tf.image.resize(x, tf.shape(x)[1:3] * 2), [1, 2])),
}


@pytest.fixture(scope="module")
def open_sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SignatureSpec]:
    networks = {name: (shape, "float32", network) for name, (shape, network) in (ONE_SIZE_ONLY | EVERY_SIZE).items()}
    folder = savedmodels.each(tmp_path_factory.mktemp("open") / "1", networks)
    return prepare(folder, name="m", version=1, options=SessionOptions()).spec.signatures


@pytest.mark.parametrize("name", ONE_SIZE_ONLY)
def test_rows_that_are_apart_at_one_inner_size_only_are_served_alone(
    open_sizes: dict[str, SignatureSpec], name: str
) -> None:
    assert not open_sizes[name].batched
    assert open_sizes[name].unbatched_reason


def test_a_doubt_that_no_second_size_settles_is_told(open_sizes: dict[str, SignatureSpec]) -> None:
    assert "it takes one size of the inputs that was tried, and AddV2 (" in open_sizes["broadcast"].unbatched_reason


@pytest.mark.parametrize("name", EVERY_SIZE)
def test_rows_that_are_apart_at_every_size_share_a_call(open_sizes: dict[str, SignatureSpec], name: str) -> None:
    assert open_sizes[name].batched, open_sizes[name].unbatched_reason


def test_decoding_without_static_sizes_needs_no_second_size(tmp_path: Path) -> None:
    """As of an old export for digits: the sizes of a decoded picture are not known before `reshape` makes them so."""

    def serve(_: Any, images: Any) -> dict[str, Any]:
        pixels = tf.map_fn(lambda data: tf.io.decode_png(data, channels=1), images, fn_output_signature=tf.uint8)
        flat = tf.reshape(tf.cast(pixels, tf.float32), [-1, 28 * 28])
        return {"y": tf.nn.softmax(tf.matmul(flat, tf.ones([28 * 28, 10])))}

    spec = spec_of(savedmodels._save(tmp_path / "1", serve, images=tf.TensorSpec([None], tf.string)))
    assert spec.batched, spec.unbatched_reason
