"""A joint: rows come in pieces and go on as one, and a graph that has one answers as before where none is fed."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.models.engines.joint import Joint, find_joint, with_joints
from darkroom.models.runtime.session import make_callable, open_session
from darkroom.models.runtime.tensorflow import SessionOptions, tf

PIECES = 4


def graph_of(shape: tuple[int | None, ...] = (None, 3), dtype: Any = tf.float32) -> Any:
    """`x` → `narrow` → `y`, and `late`, which waits for `narrow` without reading it."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(dtype, shape, name="x")
        narrow = tf.identity(x, name="narrow") if dtype == tf.string else tf.add(x, 1, name="narrow")
        with tf.control_dependencies([narrow]):
            tf.constant(7.0, name="late")
        tf.identity(narrow if dtype == tf.string else tf.multiply(narrow, 2), name="y")
    return graph.as_graph_def()


def found(graph_def: Any) -> Joint:
    joint = find_joint(graph_def, "narrow", PIECES)
    assert joint is not None
    return joint


JOINT = found(graph_of())
SESSION = open_session(with_joints(graph_of(), [JOINT], ""), SessionOptions())
WHOLE = make_callable(SESSION, ["x:0"], ["y:0", "late:0"])
PARTED = make_callable(SESSION, JOINT.tensors, ["y:0"])


def test_a_joint_knows_the_rows_that_it_takes() -> None:
    assert (JOINT.dtype, JOINT.shape) == (tf.float32, (3,))
    assert JOINT.tensors[0] == "narrow:0"
    assert len(set(JOINT.tensors)) == PIECES


def test_rows_of_unknown_shape_and_strings_have_none() -> None:
    assert find_joint(graph_of((None, None)), "narrow", PIECES) is None
    assert find_joint(graph_of((None,), tf.string), "narrow", PIECES) is None
    assert find_joint(graph_of(()), "narrow", PIECES) is None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=PIECES).filter(any))
@settings(max_examples=50, deadline=None)
def test_pieces_of_any_sizes_come_out_as_one_in_order(sizes: list[int]) -> None:
    rows = np.arange(sum(sizes) * 3, dtype=np.float32).reshape(-1, 3)
    pieces = np.split(rows, np.cumsum(sizes)[:-1])
    (answer,) = PARTED(*JOINT.fill(pieces))
    np.testing.assert_array_equal(answer, rows * 2)


def test_where_nothing_is_fed_the_graph_answers_as_before() -> None:
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    y, late = WHOLE(x)
    np.testing.assert_array_equal(y, (x + 1) * 2)
    assert late == 7.0


def test_its_nodes_are_on_its_device_and_the_graph_that_was_given_is_as_it_was() -> None:
    graph_def = graph_of()
    before = graph_def.SerializeToString()
    made = with_joints(graph_def, [JOINT], "/device:CPU:0")
    assert graph_def.SerializeToString() == before
    known = {node.name for node in graph_def.node}
    new = [node for node in made.node if node.name not in known]
    assert {node.device for node in new} == {"/device:CPU:0"}
    assert {node.op for node in new} == {"ConcatV2", "Const", "PlaceholderWithDefault"}
