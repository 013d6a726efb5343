"""Pruning, and the traits of what a signature needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.models.graph.reachability import GraphTraits, find_traits, prune, why_not_runnable
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.image_input import check_batching
from darkroom.models.saved_model.reader import read_meta_graph, read_signatures
from darkroom.models.spec import SignatureSpec, TensorSpec
from tests import savedmodels

Built = Callable[[Callable[[Path], Path]], Path]


def graph_of(build: Callable[[], Any]) -> Any:
    """The GraphDef of what `build` makes in an empty graph."""
    with tf.Graph().as_default() as graph:
        build()
    return graph.as_graph_def()


def test_pruning_keeps_what_the_outputs_need_with_its_functions() -> None:
    def build() -> None:
        tf.map_fn(lambda x: x + 1, tf.compat.v1.placeholder(tf.float32, [None], name="x"), name="kept")
        tf.map_fn(lambda x: x - 1, tf.compat.v1.placeholder(tf.float32, [None], name="y"), name="dropped")

    graph_def = graph_of(build)
    pruned = prune(graph_def, [next(node.name for node in graph_def.node if node.op == "TensorListStack") + ":0"])
    assert "y" not in {node.name for node in pruned.node}
    assert len(pruned.library.function) == len(graph_def.library.function) // 2 == 2


@pytest.mark.parametrize(
    ("function", "stateful", "mutates"),
    [
        (lambda x: tf.random.normal(tf.shape(x), seed=1), True, False),
        (lambda x: tf.debugging.check_numerics(x, "no"), False, False),
        (lambda x: tf.map_fn(lambda each: each * 2, x), False, False),
        (lambda x: tf.raw_ops.Empty(shape=tf.shape(x), dtype=tf.float32), False, False),
        (lambda x: tf.map_fn(lambda each: each + tf.random.uniform([], seed=1), x), True, False),
        (lambda x: tf.raw_ops.Timestamp() + tf.cast(x, tf.float64), True, False),
    ],
    ids=["random", "a check", "a loop", "an allocation", "random inside a loop", "the time"],
)
def test_state_that_the_outputs_need_is_found_and_harmless_ops_are_not_state(
    function: Callable[[Any], Any], *, stateful: bool, mutates: bool
) -> None:
    def build() -> None:
        tf.identity(function(tf.compat.v1.placeholder(tf.float32, [None])), name="y")

    found = find_traits(graph_of(build), ["y:0"])
    assert (bool(found.stateful), bool(found.mutates)) == (stateful, mutates)


def test_state_that_the_outputs_do_not_need_is_no_state() -> None:
    def build() -> None:
        tf.random.uniform([2], seed=1)
        tf.identity(tf.compat.v1.placeholder(tf.float32, [None]), name="y")

    assert find_traits(graph_of(build), ["y:0"]).stateful == ""


def by_python(x: Any) -> Any:
    return tf.ensure_shape(tf.py_function(lambda each: each, [x], tf.float32), [None])


def by_numpy(x: Any) -> Any:
    return tf.numpy_function(lambda each: each, [x], tf.float32)


@pytest.mark.parametrize(
    ("function", "is_python"),
    [
        (by_python, True),
        (by_numpy, True),
        (lambda x: tf.numpy_function(lambda each: each, [x], tf.float32, stateful=False), True),
        (lambda x: tf.compat.v1.py_func(lambda each: each, [x], tf.float32), True),
        (lambda x: tf.nn.relu(by_python(x)), True),
        (lambda x: by_python(tf.nn.relu(x)), True),
        (tf.function(by_python), True),
        (tf.function(lambda x: tf.function(by_python)(x) * 2.0), True),
        (lambda x: tf.map_fn(by_numpy, x), True),
        (lambda x: tf.cond(tf.reduce_any(x > 1.0), lambda: by_python(x), lambda: x), True),
        (lambda x: tf.while_loop(lambda y: tf.reduce_any(y > 1.0), lambda y: (by_python(y),), (x,)), True),
        (lambda x: (by_python(x), tf.nn.relu(x))[1], False),
        (tf.function(tf.nn.relu), False),
    ],
)
def test_python_code_that_the_outputs_need_is_found_wherever_it_is(
    function: Callable[[Any], Any], is_python: bool
) -> None:
    graph_def = graph_of(lambda: tf.identity(function(tf.compat.v1.placeholder(tf.float32, [None])), name="out"))
    assert ("it calls Python code" in why_not_runnable(graph_def, [], ["out:0"])) is is_python


def test_an_op_that_tensorflow_does_not_have_is_named() -> None:
    graph_def = graph_of(lambda: tf.identity(tf.compat.v1.placeholder(tf.string, [None]), name="y"))
    graph_def.node.add(name="z", op="MyOwnOp", input=["y"])
    assert find_traits(graph_def, ["z:0"]).missing == ("MyOwnOp",)


def test_a_tf1_variable_that_is_assigned_is_found(built: Built) -> None:
    meta_graph = read_meta_graph(built(savedmodels.classic))
    specs, _ = read_signatures(meta_graph)
    outputs = [tensor.source for tensor in specs["serving_default"].outputs]
    assert find_traits(meta_graph.graph_def, outputs).mutates == ""
    assert "Assign" in find_traits(meta_graph.graph_def, ["weights/Assign:0"]).mutates


@pytest.mark.parametrize(
    ("function", "elementwise"),
    [
        (lambda x: x / 2.0 + 2.0, True),
        (tf.function(lambda y: tf.tanh(y) * 3.0), True),
        (tf.reduce_sum, False),
        (lambda x: tf.matmul(x, x), False),
        (lambda x: tf.function(lambda y: tf.reshape(y, [-1]))(x) * 2.0, False),
        (lambda x: tf.map_fn(lambda each: each * 2.0, x), False),
    ],
)
def test_a_graph_takes_any_shape_only_if_every_op_works_element_by_element(
    function: Callable[[Any], Any], elementwise: bool
) -> None:
    graph_def = graph_of(lambda: tf.identity(function(tf.compat.v1.placeholder(tf.float32, [None, 2])), name="out"))
    assert find_traits(graph_def, ["out:0"]).elementwise is elementwise


@pytest.mark.parametrize(("rank", "other"), [(4, 0), (5, 0), (4, 5)])
def test_the_rank_that_convolutions_take_is_known_where_they_agree(rank: int, other: int) -> None:
    x = tf.compat.v1.placeholder
    convolve = {4: tf.nn.conv2d, 5: tf.nn.conv3d}

    def build() -> None:
        ends = [
            convolve[each](x(tf.float32, None), tf.zeros([1] * each), [1] * each, "SAME")
            for each in (rank, other)
            if each
        ]
        tf.add_n([tf.reduce_sum(end) for end in ends], name="out")

    assert find_traits(graph_of(build), ["out:0"]).rank == (0 if other else rank)


def test_a_lone_input_of_unknown_rank_gets_the_rank_of_the_convolutions() -> None:
    def shapes(*tensors: TensorSpec, rank: int = 4) -> list[tuple[int | None, ...] | None]:
        spec = check_batching(SignatureSpec("s", tensors, ()), GraphTraits(rank=rank))
        return [tensor.shape for tensor in spec.inputs]

    unknown, text = TensorSpec("x", "float32", None), TensorSpec("x", "string", None)
    assert shapes(unknown) == [(None,) * 4]
    assert shapes(unknown, rank=0) == shapes(text) == [None]
    assert shapes(unknown, unknown) == [None, None]
    assert shapes(TensorSpec("x", "float32", (None, 5))) == [(None, 5)]


def test_what_computes_a_fed_tensor_does_not_count_for_the_shapes() -> None:
    def build() -> None:
        text = tf.compat.v1.placeholder(tf.string, [None])
        first, second = tf.split(tf.strings.to_number(text), 2, name="split")
        tf.add(first, 1.0, name="one")
        tf.add(first, second, name="both")

    graph_def = graph_of(build)
    assert find_traits(graph_def, ["one:0"], ["split:0"]).elementwise
    assert not find_traits(graph_def, ["one:0"], ["split:1"]).elementwise
    assert not find_traits(graph_def, ["both:0"], ["split:0"]).elementwise
    assert find_traits(graph_def, ["both:0"], ["split:0", "split:1"]).elementwise
    assert find_traits(graph_def, ["split:0"], ["split:0"]).elementwise
