"""Form-data: the files and fields of a multipart body, in a bounded number of steps whatever the bytes."""

from __future__ import annotations

from typing import NamedTuple

from sanic.headers import parse_content_header

from darkroom.service.errors import CodecError

# Bounds on the work for one body: twice the pictures of a request by default; measured: 9 us a part.
MAX_PARTS = 2_048
MAX_HEAD_BYTES = 4_096
MAX_FIELD_BYTES = 65_536
MAX_BOUNDARY_CHARS = 70  # RFC 2046, 5.1.1


class File(NamedTuple):
    """One file of a form."""

    body: bytes
    name: str
    type: str


def parse_form(body: bytes, content_type: str) -> tuple[dict[str, list[File]], dict[str, list[str]]]:
    """The files and the fields of a form-data body, each name with its values in order.

    Raises:
        CodecError: the body isn't what its Content-Type says, or has more parts, or a longer head, than anyone needs.
    """
    files: dict[str, list[File]] = {}
    fields: dict[str, list[str]] = {}
    for number, (head, data) in enumerate(_parts(body, _boundary(content_type)), 1):
        headers = _headers(head, number)
        _, named = parse_content_header(headers.get("content-disposition", ""))
        name = named.get("name")
        if not isinstance(name, str):
            raise CodecError(f"Invalid form-data: part {number} has no name")
        if "filename" in named or "filename*" in named:
            file = File(data, str(named.get("filename", "")), headers.get("content-type", "text/plain"))
            files.setdefault(name, []).append(file)
        else:
            fields.setdefault(name, []).append(_text(data, number))
    return files, fields


def _boundary(content_type: str) -> bytes:
    """What stands between the parts."""
    boundary = parse_content_header(content_type)[1].get("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= MAX_BOUNDARY_CHARS or not boundary.isascii():
        raise CodecError(
            f"Invalid form-data: its Content-Type needs a boundary of 1 to {MAX_BOUNDARY_CHARS} characters"
        )
    return b"--" + boundary.encode()


def _parts(body: bytes, mark: bytes) -> list[tuple[bytes, bytes]]:
    """The head and the data of each part, by RFC 2046: a boundary stands at the start of a line."""
    between = b"\r\n" + mark
    at = 0 if body.startswith(mark) else body.find(between) + 2
    if at == 1:
        raise CodecError("Invalid form-data: no part begins with the boundary of its Content-Type")
    parts: list[tuple[bytes, bytes]] = []
    while not body.startswith(b"--", at := at + len(mark)):
        if len(parts) == MAX_PARTS:
            raise CodecError(f"Invalid form-data: more than {MAX_PARTS} parts")
        start = body.find(b"\r\n", at)  # what stands behind a boundary in its line is padding
        head_end = body.find(b"\r\n\r\n", start, start + MAX_HEAD_BYTES) if start >= 0 else -1
        end = body.find(between, head_end + 2) if head_end >= 0 else -1
        if end < 0:
            where = f"part {len(parts) + 1}"
            raise CodecError(f"Invalid form-data: {where} is cut off, or its head is over {MAX_HEAD_BYTES} bytes")
        parts.append((body[start + 2 : head_end], body[head_end + 4 : end]))
        at = end + 2
    return parts


def _headers(head: bytes, number: int) -> dict[str, str]:
    """The headers of a part, by name in lower case."""
    headers = {}
    for line in _text(head, number).split("\r\n") if head else ():
        name, colon, value = line.partition(":")
        if not colon:
            raise CodecError(f"Invalid form-data: part {number} has a header without a colon")
        headers[name.strip().lower()] = value.strip()
    return headers


def _text(data: bytes, number: int) -> str:
    """A head or a field as text."""
    if len(data) > MAX_FIELD_BYTES:
        raise CodecError(f"Invalid form-data: part {number} is no file and has over {MAX_FIELD_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        raise CodecError(f"Invalid form-data: part {number} is not UTF-8 text: {err.reason}") from err
