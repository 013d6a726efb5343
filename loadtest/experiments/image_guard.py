"""Microseconds that the checks of a picture take: base64 decoding and reading the header, and Python's and Pillow's ways.

    python -m loadtest.experiments.image_guard

All ways are measured in turn, round after round, so that background load affects all of them; the median counts.
`imagesize` is measured too if it is installed; the project does not need it.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import io
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from darkroom.service.predict.codec import decode_base64
from darkroom.service.predict.image_guard import sniff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = {"1 KB": 1_000, "15 KB": 15_000, "60 KB": 60_000, "1 MB": 1_000_000}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table of medians; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.image_guard", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=30, help="rounds of all ways [30]")
    parser.add_argument("--calls", type=int, default=30, help="calls a round and way [30]")
    parsed = parser.parse_args(arguments)
    for kind in ("JPEG", "PNG"):
        print(f"{kind}, microseconds a picture\n")
        for name, goal in SIZES.items():
            data = noise(kind, goal)
            medians = measure(ways(data), parsed.rounds, parsed.calls)
            print(f"{name} ({len(data)} bytes): " + ", ".join(f"{way} {us:.2f}" for way, us in medians.items()))
        print()
    return 0


def ways(data: bytes) -> dict[str, Callable[[], object]]:
    """Returns the calls to time: each way to decode the picture's base64, and each way to read its header."""
    text = base64.urlsafe_b64encode(data).decode()
    found: dict[str, Callable[[], object]] = {
        "decode": lambda: decode_base64(text),
        "python's base64": lambda: base64.urlsafe_b64decode(text),
        "sniff": lambda: sniff(data),
        "pillow's lazy open": lambda: _pillow(data),
    }
    try:
        imagesize: Any = importlib.import_module("imagesize")
    except ImportError:
        return found
    return found | {"imagesize": lambda: imagesize.get(io.BytesIO(data))}


def measure(calls: dict[str, Callable[[], object]], rounds: int, count: int) -> dict[str, float]:
    """Returns the median of each way's rounds, in microseconds a call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started_s = time.perf_counter()
            for _ in range(count):
                call()
            times[name].append((time.perf_counter() - started_s) / count * 1e6)
    return {name: statistics.median(taken) for name, taken in times.items()}


def noise(kind: str, goal_bytes: int) -> bytes:
    """Returns a picture of about `goal_bytes`, with random pixels, which do not compress."""
    side = 8
    while True:
        pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, kind)
        if out.tell() >= goal_bytes:
            return out.getvalue()
        side = max(side + 1, int(side * (goal_bytes / out.tell()) ** 0.5 * 0.95))


def _pillow(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


if __name__ == "__main__":
    sys.exit(main())
