"""Large bodies are read as orjson reads them whole, and large arrays written as orjson writes them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.models.rows import Rows
from darkroom.models.spec import Numbers
from darkroom.service.api.tensorflow_serving.response import dump_rows
from darkroom.service.errors import CodecError, TooLarge
from darkroom.service.predict import codec, large_json
from darkroom.service.predict.call import joined

FLOATS = st.sampled_from([0.5, -1.25, 1e300, 2.0, math.nan, math.inf])
INTEGERS = st.integers(-(2**40), 2**40)
TEXTS = st.sampled_from(
    ["", "abc" * 9, 'a"b\\', "[1,2,3,4]", '{"x": [1, 2]}', "é" * 9, "\t" * 5, "a/b" * 5, "\U0001f600"]
)


@st.composite
def rectangles(draw: st.DrawFn) -> Any:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    leaves = draw(st.lists(draw(st.sampled_from([FLOATS, INTEGERS, FLOATS | INTEGERS])), min_size=64, max_size=64))

    def nest(sizes: list[int]) -> Any:
        return [nest(sizes[1:]) for _ in range(sizes[0])] if sizes else leaves.pop()

    return nest(shape)


VALUES: st.SearchStrategy[Any] = st.recursive(
    rectangles() | TEXTS | st.sampled_from([None, True, 7, [], {}, [[1, 2], [3]], [1, None], [[], []], [[1], "a"]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
FORMS = [{"separators": (",", ":")}, {}, {"indent": 1}, {"ensure_ascii": False}]


def plain(value: Any) -> Any:
    """`Numbers` as lists. NaN is equal to itself here."""
    if isinstance(value, Numbers):
        return plain(value.array.tolist())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return "NaN" if value != value else value  # noqa: PLR0124 - NaN


def whole(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"NaN" not in body and b"Infinity" not in body:
            raise
    return json.loads(body)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"PIECE_BYTES": 8, "MIN_LIST_BYTES": 3, "MIN_TEXT_BYTES": 8}.items():
        monkeypatch.setattr(large_json, name, size)


@pytest.mark.usefixtures("small")
@settings(max_examples=150, deadline=None)
@given(VALUES, st.sampled_from(FORMS))
def test_a_body_in_pieces_is_what_it_is_whole(value: object, form: dict[str, Any]) -> None:
    body = json.dumps(value, **form).encode()
    assert plain(large_json.parse(body)) == plain(whole(body))


@pytest.mark.usefixtures("small")
@settings(max_examples=250, deadline=None)
@given(VALUES, st.sampled_from(FORMS), st.integers(0, 10**6), st.sampled_from(b'[],"{}:0 1.eN\\-'), st.integers(0, 2))
def test_a_broken_body_is_refused_where_the_whole_is(
    value: object, form: dict[str, Any], at: int, byte: int, how: int
) -> None:
    body = bytearray(json.dumps(value, **form).encode())
    at %= len(body)
    body[at : at + (how > 0)] = b"" if how == 2 else bytes([byte])
    try:
        wanted = plain(whole(bytes(body)))
    except ValueError:
        with pytest.raises(CodecError):
            large_json.parse(bytes(body))
        return
    try:
        assert plain(large_json.parse(bytes(body))) == wanted
    except CodecError:
        assert b"NaN" in body or b"Infinity" in body  # which json takes beside 1e999, orjson does not


@pytest.mark.parametrize(
    "body",
    [
        b"[[1,2],[3,]4]", b"[[1,2],3[4,5]]", b"[[1,2]3,[4,5]]", b"[1 2,3]", b"[1,2],[3]", b"[[1,2],[3,4]", b"[1,,2]",
        b"[1,2,]", b"[,1]", b"[[1][2]]", b"[1.2.3]", b"[01]", b"[1]]", b"[1e999]", b"[--1]", b"[[1,2],[3\n4]]",
        b"[[1,2], 3 [4,5]]", b"[[1,2]\n3,[4,5]]", b"[[1,2], [3,] 4]",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("small")
def test_what_looks_like_a_rectangle_and_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(CodecError, match="Invalid json data"):
        large_json.parse(b'{"x": %b}' % body)


def test_a_long_list_of_numbers_is_an_array_and_a_long_text_comes_back() -> None:
    pixels = np.arange(24_000).reshape(2, 100, 40, 3)
    text = "A/b+" * 50_000
    body = orjson.dumps({"x": pixels.tolist(), "text": text, "short": [1, 2]})
    for sent in (body, body.replace(b"/", b"\\/")):
        fields = codec.parse_json(sent + b" " * codec.LARGE_BYTES)
        assert fields["x"].array.dtype == np.int16
        assert fields["x"].array.tolist() == pixels.tolist()
        assert (fields["text"], fields["short"]) == (text, [1, 2])


@pytest.mark.parametrize(
    ("numbers", "dtype"),
    [([1] * 9, "int8"), ([300, -1], "int16"), ([1, 70_000], "int32"), ([2**40, 1], "int64"), ([1, 0.5], "float64")],
)
@pytest.mark.usefixtures("small")
def test_numbers_take_no_more_memory_than_they_need(numbers: list[float], dtype: str) -> None:
    found = large_json.parse(orjson.dumps({"x": [0] * 9 + numbers}))["x"]
    assert (str(found.array.dtype), found.array.tolist()) == (dtype, [0] * 9 + numbers)
    assert found.first_float == (10 if dtype == "float64" else -1)


@given(st.lists(FLOATS | st.sampled_from([0, 1, 255, 256, -1, 2**53 + 1, 2**63]), min_size=1, max_size=9))
def test_numbers_become_the_array_that_numpy_makes_of_them(numbers: list[float]) -> None:
    made, numpys = large_json.as_array(numbers), np.array(numbers)
    assert (made.dtype.kind, plain(made.tolist())) == (numpys.dtype.kind, plain(numpys.tolist()))


@pytest.mark.parametrize("part", [b"[1 ", b"[1,x", b"[1],", b"[1,[2,{", b"[1 ]x"])
@pytest.mark.usefixtures("small")
def test_each_byte_of_lists_that_do_not_end_is_read_a_few_times(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    class Counted(large_json.LargeBody):
        def extent(self, start: int) -> tuple[int, int, bytes]:
            nonlocal read
            stop, end, marks = super().extent(start)
            read += end - start
            return stop, end, marks

    monkeypatch.setattr(large_json, "LargeBody", Counted)
    body = b'{"x":' + part * 500
    with pytest.raises(CodecError):
        large_json.parse(body)
    assert read <= 3 * len(body)


@pytest.mark.parametrize("numbers", [[2**63], [2**70, 1]])
@pytest.mark.usefixtures("small")
def test_integers_of_more_than_64_bits_stay_what_orjson_makes_of_them(numbers: list[int]) -> None:
    body = b'{"x": [%b]}' % b",".join(b"%d" % number for number in numbers)
    assert plain(large_json.parse(body)) == whole(body)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"x":[' + b"{}," * 300_000 + b"{}]}", "more than 262144 values"),
        (b'{"x":[' + b"[1],[1,2]," * 150_000 + b"[1]]}", "more than 262144 values"),
        (b'{"x":[' + b'"a\\"",' * 300_000 + b'""]}', "more than 262144 values"),
        (b'{"x":' + b"[" * (17 << 20), "more than 16777216 bytes besides"),
        (b'{"x":"' + b'\\"' * (9 << 20) + b'"}', "more than 16777216 bytes besides"),
    ],
)
def test_what_would_hold_the_interpreter_lock_for_long_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(TooLarge, match=words):
        codec.parse_json(body)


@pytest.mark.parametrize("text", [",[{" * 200_000, 'a,"' * 300_000, "\\," * 300_000, "é," * 300_000, "\n" * 70_000])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_what_a_text_holds_counts_for_nothing(text: str, is_ascii: bool) -> None:
    body = json.dumps({"x": [text, "b"], "y": [[text]]}, ensure_ascii=is_ascii).encode()
    assert codec.parse_json(body) == {"x": [text, "b"], "y": [[text]]}


def test_texts_are_no_values_where_none_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_json, "MAX_VALUES", 9)
    monkeypatch.setattr(large_json, "PIECE_BYTES", 1)
    fields = {"a": ',,,,,,,,\\\\",,,,\\', "b": [1, 2]}
    assert large_json.parse(orjson.dumps(fields)) == fields


@pytest.mark.parametrize("shape", [(3, 70, 80, 5), (90_000,), (4, 1), (300, 300), (90_000, 1), (1, 2, 40_000, 3)])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
def test_a_large_array_is_written_as_orjson_writes_it(shape: tuple[int, ...], dtype: str) -> None:
    column = (np.random.default_rng(1).random(shape) * 100).astype(dtype)
    wanted = orjson.dumps({"y": column}, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"
    assert joined(codec.dump_columns({"y": column})) == wanted
    flipped = column[::-1].astype(column.dtype)[::-1]  # not contiguous
    assert joined(codec.dump_columns({"y": flipped})) == wanted


@pytest.mark.parametrize("rows", [large_json.ROWS_AT_ONCE, large_json.ROWS_AT_ONCE + 1, 3 * large_json.ROWS_AT_ONCE])
@pytest.mark.parametrize("width", [1, 400])
def test_many_rows_of_several_outputs_are_written_as_orjson_writes_them(rows: int, width: int) -> None:
    columns: dict[str, Any] = {"b": np.random.default_rng(1).random((rows, width)), "a": [b"\0"] * rows}
    listed = [{"a": "\0", "b": row} for row in columns["b"]]
    wanted = orjson.dumps({"predictions": listed}, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"
    assert joined(dump_rows(Rows(columns))) == wanted


def test_no_piece_of_a_large_answer_is_much_longer_than_a_piece_of_its_array() -> None:
    answer = codec.dump_answer({"y": [codec.writable(np.zeros((2, 3, 90_000, 1))), "\0"]})
    assert isinstance(answer, list)
    assert max(map(len, answer)) < 2 * large_json.PIECE_BYTES


def test_what_has_no_form_in_json_is_refused_in_a_large_answer_too() -> None:
    with pytest.raises(TypeError):
        codec.dump_answer([codec.writable(np.zeros((2, 90_000))), object()])
