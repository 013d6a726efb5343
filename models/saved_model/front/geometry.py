"""Where a point of a model's input lies in the picture that a decode front laid into it. Imports no TensorFlow."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from darkroom.models.errors import LoadFailed, quote
from darkroom.models.saved_model.front.recipe import FITS
from darkroom.models.spec import PictureFit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FRONT_FILE: Final = "front.json"  # in assets.extra of a SavedModel that was exported with a front
# Of the EXIF directory, which front/orientation.py reads in the graph, as `orientation_of` does here.
HEAD_BYTES: Final = 1 << 16  # where the directory is looked for; cameras write it first (guess)
SEGMENTS: Final = 32  # looked at before the EXIF segment (guess)
ENTRIES: Final = 64  # of the directory (guess; cameras write about 12)
TAG: Final = 0x0112
APP1, EXIF = 0xE1, 0x45786966


class Placement(NamedTuple):
    """Where the model's input lies in a picture: `pixel = fraction * scale + offset`, down and across."""

    height: int  # of the picture
    width: int
    scales: tuple[float, float]
    offsets: tuple[float, float]


def place(fit: PictureFit, width: int, height: int) -> Placement:
    """Returns where the model's input lies in an upright picture of so many pixels; see `decode._fit`."""
    rows, columns = fit.size
    if fit.fit == "crop":
        high = min(max(width * rows // columns, 1), height)
        wide = min(max(height * columns // rows, 1), width)
        return Placement(height, width, (high, wide), ((height - high) // 2, (width - wide) // 2))
    if fit.fit != "pad":
        return Placement(height, width, (height, width), (0.0, 0.0))
    # In the float32 of tf.image.resize_with_pad, since a floor follows.
    one = np.float32
    ratio = max(one(width) / one(columns), one(height) / one(rows))
    placed = []  # scale and offset along each side of the picture
    for side, whole in ((height, rows), (width, columns)):
        inside = one(side) / ratio  # the pixels of the model's `whole` that show it
        shown = max(math.floor(inside), 1)
        before = max(0, math.floor((one(whole) - inside) / 2))
        placed.append((whole * side / shown, -before * side / shown))
    (down, top), (across, left) = placed
    return Placement(height, width, (down, across), (top, left))


def orientation_of(data: bytes) -> int:
    """Returns the EXIF orientation of an encoded picture, 1 to 8; 1 where it says none or is no JPEG."""
    head = data[:HEAD_BYTES] + b"\0"

    def number(at: int, count: int, order: str = "big") -> int:
        """The number at a place; beyond the end are zeros."""
        return int.from_bytes(head[at : at + count].ljust(count, b"\0"), "little" if order == "little" else "big")

    start = 2
    for _ in range(SEGMENTS):
        is_exif = head[start + 1 : start + 2] == b"\xe1" and number(start + 4, 4) == EXIF
        if start >= len(head) - 1 or number(start, 1) != 0xFF or number(start + 1, 1) < 0xE0 or is_exif:
            break
        start += 2 + number(start + 2, 2)
    if not data.startswith(b"\xff\xd8") or number(start + 1, 1) != APP1 or number(start + 4, 4) != EXIF:
        return 1
    tiff = start + 10
    order = "little" if number(tiff, 1) == 0x49 else "big"
    directory = tiff + number(tiff + 4, 4, order)
    entries = [directory + 2 + 12 * index for index in range(min(number(directory, 2, order), ENTRIES))]
    found = max((number(at + 8, 2, order) for at in entries if number(at, 2, order) == TAG), default=1)
    return found if 1 <= found <= 8 else 1


def fit_of(values: Mapping[str, Any]) -> PictureFit:
    """Reads `{"size": [height, width], "fit", "orient"}`; what is left out is as in `PictureFit`.

    Raises:
        ValueError: a value is not allowed.
    """
    made: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    fit = PictureFit(**made)
    if len(fit.size) != 2 or any(type(side) is not int or side < 1 for side in fit.size):
        raise ValueError(f"size: {quote(str(values.get('size')))} isn't [height, width] of at least 1 pixel")
    if fit.fit not in FITS:
        raise ValueError(f"fit: {quote(str(fit.fit))} isn't one of {', '.join(FITS)}")
    if type(fit.orient) is not bool:
        raise ValueError("orient: expected true or false")
    return fit


def write_fit(fit: PictureFit) -> str:
    """Returns the text of FRONT_FILE."""
    return json.dumps(fit._asdict()) + "\n"


def read_fit(path: Path) -> PictureFit | None:
    """Returns how the front of a version folder lays pictures, as its export wrote it; None where nothing says it.

    Raises:
        LoadFailed: the file is not as it was written.
    """
    try:
        text = (path / "assets.extra" / FRONT_FILE).read_text("utf-8")
    except OSError:
        return None
    try:
        return fit_of(json.loads(text))
    except (ValueError, TypeError) as err:
        raise LoadFailed(f"assets.extra/{FRONT_FILE}: {err}") from err
