"""A graph that is optimized without its weights answers as before, and the factors behind its convolutions are folded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darkroom.models.rewriting import optimize as optimizer
from darkroom.models.rewriting.optimize import OPTIMIZE, optimize, without_values
from darkroom.models.rewriting.passes import BoundSignature
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import Binding, SessionEngine, open_session
from darkroom.models.runtime.tensorflow import SessionOptions, tf
from darkroom.models.spec import SignatureSpec, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = SessionOptions(uses_gpus=False)
RNG = np.random.default_rng(0)


def weights(*shape: int) -> Any:
    return tf.constant(RNG.normal(size=shape).astype(np.float32))


def batch_norm(x: Any) -> Any:
    scale = tf.constant(RNG.uniform(0.5, 2.0, x.shape[-1]).astype(np.float32))
    return x * scale + 0.25


def convolved(x: Any, kernel: int = 3) -> Any:
    return tf.nn.conv2d(x, weights(kernel, kernel, x.shape[-1], 8), 1, "SAME")


def depthwise(x: Any) -> Any:
    return tf.nn.depthwise_conv2d(x, weights(3, 3, x.shape[-1], 2), [1, 1, 1, 1], "SAME")


def read_twice(y: Any) -> Any:
    return batch_norm(y) + y


def same_weights(x: Any, kernel: Any) -> Any:
    return 2.0 * tf.nn.conv2d(tf.nn.conv2d(x, kernel, 1, "SAME"), kernel, 1, "SAME")


NETWORKS: dict[str, tuple[Callable[[Any], Any], int]] = {  # what is made of x, and how many factors are folded
    "convolution": (lambda x: tf.nn.relu(batch_norm(convolved(x))), 1),
    "depthwise": (lambda x: batch_norm(depthwise(x)), 1),
    "one factor": (lambda x: 3.0 * convolved(x), 1),
    "one after the other": (lambda x: batch_norm(depthwise(tf.nn.relu(batch_norm(convolved(x))))), 2),
    "read twice": (lambda x: read_twice(convolved(x)), 0),
    "by row": (lambda x: convolved(x) * tf.reduce_mean(x), 0),
    "by place": (lambda x: convolved(x) * tf.constant(RNG.normal(size=(6, 6, 1)).astype(np.float32)), 0),
    "with bias": (lambda x: tf.nn.relu(tf.nn.bias_add(convolved(x), weights(8))), 0),
    "cast weights": (
        lambda x: tf.nn.conv2d(x, tf.cast(tf.cast(weights(3, 3, 4, 8), tf.float16), tf.float32), 1, "SAME"),
        0,
    ),
    "same weights twice": (lambda x: same_weights(x, weights(3, 3, 4, 4)), 0),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_an_optimized_graph_answers_as_before(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "MIN_GRAPH_BYTES", 0)
    monkeypatch.setattr(optimizer, "MIN_WEIGHT_BYTES", 100)
    function, folded = NETWORKS[network]
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 6, 6, 4], name="x")
        y = tf.identity(function(x), name="y")
    spec = SignatureSpec("s", (TensorSpec("x", "float32", (None, 6, 6, 4)),), (TensorSpec("y", "float32", None),))
    binding = Binding({"x": x.name}, {"y": y.name})
    counts: list[int] = []
    fold = optimizer._fold_factors

    def count(*arguments: Any) -> int:
        counts.append(fold(*arguments))
        return counts[-1]

    monkeypatch.setattr(optimizer, "_fold_factors", count)
    light, reasons = optimize(graph.as_graph_def(), {"s": BoundSignature(spec, binding)}, {"s"})
    assert (reasons, counts) == ({}, [folded])
    rows = Rows({"x": RNG.normal(size=(3, 6, 6, 4)).astype(np.float32)})
    answers = []
    for graph_def, is_optimized in ((graph.as_graph_def(), False), (light, True)):
        session = open_session(graph_def, SessionOptions(uses_gpus=False, is_optimized=is_optimized))
        answers.append(np.asarray(SessionEngine(spec, session, binding).run(rows).columns["y"]))
        session.close()
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-5, atol=1e-5)


def test_a_graph_without_values_has_the_same_nodes_and_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "MIN_WEIGHT_BYTES", 100)
    graph = tf.Graph()
    with graph.as_default():
        convolved(tf.compat.v1.placeholder(tf.float32, [None, 6, 6, 4]))
    whole = graph.as_graph_def()
    light = without_values(whole)
    assert [node.name for node in light.node] == [node.name for node in whole.node]
    assert light.ByteSize() < whole.ByteSize() / 2
    with tf.Graph().as_default() as again:
        tf.graph_util.import_graph_def(light, name="")
    assert [each.outputs[0].shape for each in again.get_operations()] == [
        each.outputs[0].shape for each in graph.get_operations()
    ]


def test_a_small_graph_and_a_graph_of_which_a_signature_was_taken_back_stay_as_they_are() -> None:
    graph_def, signature = tf.compat.v1.GraphDef(), BoundSignature(SignatureSpec("s", (), ()), Binding({}, {}))
    for signatures, reason in (({"s"}, "its 0 MB are"), (set[str](), "")):
        same, reasons = optimize(graph_def, {"s": signature}, signatures)
        assert same is graph_def
        assert all(each.startswith(reason) for each in reasons.values())
    assert OPTIMIZE == "optimize"
