from __future__ import annotations

import base64
import json
import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.models.rows import Rows
from darkroom.models.saved_model.output_kinds import OutputKind
from darkroom.models.spec import Binary
from darkroom.service.errors import CodecError
from darkroom.service.predict import codec
from darkroom.service.predict.call import joined
from tests.pictures import picture, standard, url_safe


@given(st.binary(max_size=200), st.booleans(), st.booleans(), st.sampled_from(["", "data:image/png;base64,"]))
def test_base64_comes_back_in_either_alphabet_padded_or_not_bare_or_in_a_data_uri(
    data: bytes, is_url_safe: bool, is_padded: bool, prefix: str
) -> None:
    text = (base64.urlsafe_b64encode(data) if is_url_safe else base64.b64encode(data)).decode()
    assert codec.decode_base64(prefix + (text if is_padded else text.rstrip("="))) == data


@given(st.binary(min_size=1, max_size=300))
def test_base64_with_line_breaks_is_taken(data: bytes) -> None:
    assert codec.decode_base64(base64.encodebytes(data).decode()) == data


def test_a_text_may_mix_the_alphabets() -> None:
    assert codec.decode_base64("0000/-__") == codec.decode_base64("0000/+//")


@given(st.text(max_size=60))
def test_text_that_is_not_base64_is_a_value_error_and_nothing_else(text: str) -> None:
    try:
        data = codec.decode_base64(text)
    except ValueError:
        return
    assert isinstance(data, bytes)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1, "expected base64 text"),
        (None, "expected base64 text"),
        ({"b64": 1}, "got int"),
        ({"b64": "YQ==", "x": 1}, "got dict"),
        ("a", "is not base64"),
        ("%%%%", "is not base64"),
        ("ü", "is not base64"),
        ("", "is empty"),
        ("data:image/png;base64,", "is empty"),
    ],
)
def test_a_picture_that_can_not_be_read_is_named_by_its_index(value: object, words: str) -> None:
    with pytest.raises(CodecError, match=r"^images\[3\]: ") as caught:
        codec.decode_picture(value, "images", 3)
    assert words in str(caught.value)


def test_b64_objects_are_raw_bytes_and_base64_of_base64_text_is_unwrapped() -> None:
    data = picture(1)
    twice = standard(url_safe(data).encode())
    assert codec.decode_picture({"b64": standard(data)}, "images", 0) == data
    assert codec.decode_picture({"b64": twice}, "images", 0) == data
    assert codec.decode_picture({"b64": standard(b"no picture")}, "images", 0) == b"no picture"


def test_nan_and_infinity_in_a_request_are_read_and_written_as_null() -> None:
    value = codec.parse_json(b'{"x": [NaN, Infinity, -Infinity, 1.5]}')["x"]
    assert math.isnan(value[0])
    assert value[1:] == [math.inf, -math.inf, 1.5]
    assert codec.dump_columns({"x": np.array(value, np.float32)}) == b'{"x":[null,null,null,1.5]}\n'


@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"\xff", b'{"a":NaN,}', b"[" * 100_000, b"[" * 100_000 + b"NaN"])
def test_what_is_not_json_is_a_codec_error(body: bytes) -> None:
    with pytest.raises(CodecError, match="Invalid json data"):
        codec.parse_json(body)


def test_a_number_of_thousands_of_digits_is_a_codec_error_or_a_number() -> None:
    with pytest.raises(CodecError):
        codec.parse_json(b"[" + b"9" * 5000 + b", NaN]")


def test_columns_are_written_with_sorted_keys_shortest_digits_and_a_newline() -> None:
    columns: dict[str, np.ndarray | list[bytes]] = {
        "softmax": np.array([[0.1, 1.0]], np.float32),
        "prediction": np.array([6]),
        "name": [b"caf\xc3\xa9", b""],
    }
    assert codec.dump_columns(columns) == b'{"name":["caf\xc3\xa9",""],"prediction":[6],"softmax":[[0.1,1.0]]}\n'


@pytest.mark.parametrize("is_list", [True, False])
def test_strings_of_which_one_is_not_utf8_are_all_written_as_base64(is_list: bool) -> None:
    values = [b"\x89PNG", b"text"]
    column = values if is_list else np.array([values, [b"", b"a"]], object)
    body = codec.dump_columns({"x": column})
    assert isinstance(body, bytes)
    written = orjson.loads(body)["x"]
    assert codec.decode_binary(written) == (values if is_list else [values, [b"", b"a"]])


