"""Timing that is fair to all, and what was decided for a graph: cached by its key, applied to the next one, still proven."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darkroom.models.engine import PassReport
from darkroom.models.engines.open import open_artifact, prepare
from darkroom.models.engines.row_prefix import ROW_PREFIX
from darkroom.models.engines.sharded import SHARD, ShardedEngine
from darkroom.models.engines.tuning import (
    MAX_CACHED,
    Timer,
    Tuning,
    TuningCache,
    graph_key,
    interleave,
    seconds_of,
    time_both,
)
from darkroom.models.rewriting.artifact import Artifact
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import Binding
from darkroom.models.runtime.tensorflow import SessionOptions, tf
from darkroom.models.spec import ModelSpec
from tests import savedmodels

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.models.engine import LoadedModel

OPTIONS = SessionOptions(intra_op_threads=2, inter_op_threads=-1)
NAME = "serving_default"
BINDING = Binding({"x": "x:0"}, {"y": "y:0"})
PAYS = PassReport(SHARD, applied=True, reason="measured")
DOES_NOT = PassReport(SHARD, applied=False, reason="measured")
HAS_PREFIX = PassReport(ROW_PREFIX, applied=True, reason="measured")


def artifact_of(build: Callable[[Any], Any]) -> Artifact:
    """The graph of `y = build(x)`, not proven to be anything."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        tf.identity(build(x), name="y")
    data = graph.as_graph_def().SerializeToString()
    return Artifact(ModelSpec("m", 1, {}), Path("nowhere"), data, {NAME: BINDING})


def adds(*weights: float) -> Artifact:
    return artifact_of(lambda x: x + tf.constant(weights))


def reshapes(*shape: int) -> Artifact:
    return artifact_of(lambda x: tf.reshape(x, tf.constant(shape)))


def test_measures_take_turns_and_none_always_follows_the_same_one() -> None:
    order: list[str] = []

    def measure(name: str) -> str:
        order.append(name)
        return name + str(order.count(name))

    results = interleave([partial(measure, name) for name in "abc"], rounds=3)
    assert results == [["a1", "a2", "a3"], ["b1", "b2", "b3"], ["c1", "c2", "c3"]]
    assert "".join(order) == "abcbcacab"


def test_the_quickest_call_of_each_counts_and_the_first_of_each_does_not() -> None:
    now = [0.0]
    took_s = {"first": iter([0.0, 3.0, 2.0, 4.0]), "second": iter([0.0, 5.0, 7.0, 6.0])}

    def call(name: str, rows: Rows) -> Rows:
        now[0] += next(took_s[name])
        return rows

    rows = Rows({"x": np.zeros(1)})
    first, second = partial(call, "first"), partial(call, "second")
    assert time_both(first, second, rows, rounds=3, clock=lambda: now[0]) == (2.0, 5.0)
    assert not list(took_s["first"])


@pytest.mark.parametrize(("call_s", "calls"), [(0.01, 10), (0.2, 5), (0.6, 1), (5.0, 1)])
def test_slow_calls_are_timed_less_often(call_s: float, calls: int) -> None:
    now_s, ran = 0.0, []

    def call(rows: Rows) -> Rows:
        nonlocal now_s
        now_s += call_s
        ran.append(rows)
        return rows

    assert time_both(call, call, Rows({}), clock=lambda: now_s) == pytest.approx((call_s, call_s))
    assert len(ran) == 2 * calls


def test_a_call_is_timed_by_the_clock_that_is_given() -> None:
    ticks = iter([10.0, 12.5])
    assert seconds_of(lambda: None, clock=lambda: next(ticks)) == 2.5


def test_two_versions_that_differ_in_their_weights_have_one_key() -> None:
    assert graph_key(adds(1.0, 2.0, 3.0, 4.0), OPTIONS) == graph_key(adds(5.0, 6.0, 7.0, 8.0), OPTIONS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (adds(1.0, 2.0, 3.0, 4.0), adds(1.0)),
        (reshapes(-1, 2), reshapes(-1, 4)),
        (artifact_of(tf.square), artifact_of(tf.exp)),
        (adds(1.0), replace(adds(1.0), bindings={NAME: Binding({"x": "x:0"}, {"z": "y:0"})})),
    ],
    ids=["the weights' shape", "a shape", "an op", "what is asked"],
)
def test_more_than_other_weights_makes_another_key(one: Artifact, other: Artifact) -> None:
    assert graph_key(one, OPTIONS) != graph_key(other, OPTIONS)


