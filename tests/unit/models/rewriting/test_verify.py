"""The two proofs find every kind of difference, and leave alone what is none; the warm-up rows are what they say."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.models.engine import PassReport
from darkroom.models.errors import InvalidInput
from darkroom.models.rewriting.verify import TF32, difference, first_accepted, not_row_wise, unequal
from darkroom.models.rows import Rows, join
from darkroom.models.runtime.tensorflow import SessionOptions, tf
from darkroom.models.saved_model.sample_rows import SET_ROWS, PictureMaker, candidates
from darkroom.models.spec import SignatureSpec, TensorSpec, Wire

Array = "np.ndarray[Any, np.dtype[Any]]"
SINGLE_ROWS = [Rows({"x": np.full((1, 2), value, np.float32)}) for value in (1.0, 2.5, -3.0, 0.5)]
NO_GRAPH = tf.compat.v1.GraphDef()


class Computes:
    """An engine of one function of `x`."""

    spec = SignatureSpec("s", (), ())
    passes: tuple[PassReport, ...] = ()

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def run(self, rows: Rows) -> Rows:
        return Rows({"y": self._function(rows.columns["x"])})

    def close(self) -> None: ...


def test_a_gpus_rounding_is_no_difference_on_a_gpu_and_one_on_a_cpu() -> None:
    one, other = (Rows({"y": np.array(values, np.float32)}) for values in ([1.0, 0.5], [1.0008, 0.4995]))
    assert unequal(one, other, float_bytes=TF32) == ""
    assert unequal(one, other) == "output 'y' differs by 0.0008"
    far = Rows({"y": np.array([1.1, 0.5], np.float32)})
    assert unequal(one, far, float_bytes=TF32) == "output 'y' differs by 0.1"


def refuses(_: Any) -> Any:
    raise InvalidInput("no")


@pytest.fixture(scope="module")
def pictures() -> Iterator[PictureMaker]:
    maker = PictureMaker(SessionOptions())
    yield maker
    maker.close()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x, lambda x: x * 1.0001),
        (lambda x: x, lambda x: x[:, :1]),
        (lambda x: x, lambda x: x.astype(np.float64)),
        (lambda x: x.astype(int), lambda x: x.astype(int) + (np.abs(x) > 2)),
        (lambda x: [b"a"] * len(x), lambda x: [b"a\x00"] * len(x)),
        (lambda x: [b"a"] * len(x), lambda x: x),
        (lambda x: x, lambda x: x * np.nan),
        (lambda x: x, refuses),
    ],
    ids=["a value", "a shape", "a dtype", "an integer", "a zero byte", "a kind", "not a number", "an error"],
)
def test_a_difference_from_the_original_is_found(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> None:
    assert difference(Computes(one), Computes(other), SINGLE_ROWS) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x, lambda x: x * (1 + 1e-6)),
        (lambda x: x / 0.0, lambda x: x / 0.0),
        (np.sqrt, np.sqrt),
        (lambda x: x.astype(np.float16), lambda x: x.astype(np.float16) * np.float16(1.001)),
        (lambda x: [b"%d" % len(x)] * len(x), lambda x: [b"%d" % len(x)] * len(x)),
    ],
    ids=["rounding", "infinities", "not a number in both", "half precision", "strings"],
)
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_rounding_is_no_difference(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> None:
    assert difference(Computes(one), Computes(other), SINGLE_ROWS) == ""


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(axis=0),
        lambda x: x.sum(axis=0, keepdims=True),
        lambda x: x.sum(),
        lambda x: x[::-1],
        lambda x: x + np.arange(len(x))[:, None],
        lambda x: np.repeat(x, 2, axis=0),
        lambda x: x if len(x) < 8 else x * 2,
        lambda x: x if len(x) == 1 else refuses(x),
    ],
    ids=["centred", "summed", "a scalar", "reversed", "numbered", "doubled", "only from 8 rows", "only alone"],
)
def test_a_function_that_is_not_row_wise_is_found(function: Callable[[Any], Any]) -> None:
    assert not_row_wise(Computes(function), SINGLE_ROWS) != ""


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2,
        lambda x: x.sum(axis=1),
        lambda x: [b"%.1f" % value for value in x[:, 0]],
        lambda x: x * (1 + 1e-7 * len(x)),
    ],
    ids=["doubled", "summed by row", "strings", "rounding that follows the batch"],
)
def test_a_row_wise_function_is_left_alone(function: Callable[[Any], Any]) -> None:
    assert not_row_wise(Computes(function), SINGLE_ROWS) == ""


def test_the_first_set_of_rows_that_runs_is_used() -> None:
    wrong = [Rows({"x": np.zeros((1, 3))})] * 2
    engine = Computes(lambda x: x if x.shape[1] == 2 else refuses(x))
    assert first_accepted(engine, iter([wrong, SINGLE_ROWS, wrong])) is SINGLE_ROWS
    assert first_accepted(engine, [wrong]) == []


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
def test_generated_rows_are_single_distinct_and_ride_together(pictures: PictureMaker, tensor: TensorSpec) -> None:
    spec = SignatureSpec("s", (tensor,), ())
    sets = list(candidates(spec, NO_GRAPH, pictures))
    assert sets
    for singles in sets:
        assert [len(rows) for rows in singles] == [1] * SET_ROWS
        assert len({rows.key for rows in singles}) == 1
        assert len(join(singles)) == SET_ROWS


def test_a_picture_input_gets_pictures_that_its_graph_decodes(pictures: PictureMaker) -> None:
    tensor = TensorSpec("x", "string", (None,))
    spec = SignatureSpec("s", (tensor,), (), wire=Wire.BYTES, image_input="x", formats=frozenset({"bmp"}))
    made = [rows.columns["x"][0] for singles in candidates(spec, NO_GRAPH, pictures) for rows in singles]
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
    singles = next(candidates(spec, graph.as_graph_def(), pictures))
    for rows in singles:
        feature = tf.train.Example.FromString(rows.columns["x"][0]).features.feature
        sizes = [len(feature[key].ListFields()[0][1].value) for key in ("number", "word", "index")]
        assert sizes == [2, 1, 3]
        assert len(feature) == 3
