"""Form-data, without a server."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.service.errors import CodecError
from darkroom.service.predict.form_data import MAX_FIELD_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, MAX_PARTS, parse_form

KIND = "multipart/form-data; boundary=x"


def _part(data: bytes, head: bytes = b'Content-Disposition: form-data; name="a"') -> bytes:
    return b"--x\r\n" + head + b"\r\n\r\n" + data + b"\r\n"


def test_what_a_client_writes_is_read_back_with_the_names_in_order() -> None:
    files = [
        ("images", ("one.png", b"\x00\r\n--\xff", "image/png")),
        ("images", ("zwei ü.png", b"", "image/png")),
        ("image", ("c", b"3", "image/png")),
    ]
    request = httpx.Request("POST", "http://here", files=files, data={"model_name": "m", "top_k": ["1", "2"]})
    read, fields = parse_form(request.read(), request.headers["content-type"])
    assert {name: [file.body for file in found] for name, found in read.items()} == {
        "images": [b"\x00\r\n--\xff", b""],
        "image": [b"3"],
    }
    assert read["images"][0].type == "image/png"
    assert fields == {"model_name": ["m"], "top_k": ["1", "2"]}


@given(st.lists(st.binary(max_size=50).filter(lambda data: b"--x" not in data), min_size=1, max_size=5))
def test_a_file_s_bytes_come_through_untouched(bodies: list[bytes]) -> None:
    head = b'Content-Disposition: form-data; name="a"; filename="f"'
    files, _ = parse_form(b"".join(_part(data, head) for data in bodies) + b"--x--\r\n", KIND)
    assert [file.body for file in files["a"]] == bodies


@pytest.mark.parametrize(
    "name",
    [
        b"filename*=utf-8''f%C3%BC.png", b"filename*=ISO-8859-1'en'caf%e9.png", b'filename="caf\xe9.png"',
        b'filename="caf\xc3\xa9.png"', b'filename="\x83\x65\x83\x58\x83\x67.png"', b'filename="\xff\xfe\xfd"',
        b'filename="\xe5\x9b\xbe.png"; filename*=utf-8\'\'%E5%9B%BE.png', b'filename=""', b"filename=caf\xe9.png",
        b'filename="a;b=c.png"', b'filename="a\\"b\xe9.png"', b'filename="C:\\caf\xe9.png"',
    ],
)  # fmt: skip
def test_a_file_name_that_is_not_ascii_makes_a_file_as_well(name: bytes) -> None:
    files, fields = parse_form(_part(b"\xff", b'Content-Disposition: form-data; name="a"; ' + name) + b"--x--", KIND)
    assert [file.body for file in files["a"]] == [b"\xff"]
    assert not fields


def test_text_before_the_first_boundary_and_behind_the_last_is_left_alone() -> None:
    assert parse_form(b"hello\r\n" + _part(b"1") + b"--x--\r\nbye", KIND) == ({}, {"a": ["1"]})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "part 1: Unexpected end"),
        (b"abc", "part 1: Unexpected end"),
        (b"--x", "part 1: Unexpected end"),
        (b"--x\r\n", "part 1: Unexpected end"),
        (_part(b"1"), "part 1: Unexpected end"),
        (_part(b"1") + b"--x\r\n", "part 2: Unexpected end"),
        (_part(b"1")[:-3], "part 1: Unexpected end"),
        (_part(b"1", b"nothing: here") + b"--x--", "part 1: Missing Content-Disposition"),
        (_part(b"1", b"Content-Disposition: form-data") + b"--x--", "part 1 has no name"),
        (_part(b"1", b'Content-Disposition: form-data; filename="f"') + b"--x--", "part 1 has no name"),
        (_part(b"1", b"no colon") + b"--x--", "part 1: Malformed"),
        (_part(b"1", b"\xff\xfe: y") + b"--x--", "part 1: Invalid segment header name$"),
        (_part(b"\xff") + b"--x--", "not UTF-8"),
        (_part(b"1", b"a: " + b"b" * MAX_HEAD_BYTES) + b"--x--", "part 1: Maximum segment header length"),
        (_part(b"1", b"a: b\r\n" * MAX_HEADERS + b"a: b") + b"--x--", "part 1: Maximum segment header count"),
        (_part(b"1" * (MAX_FIELD_BYTES + 1)) + b"--x--", f"over {MAX_FIELD_BYTES} bytes"),
        (_part(b"") * (MAX_PARTS + 1) + b"--x--", f"part {MAX_PARTS + 1}: Maximum segment count"),
    ],
)
def test_a_body_that_is_no_form_is_refused_with_the_part_that_broke_it(body: bytes, words: str) -> None:
    with pytest.raises(CodecError, match=words):
        parse_form(body, KIND)


@pytest.mark.parametrize("boundary", ["", "; boundary=", '; boundary=""', "; boundary=ü", "; boundary=" + "x" * 71])
def test_a_boundary_that_can_not_be_one_is_refused(boundary: str) -> None:
    with pytest.raises(CodecError, match="boundary of 1 to 70"):
        parse_form(b"", "multipart/form-data" + boundary)


@given(st.binary(max_size=200), st.sampled_from([b"", b"--x", b"--x\r\n", b"--x\r\n\r\n"]))
def test_whatever_the_bytes_they_are_a_form_or_refused(body: bytes, start: bytes) -> None:
    try:
        files, fields = parse_form(start + body, KIND)
    except CodecError as err:
        assert str(err).startswith("Invalid form-data: ")  # noqa: PT017 - most inputs are refused, none has to be
    else:
        assert all(files.values())
        assert all(fields.values())
