"""The front: found where all that decodes has come together, run on every core, kept only where it does not lose."""

from __future__ import annotations

import time
from threading import Barrier
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darkroom.models.engines.cpu_decode import FRONT, Cores, FrontedEngine, find_front, find_joints, with_front
from darkroom.models.engines.devices import Device
from darkroom.models.engines.open import open_artifact, prepare
from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows, join
from darkroom.models.runtime.session import SessionEngine, open_session
from darkroom.models.runtime.tensorflow import SessionOptions, graph_pb2
from tests import savedmodels
from tests.pictures import picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from darkroom.models.engine import PassReport
    from darkroom.models.rewriting.artifact import Artifact
    from tests.unit.models.conftest import Build

NAME = "serving_default"
CPUS = [Device("cpu", 0, 2), Device("cpu", 1, 2)]


def artifact_of(path: Path) -> Artifact:
    return prepare(path, name="m", version=1, options=SessionOptions())


def graph_of(artifact: Artifact) -> Any:
    return graph_pb2.GraphDef.FromString(artifact.graph)


@pytest.fixture(scope="module")
def cores() -> Iterator[Cores]:
    made = Cores(3)
    yield made
    made.close()


@pytest.fixture
def artifact(built: Callable[[Build], Path]) -> Artifact:
    return artifact_of(built(savedmodels.pictures))


def engine_of(artifact: Artifact) -> SessionEngine:
    session = open_session(graph_of(artifact), SessionOptions(inter_op_threads=-1, uses_gpus=False))
    return SessionEngine(artifact.spec.signatures[NAME], session, artifact.bindings[NAME], passes=artifact.passes[NAME])


def fronted(artifact: Artifact, cores: Cores) -> tuple[FrontedEngine | None, PassReport]:
    """The signature with its front where it gets one, in a graph without joints, and the report."""
    whole = engine_of(artifact)
    kept = with_front({NAME: whole}, graph_of(artifact), artifact.bindings, artifact.samples, cores, joints={})
    (report,) = (each for each in whole.passes if each.name == FRONT)
    return kept.get(NAME), report


def rows_of(*seeds: int) -> Rows:
    return Rows({"images": [picture(seed, kind="JPEG") for seed in seeds]})


def seconds(monkeypatch: pytest.MonkeyPatch, times: dict[int, tuple[float, float]]) -> None:
    """Rows of a call → seconds of it whole, and in parts."""
    monkeypatch.setattr(
        "darkroom.models.engines.cpu_decode.in_turns", lambda _whole, _parted, rows, **_: times[len(rows)]
    )


@pytest.mark.parametrize("build", [savedmodels.pictures, savedmodels.classic])
def test_the_front_is_all_that_decodes_and_no_layer(built: Callable[[Build], Path], build: Build) -> None:
    artifact = artifact_of(built(build))
    graph_def = graph_of(artifact)
    waist, names = find_front(graph_def, artifact.bindings[NAME])
    ops = {node.op for node in graph_def.node if node.name in names}
    assert waist in names
    assert "Placeholder" in ops
    assert not ops & {"MatMul", "Softmax"}


def test_a_model_that_decodes_nothing_has_no_front(built: Callable[[Build], Path], cores: Cores) -> None:
    artifact = artifact_of(built(savedmodels.linear))
    with pytest.raises(ValueError, match="no op of the graph judges"):
        find_front(graph_of(artifact), artifact.bindings[NAME])
    assert find_joints(graph_of(artifact), artifact.bindings.values(), 3) == {}
    engine, report = fronted(artifact, cores)
    assert (engine, report.applied, report.reason) == (None, False, "no op of the graph judges its strings")


def test_the_rows_are_cut_into_as_many_pieces_as_cores_or_rows(cores: Cores) -> None:
    together = Barrier(3)

    def front(values: Any) -> list[Any]:
        if len(values) != 1:
            together.wait(10)  # breaks unless three run at once
        return [values * 2]

    values = np.arange(8)
    pieces = cores.spread(front, [values])
    assert [len(piece) for piece in pieces] == [2, 3, 3]
    np.testing.assert_array_equal(np.concatenate(pieces), values * 2)
    assert [piece.tolist() for piece in cores.spread(front, [values[:2]])] == [[0], [2]]


