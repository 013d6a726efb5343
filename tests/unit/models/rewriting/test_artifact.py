"""An artifact as bytes: it is read back complete, and truncated or changed bytes are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from darkroom.models.engines.open import SessionOptions, open_artifact, prepare
from darkroom.models.rewriting.artifact import MAGIC, Artifact, Damaged, dump, parse
from darkroom.models.rows import Column, Rows
from darkroom.models.runtime.session import objects
from darkroom.models.spec import ModelSpec, numpy_dtype
from tests import savedmodels

Build = Callable[[Path], Path]


@pytest.mark.parametrize("builder", [savedmodels.classic, savedmodels.keys_and_features, savedmodels.estimator])
def test_a_prepared_model_answers_the_same_from_its_bytes(built: Callable[[Build], Path], builder: Build) -> None:
    path = built(builder)
    artifact = prepare(path, name="m", version=3, options=SessionOptions())
    again = parse(dump(artifact), path)
    assert (again.spec, again.source, again.graph) == (artifact.spec, path, artifact.graph)
    assert (again.bindings, again.passes) == (artifact.bindings, artifact.passes)
    one, other = open_artifact(artifact, SessionOptions()), open_artifact(again, SessionOptions())
    for name, samples in artifact.samples.items():
        assert samples
        for rows, restored in zip(samples, again.samples[name], strict=True):
            assert restored.key == rows.key
            expected, got = one.engines[name].run(rows), other.engines[name].run(restored)
            for column in expected.columns:
                assert np.array_equal(expected.columns[column], got.columns[column])
    one.close()
    other.close()


def test_rows_of_every_kind_come_back() -> None:
    columns: dict[str, Column] = {
        "strings": [b"a\0", b""],
        "square": objects([b"x", b"yz\0", b"", b"w"]).reshape(2, 2),
        "numbers": np.arange(6, dtype=np.int16).reshape(2, 3),
        "half": np.ones((2, 1), numpy_dtype("bfloat16")),
        "flag": np.array([True, False]),
        "empty": np.empty((2, 0), np.float32),
    }
    artifact = Artifact(ModelSpec("m", 1, {}), Path("x"), b"graph", samples={"s": (Rows(columns), Rows(columns))})
    for rows in parse(dump(artifact), Path("x")).samples["s"]:
        assert rows.key == Rows(columns).key
        assert len(rows) == 2
        for name, column in columns.items():
            assert np.array_equal(np.asarray(rows.columns[name]), np.asarray(column)), name


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
        lambda data: data.replace(MAGIC, b"darkroom artifact 0\n"),
        lambda _: b"",
        lambda _: MAGIC,
    ],
)
def test_what_was_cut_or_changed_is_refused(damage: Callable[[bytes], bytes]) -> None:
    data = dump(Artifact(ModelSpec("m", 1, {}), Path("x"), b"graph" * 100))
    with pytest.raises(Damaged):
        parse(damage(data), Path("x"))
