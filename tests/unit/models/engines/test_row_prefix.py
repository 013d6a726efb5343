"""The row prefix: split where all rows pass, kept only where it is proven equal and measured to gain."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.models.engine import PassReport
from darkroom.models.engines.open import prepare
from darkroom.models.engines.row_prefix import ROW_PREFIX, find_dominators, with_known_row_prefix, with_row_prefix
from darkroom.models.engines.tuning import Tuning, time_both
from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import Binding, PrefixRunner, SessionEngine, open_session, row_by_row
from darkroom.models.runtime.tensorflow import SessionOptions, tf
from darkroom.models.spec import SignatureSpec, TensorSpec
from tests import savedmodels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SPEC = SignatureSpec(
    "s", (TensorSpec("x", "float32", (None, 4)),), (TensorSpec("y", "float32", (None,)),), batched=True
)
BINDING = Binding({"x": "x:0"}, {"y": "y:0"})
SAMPLES = tuple(Rows({"x": np.full((1, 4), value, np.float32)}) for value in (0.5, 2.0, 3.0))


def graph_of(build: Callable[[Any], Any]) -> Any:
    """The GraphDef of `y = build(x)`."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        tf.identity(build(x), name="y")
    return graph.as_graph_def()


def layers(x: Any) -> Any:
    """Wide, narrow, a block that with a path around itself, and narrower still."""
    x = tf.tile(x, [1, 8], name="wide")
    x = tf.reshape(x, [-1, 4, 8])
    x = tf.debugging.check_numerics(tf.reduce_max(x, axis=2, name="max"), "not a number", name="narrow")
    x = tf.add(tf.square(x, name="inside"), x, name="block")
    return tf.reduce_sum(x, axis=1, name="sum")


def mixing(x: Any) -> Any:
    """Row-wise as a whole, but not up to `mixed`: it adds a mean over the batch, which is taken off again."""
    rest = tf.reduce_sum(x, axis=1, keepdims=True)
    x = tf.concat([x, x + tf.reduce_mean(rest)], axis=1, name="mixed")
    return x[:, 4] - x[:, 0] - tf.reduce_mean(tf.reduce_sum(x[:, :4], axis=1)) + tf.reduce_sum(x[:, :4], axis=1)


def dominators(graph_def: Any, *fetches: str, feeds: tuple[str, ...] = ("x:0",)) -> list[str]:
    return [name for name, _ in find_dominators(graph_def, feeds, fetches)]


def engine(build: Callable[[Any], Any] = layers, split: str = "") -> SessionEngine:
    return SessionEngine(SPEC, open_session(graph_of(build), SessionOptions()), BINDING, split=split)


def test_a_node_that_a_path_avoids_is_no_dominator() -> None:
    found = dict(find_dominators(graph_of(layers), ["x:0"], ["y:0"]))
    assert {"x", "wide", "narrow", "block", "sum"} <= found.keys()
    assert "inside" not in found
    assert sorted(found["block"]) == ["block", "inside"]


def test_an_output_in_the_middle_ends_the_dominators() -> None:
    assert dominators(graph_of(layers), "y:0", "narrow:0")[-1] == "max"


def test_a_path_around_all_layers_leaves_no_dominator_but_the_input() -> None:
    graph_def = graph_of(lambda x: tf.reshape(tf.square(x, name="inside"), tf.shape(x)))
    assert dominators(graph_def, "y:0") == ["x", "Reshape"]


def test_a_dominator_of_two_inputs_comes_after_both() -> None:
    with tf.Graph().as_default() as graph:
        a, b = (tf.compat.v1.placeholder(tf.float32, [None], name=name) for name in "ab")
        tf.identity(tf.square(tf.add(tf.square(a), tf.square(b), name="both"), name="squared"), name="y")
    assert dominators(graph.as_graph_def(), "y:0", feeds=("a:0", "b:0")) == ["both", "squared"]


def test_only_the_first_output_of_an_op_counts() -> None:
    graph_def = graph_of(lambda x: tf.add(*tf.split(x, 2, axis=1)))
    assert dominators(graph_def, "y:0") == ["x", "Add"]


def test_the_layers_behind_a_tf1_loop_are_reached(built: Callable[[Any], Path]) -> None:
    artifact = prepare(built(savedmodels.classic), name="m", version=1, options=SessionOptions())
    binding = artifact.bindings["serving_default"]
    graph_def = tf.compat.v1.GraphDef.FromString(artifact.graph)
    found = dominators(graph_def, binding.fetches["softmax"], feeds=tuple(binding.feeds.values()))
    ops = {node.name: node.op for node in graph_def.node}
    assert "MatMul" in [ops[name] for name in found]


@settings(deadline=None)  # the first call of a size makes its kernels
@given(values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=9))
def test_the_answer_is_that_of_the_whole_graph(values: list[float]) -> None:
    x = np.outer(np.array(values, np.float32), np.arange(1, 5, dtype=np.float32))
    parted = np.asarray(PARTED.run(Rows({"x": x})).columns["y"])
    np.testing.assert_allclose(parted, np.sum(x * x + x, axis=1), rtol=1e-5, atol=1e-3)


PARTED = engine(lambda x: tf.reduce_sum(tf.add(tf.square(x), x, name="block"), axis=1), split="block:0")


def test_a_row_that_the_prefix_refuses_is_the_clients_fault() -> None:
    parted = engine(split="narrow:0")
    bad = np.array([[1, 1, 1, 1], [1, np.nan, 1, 1]], np.float32)
    with pytest.raises(InvalidInput, match="not a number"):
        parted.run(Rows({"x": bad}))


