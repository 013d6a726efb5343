"""Generated warm-up rows have the format, shape and features that the signature needs."""

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from darkroom.models.rows import join
from darkroom.models.runtime.tensorflow import SessionOptions, tf
from darkroom.models.saved_model.sample_rows import SET_ROWS, PictureMaker, candidates
from darkroom.models.spec import SignatureSpec, TensorSpec, Wire

NO_GRAPH = tf.compat.v1.GraphDef()


@pytest.fixture(scope="module")
def pictures() -> Iterator[PictureMaker]:
    maker = PictureMaker(SessionOptions())
    yield maker
    maker.close()


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp"])
def test_generated_pictures_are_pictures_of_their_size(pictures: PictureMaker, kind: str) -> None:
    made = {pictures(kind, 31, 17, seed) for seed in range(SET_ROWS)}
    assert len(made) == SET_ROWS
    for data in made:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert (str(image.format).lower(), image.size) == (kind, (31, 17))


@pytest.mark.parametrize(
    "tensor",
    [
        TensorSpec("x", "string", (None,)),
        TensorSpec("x", "string", (None, 2)),
        TensorSpec("x", "float32", (None, None, 3)),
        TensorSpec("x", "bfloat16", (None, 4)),
        TensorSpec("x", "uint8", (None, 8, 8, 3)),
        TensorSpec("x", "bool", (None,)),
        TensorSpec("x", "int64", None),
    ],
)
def test_generated_rows_are_single_distinct_and_may_share_a_batch(pictures: PictureMaker, tensor: TensorSpec) -> None:
    spec = SignatureSpec("s", (tensor,), ())
    sets = list(candidates(spec, NO_GRAPH, pictures))
    assert sets
    for samples in sets:
        assert [len(rows) for rows in samples] == [1] * SET_ROWS
        assert len({rows.key for rows in samples}) == 1
        assert len(join(samples)) == SET_ROWS


def test_a_picture_input_gets_pictures_that_its_graph_decodes(pictures: PictureMaker) -> None:
    tensor = TensorSpec("x", "string", (None,))
    spec = SignatureSpec("s", (tensor,), (), wire=Wire.BYTES, image_input="x", formats=frozenset({"bmp"}))
    made = [rows.columns["x"][0] for samples in candidates(spec, NO_GRAPH, pictures) for rows in samples]
    assert {picture[:2] for picture in made} == {b"BM"}


def test_a_signature_without_a_batch_gets_one_whole_request(pictures: PictureMaker) -> None:
    spec = SignatureSpec("s", (TensorSpec("x", "float32", (3, 4)),), (), batched=False)
    ((rows,),) = candidates(spec, NO_GRAPH, pictures)
    assert np.asarray(rows.columns["x"]).shape == (3, 4)


def parse_example() -> None:
    tf.raw_ops.ParseExample(
        serialized=tf.compat.v1.placeholder(tf.string, [None]),
        names=tf.constant([], tf.string),
        sparse_keys=["ignored"],
        dense_keys=["number", "word", "index"],
        dense_defaults=[tf.constant([], tf.float32), tf.constant([], tf.string), tf.constant([], tf.int64)],
        sparse_types=[tf.float32],
        dense_shapes=[[2], [], [3]],
    )


def parse_example_v2() -> None:
    tf.io.parse_example(
        tf.compat.v1.placeholder(tf.string, [None]),
        {
            "number": tf.io.FixedLenFeature([2], tf.float32),
            "word": tf.io.FixedLenFeature([], tf.string),
            "index": tf.io.FixedLenFeature([3], tf.int64),
            "ignored": tf.io.VarLenFeature(tf.float32),
        },
    )


@pytest.mark.parametrize("build", [parse_example, parse_example_v2])
def test_a_graph_that_parses_examples_gets_examples_with_its_features(
    pictures: PictureMaker, build: Callable[[], None]
) -> None:
    with tf.Graph().as_default() as graph:
        build()
    spec = SignatureSpec("s", (TensorSpec("x", "string", (None,)),), ())
    samples = next(candidates(spec, graph.as_graph_def(), pictures))
    for rows in samples:
        feature = tf.train.Example.FromString(rows.columns["x"][0]).features.feature
        sizes = [len(feature[key].ListFields()[0][1].value) for key in ("number", "word", "index")]
        assert sizes == [2, 1, 3]
        assert len(feature) == 3
