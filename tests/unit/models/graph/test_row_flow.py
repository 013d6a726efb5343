"""The flow of rows through graphs: what joins them is found, and what keeps them apart is not taken for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from darkroom.models.graph.inline import inline_calls
from darkroom.models.graph.row_flow import BATCH, Flow, Flows, Kind, find_flows
from darkroom.models.runtime.tensorflow import tf

if TYPE_CHECKING:
    from collections.abc import Callable

PICTURES = [None, None, None, 3]


def flow_of(function: Callable[[Any], Any], shape: list[int | None], dtype: Any = tf.float32) -> tuple[Flow, set[str]]:
    flows = flows_of(function, shape, dtype)
    return flows.outputs["y"], flows.predicates


def flows_of(function: Callable[[Any], Any], shape: list[int | None], dtype: Any = tf.float32) -> Flows:
    called = tf.function(function, input_signature=[tf.TensorSpec(shape, dtype, name="x")], autograph=False)
    concrete = called.get_concrete_function()
    output = concrete.outputs[0].name
    graph_def = inline_calls(concrete.graph.as_graph_def(), [output])
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
    return find_flows(graph_def, graph, ["x:0"], {"y": output})


def decoded(x: Any) -> Any:
    def one(data: Any) -> Any:
        return tf.ensure_shape(tf.image.resize(tf.io.decode_jpeg(data, channels=3), [8, 8]), [8, 8, 3])

    return tf.map_fn(one, x, fn_output_signature=tf.float32)


def longest(x: Any) -> Any:
    return tf.sequence_mask(tf.reduce_sum(tf.cast(x > 0.0, tf.int32), 1))


def ragged(x: Any, shape: list[int | None] | None = None) -> Any:
    return tf.RaggedTensor.from_tensor(x, padding=0.0).to_tensor(shape=shape)


def batch_norm(x: Any) -> Any:
    ones = tf.ones([3])
    return tf.raw_ops.FusedBatchNormV3(x=x, scale=ones, offset=ones, mean=[], variance=[], is_training=True)[0]


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: x - tf.reduce_mean(x, 0), [None, 4]),
        (lambda x: tf.where(tf.reduce_any(x > 1e6), -x, x), [None, 4]),
        (lambda x: tf.cond(tf.reduce_max(x) > 1e6, lambda: x * 2.0, lambda: x), [None, 4]),
        (lambda x: tf.while_loop(lambda y: tf.reduce_max(y) > 1e6, lambda y: (y / 2.0,), (x,))[0], [None, 4]),
        (lambda x: x + tf.foldl(lambda sum_, row: sum_ + tf.reduce_sum(row), x, 0.0), [None, 4]),
        (lambda x: tf.cumsum(x, 0), [None, 4]),
        (lambda x: tf.reduce_sum(x @ tf.transpose(x), 1), [None, 4]),
        (lambda x: tf.einsum("na,nb->ab", x, x), [None, 4]),
        (lambda x: tf.reduce_max(tf.transpose(x), 1), [None, 4]),
        (lambda x: tf.reduce_max(x, tf.range(tf.rank(x))) + x, [None, 4]),
        (lambda x: x / tf.nn.l2_loss(x), [None, 4]),
        (lambda x: tf.roll(x, 1, -2), [None, 4]),
        (lambda x: tf.nn.conv1d(x[None], tf.ones([2, 4, 1]), 1, "SAME")[0], [None, 4]),
        (lambda x: tf.math.top_k(x).values * x, [None]),
        (longest, [None, 4]),
        (ragged, [None, 4]),
        (batch_norm, PICTURES),
    ],
)
def test_an_op_that_joins_the_rows_is_found_on_the_way_to_the_output(
    function: Callable[[Any], Any], shape: list[int | None]
) -> None:
    flow, _ = flow_of(function, shape)
    assert flow.kind is Kind.MIXED
    assert "(" in flow.reason, "names the op and the node"


def test_an_op_that_joins_rows_is_found_behind_a_loop_over_the_pictures() -> None:
    flow, _ = flow_of(lambda x: decoded(x) / tf.reduce_max(decoded(x)), [None], tf.string)
    assert flow.kind is Kind.MIXED


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: tf.nn.softmax(tf.nn.conv2d(x, tf.ones([3, 3, 3, 5]), 2, "SAME")), PICTURES),
        (lambda x: tf.reshape(tf.nn.avg_pool2d(x, 2, 2, "SAME"), [tf.shape(x)[0], -1, 3]), PICTURES),
        (lambda x: tf.reduce_mean(tf.transpose(x, [0, 3, 1, 2]), [2, -1]), PICTURES),
        (tf.image.per_image_standardization, PICTURES),
        (lambda x: tf.concat([x, tf.image.flip_left_right(x)], -1)[..., 1:], PICTURES),
        (lambda x: tf.transpose(tf.scan(lambda h, e: h + e, tf.transpose(x), tf.zeros([tf.shape(x)[0]]))), [None, 4]),
        (lambda x: tf.einsum("nab,ncb->nac", x, x), [None, 2, 2]),
        (lambda x: tf.matmul(tf.nn.softmax(tf.matmul(x, x, transpose_b=True)), x), [None, 2, 2]),
        (lambda x: tf.gather(tf.ones([9, 3]), tf.argmax(x, 1)), [None, 4]),
        (lambda x: tf.stack(tf.unstack(x, axis=1), 1), [None, 4]),
        (lambda x: tf.squeeze(tf.expand_dims(x, 1), [1]) @ tf.ones([4, 2]), [None, 4]),
        (lambda x: tf.add_n(tf.split(x, 2, 1)), [None, 4]),
        (lambda x: tf.nn.moments(x, [1])[0], [None, 4]),
        (lambda x: tf.map_fn(tf.reduce_max, x), [None, 4]),
    ],
)
def test_rows_that_stay_apart_stay_the_batch(function: Callable[[Any], Any], shape: list[int | None]) -> None:
    assert flow_of(function, shape)[0] == BATCH


def test_a_loop_that_decodes_picture_by_picture_keeps_them_apart() -> None:
    assert flow_of(decoded, [None], tf.string)[0] == BATCH


@pytest.mark.parametrize("function", [
    lambda x: tf.where(x > 0.0), lambda x: ragged(x, [None, 9]), lambda x: x[1:], lambda x: x - x[:1],
    lambda x: tf.unique(tf.reshape(x, [-1]))[1], lambda x: tf.cumsum(tf.reshape(x, [4, -1]), axis=1),
])  # fmt: skip
def test_what_cannot_be_followed_is_unknown(function: Callable[[Any], Any]) -> None:
    assert flow_of(function, [None, 4])[0].kind is Kind.UNKNOWN


def test_a_branch_by_the_formats_of_all_pictures_is_left_to_samples() -> None:
    def by_format(x: Any) -> Any:
        are_jpegs = tf.reduce_all(tf.equal(tf.strings.substr(x, 0, 2), b"\xff\xd8"))
        return tf.cond(are_jpegs, lambda: decoded(x), lambda: decoded(x))

    flow, predicates = flow_of(by_format, [None], tf.string)
    assert flow == BATCH
    assert len(predicates) == 1


OPEN = [None, None]


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: tf.reshape(x, [-1, 4]), OPEN),
        (lambda x: tf.reshape(x, [tf.shape(x)[1], -1]), OPEN),
        (lambda x: tf.reshape(x, [-1, tf.shape(x)[1]]), OPEN),
        (lambda x: tf.reshape(tf.transpose(x), [-1, 4]), OPEN),
        (lambda x: tf.tile(x, [tf.shape(x)[1], 1]), OPEN),
        (lambda x: tf.pad(x, [[0, tf.shape(x)[1] - 1], [0, 0]]), OPEN),
        (lambda x: x + tf.cast(tf.range(tf.shape(x)[1])[:, None], tf.float32), OPEN),
        (lambda x: x[:, 0] + tf.zeros([tf.shape(x)[1], 1]), OPEN),
        (lambda x: tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]]), PICTURES),
    ],
)
def test_what_keeps_rows_apart_for_some_sizes_only_is_a_doubt(
    function: Callable[[Any], Any], shape: list[int | None]
) -> None:
    assert flows_of(function, shape).doubts


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: tf.reshape(x, [-1, 2, 2]), [None, 4]),
        (lambda x: tf.reshape(x, [tf.shape(x)[0], -1]), PICTURES),
        (lambda x: tf.reshape(x, tf.concat([tf.shape(x)[:1], [-1, 3]], 0)), PICTURES),
        (lambda x: tf.reshape(x, tf.concat([tf.slice(tf.shape(x), [0], [2]), [-1]], 0)), PICTURES),
        (lambda x: tf.reshape(x * 2.0, tf.shape(x)), OPEN),
        (lambda x: tf.reshape(x, [tf.cast(tf.shape(x, tf.int64)[0], tf.int32), 1, -1]), OPEN),
        (lambda x: x * tf.ones([tf.shape(x)[1]]) + tf.ones([1, 1]) - 1.0, OPEN),
        (lambda x: tf.nn.bias_add(tf.nn.conv2d(x, tf.ones([3, 3, 3, 5]), 2, "SAME"), tf.ones([5])), PICTURES),
        (lambda x: tf.map_fn(lambda row: tf.reshape(row, [-1, 1]), x), OPEN),
        (lambda x: tf.tile(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), [1, 2, 1, 1]), PICTURES),
    ],
)
def test_what_keeps_rows_apart_for_every_size_is_no_doubt(
    function: Callable[[Any], Any], shape: list[int | None]
) -> None:
    assert not flows_of(function, shape).doubts
