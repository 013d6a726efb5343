"""`darkroom export`: builds a model that ships, or a SavedModel that takes images from the user's own model."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from darkroom.models.export.recipe import Recipe

DESCRIPTION = """\
Builds SavedModels whose signature takes encoded images, into OUT/NAME/VERSION.

NAME is a model that ships (see --list), a Keras file (my.keras), or package.module:factory, a function without
arguments that returns a Keras model or any callable float32[n, height, width, channels] -> float[n, classes].
For your own model, the options below describe how an image becomes its input.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `darkroom export`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to build")
    parser.add_argument("--list", action="store_true", help="list the models that ship")
    parser.add_argument("--out", type=Path, default=Path("model"), help="folder to build into [model]")
    parser.add_argument("--version", type=int, default=1, help="version folder to make [1]")
    parser.add_argument(
        "--wire", choices=("base64", "bytes"), default="base64", help="the form of the input `images` [base64]"
    )
    parser.add_argument(
        "--reduced_scale", action="store_true", help="decode large JPEGs to 1/2, 1/4 or 1/8: faster, pixels differ"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing version")
    parser.add_argument("--missing", action="store_true", help="build only missing versions")
    own = parser.add_argument_group("your own model")
    own.add_argument("--as", dest="name", metavar="NAME", help="name of its folder in OUT")
    own.add_argument("--size", metavar="HxW", default="224x224", help="input size in pixels [224x224]")
    own.add_argument("--channels", type=int, choices=(1, 3), default=3, help="1: grey, 3: RGB [3]")
    own.add_argument("--mean", type=_numbers, default=0.0, help="subtracted from pixels (0 to 255); 1 or 3 numbers [0]")
    own.add_argument("--std", type=_numbers, default=255.0, help="divides the result; 1 or 3 numbers [255]")
    own.add_argument("--formats", choices=("any", "jpeg"), default="any", help="accepted image formats [any]")
    own.add_argument("--resize", default="bilinear", help="method of tf.image.resize, or bilinear_tf1 [bilinear]")
    own.add_argument(
        "--answers", choices=("logits", "probability"), default="logits", help="what the model returns [logits]"
    )
    own.add_argument(
        "--batch_decode",
        choices=("map_defun", "map_fn"),
        default="map_defun",
        help="how a batch is decoded [map_defun]",
    )
    own.add_argument("--labels", type=Path, help="text file, one label per line in class order")


def run(parsed: argparse.Namespace) -> int:
    """Builds the named models. Returns 0 if all were built, 1 if one can't be built, 2 if none was named."""
    from darkroom.models.export.errors import ExportFailed  # noqa: PLC0415 - as above
    from darkroom.models.export.zoo import ZOO  # noqa: PLC0415 - only exporting needs it

    if parsed.list or not parsed.names:
        for model in ZOO.values():
            print(f"{model.name:20} {model.description}")
        return 0 if parsed.list else 2
    for name in parsed.names:
        try:
            _build(name, parsed)
        except (ExportFailed, ValueError, OSError) as err:
            print(f"darkroom: {name}: {err}", file=sys.stderr)
            return 1
    return 0


def _build(name: str, parsed: argparse.Namespace) -> None:
    """Builds one model."""
    is_own = ":" in name or name.endswith(".keras")
    folder = parsed.out / (parsed.name or Path(name.rpartition(":")[2]).stem if is_own else name)
    if parsed.missing and (folder / str(parsed.version)).is_dir():
        return
    if is_own:
        from darkroom.models.export.export import export_from_reference  # noqa: PLC0415 - as above

        labels = parsed.labels.read_text(encoding="utf-8").splitlines() if parsed.labels else ()
        path = export_from_reference(
            name, folder, _recipe(parsed), version=parsed.version, labels=labels, force=parsed.force
        )
        print(f"{name}: {path}")
        return
    from darkroom.models.export.zoo import build  # noqa: PLC0415 - as above

    build(
        name,
        folder,
        version=parsed.version,
        wire=parsed.wire,
        reduced_scale=parsed.reduced_scale,
        force=parsed.force,
        progress=partial(print, flush=True),
    )


def _recipe(parsed: argparse.Namespace) -> Recipe:
    """How an image becomes the input of the user's own model."""
    from darkroom.models.export.recipe import Recipe  # noqa: PLC0415 - as above

    height, _, width = parsed.size.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"--size={parsed.size} isn't HxW, such as 224x224")
    return Recipe(
        size=(int(height), int(width)),
        channels=parsed.channels,
        mean=parsed.mean,
        std=parsed.std,
        wire=parsed.wire,
        formats=parsed.formats,
        resize=parsed.resize,
        batch_decode=parsed.batch_decode,
        reduced_scale=parsed.reduced_scale,
        answers=parsed.answers,
    )


def _numbers(text: str) -> float | tuple[float, ...]:
    """One number, or several separated by commas."""
    values = tuple(float(part) for part in text.split(","))
    return values[0] if len(values) == 1 else values
