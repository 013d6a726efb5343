"""Pictures for tests: the photographs, and small ones made on the spot, each unlike the others."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

PHOTOGRAPHS = Path(__file__).parent / "images"
_Turn = Image.Transpose
STORED = {  # how a picture is turned before it is stored with an EXIF orientation
    1: None,
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_90,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_270,
}


def photograph(name: str) -> bytes:
    """One of the four photographs (640x480 JPEG): astronaut, chelsea (a cat), coffee, rocket."""
    return (PHOTOGRAPHS / f"{name}.jpg").read_bytes()


def picture(
    seed: int = 0, *, kind: str = "PNG", size: tuple[int, int] = (8, 6), mode: str = "RGB", **options: object
) -> bytes:
    """A small picture; another seed, other bytes and other pixels."""
    image = Image.new(
        mode, size, (seed * 37 % 256, seed * 101 % 256, seed * 17 % 256)[: len(mode)] if mode != "L" else seed
    )
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def red_square(
    box: tuple[int, int, int, int], *, size: tuple[int, int] = (640, 480), orientation: int = 0, kind: str = "JPEG"
) -> bytes:
    """A grey picture with a red square whose edges are `box`: left, top, right, bottom, as a viewer shows it.

    With an EXIF `orientation` it is stored turned.
    """
    image = Image.new("RGB", size, (128, 128, 128))
    image.paste((255, 0, 0), box)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
        undone = STORED[orientation]
        image = image if undone is None else image.transpose(undone)
    out = io.BytesIO()
    image.save(out, kind, exif=exif.tobytes(), quality=95, subsampling=0)
    return out.getvalue()


def url_safe(data: bytes, *, padded: bool = True) -> str:
    """URL-safe base64, as STS's clients send it."""
    text = base64.urlsafe_b64encode(data).decode()
    return text if padded else text.rstrip("=")


def standard(data: bytes) -> str:
    """Standard base64, as TensorFlow Serving's clients send it."""
    return base64.b64encode(data).decode()
