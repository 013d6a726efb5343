"""The op that computes an output, through renames, reshapes and calls; and what sample answers add to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darkroom.models.graph.last_op import last_op
from darkroom.models.rows import Rows
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.activations import with_activations
from darkroom.models.spec import SignatureSpec, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable


@tf.function(autograph=False)  # type: ignore[untyped-decorator]
def both(x: Any) -> tuple[Any, Any]:
    return tf.nn.softmax(x), tf.nn.sigmoid(x)


def graph_of(function: Callable[[Any], Any]) -> tuple[Any, str]:
    """The GraphDef of a function of `float32[n, 4]`, and the name of its first output."""
    signature = [tf.TensorSpec([None, 4], tf.float32)]
    concrete = tf.function(function, input_signature=signature, autograph=False).get_concrete_function()
    return concrete.graph.as_graph_def(), concrete.outputs[0].name


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (tf.nn.softmax, "Softmax"),
        (lambda x: tf.reshape(tf.identity(tf.nn.softmax(x)), [-1, 2, 2]), "Softmax"),
        (lambda x: tf.cast(tf.nn.sigmoid(x), tf.float64), "Sigmoid"),
        (lambda x: both(x)[1], "Sigmoid"),
        (lambda x: tf.identity_n(both(both(x)[0]))[0], "Softmax"),
        (lambda x: x * 2.0, "Mul"),
        (lambda x: x, "Placeholder"),
    ],
)
def test_the_last_op_is_found_through_what_changes_no_value(function: Callable[[Any], Any], op: str) -> None:
    graph_def, output = graph_of(function)
    assert last_op(graph_def, output) == op
    assert last_op(graph_def, "nothing:0") == ""


class Answers:
    """Answers the same to everything."""

    passes = ()

    def __init__(self, values: list[float], spec: SignatureSpec) -> None:
        self.spec = spec
        self._values = values

    def run(self, _: Rows) -> Rows:
        return Rows({"y": np.array([self._values], np.float32)})

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("function", "values", "activation"),
    [
        (tf.nn.softmax, [0.5, 0.5], "softmax"),
        (tf.nn.tanh, [0.5, 0.5], "tanh"),
        (lambda x: x * 2.0, [0.25, 0.75], "softmax"),
        (lambda x: x * 2.0, [0.25, 0.5], ""),
        (lambda x: x * 2.0, [1.5, -0.5], "linear"),
        (lambda x: x * 2.0, [1.0], ""),
        (lambda x: x * 2.0, [], ""),
    ],
)
def test_an_activation_is_known_by_the_graph_else_by_the_answers(
    function: Callable[[Any], Any], values: list[float], activation: str
) -> None:
    graph_def, output = graph_of(function)
    spec = SignatureSpec("s", (), (TensorSpec("y", "float32", (None, 4), source=output),))
    engine = Answers(values, spec)
    assert with_activations(spec, graph_def, engine, [Rows({})]).outputs[0].activation == activation
