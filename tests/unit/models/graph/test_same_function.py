"""Signatures that are one function under two names, and those that only look like it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.models.engines.open import load_model
from darkroom.models.graph.same_function import find_same_functions
from darkroom.models.rows import Rows
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.reader import read_meta_graph, read_signatures

SPEC = [tf.TensorSpec([None, 4], tf.float32, name="x")]
Functions = dict[str, Callable[[Any], dict[str, Any]]]


def saved(folder: Path, functions: Callable[[tf.Module], Functions]) -> Path:
    """A SavedModel whose signatures are these functions of a module with two variables."""
    module = tf.Module()
    module.first, module.second = tf.Variable(2.0), tf.Variable(2.0)
    made = {name: tf.function(each, input_signature=SPEC) for name, each in functions(module).items()}
    tf.saved_model.save(module, str(folder), signatures=made)
    return folder


def same_in(folder: Path) -> dict[str, str]:
    """What is found in a SavedModel."""
    meta_graph = read_meta_graph(folder)
    specs, _ = read_signatures(meta_graph)
    return find_same_functions(meta_graph.graph_def, specs)


def doubled(module: tf.Module) -> Callable[[Any], dict[str, Any]]:
    return lambda x: {"y": x * module.first}


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (doubled, True),
        (lambda m: lambda x: {"y": x * m.second}, False),
        (lambda m: lambda x: {"z": x * m.first}, False),
        (lambda m: lambda x: {"y": x + m.first}, False),
        (lambda m: lambda x: {"y": m.first * x}, False),
        (lambda m: lambda x: {"y": x * m.first * 1.5}, False),
        (lambda m: lambda x: {"y": tf.cast(x * m.first, tf.float64)}, False),
        (lambda m: lambda x: {"y": x * m.first, "z": x}, False),
        (lambda m: lambda x: {"y": tf.map_fn(lambda row: row * m.first, x)}, False),
        (lambda m: lambda x: {"y": tf.stop_gradient(x * m.first)}, False),
    ],
    ids=["twin", "variable", "output", "op", "order", "constant", "type", "one more output", "loop", "one more op"],
)
def test_only_the_same_ops_on_the_same_variables_are_one_function(
    tmp_path: Path, other: Callable[[tf.Module], Any], *, is_same: bool
) -> None:
    folder = saved(tmp_path, lambda module: {"a": other(module), "serving_default": doubled(module)})
    assert same_in(folder) == ({"a": "serving_default"} if is_same else {})


@pytest.mark.parametrize(("left", "right", "is_same"), [(3.0, 3.0, True), (3.0, 4.0, False)])
def test_functions_that_are_called_count_by_what_they_do(
    tmp_path: Path, *, left: float, right: float, is_same: bool
) -> None:
    def calling(factor: float) -> Callable[[Any], dict[str, Any]]:
        inner = tf.function(lambda row: row * factor)
        return lambda x: {"y": inner(x)}

    folder = saved(tmp_path, lambda _: {"one": calling(left), "two": calling(right)})
    assert bool(same_in(folder)) == is_same


def test_three_names_have_one_engine_and_every_one_of_them_answers(tmp_path: Path) -> None:
    def functions(module: tf.Module) -> Functions:
        half: Callable[[Any], dict[str, Any]] = lambda x: {"y": x / module.first}  # noqa: E731 - one of four
        return {name: doubled(module) for name in ("b", "a", "serving_default")} | {"half": half}

    folder = saved(tmp_path, functions)
    model = load_model(folder, name="m", version=1)
    try:
        assert {name: spec.same_as for name, spec in model.spec.signatures.items()} == {
            "a": "serving_default",
            "b": "serving_default",
            "half": "",
            "serving_default": "",
        }
        assert model.engines["a"] is model.engines["b"] is model.engines["serving_default"]
        x = np.ones((1, 4), np.float32)
        answers = {name: engine.run(Rows({"x": x})).columns["y"] for name, engine in model.engines.items()}
        assert {name: float(np.asarray(y).max()) for name, y in answers.items()} == {
            "a": 2.0,
            "b": 2.0,
            "half": 0.5,
            "serving_default": 2.0,
        }
    finally:
        model.close()
