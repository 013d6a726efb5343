"""Form-data: the first line is the Content-Type, the rest is the body."""

from __future__ import annotations

from darkroom.service.errors import CodecError
from darkroom.service.predict.form_data import MAX_PARTS, parse_form


def check(data: bytes) -> None:
    """What is read was sent, and no more parts than may be."""
    kind, _, body = data.partition(b"\n")
    try:
        files, fields = parse_form(body, kind.decode("latin-1"))
    except CodecError:
        return
    parts = [file.body for each in files.values() for file in each]
    parts += [text.encode() for each in fields.values() for text in each]
    assert len(parts) <= MAX_PARTS
    assert all(part in body for part in parts)