def test_a_piece_that_fails_is_told_when_no_other_runs_any_more(cores: Cores) -> None:
    ended: list[int] = []

    def front(values: Any) -> list[Any]:
        if values[0] == 0:
            raise ValueError("the first")
        time.sleep(0.2)
        ended.append(int(values[0]))
        return [values]

    with pytest.raises(ValueError, match="the first"):
        cores.spread(front, [np.arange(3)])
    assert sorted(ended) == [1, 2]


@pytest.mark.parametrize("has_joint", [False, True])
def test_calls_of_any_size_answer_as_they_do_whole(
    artifact: Artifact, cores: Cores, monkeypatch: pytest.MonkeyPatch, *, has_joint: bool
) -> None:
    seconds(monkeypatch, dict.fromkeys((2, 8, 32), (2.0, 1.0)))
    devices = CPUS if has_joint else []
    if has_joint:
        model = open_artifact(artifact, SessionOptions(intra_op_threads=3), devices)
        engine: Any = model.engines[NAME]
    else:
        engine, _ = fronted(artifact, cores)
    assert isinstance(engine, FrontedEngine)
    whole = engine_of(artifact)
    for count in (1, 2, 3, 7):
        rows = rows_of(*range(count))
        answer, wanted = engine.run(rows), whole.run(rows)
        for name, column in wanted.columns.items():
            np.testing.assert_allclose(np.asarray(answer.columns[name]), np.asarray(column), rtol=1e-5)
    engine.close()
    engine.close()


def test_a_bad_picture_fails_its_call_and_is_found(
    artifact: Artifact, cores: Cores, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds(monkeypatch, dict.fromkeys((2, 8, 32), (2.0, 1.0)))
    engine, _ = fronted(artifact, cores)
    assert engine is not None
    cut = Rows({"images": [picture(1, kind="JPEG")[:100]]})
    rows = join([rows_of(0), cut, rows_of(2)])
    with pytest.raises(InvalidInput):
        engine.run(rows)
    assert [fault is None for fault in engine.screen(rows)] == [True, False, True]
    assert len(engine.run(rows_of(0, 2))) == 2


def test_small_calls_and_rows_that_are_not_aligned_run_whole(
    artifact: Artifact, cores: Cores, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds(monkeypatch, {2: (0.5, 1.0), 8: (2.0, 1.0), 32: (2.0, 1.0)})
    engine, report = fronted(artifact, cores)
    assert engine is not None
    assert report.reason == "from 8 rows on; 2.00 times as fast at 32 rows"
    spread: list[int] = []
    plain = Cores.spread

    def note(self: Cores, front: Any, arrays: Any) -> Any:
        spread.append(len(arrays[0]))
        return plain(self, front, arrays)

    monkeypatch.setattr(Cores, "spread", note)
    engine.run(rows_of(*range(7)))
    engine.run(Rows(rows_of(*range(9)).columns, count=9, aligned=False))
    assert spread == []
    engine.run(rows_of(*range(8)))
    assert spread == [8]


def test_where_it_loses_it_is_dropped_and_the_reason_told(
    artifact: Artifact, cores: Cores, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds(monkeypatch, {2: (2.0, 1.0), 8: (2.0, 1.0), 32: (0.8, 1.0)})
    assert fronted(artifact, cores) == (None, (FRONT, False, "0.80 times as fast at 32 rows"))


def test_where_it_answers_otherwise_it_is_dropped(
    artifact: Artifact, cores: Cores, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Cores.spread
    monkeypatch.setattr(Cores, "spread", lambda *args: [-piece for piece in plain(*args)])
    engine, report = fronted(artifact, cores)
    assert engine is None
    assert "differs" in report.reason


def test_each_of_several_devices_has_its_front_and_the_one_cpu_has_none(artifact: Artifact) -> None:
    several = open_artifact(artifact, SessionOptions(intra_op_threads=2), CPUS)
    assert [[each.name for each in engine.passes].count(FRONT) for engine in several.engines_of(NAME).values()] == [
        1,
        1,
    ]
    several.close()
    one = open_artifact(artifact, SessionOptions(intra_op_threads=2))
    assert FRONT not in [each.name for each in one.engines[NAME].passes]
    one.close()
