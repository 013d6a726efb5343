"""The decode stage: found where all that decodes has come together, run on every core, kept only where it does not lose."""

from __future__ import annotations

import time
from threading import Barrier
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.models.engines.cpu_decode import (
    CPU_DECODE,
    ConcatPoint,
    CpuDecodeEngine,
    DecodePool,
    concat_point,
    concat_points,
    find_decode_stage,
    with_concat_points,
    with_cpu_decode,
)
from darkroom.models.engines.devices import Device
from darkroom.models.engines.open import open_artifact, prepare
from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows, join
from darkroom.models.runtime.session import SessionEngine, make_callable, open_session
from darkroom.models.runtime.tensorflow import SessionOptions, graph_pb2, tf
from tests import savedmodels
from tests.pictures import picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from darkroom.models.engine import PassReport
    from darkroom.models.engines.tuning import Timer
    from darkroom.models.rewriting.artifact import Artifact
    from tests.unit.models.conftest import Build

NAME = "serving_default"
PIECES = 4
CPUS = [Device("cpu", 0, 2), Device("cpu", 1, 2)]


def artifact_of(path: Path) -> Artifact:
    return prepare(path, name="m", version=1, options=SessionOptions())


def graph_of(artifact: Artifact) -> Any:
    return graph_pb2.GraphDef.FromString(artifact.graph)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    made = DecodePool(3)
    yield made
    made.close()


@pytest.fixture
def artifact(built: Callable[[Build], Path]) -> Artifact:
    return artifact_of(built(savedmodels.pictures))


def engine_of(artifact: Artifact) -> SessionEngine:
    session = open_session(graph_of(artifact), SessionOptions(inter_op_threads=-1, uses_gpus=False))
    return SessionEngine(artifact.spec.signatures[NAME], session, artifact.bindings[NAME], passes=artifact.passes[NAME])


def rows_of(*seeds: int) -> Rows:
    return Rows({"images": [picture(seed, kind="JPEG") for seed in seeds]})


