"""Serialized tf.Examples, compared with what TensorFlow's own parser reads."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.models.errors import InvalidInput
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.reader import read_meta_graph
from darkroom.models.saved_model.tf_example import float_features, serialize
from tests import savedmodels

Built = Callable[[Callable[[Path], Path]], Path]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FLOATS = st.floats(width=32, allow_nan=False)
VALUES = st.one_of(
    st.lists(TEXT | st.binary(max_size=8), max_size=4),
    st.lists(FLOATS, max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.booleans(), max_size=4),
)


def _read(serialized: bytes) -> dict[str, list[Any]]:
    features = tf.train.Example.FromString(serialized).features.feature
    return {
        name: [value for field in ("bytes_list", "float_list", "int64_list") for value in getattr(feature, field).value]
        for name, feature in features.items()
    }


def _expected(values: list[Any]) -> list[Any]:
    return [value.encode() if isinstance(value, str) else value for value in values]


@given(st.dictionaries(TEXT, VALUES, max_size=4), st.dictionaries(TEXT, VALUES, max_size=2))
def test_what_is_put_in_is_read_out_with_the_context_added(example: dict[str, Any], context: dict[str, Any]) -> None:
    context = {name: values for name, values in context.items() if name not in example}
    (serialized,) = serialize([example], context)
    assert _read(serialized) == {name: _expected(values) for name, values in (example | context).items()}


def test_a_bare_value_is_a_list_of_one_and_nan_and_infinity_are_floats() -> None:
    (serialized,) = serialize([{"a": "x", "b": 1.5, "c": True, "d": [math.inf, -math.inf, math.nan]}])
    read = _read(serialized)
    assert (read["a"], read["b"], read["c"], read["d"][:2]) == ([b"x"], [1.5], [1], [math.inf, -math.inf])
    assert math.isnan(read["d"][2])


def test_integers_are_floats_where_the_graph_wants_floats_or_beside_one() -> None:
    (serialized,) = serialize([{"x": [1, 2], "y": [1, 2], "z": [1, 2.5]}], floats=frozenset({"x"}))
    kinds = {name: f.WhichOneof("kind") for name, f in tf.train.Example.FromString(serialized).features.feature.items()}
    assert kinds == {"x": "float_list", "y": "int64_list", "z": "float_list"}


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ([], "Example must be JSON object but got JSON Array"),
        (None, "Example must be JSON object but got JSON Null"),
        (5, "Example must be JSON object but got JSON Number"),
        ({"names": [10, None]}, "feature 'names' has element with unexpected JSON type: Null"),
        ({"names": [10, {"test": 10}]}, "has element with unexpected JSON type: Object"),
        ({"names": [[10], 20]}, "has element with unexpected JSON type: Array"),
        ({"names": [10, "x"]}, "expecting type: int64"),
        ({"names": ["x", 10]}, "expecting type: bytes"),
        ({"names": [1.5, True]}, "expecting type: float"),
        ({"names": [20, 18446744073709551603]}, "Only int64 is supported"),
        ({"names": 1.7976931348623157e308}, "loss of precision"),
        ({"names": [10**400, 1.0]}, "loss of precision"),
        ({"names": "\ud800"}, "is not UTF-8 text"),
        ({"\ud800": "x"}, "is not UTF-8 text"),
    ],
)
def test_what_has_no_form_is_refused_with_its_place(example: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=r"^examples\[1\]: ") as caught:
        serialize([{}, example])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("builder", "floats"),
    [
        (savedmodels.half_plus_two, {"x", "x2"}),
        (savedmodels.estimator, {"b"}),
        (savedmodels.features_of_every_parser, {"dense", "sparse", "ragged", "single", "single_sparse"}),
        (savedmodels.keys_and_features, set()),
    ],
)
def test_the_graph_tells_which_features_are_floats(
    built: Built, builder: Callable[[Path], Path], floats: set[str]
) -> None:
    assert float_features(read_meta_graph(built(builder)).graph_def) == floats