class Timed(SessionEngine):
    """Takes the time that `costs` says for a node: of a call of one row, and of each row of eight."""

    costs: dict[str, tuple[float, float]]
    clock: list[float]
    parts_s = 1.0  # what eight rows take where the graph is split
    is_closed = False

    def nodes_of(self, rows: Rows, *, calls: int = 1) -> dict[str, float]:
        del calls
        return {name: cost[len(rows) > 1] * len(rows) for name, cost in self.costs.items()}

    def split_at(
        self, split: str, run_prefix: PrefixRunner = row_by_row, extra_feeds: Sequence[str] = ()
    ) -> SessionEngine:
        assert (run_prefix, extra_feeds) == (row_by_row, ())
        parted = timed(self.costs, self.clock, self._session, split)
        parted.parts_s = self.parts_s
        return parted

    def run(self, rows: Rows) -> Rows:
        self.clock[0] += self.parts_s if self.split else 8.0
        return super().run(rows)

    def close(self) -> None:
        self.is_closed = True


def timed(costs: dict[str, tuple[float, float]], clock: list[float], session: Any, split: str = "") -> Timed:
    made = Timed(SPEC, session, BINDING, split=split)
    made.costs, made.clock = costs, clock
    return made


# "wide" is dearer together; behind "narrow", rows alone are dearer.
COSTS = {"x": (0.0, 0.0), "wide": (1.0, 2.0), "narrow": (1.0, 1.5), "block": (1.0, 0.5), "sum": (1.0, 0.9)}


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


def tried(
    clock: list[float],
    costs: dict[str, tuple[float, float]],
    build: Callable[[Any], Any] = layers,
    *,
    parts_s: float = 4.0,
) -> tuple[Timed, SessionEngine, str]:
    session = open_session(graph_of(build), SessionOptions())
    whole = timed(costs, clock, session)
    whole.parts_s = parts_s
    timer = partial(time_both, clock=lambda: clock[0])
    kept, report = with_row_prefix(whole, session.graph, BINDING, SAMPLES, timer=timer)
    assert (report.name, report.applied) == (ROW_PREFIX, kept is not whole)
    assert whole.is_closed == report.applied
    return whole, kept, report.reason


def test_the_split_is_where_single_rows_gain_most(clock: list[float]) -> None:
    _, kept, reason = tried(clock, COSTS)
    assert kept.split == "narrow:0"
    assert reason == "rows one by one up to narrow:0: 2.00 times as fast at 8 rows a core"


def test_a_gain_that_background_load_nearly_hides_is_taken(clock: list[float]) -> None:
    _, kept, _ = tried(clock, COSTS, parts_s=7.9)
    assert kept.split == "narrow:0"


def test_a_split_tensor_is_no_larger_than_earlier_candidates(clock: list[float]) -> None:
    _, kept, _ = tried(clock, COSTS | {"narrow": (1.0, 0.9)})
    assert kept.split == "narrow:0", "wide gains more, and hands eight times as much over"


def test_a_node_that_was_fused_with_the_next_one_is_skipped(clock: list[float]) -> None:
    _, kept, _ = tried(clock, {name: cost for name, cost in COSTS.items() if name != "narrow"})
    assert kept.split == "block:0"


@pytest.mark.parametrize(
    ("costs", "parts_s", "reason"),
    [
        ({"wide": (1.0, 1.0), "narrow": (1.0, 1.02)}, 4.0, "rows one by one would save 1 % of 8 rows a core"),
        (COSTS, 8.1, "0.99 times as fast at 8 rows a core"),
        (COSTS, 16.0, "0.50 times as fast at 8 rows a core"),
    ],
    ids=["the ops promise too little", "it loses a little", "it loses"],
)
def test_a_row_prefix_that_does_not_pay_is_left_out(
    clock: list[float], costs: dict[str, tuple[float, float]], parts_s: float, reason: str
) -> None:
    whole, kept, said = tried(clock, costs, parts_s=parts_s)
    assert (kept, said) == (whole, reason)


def test_a_prefix_that_mixes_rows_is_found_out(clock: list[float]) -> None:
    _, _, reason = tried(clock, {"mixed": (1.0, 9.0)}, mixing)
    assert "differs by" in reason


def test_a_signature_whose_rows_never_meet_is_left(clock: list[float]) -> None:
    session = open_session(graph_of(layers), SessionOptions())
    whole = timed(COSTS, clock, session)
    kept, report = with_row_prefix(whole, session.graph, BINDING, ())
    assert (kept, report.applied, report.reason) == (whole, False, "its rows never share a call")


def test_a_known_row_prefix_is_proven_again() -> None:
    found = PassReport(ROW_PREFIX, applied=True, reason="measured")
    for build, split, kept_split in ((layers, "narrow:0", "narrow:0"), (mixing, "mixed:0", "")):
        kept, report = with_known_row_prefix(
            engine(build), partial(engine, build), SAMPLES, Tuning(split, split_report=found)
        )
        assert (kept.split, report.applied) == (kept_split, bool(kept_split))
        assert ("measured" if kept_split else "differs by") in report.reason


def test_whatever_fails_leaves_the_whole_graph(clock: list[float]) -> None:
    session = open_session(graph_of(layers), SessionOptions())
    whole = timed(COSTS, clock, session)
    whole.split_at = raises  # type: ignore[method-assign]
    kept, report = with_row_prefix(whole, session.graph, BINDING, SAMPLES)
    assert (kept, report.applied, report.reason) == (whole, False, "no tensor narrow:0")


def raises(split: str, run_prefix: PrefixRunner = row_by_row, extra_feeds: Sequence[str] = ()) -> SessionEngine:  # noqa: ARG001
    raise ValueError(f"no tensor {split}")