def test_binary_values_are_base64_whatever_they_are() -> None:
    assert codec.dump_columns({"x": [Binary(b"ab")]}) == b'{"x":[{"b64":"YWI="}]}\n'


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=8))
def test_every_float32_survives_the_round_trip(values: list[float]) -> None:
    column = np.array(values, np.float32)
    written = orjson.loads(joined(codec.dump_columns({"x": column})))["x"]
    assert np.array_equal(np.array(written, np.float32), column)


def test_columns_of_every_dtype_and_layout_can_be_written() -> None:
    for dtype in (np.float16, np.float64, np.int8, np.uint16, np.bool_):
        assert json.loads(joined(codec.dump_columns({"x": np.ones((2, 2), dtype).T})))["x"] == [[1, 1], [1, 1]]
    assert json.loads(joined(codec.dump_columns({"x": np.array([[b"a"], [b"b"]], object)})))["x"] == [["a"], ["b"]]
    assert json.loads(joined(codec.dump_columns({"x": np.array(3.5, np.float32)})))["x"] == 3.5


@pytest.mark.parametrize(
    ("start", "size", "is_packed", "is_large"),
    [
        (b"{", codec.LARGE_BYTES, False, False),
        (b"{", codec.LARGE_BYTES + 1, False, True),
        (b"\xff\xd8\xff", codec.LARGE_PICTURE_BYTES, False, False),
        (b"\xff\xd8\xff", codec.LARGE_PICTURE_BYTES + 1, False, True),
        (b"\x89PNG", codec.LARGE_BYTES, False, False),
        (b"\x89PNG", codec.LARGE_BYTES + 1, False, True),  # it is inflated
        (b"\x1f\x8b", codec.LARGE_PACKED_BYTES, True, False),
        (b"\x1f\x8b", codec.LARGE_PACKED_BYTES + 1, True, True),
    ],
)
def test_a_body_is_large_by_what_it_costs_to_read(start: bytes, size: int, is_packed: bool, is_large: bool) -> None:
    assert codec.is_large(start.ljust(size, b"x"), is_packed=is_packed) is is_large


def test_top_k_gives_the_largest_first_with_labels_only_where_they_fit() -> None:
    rows = Rows({"probability": np.array([[0.1, 0.7, 0.2]], np.float32), "predict": np.array([1])})
    answer = orjson.loads(codec.dump_json(codec.top_k(rows, 2, ["a", "b", "c"])))
    assert answer["predict"] == [1]
    assert [(s["index"], s["label"]) for s in answer["probability"][0]] == [(1, "b"), (2, "c")]
    assert "label" not in codec.top_k(rows, 5, ["a"])["probability"][0][0]  # type: ignore[index] # a list of lists of dicts


def test_top_k_ranks_scores_of_any_rank_and_nothing_else() -> None:
    vector = np.array([0.1, 0.7, 0.2], np.float32)
    rows = Rows({"scores": np.stack([[vector], [vector]]), "one": vector, "embedding": vector[np.newaxis]}, count=2)
    kinds = {
        name: OutputKind(name=name, kind="embedding" if name == "embedding" else "scores") for name in rows.columns
    }
    answer = orjson.loads(codec.dump_json(codec.top_k(rows, 1, ["a", "b", "c"], kinds)))
    best = [{"index": 1, "label": "b", "value": 0.7}]
    assert answer == {"scores": [[best], [best]], "one": best, "embedding": [[0.1, 0.7, 0.2]]}


@pytest.mark.parametrize("value", [0, -1, "0", "x", True, 1.5, "٣", "9" * 30])
def test_top_k_that_is_no_whole_number_of_one_or_more_is_refused(value: object) -> None:
    with pytest.raises(CodecError, match="top_k"):
        codec.parse_k(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1", "1"), ('"\ufeff"', "'\\ufeff'"), ("[NaN]", "[nan]"), ("{}", "{}"), (" \r\n[1, 2]", "[1, 2]")),
        *(("null", "None"), ('{"\ufeffa": 1}', "{'\\ufeffa': 1}"), ("-Infinity", "-inf"), ('"é"', "'é'")),
    ],
)
def test_a_byte_order_mark_is_skipped(text: str, value: str) -> None:
    mark = b"\xef\xbb\xbf"
    assert repr(codec.parse_json(mark + text.encode())) == value
    with pytest.raises(CodecError):
        codec.parse_json(mark)
