"""What a graph demands of the shapes of its inputs is found at load, and refused at the door with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darkroom.models.errors import InvalidInput
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.demands import with_demands
from darkroom.models.spec import SignatureSpec, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KERNEL = np.ones((3, 3, 3, 4), np.float32)
# What an input of unknown rank goes into, and the ranks that it takes.
OPEN_RANK: dict[str, tuple[Callable[[Any], Any], set[int]]] = {
    "conv2d": (lambda x: tf.nn.conv2d(x, KERNEL, 1, "SAME"), {4}),
    "max_pool": (lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"), {4}),
    "avg_pool": (lambda x: tf.raw_ops.AvgPool(value=x, ksize=[1] * 4, strides=[1] * 4, padding="SAME"), {4}),
    "depthwise": (lambda x: tf.nn.depthwise_conv2d(x * 2.0, KERNEL, [1] * 4, "SAME"), {4}),
    "resize": (lambda x: tf.raw_ops.ResizeBilinear(images=x, size=[4, 4]), {4}),
    "conv3d": (lambda x: tf.nn.conv3d(x, np.ones((1, 1, 1, 3, 2), np.float32), [1] * 5, "SAME"), {5}),
    "matmul": (lambda x: tf.raw_ops.MatMul(a=x, b=np.ones((3, 2), np.float32)), {2}),
    "batch_matmul": (lambda x: tf.raw_ops.BatchMatMulV2(x=x, y=np.ones((3, 2), np.float32)), {2, 3, 4, 5, 6, 7, 8}),
    "transpose": (lambda x: tf.transpose(x, [0, 2, 1]), {3}),
    "softmax": (lambda x: tf.raw_ops.Softmax(logits=x), {1, 2, 3, 4, 5, 6, 7, 8}),
}
WANTED: dict[str, tuple[int | None, ...] | None] = {"a": (None, 3), "b": (None, 3)}
# What two inputs go into, and the numbers of rows that it does not take.
TWO_INPUTS: dict[str, tuple[Callable[[Any, Any], Any], set[tuple[int, int]]]] = {
    "add": (lambda a, b: tf.nn.relu(tf.roll(a, 1, 1) + b), {(2, 3), (3, 2)}),
    "concat": (lambda a, b: tf.concat([a, b], 1), {(2, 3), (3, 2), (1, 2), (2, 1)}),
    "stack": (lambda a, b: tf.stack([a, b], 1), {(2, 3), (3, 2), (1, 2), (2, 1)}),
    "rows_of_both": (lambda a, b: tf.concat([a, b], 0), set()),
    "apart": (lambda a, b: tf.reduce_sum(tf.roll(a, 1, 1), 1) + tf.reduce_sum(b), set()),
}


def spec_of(function: Callable[..., Any], shapes: Mapping[str, tuple[int | None, ...] | None]) -> SignatureSpec:
    """What is found of a function of these inputs."""
    signature = [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in shapes.items()]
    called = tf.function(function, input_signature=signature, autograph=False).get_concrete_function()
    inputs = tuple(TensorSpec(name, "float32", shape, source=f"{name}:0") for name, shape in shapes.items())
    output = TensorSpec("y", "float32", None, source=called.outputs[0].name)
    return with_demands(SignatureSpec("s", inputs, (output,)), called.graph.as_graph_def())


@pytest.mark.parametrize("name", OPEN_RANK)
def test_ranks_that_the_graph_cannot_take_are_refused(name: str) -> None:
    function, want = OPEN_RANK[name]
    spec, taken = spec_of(function, {"x": None}), set()
    for rank in range(9):
        try:
            spec.accept({"x": np.ones([3] * rank, np.float32)}, strict=True)
            taken.add(rank)
        except InvalidInput as err:
            assert "the signature wants" in str(err)  # noqa: PT017 - some ranks are refused, and some are not
    assert taken == want


@pytest.mark.parametrize("name", TWO_INPUTS)
def test_rows_that_the_graph_cannot_take_together_are_refused(name: str) -> None:
    function, want = TWO_INPUTS[name]
    spec, refused = spec_of(function, WANTED), set()
    for rows in ((1, 1), (2, 2), (2, 3), (3, 2), (1, 2), (2, 1)):
        values = {key: np.ones((n, 3), np.float32) for key, n in zip(WANTED, rows, strict=True)}
        try:
            spec.accept(values, strict=True)
        except InvalidInput as err:
            assert "rows, and both must have as many" in str(err)  # noqa: PT017 - as above
            refused.add(rows)
    assert refused == want


def test_what_no_op_demands_is_free() -> None:
    spec = spec_of(lambda a, b: tf.reshape(a, [-1]) + tf.reduce_sum(b), {"a": None, "b": (None, 3)})
    assert spec.inputs[0].shape is None
    assert (spec.inputs[0].ranks, spec.same_rows) == ((), ())


def test_of_two_inputs_of_unknown_rank_each_has_its_own() -> None:
    spec = spec_of(
        lambda image, points: tf.nn.conv2d(image, KERNEL, 1, "SAME") + tf.raw_ops.MatMul(a=points, b=points)[0, 0],
        {"image": None, "points": None},
    )
    assert [len(tensor.shape or ()) for tensor in spec.inputs] == [4, 2]
