"""Cutting and joining rows never changes, loses or mixes one."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.models.rows import Column, Rows, join, row_bytes


def rows_of(values: list[int]) -> Rows:
    """Both kinds of column, telling one row from another."""
    return Rows({"text": [b"%d" % value for value in values], "number": np.array(values, np.int64).reshape(-1, 1)})


def values_of(rows: Rows) -> list[int]:
    text, number = rows.columns["text"], rows.columns["number"]
    assert [int(value) for value in text] == np.asarray(number).ravel().tolist()
    return [int(value) for value in text]


@given(st.lists(st.integers(0, 99), min_size=1), st.data())
def test_rows_that_are_cut_and_joined_are_the_same_rows(values: list[int], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(values)))) | {0, len(values)})
    whole = rows_of(values)
    pieces = [whole.cut(start, stop) for start, stop in pairwise(cuts)]
    assert [len(piece) for piece in pieces] == list(np.diff(cuts))
    assert values_of(join(pieces)) == values


@given(st.lists(st.integers(0, 99), min_size=1), st.integers(0, 5))
def test_padding_repeats_the_last_row(values: list[int], padding: int) -> None:
    joined = join([rows_of(values)], padding=padding)
    assert values_of(joined) == values + values[-1:] * padding
    assert len(joined) == len(values) + padding


def test_one_piece_without_padding_is_not_copied() -> None:
    rows = rows_of([1, 2])
    assert join([rows]) is rows


def test_a_slice_shares_its_arrays_memory() -> None:
    rows = rows_of([1, 2, 3])
    assert np.shares_memory(np.asarray(rows.cut(1, 3).columns["number"]), np.asarray(rows.columns["number"]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Rows({"x": np.zeros((2, 3))}), Rows({"x": np.zeros((2, 4))})),
        (Rows({"x": np.zeros((2, 3))}), Rows({"x": np.zeros((2, 3), np.float32)})),
        (Rows({"x": np.zeros(2)}), Rows({"y": np.zeros(2)})),
        (Rows({"x": np.zeros(2)}), Rows({"x": np.zeros(2)}).asking(["y"])),
        (Rows({"x": np.zeros(2)}), Rows({"x": np.zeros(2)}, aligned=False)),
    ],
    ids=["inner shape", "dtype", "name", "asked outputs", "alignment"],
)
def test_rows_that_cannot_ride_together_have_other_keys(one: Rows, other: Rows) -> None:
    assert one.key != other.key
    assert hash(one.key) is not None


def test_rows_of_other_lengths_have_one_key() -> None:
    assert rows_of([1]).key == rows_of([1, 2, 3]).key


def test_rows_that_share_have_one_key_whatever_they_ask_for() -> None:
    assert rows_of([1]).asking(["a"], shares=True).key == rows_of([2]).key
    assert rows_of([1]).asking(["a"]).key != rows_of([2]).key


def test_rows_have_one_digest_and_others_have_another() -> None:
    texts = np.array([[b"a", b"b"]], dtype=object)
    several = [
        rows_of([1, 2]),
        rows_of([2, 1]),
        rows_of([1]),
        Rows({"text": [b"1", b"2"]}),
        Rows({"text": texts}),
        Rows({"text": texts.reshape(2, 1)}),
    ]
    assert len({rows.digest() for rows in several}) == len(several)
    assert rows_of([1, 2]).digest() == rows_of([1, 2]).asking(["text"]).digest()
    assert Rows({"a": [b"1"], "b": [b"2"]}).digest() == Rows({"b": [b"2"], "a": [b"1"]}).digest()


def test_the_asked_outputs_have_one_order() -> None:
    assert rows_of([1]).asking(["b", "a", "b"]).asked == ("a", "b")


def test_rows_without_a_first_dimension_count_as_one() -> None:
    assert len(Rows({"x": np.zeros(())})) == 1
    assert len(Rows({})) == 1


@pytest.mark.parametrize(
    ("columns", "aligned", "sizes"),
    [
        ({"text": [b"abc", b""], "number": np.zeros((2, 3), np.float32)}, True, [15, 12]),
        ({"text": np.array([[b"a", b"bc"], [b"", b"d"]], object)}, True, [3, 1]),
        ({"text": [b"abc", b"de"], "number": np.zeros(1, np.int64)}, False, [13, 0]),
        ({"number": np.array(1.0, np.float64)}, False, [8]),
        ({"number": np.zeros((0, 5), np.float32)}, True, []),
        ({}, False, [0]),
    ],
)
def test_the_bytes_of_each_row_are_counted_over_all_columns(
    columns: dict[str, Column], aligned: bool, sizes: list[int]
) -> None:
    assert row_bytes(Rows(columns, aligned=aligned)) == sizes
