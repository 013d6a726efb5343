"""Time that decoding a large photograph at a reduced scale saves, and how much it changes the model's input pixels.

    python -m loadtest.experiments.models.reduced_scale
    python -m loadtest.experiments.models.reduced_scale --megapixels 24 --size 380x380 --resize area

A photograph of loadtest/traffic/payloads is enlarged, gets noise and is written as a JPEG, in memory. The graphs that
`darkroom export` writes with and without --reduced_scale turn its bytes into the model's input; both run in turn.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from darkroom.models.export.export import signature_of
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.front.decode import decode
from darkroom.models.saved_model.front.recipe import RESIZE_METHODS, Recipe
from loadtest.measure import machine
from loadtest.measure.tables import number, table
from loadtest.traffic.pictures import KINDS, load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESIZES = ("bilinear", "area")  # the default, which samples points of the picture, and one that averages all of it
NOISE = 6.0  # standard deviation, of 255: a guess for a telephone's camera; an enlarged photograph has little noise


class DecodeComparison(NamedTuple):
    """Both decodes of one picture for one way of resizing; times are medians, differences are of pixels from 0 to 255."""

    resize: str
    plain_ms: float
    reduced_ms: float
    mean_difference: float
    largest_difference: float
    decoded: tuple[int, int]  # height, width before the resize, of the reduced decode


def enlarged(data: bytes, pixels: int, quality: int) -> bytes:
    """Returns the photograph as a JPEG of about `pixels` pixels, with noise; both sides are multiples of 8."""
    photograph = Image.open(io.BytesIO(data)).convert("RGB")
    factor = math.sqrt(pixels / (photograph.width * photograph.height))
    width, height = (max(8, round(side * factor / 8) * 8) for side in photograph.size)
    large = np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    large = large + np.random.default_rng(0).normal(scale=NOISE, size=large.shape).astype(np.float32)
    out = io.BytesIO()
    Image.fromarray(np.clip(large, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=quality)
    return out.getvalue()


def compare(data: bytes, size: tuple[int, int], resize: str, rounds: int) -> DecodeComparison:
    """Decodes the JPEG `data` plainly and at a reduced scale to `size` (height, width), in turn."""
    recipes = [
        Recipe(size=size, std=1.0, wire="bytes", answers="probability", resize=resize, reduced_scale=is_reduced)
        for is_reduced in (False, True)
    ]
    calls = [_caller(recipe, data) for recipe in recipes]
    plain, reduced = (call() for call in calls)  # warms up
    taken_s: tuple[list[float], ...] = ([], [])
    for _ in range(rounds):
        for call, times in zip(calls, taken_s, strict=True):
            started_s = time.perf_counter()
            call()
            times.append(time.perf_counter() - started_s)
    plain_ms, reduced_ms = (statistics.median(times) * 1e3 for times in taken_s)
    difference = np.abs(plain - reduced)
    height, width, _ = decode(tf.constant(data), recipes[1]).shape
    return DecodeComparison(
        resize, plain_ms, reduced_ms, float(difference.mean()), float(difference.max()), (height, width)
    )


def _caller(recipe: Recipe, data: bytes) -> Callable[[], np.ndarray[Any, np.dtype[np.float32]]]:
    """Returns a call of an exported graph whose model returns its input pixels."""

    def pixels(x: Any) -> Any:
        return tf.reshape(x, [-1, recipe.size[0] * recipe.size[1] * recipe.channels])

    signature, pictures = signature_of(pixels, recipe), tf.constant([data])
    return lambda: np.asarray(signature(pictures)["probability"])


def draw_table(rows: Sequence[DecodeComparison]) -> str:
    """Returns a line for each way of resizing."""
    heads = ("resize", "plain, ms", "reduced, ms", "plain / reduced", "decoded to", "mean difference", "largest")
    return table(
        heads,
        (
            [
                row.resize,
                number(row.plain_ms),
                number(row.reduced_ms),
                number(row.plain_ms / row.reduced_ms),
                f"{row.decoded[1]}x{row.decoded[0]}",
                number(row.mean_difference),
                number(row.largest_difference, digits=0),
            ]
            for row in rows
        ),
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.models.reduced_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--photograph", choices=KINDS["photos"], default="chelsea", help="what is enlarged [%(default)s]")
    add("--megapixels", type=float, default=12.0, help="of the enlarged one [%(default)s]")
    add("--quality", type=int, default=90, help="of its JPEG, 1 to 95 [%(default)s]")
    add("--size", default="224x224", metavar="HxW", help="the model's input [%(default)s]")
    add("--resize", action="append", choices=RESIZE_METHODS, help="can be repeated [bilinear and area]")
    add("--rounds", type=int, default=10, help="calls of each [%(default)s]")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0."""
    options = parse(arguments)
    height, _, width = options.size.partition("x")
    (photograph,) = (each for each in load("photos") if each.name == options.photograph)
    data = enlarged(photograph.data, round(options.megapixels * 1e6), options.quality)
    size = Image.open(io.BytesIO(data)).size
    rows = [compare(data, (int(height), int(width)), each, options.rounds) for each in options.resize or RESIZES]
    print(f"{machine.lines(machine.describe())}\n")
    print(
        f"{photograph.name}, {size[0]}x{size[1]}, {len(data):,} bytes, to {options.size}; {options.rounds} calls each\n"
    )
    print(draw_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
