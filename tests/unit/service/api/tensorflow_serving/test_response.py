from __future__ import annotations

from base64 import b64encode
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows
from darkroom.service.api.tensorflow_serving import response as predictions
from darkroom.service.predict.call import joined

DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint16, np.int64, np.bool_])
NUMBERS = DTYPES.flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3))
)


@given(NUMBERS)
def test_rows_and_columns_tell_the_same_numbers(column: np.ndarray[Any, Any]) -> None:
    rows = orjson.loads(joined(predictions.dump_rows(Rows({"x": column}))))["predictions"]
    assert rows == orjson.loads(joined(predictions.dump_columns(Rows({"x": column}))))["outputs"]
    two = orjson.loads(joined(predictions.dump_rows(Rows({"x": column, "y": column}))))["predictions"]
    assert two == [{"x": value, "y": value} for value in rows]
    finite = np.nan_to_num(column, nan=0, posinf=0, neginf=0) if column.dtype.kind == "f" else column
    written = np.array(orjson.loads(joined(predictions.dump_columns(Rows({"x": finite}))))["outputs"], column.dtype)
    assert np.array_equal(written.reshape(column.shape), finite)


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=4))
def test_a_string_output_is_text_unless_its_name_says_bytes_or_it_is_not_utf8(values: list[bytes]) -> None:
    nested = np.array([[value] for value in values], object)
    answer = orjson.loads(joined(predictions.dump_columns(Rows({"a_bytes": values, "b_bytes": nested, "c": values}))))[
        "outputs"
    ]
    told = [{"b64": b64encode(value).decode()} for value in values]
    assert answer["a_bytes"] == told
    assert answer["b_bytes"] == [[value] for value in told]
    try:
        assert answer["c"] == [value.decode() for value in values]
    except UnicodeDecodeError:
        assert answer["c"] == told


def test_floats_keep_their_point_their_shortest_digits_and_nan_is_null() -> None:
    rows = Rows({
        "double": np.array([1.0, 0.1]),
        "float": np.array([1, 0.1], np.float32),
        "brain": np.array([1, np.nan]).astype(ml_dtypes.bfloat16),
        "number_bytes": np.array([1, 2]),
    })  # fmt: skip
    assert predictions.dump_rows(rows) == (
        b'{"predictions":[{"brain":1.0,"double":1.0,"float":1.0,"number_bytes":1},'
        b'{"brain":null,"double":0.1,"float":0.1,"number_bytes":2}]}\n'
    )
    assert predictions.dump_columns(Rows({"x": np.array(0.1, np.float32)})) == b'{"outputs":0.1}\n'


def test_what_has_no_rows_can_not_be_told_in_rows() -> None:
    with pytest.raises(InvalidInput, match="Tensor name: x has no shape information"):
        predictions.dump_rows(Rows({"x": np.array(1.0)}))
    with pytest.raises(InvalidInput, match="Tensor name: y has inconsistent batch size: 2 expecting: 1"):
        predictions.dump_rows(Rows({"x": np.array([1.0]), "y": [b"a", b"b"]}))


def test_top_k_replaces_score_vectors_row_by_row() -> None:
    rows = Rows({"p": np.array([[0.1, 0.9], [0.8, 0.2]], np.float32), "n": np.array([1, 0])})
    answer = orjson.loads(joined(predictions.dump_rows(rows, k=1, labels=("a", "b"))))["predictions"]
    assert [(row["n"], row["p"][0]["label"], row["p"][0]["index"]) for row in answer] == [(1, "b", 1), (0, "a", 0)]


def test_classes_bear_their_scores_and_what_is_missing_is_empty() -> None:
    classes = np.array([[b"car", b"bike"], [b"car", b"\xff"]], object)
    scores = np.array([[0.2, 0.7], [1, 0]], np.float32)
    both = predictions.dump_classes(Rows({"classes": classes, "scores": scores}), count=2)
    assert both == b'{"results":[[["car",0.2],["bike",0.7]],[["car",1.0],["\\\\xff",0.0]]]}\n'
    assert predictions.dump_classes(Rows({"scores": scores[:1]}), count=1) == b'{"results":[[["",0.2],["",0.7]]]}\n'
    named = predictions.dump_classes(Rows({"classes": classes[:1]}), count=1)
    assert named == b'{"results":[[["car",0.0],["bike",0.0]]]}\n'


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"classes": [b"a", b"b"]},
        {"scores": np.zeros(2, np.float32)},
        {"scores": np.zeros((1, 2), np.float32)},
        {"classes": np.full((2, 3), b"", object), "scores": np.zeros((2, 2), np.float32)},
    ],
)
def test_classes_of_another_shape_are_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"batch_size num_classes|should match"):
        predictions.dump_classes(Rows(columns), count=2)


def test_regressions_are_one_value_each() -> None:
    values = np.array([[0.2], [0.9]], np.float32)
    for column in (values, values[:, 0]):
        assert predictions.dump_regressions(Rows({"outputs": column}), count=2) == b'{"results":[0.2,0.9]}\n'
    for wrong in (np.zeros((2, 2), np.float32), np.zeros(3, np.float32), np.array(1.0), [b"a", b"b"]):
        with pytest.raises(InvalidInput, match="Expected output Tensor shape"):
            predictions.dump_regressions(Rows({"outputs": wrong}), count=2)