class NotingPool(DecodePool):
    """Notes the rows of each call."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.calls: list[int] = []

    def spread(self, stage: Callable[..., Any], arrays: Sequence[Any]) -> list[Any]:
        self.calls.append(len(arrays[0]))
        return super().spread(stage, arrays)


class NegatingPool(DecodePool):
    """Gives every pixel the wrong sign."""

    def spread(self, stage: Callable[..., Any], arrays: Sequence[Any]) -> list[Any]:
        return [-piece for piece in super().spread(stage, arrays)]


def times(seconds: dict[int, tuple[float, float]]) -> Timer:
    """Says that a call takes so many seconds, by its rows: whole, and split."""

    def timer(first: object, second: object, rows: Rows, *, rounds: int = 0) -> tuple[float, float]:
        del first, second, rounds
        return seconds[len(rows)]

    return timer


PAYS = times(dict.fromkeys((2, 8, 32), (2.0, 1.0)))


def split(artifact: Artifact, pool: DecodePool, timer: Timer = PAYS) -> tuple[CpuDecodeEngine | None, PassReport]:
    """The signature, split where that pays, in a graph without concatenation points; and the report."""
    whole = engine_of(artifact)
    kept = with_cpu_decode(
        {NAME: whole}, graph_of(artifact), artifact.bindings, artifact.samples, pool, points={}, timer=timer
    )
    (report,) = (each for each in whole.passes if each.name == CPU_DECODE)
    return kept.get(NAME), report


@pytest.mark.parametrize("build", [savedmodels.pictures, savedmodels.classic])
def test_the_decode_stage_is_all_that_decodes_and_no_layer(built: Callable[[Build], Path], build: Build) -> None:
    artifact = artifact_of(built(build))
    graph_def = graph_of(artifact)
    end, names = find_decode_stage(graph_def, artifact.bindings[NAME])
    ops = {node.op for node in graph_def.node if node.name in names}
    assert end in names
    assert "Placeholder" in ops
    assert not ops & {"MatMul", "Softmax"}


def test_a_model_that_decodes_nothing_has_no_decode_stage(built: Callable[[Build], Path], pool: DecodePool) -> None:
    artifact = artifact_of(built(savedmodels.linear))
    with pytest.raises(ValueError, match="no op of the graph judges"):
        find_decode_stage(graph_of(artifact), artifact.bindings[NAME])
    assert concat_points(graph_of(artifact), artifact.bindings.values(), 3) == {}
    engine, report = split(artifact, pool)
    assert (engine, report.applied, report.reason) == (None, False, "no op of the graph judges its strings")


def test_the_rows_are_cut_into_as_many_pieces_as_cores_or_rows(pool: DecodePool) -> None:
    together = Barrier(3)

    def stage(values: Any) -> list[Any]:
        if len(values) != 1:
            together.wait(10)  # breaks unless three run at once
        return [values * 2]

    values = np.arange(8)
    pieces = pool.spread(stage, [values])
    assert [len(piece) for piece in pieces] == [2, 3, 3]
    np.testing.assert_array_equal(np.concatenate(pieces), values * 2)
    assert [piece.tolist() for piece in pool.spread(stage, [values[:2]])] == [[0], [2]]


def test_a_piece_that_fails_is_told_when_no_other_runs_any_more(pool: DecodePool) -> None:
    ended: list[int] = []

    def stage(values: Any) -> list[Any]:
        if values[0] == 0:
            raise ValueError("the first")
        time.sleep(0.2)
        ended.append(int(values[0]))
        return [values]

    with pytest.raises(ValueError, match="the first"):
        pool.spread(stage, [np.arange(3)])
    assert sorted(ended) == [1, 2]


@pytest.mark.parametrize("has_point", [False, True])
def test_calls_of_any_size_answer_as_they_do_whole(artifact: Artifact, pool: DecodePool, *, has_point: bool) -> None:
    if has_point:
        model = open_artifact(artifact, SessionOptions(intra_op_threads=3), CPUS, timer=PAYS)
        engine: Any = model.engines[NAME]
    else:
        engine, _ = split(artifact, pool)
    assert isinstance(engine, CpuDecodeEngine)
    whole = engine_of(artifact)
    for count in (1, 2, 3, 7):
        rows = rows_of(*range(count))
        answer, wanted = engine.run(rows), whole.run(rows)
        for name, column in wanted.columns.items():
            np.testing.assert_allclose(np.asarray(answer.columns[name]), np.asarray(column), rtol=1e-5)
    engine.close()
    engine.close()


def test_a_bad_picture_fails_its_call_and_is_found(artifact: Artifact, pool: DecodePool) -> None:
    engine, _ = split(artifact, pool)
    assert engine is not None
    cut = Rows({"images": [picture(1, kind="JPEG")[:100]]})
    rows = join([rows_of(0), cut, rows_of(2)])
    with pytest.raises(InvalidInput):
        engine.run(rows)
    assert [fault is None for fault in engine.screen(rows)] == [True, False, True]
    assert len(engine.run(rows_of(0, 2))) == 2


def test_small_calls_and_rows_that_are_not_aligned_run_whole(artifact: Artifact) -> None:
    noting = NotingPool(3)
    engine, report = split(artifact, noting, times({2: (0.5, 1.0), 8: (2.0, 1.0), 32: (2.0, 1.0)}))
    assert engine is not None
    assert report.reason == "from 8 rows on; 2.00 times as fast at 32 rows"
    noting.calls.clear()
    engine.run(rows_of(*range(7)))
    engine.run(Rows(rows_of(*range(9)).columns, count=9, aligned=False))
    assert noting.calls == []
    engine.run(rows_of(*range(8)))
    assert noting.calls == [8]
    noting.close()


def test_where_it_loses_it_is_dropped_and_the_reason_told(artifact: Artifact, pool: DecodePool) -> None:
    timer = times({2: (2.0, 1.0), 8: (2.0, 1.0), 32: (0.8, 1.0)})
    assert split(artifact, pool, timer) == (None, (CPU_DECODE, False, "0.80 times as fast at 32 rows"))


def test_where_it_answers_otherwise_it_is_dropped(artifact: Artifact) -> None:
    wrong = NegatingPool(3)
    engine, report = split(artifact, wrong)
    assert engine is None
    assert "differs" in report.reason
    wrong.close()


def test_it_is_tried_on_each_of_several_devices_and_not_on_the_one_cpu(artifact: Artifact) -> None:
    several = open_artifact(artifact, SessionOptions(intra_op_threads=2), CPUS)
    assert [
        [each.name for each in engine.passes].count(CPU_DECODE) for engine in several.engines_of(NAME).values()
    ] == [
        1,
        1,
    ]
    several.close()
    one = open_artifact(artifact, SessionOptions(intra_op_threads=2))
    assert CPU_DECODE not in [each.name for each in one.engines[NAME].passes]
    one.close()


def numbers(shape: tuple[int | None, ...] = (None, 3), dtype: Any = tf.float32) -> Any:
    """`x` → `narrow` → `y`, and `late`, which waits for `narrow` without reading it."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(dtype, shape, name="x")
        narrow = tf.identity(x, name="narrow") if dtype == tf.string else tf.add(x, 1, name="narrow")
        with tf.control_dependencies([narrow]):
            tf.constant(7.0, name="late")
        tf.identity(narrow if dtype == tf.string else tf.multiply(narrow, 2), name="y")
    return graph.as_graph_def()