def test_sessions_set_up_otherwise_make_another_key() -> None:
    assert graph_key(adds(1.0), OPTIONS) != graph_key(adds(1.0), replace(OPTIONS, intra_op_threads=3))


def test_of_too_many_graphs_the_oldest_is_dropped() -> None:
    cache = TuningCache()
    for number in range(MAX_CACHED + 1):
        cache.put(str(number), {NAME: Tuning()})
    assert cache.get("0") == {}
    assert cache.get("1") == cache.get(str(MAX_CACHED)) == {NAME: Tuning()}


def scaled(factor: float) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        return savedmodels.numbers(folder, lambda x: tf.reduce_sum(tf.square(x) * factor, axis=1, name="sum"))

    return build


def opened(path: Path, cache: TuningCache, timer: Timer = time_both) -> LoadedModel:
    return open_artifact(prepare(path, name="m", version=1, options=OPTIONS), OPTIONS, cache=cache, timer=timer)


@pytest.fixture
def graph(tmp_path: Path) -> tuple[Path, Artifact, str]:
    """A version, its artifact, and the name of the tensor that all of its rows pass through."""
    path = scaled(2.0)(tmp_path / "1")
    artifact = prepare(path, name="m", version=1, options=OPTIONS)
    output = artifact.bindings[NAME].fetches["y"]
    nodes = {node.name: node for node in tf.compat.v1.GraphDef.FromString(artifact.graph).node}
    return path, artifact, f"{nodes[output.partition(':')[0]].input[0].partition(':')[0]}:0"


def knowing(artifact: Artifact, tuning: Tuning) -> TuningCache:
    cache = TuningCache()
    cache.put(graph_key(artifact, OPTIONS), {NAME: tuning})
    return cache


def no_timer(first: object, second: object, rows: Rows, *, rounds: int = 0) -> tuple[float, float]:
    raise AssertionError(f"it was measured again: {first}, {second}, {rows}, {rounds}")


def reports(model: LoadedModel) -> dict[str, str]:
    return {report.name: report.reason for report in model.engines[NAME].passes if report.name in (SHARD, ROW_PREFIX)}


def test_a_version_with_the_same_key_takes_over_row_prefix_and_shards(
    graph: tuple[Path, Artifact, str], tmp_path: Path
) -> None:
    _, artifact, split = graph
    model = opened(scaled(3.0)(tmp_path / "2"), knowing(artifact, Tuning(split, 4, 0, HAS_PREFIX, (PAYS,))), no_timer)
    engine = model.engines[NAME]
    assert isinstance(engine, ShardedEngine)
    assert (engine.split, engine.min_rows, engine.piece_rows) == (split, 4, 0)
    assert reports(model) == {SHARD: "measured", ROW_PREFIX: "measured"}
    answer = engine.run(Rows({"x": np.full((5, 4), 2.0, np.float32)}))
    assert np.asarray(answer.columns["y"]).tolist() == [48.0] * 5
    model.close()


def test_a_row_prefix_that_is_not_proven_for_the_new_weights_is_left_out(graph: tuple[Path, Artifact, str]) -> None:
    path, artifact, _ = graph
    model = opened(path, knowing(artifact, Tuning("nowhere:0", 2, 0, HAS_PREFIX, (PAYS,))), no_timer)
    engine = model.engines[NAME]
    assert isinstance(engine, ShardedEngine)
    assert engine.split == ""
    assert "nowhere" in reports(model)[ROW_PREFIX]
    model.close()


def test_shards_that_did_not_pay_are_not_tried_again(graph: tuple[Path, Artifact, str]) -> None:
    path, artifact, _ = graph
    model = opened(path, knowing(artifact, Tuning(shard_reports=(DOES_NOT,))), no_timer)
    assert not isinstance(model.engines[NAME], ShardedEngine)
    assert reports(model) == {SHARD: "measured"}
    model.close()


def test_what_is_measured_is_kept_for_the_next(graph: tuple[Path, Artifact, str]) -> None:
    path, artifact, _ = graph
    cache = TuningCache()
    first = opened(path, cache)
    kept = cache.get(graph_key(artifact, OPTIONS))[NAME]
    assert [report.name for report in kept.shard_reports] == [SHARD]
    assert (kept.min_rows > 0) == isinstance(first.engines[NAME], ShardedEngine)
    again = opened(path, cache)
    assert reports(again) == reports(first)
    first.close()
    again.close()
