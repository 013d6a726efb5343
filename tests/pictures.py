"""Pictures for tests: the photographs, and small ones made on the spot, each unlike the others."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

PHOTOGRAPHS = Path(__file__).parent / "images"


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


def url_safe(data: bytes, *, padded: bool = True) -> str:
    """URL-safe base64, as STS's clients send it."""
    text = base64.urlsafe_b64encode(data).decode()
    return text if padded else text.rstrip("=")


def standard(data: bytes) -> str:
    """Standard base64, as TensorFlow Serving's clients send it."""
    return base64.b64encode(data).decode()