def found(graph_def: Any) -> ConcatPoint:
    point = concat_point(graph_def, "narrow", PIECES)
    assert point is not None
    return point


POINT = found(numbers())
SESSION = open_session(with_concat_points(numbers(), [POINT], ""), SessionOptions())
WHOLE = make_callable(SESSION, ["x:0"], ["y:0", "late:0"])
FED_IN_PIECES = make_callable(SESSION, POINT.tensors, ["y:0"])


def test_a_concatenation_point_knows_the_rows_that_it_takes() -> None:
    assert (POINT.dtype, POINT.shape) == (tf.float32, (3,))
    assert POINT.tensors[0] == "narrow:0"
    assert len(set(POINT.tensors)) == PIECES


def test_rows_of_unknown_shape_and_strings_have_no_concatenation_point() -> None:
    assert concat_point(numbers((None, None)), "narrow", PIECES) is None
    assert concat_point(numbers((None,), tf.string), "narrow", PIECES) is None
    assert concat_point(numbers(()), "narrow", PIECES) is None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=PIECES).filter(any))
@settings(max_examples=50, deadline=None)
def test_pieces_of_any_sizes_come_out_as_one_in_order(sizes: list[int]) -> None:
    rows = np.arange(sum(sizes) * 3, dtype=np.float32).reshape(-1, 3)
    pieces = np.split(rows, np.cumsum(sizes)[:-1])
    (answer,) = FED_IN_PIECES(*POINT.fill(pieces))
    np.testing.assert_array_equal(answer, rows * 2)


def test_where_no_piece_is_fed_the_graph_answers_as_before() -> None:
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    y, late = WHOLE(x)
    np.testing.assert_array_equal(y, (x + 1) * 2)
    assert late == 7.0


def test_its_nodes_are_on_its_device_and_the_graph_that_was_given_is_as_it_was() -> None:
    graph_def = numbers()
    before = graph_def.SerializeToString()
    made = with_concat_points(graph_def, [POINT], "/device:CPU:0")
    assert graph_def.SerializeToString() == before
    known = {node.name for node in graph_def.node}
    new = [node for node in made.node if node.name not in known]
    assert {node.device for node in new} == {"/device:CPU:0"}
    assert {node.op for node in new} == {"ConcatV2", "Const", "PlaceholderWithDefault"}
