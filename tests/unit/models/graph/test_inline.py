"""Inlined calls: the same values, the same names, the same side effects."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from darkroom.models.graph.inline import CALLS, inline_calls
from darkroom.models.runtime.session import make_callable, open_session
from darkroom.models.runtime.tensorflow import SessionOptions, graph_pb2, tf


def graph_of(function: Callable[..., Any], *inputs: tuple[str, Any]) -> Any:
    """`function` called in a graph, with placeholders of these names and dtypes; its outputs are y0, y1 and so on."""
    with tf.Graph().as_default() as graph:
        given = function(*(tf.compat.v1.placeholder(dtype, [None], name=name) for name, dtype in inputs))
        for index, tensor in enumerate(given):
            tf.identity(tensor, name=f"y{index}")
    return graph.as_graph_def()


def run(graph_def: Any, fetches: list[str], **values: Any) -> list[Any]:
    session = open_session(graph_def, SessionOptions())
    call = make_callable(session, [f"{name}:0" for name in values], fetches)
    return [value.tolist() for value in call(*values.values())]


def ops(graph_def: Any) -> set[str]:
    return {node.op for node in graph_def.node}


@tf.function(autograph=False)  # type: ignore[untyped-decorator]  # TensorFlow has no types
def _inner(x: Any, y: Any) -> Any:
    first, second = tf.split(x, 2)
    return second + y, first * y


@tf.function(autograph=False)  # type: ignore[untyped-decorator]
def _outer(x: Any, y: Any) -> Any:
    one, other = _inner(x, y)
    again, _ = _inner(tf.concat([one, other], 0), y)
    return again, one, y


def test_calls_within_calls_give_the_same_and_are_gone() -> None:
    graph_def = graph_of(_outer, ("x", tf.float32), ("y", tf.float32))
    fetches = ["y0:0", "y1:0", "y2:0"]
    flat = inline_calls(graph_def, fetches)
    assert not ops(flat) & CALLS
    assert not flat.library.function
    values = {"x": np.arange(4, dtype=np.float32), "y": np.array([2, 3], np.float32)}
    assert run(flat, fetches, **values) == run(graph_def, fetches, **values) == [[2.0, 6.0], [4.0, 6.0], [2.0, 3.0]]


def test_the_argument_is_left_as_it_was() -> None:
    graph_def = graph_of(_outer, ("x", tf.float32), ("y", tf.float32))
    before = graph_def.SerializeToString(deterministic=True)
    inline_calls(graph_def, ["y0:0"])
    assert graph_def.SerializeToString(deterministic=True) == before


def test_the_tensors_of_a_call_that_are_fetched_keep_their_names() -> None:
    graph_def = graph_of(_inner, ("x", tf.float32), ("y", tf.float32))
    (call,) = [node.name for node in graph_def.node if node.op in CALLS]
    flat = inline_calls(graph_def, [f"{call}:1"])
    values = {"x": np.array([1, 2], np.float32), "y": np.array([5], np.float32)}
    assert run(flat, [f"{call}:1"], **values) == [[5.0]]
    assert not ops(flat) & CALLS


def test_an_assertion_in_a_function_still_fails_the_call_that_needs_another_output() -> None:
    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def checked(x: Any) -> Any:
        tf.debugging.assert_positive(x)
        return x + 1.0, x * 2.0

    flat = inline_calls(graph_of(checked, ("x", tf.float32)), ["y1:0"])
    assert run(flat, ["y1:0"], x=np.array([3], np.float32)) == [[6.0]]
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(flat, ["y1:0"], x=np.array([-3], np.float32))


def test_what_a_call_waits_for_comes_before_the_functions_nodes() -> None:
    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def seven() -> Any:
        return tf.constant([7.0]), tf.constant([8.0])

    def build(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_positive(x)]):
            return seven()

    flat = inline_calls(graph_of(build, ("x", tf.float32)), ["y0:0"])
    assert run(flat, ["y0:0"], x=np.array([3], np.float32)) == [[7.0]]
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(flat, ["y0:0"], x=np.array([-3], np.float32))


def test_a_node_that_has_the_name_of_an_inlined_one_keeps_it() -> None:
    def build(x: Any) -> Any:
        first, second = _inner(x, x[:1])
        call = first.op.name
        return second, tf.identity(x * 100.0, name=f"{call}/add")

    graph_def = graph_of(build, ("x", tf.float32))
    flat = inline_calls(graph_def, ["y0:0", "y1:0"])
    assert run(flat, ["y0:0", "y1:0"], x=np.array([1, 2], np.float32)) == [[1.0], [100.0, 200.0]]


def test_loops_keep_their_functions() -> None:
    def build(x: Any) -> Any:
        return (tf.map_fn(lambda row: row * 2.0, x),)

    flat = inline_calls(graph_of(build, ("x", tf.float32)), ["y0:0"])
    assert ops(flat) & {"While", "StatelessWhile"}
    assert run(flat, ["y0:0"], x=np.array([1, 2], np.float32)) == [[2.0, 4.0]]


@pytest.mark.parametrize("attr", ["_noinline", "_XlaMustCompile"])
def test_a_function_that_is_not_to_be_inlined_stays(attr: str) -> None:
    graph_def = graph_of(_inner, ("x", tf.float32), ("y", tf.float32))
    graph_def.library.function[0].attr[attr].b = True
    assert ops(inline_calls(graph_def, ["y0:0"])) & CALLS


def test_a_function_that_calls_itself_is_refused() -> None:
    graph_def = graph_of(_inner, ("x", tf.float32), ("y", tf.float32))
    function = graph_def.library.function[0]
    call = graph_pb2.GraphDef().node.add()
    call.CopyFrom(next(node for node in graph_def.node if node.op in CALLS))
    call.input[:] = [arg.name for arg in function.signature.input_arg]
    function.node_def.append(call)
    with pytest.raises(ValueError, match="calls itself"):
        inline_calls(graph_def, ["y0:0"])
