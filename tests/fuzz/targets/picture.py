"""The walk through the header of a picture: whatever the bytes, it refuses them or says what would be decoded."""

from __future__ import annotations

from collections import Counter

from darkroom.models.engines.fakes import ECHO
from darkroom.models.errors import InvalidInput
from darkroom.service.errors import CodecError
from darkroom.service.predict.image_guard import FORMATS, ImageGuard, measure, trim_png

GUARD = ImageGuard(max_images=8, max_image_bytes=1 << 20, max_image_pixels=50_000_000)


def check(data: bytes) -> None:
    """A size that was read is a size, and cutting a PNG short changes nothing that matters and is done once."""
    poison: Counter[str] = Counter()
    try:
        kept, pixels = GUARD.inspect(data, ECHO, "images", 0, poison)
        assert pixels >= len(kept) >> 2
    except CodecError:
        assert poison.total() == 1
    try:
        assert min(GUARD.inspect_others([data, b""], "others", poison)) >= 0
    except CodecError:
        assert poison.total() <= 2
    try:
        size = kind, width, height, frames, scans = measure(data)
        trimmed = trim_png(data) if kind == "png" else data
    except InvalidInput:
        return
    assert kind in FORMATS
    assert min(width, height, frames, scans) >= 1
    assert len(trimmed) <= len(data)
    if kind == "png":
        assert measure(trimmed) == size
        assert trim_png(trimmed) == trimmed
