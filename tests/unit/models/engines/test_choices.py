"""What was measured of a graph: kept by its structure, taken over by the next one of the same, and still proven."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darkroom.models.engine import PassReport
from darkroom.models.engines.choices import MAX_KEPT, Choice, Choices
from darkroom.models.engines.open import open_artifact, prepare
from darkroom.models.engines.row_prefix import WAIST
from darkroom.models.engines.sharded import SHARD, ShardedEngine
from darkroom.models.engines.structure import structure_of
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
HAS_WAIST = PassReport(WAIST, applied=True, reason="measured")


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


def test_two_versions_that_differ_in_their_weights_have_one_structure() -> None:
    assert structure_of(adds(1.0, 2.0, 3.0, 4.0), OPTIONS) == structure_of(adds(5.0, 6.0, 7.0, 8.0), OPTIONS)


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
def test_what_is_more_than_weights_makes_another_structure(one: Artifact, other: Artifact) -> None:
    assert structure_of(one, OPTIONS) != structure_of(other, OPTIONS)


def test_sessions_set_up_otherwise_make_another_structure() -> None:
    assert structure_of(adds(1.0), OPTIONS) != structure_of(adds(1.0), replace(OPTIONS, intra_op_threads=3))


def test_of_too_many_structures_the_oldest_goes() -> None:
    choices = Choices()
    for number in range(MAX_KEPT + 1):
        choices.keep(str(number), {NAME: Choice()})
    assert choices.of("0") == {}
    assert choices.of("1") == choices.of(str(MAX_KEPT)) == {NAME: Choice()}


def scaled(factor: float) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        return savedmodels.numbers(folder, lambda x: tf.reduce_sum(tf.square(x) * factor, axis=1, name="sum"))

    return build


def opened(path: Path, choices: Choices) -> LoadedModel:
    return open_artifact(prepare(path, name="m", version=1, options=OPTIONS), OPTIONS, choices=choices)


@pytest.fixture
def graph(tmp_path: Path) -> tuple[Path, Artifact, str]:
    """A version, its artifact, and the name of the tensor that all of its rows pass through."""
    path = scaled(2.0)(tmp_path / "1")
    artifact = prepare(path, name="m", version=1, options=OPTIONS)
    waist = artifact.bindings[NAME].fetches["y"]
    nodes = {node.name: node for node in tf.compat.v1.GraphDef.FromString(artifact.graph).node}
    return path, artifact, f"{nodes[waist.partition(':')[0]].input[0].partition(':')[0]}:0"


def knowing(artifact: Artifact, choice: Choice) -> Choices:
    choices = Choices()
    choices.keep(structure_of(artifact, OPTIONS), {NAME: choice})
    return choices


@pytest.fixture
def _is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails what is timed."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it was measured again")

    monkeypatch.setattr("darkroom.models.engines.sharded.in_turns", fail)
    monkeypatch.setattr("darkroom.models.engines.row_prefix.in_turns", fail)


def reports(model: LoadedModel) -> dict[str, str]:
    return {report.name: report.reason for report in model.engines[NAME].passes if report.name in (SHARD, WAIST)}


@pytest.mark.usefixtures("_is_not_timed")
def test_a_version_of_the_same_structure_takes_over_waist_and_shards(
    graph: tuple[Path, Artifact, str], tmp_path: Path
) -> None:
    _, artifact, waist = graph
    model = opened(scaled(3.0)(tmp_path / "2"), knowing(artifact, Choice(waist, 4, 0, HAS_WAIST, (PAYS,))))
    engine = model.engines[NAME]
    assert isinstance(engine, ShardedEngine)
    assert (engine.waist, engine.least, engine.piece) == (waist, 4, 0)
    assert reports(model) == {SHARD: "measured", WAIST: "measured"}
    answer = engine.run(Rows({"x": np.full((5, 4), 2.0, np.float32)}))
    assert np.asarray(answer.columns["y"]).tolist() == [48.0] * 5
    model.close()


@pytest.mark.usefixtures("_is_not_timed")
def test_a_waist_that_is_not_proven_for_the_new_weights_is_left(graph: tuple[Path, Artifact, str]) -> None:
    path, artifact, _ = graph
    model = opened(path, knowing(artifact, Choice("nowhere:0", 2, 0, HAS_WAIST, (PAYS,))))
    engine = model.engines[NAME]
    assert isinstance(engine, ShardedEngine)
    assert engine.waist == ""
    assert "nowhere" in reports(model)[WAIST]
    model.close()


@pytest.mark.usefixtures("_is_not_timed")
def test_shards_that_did_not_pay_are_not_tried_again(graph: tuple[Path, Artifact, str]) -> None:
    path, artifact, _ = graph
    model = opened(path, knowing(artifact, Choice(found_shards=(DOES_NOT,))))
    assert not isinstance(model.engines[NAME], ShardedEngine)
    assert reports(model) == {SHARD: "measured"}
    model.close()


def test_what_is_measured_is_kept_for_the_next(graph: tuple[Path, Artifact, str]) -> None:
    path, artifact, _ = graph
    choices = Choices()
    first = opened(path, choices)
    kept = choices.of(structure_of(artifact, OPTIONS))[NAME]
    assert [report.name for report in kept.found_shards] == [SHARD]
    assert (kept.least > 0) == isinstance(first.engines[NAME], ShardedEngine)
    again = opened(path, choices)
    assert reports(again) == reports(first)
    first.close()
    again.close()
