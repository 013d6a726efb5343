"""The nodes that check a row: found in every form of graph, and used only if they are right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.models.engine import LoadedModel, Screener
from darkroom.models.engines.open import load_model
from darkroom.models.graph.decoding_ops import find_decoding_nodes
from darkroom.models.rewriting.verify import screen_fault
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import Binding, SessionEngine, open_session
from darkroom.models.runtime.tensorflow import SessionOptions, tf
from darkroom.models.spec import SignatureSpec, TensorSpec
from tests import savedmodels
from tests.pictures import picture
from tests.unit.models.conftest import Build

Built = Callable[[Build], Path]
GOOD = [picture(seed, kind="JPEG") for seed in range(3)]
SHORT = GOOD[0][: len(GOOD[0]) // 2]


def classic_inside(folder: Path) -> Path:
    return savedmodels.classic(folder, base64="inside")


def map_defun(folder: Path) -> Path:
    return savedmodels.pictures(folder, loop="map_defun")


def screener(built: Built, build: Build) -> tuple[LoadedModel, Screener]:
    model = load_model(built(build), name="m", version=1)
    engine = model.engines["serving_default"]
    assert isinstance(engine, Screener)
    return model, engine


@pytest.mark.parametrize(
    "build", [savedmodels.classic, classic_inside, savedmodels.pictures, map_defun, savedmodels.decoders]
)
def test_the_invalid_rows_of_every_form_of_graph_are_found(built: Built, build: Build) -> None:
    model, engine = screener(built, build)
    faults = engine.screen(Rows({"images": [GOOD[0], SHORT, GOOD[1], b"no picture", b""]}))
    assert [fault is not None for fault in faults] == [False, True, False, True, True]
    model.close()


def test_an_invalid_example_is_found(built: Built) -> None:
    example = tf.train.Example()
    example.features.feature["b"].float_list.value.extend([1.0, 2.0])
    good = example.SerializeToString()
    model, engine = screener(built, savedmodels.estimator)
    faults = engine.screen(Rows({"inputs": [good, good[:-1], good]}))
    assert [fault is not None for fault in faults] == [False, True, False]
    model.close()


def test_rows_that_are_not_aligned_are_never_screened(built: Built) -> None:
    model, engine = screener(built, savedmodels.classic)
    assert engine.screen(Rows({"images": [SHORT, SHORT]}, aligned=False)) == []
    model.close()


def test_a_signature_of_numbers_has_no_screen_and_says_why(built: Built) -> None:
    model, engine = screener(built, savedmodels.keys_and_features)
    assert engine.screen(Rows({"keys": np.zeros((2, 1), np.int32), "features": np.zeros((2, 9), np.float32)})) == []
    assert ("screen", False, "no op of the graph judges its strings") in model.engines["serving_default"].passes
    model.close()


def graph_of(build: Callable[[Any], Any]) -> Any:
    with tf.Graph().as_default() as graph:
        tf.identity(build(tf.compat.v1.placeholder(tf.string, [None], name="x")), name="y")
    return graph.as_graph_def()


def test_a_decoding_op_behind_a_layer_is_refused() -> None:
    def build(x: Any) -> Any:
        lengths = tf.cast(tf.strings.length(x), tf.float32)[:, None]
        return tf.strings.to_number(tf.strings.as_string(tf.matmul(lengths, [[1.0]])))

    with pytest.raises(ValueError, match="behind MatMul"):
        find_decoding_nodes(graph_of(build), ["x:0"], ["y:0"])


def test_a_decoding_op_that_the_outputs_do_not_need_is_left_out() -> None:
    def build(x: Any) -> Any:
        tf.io.decode_base64(x, name="unread")
        return tf.strings.to_number(x, name="read")

    assert find_decoding_nodes(graph_of(build), ["x:0"], ["y:0"]) == ("read",)


def test_a_decoding_op_in_a_loop_within_a_loop_is_run_by_the_outer_exits() -> None:
    tf.compat.v1.disable_control_flow_v2()
    try:
        graph_def = graph_of(
            lambda x: tf.map_fn(
                lambda row: tf.map_fn(tf.strings.to_number, row[None], fn_output_signature=tf.float32),
                x,
                fn_output_signature=tf.float32,
            )
        )
    finally:
        tf.compat.v1.enable_control_flow_v2()
    nodes = find_decoding_nodes(graph_def, ["x:0"], ["y:0"])
    spec = SignatureSpec("s", (TensorSpec("x", "string", (None,)),), (TensorSpec("y", "float32", (None, 1)),))
    engine = SessionEngine(spec, open_session(graph_def, SessionOptions()), Binding({"x": "x:0"}, {"y": "y:0"}, nodes))
    assert [fault is None for fault in engine.screen(Rows({"x": [b"1", b"one", b"2"]}))] == [True, False, True]


def test_a_screen_that_rejects_everything_or_nothing_is_not_used() -> None:
    def build(x: Any) -> Any:
        tf.strings.to_number(x, name="strict")
        tf.identity(x, name="lax")
        return tf.strings.length(x)

    session = open_session(graph_of(build), SessionOptions())
    spec = SignatureSpec("s", (TensorSpec("x", "string", (None,)),), (TensorSpec("y", "int32", (None,)),))

    def fault(node: str, *values: bytes) -> str:
        engine = SessionEngine(spec, session, Binding({"x": "x:0"}, {"y": "y:0"}, (node,)))
        return screen_fault(engine, [Rows({"x": [value]}) for value in values])

    assert fault("strict", b"1", b"one") == "it finds a good row guilty"
    assert fault("lax", b"1", b"2") == "it finds nothing wrong with a row that is cut short"
    assert fault("strict", b"1", b"2") == "the graph takes a row that it finds guilty"
