"""`darkroom export`: makes SavedModels that take pictures: from a SavedModel, from a Keras model, or one that ships."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.models.errors import ModelError
from darkroom.models.versions.folder import locate

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from darkroom.models.saved_model.front.preprocess import Preprocess

DESCRIPTION = """\
Builds SavedModels whose signature takes encoded images, into OUT/NAME/VERSION.

NAME with --from=DIR: any SavedModel whose signature takes images as tensors, TF1 or TF2, such as Keras' model.export()
and TensorFlow Hub's. The new signature is serving_default; the one that takes tensors stays, as serving_tensors.

NAME alone: a model that ships (see --list), a Keras file (my.keras, my.h5), or package.module:factory, a function
without arguments that returns a Keras model or any callable float32[n, height, width, channels] -> tensors.

--preprocess says how pixels become numbers. It is never guessed: it is needed unless the model itself scales its input.
  tf: -1 to 1   torch: 0 to 1, less ImageNet's mean, by its deviation   caffe: BGR less ImageNet's mean
  unit: 0 to 1  raw: 0 to 255   (tf, torch and caffe are the modes of keras.applications)
"""
KERAS_FILES = (".keras", ".h5", ".hdf5")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `darkroom export`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to build")
    parser.add_argument("--list", action="store_true", help="list the models that ship")
    parser.add_argument("--out", type=Path, default=Path("model"), help="folder to build into [model]")
    parser.add_argument("--version", type=int, default=1, help="version folder to make [1]")
    parser.add_argument(
        "--wire", choices=("base64", "bytes"), help="the form of the new input [bytes with --from, else base64]"
    )
    parser.add_argument(
        "--reduced_scale", action="store_true", help="decode large JPEGs to 1/2, 1/4 or 1/8: faster, pixels differ"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing version")
    parser.add_argument("--missing", action="store_true", help="build only missing versions")
    add_picture_flags(parser.add_argument_group("how an image becomes its input"))
    own = parser.add_argument_group("your own model")
    own.add_argument("--from", dest="source", type=Path, metavar="DIR", help="SavedModel to put the decoding before")
    own.add_argument(
        "--signature", default="", help="its signature that takes tensors [serving_default, or the only one]"
    )
    own.add_argument("--input", default="", help="that signature's input [all that have the shape of images]")
    own.add_argument("--custom_op_paths", default="", help="comma-separated folders of *.so that the SavedModel needs")
    own.add_argument("--as", dest="name", metavar="NAME", help="name of its folder in OUT")
    own.add_argument("--labels", type=Path, help="text file, one label per line in class order")
    own.add_argument(
        "--answers",
        choices=("logits", "probability", "values"),
        help="what a Keras model or callable returns; logits get a softmax, values keep their names [as its last "
        "activation shows]",
    )


def add_picture_flags(group: argparse._ArgumentGroup) -> None:
    """Adds the flags that say how an image becomes a model's input."""
    group.add_argument("--preprocess", choices=("tf", "torch", "caffe", "unit", "raw"), default="", help="see above")
    group.add_argument("--mean", type=_numbers, help="subtracted from pixels (0 to 255); 1 or 3 numbers")
    group.add_argument("--std", type=_numbers, help="divides the result; 1 or 3 numbers")
    group.add_argument("--size", metavar="HxW", help="input size in pixels, where the model leaves it open")
    group.add_argument(
        "--channels",
        choices=("1", "3", "4", "rgb", "bgr"),
        default="",
        help="their order; a number for a callable [rgb]",
    )
    group.add_argument("--layout", choices=("nhwc", "nchw"), default="", help="[as the shape shows]")
    group.add_argument("--resize", default="bilinear", help="method of tf.image.resize, or bilinear_tf1 [bilinear]")
    group.add_argument(
        "--fit",
        choices=("stretch", "crop", "pad"),
        default="stretch",
        help="stretch the image; crop to its largest centred part; pad it with black [stretch]",
    )
    group.add_argument("--antialias", action="store_true", help="average when shrinking, as Pillow does; slower")
    group.add_argument("--orient", action="store_true", help="turn JPEGs as their EXIF orientation says")
    group.add_argument("--formats", choices=("any", "jpeg"), default="any", help="accepted image formats [any]")
    group.add_argument(
        "--batch_decode",
        choices=("map_defun", "map_fn"),
        default="map_defun",
        help="how a batch is decoded [map_defun]",
    )


def run(parsed: argparse.Namespace) -> int:
    """Builds the named models. Returns 0 if all were built, 1 if one can't be built, 2 if none was named."""
    from darkroom.models.export.errors import ExportFailed  # noqa: PLC0415 - as below
    from darkroom.models.export.zoo import ZOO  # noqa: PLC0415 - only exporting needs it

    if parsed.list or not parsed.names:
        for model in ZOO.values():
            print(f"{model.name:20} {model.description}")
        return 0 if parsed.list else 2
    for name in parsed.names:
        try:
            _build(name, parsed)
        except (ExportFailed, ModelError, ValueError, OSError) as err:
            where = name if parsed.source is None else f"{name} from {parsed.source}"
            print(f"darkroom: {where}: {err}", file=sys.stderr)
            return 1
    return 0


def _build(name: str, parsed: argparse.Namespace) -> None:
    """Builds one model."""
    is_own = ":" in name or name.endswith(KERAS_FILES)
    folder = parsed.out / (parsed.name or (Path(name.rpartition(":")[2]).stem if is_own else name))
    if parsed.missing and (folder / str(parsed.version)).is_dir():
        return
    common = {"version": parsed.version, "force": parsed.force}
    if parsed.source is not None:
        source, _, _ = locate(parsed.source)
        from darkroom.models.export.wrap import wrap_saved_model  # noqa: PLC0415 - as above
        from darkroom.models.runtime.custom_ops import load_custom_ops  # noqa: PLC0415 - as above

        load_custom_ops([Path(path) for path in parsed.custom_op_paths.split(",") if path])
        said = preprocess_of(parsed, wire=parsed.wire or "bytes")
        path, made = wrap_saved_model(source, folder, said, labels=_labels(parsed), **common)
        print("\n".join([*made.describe(), *_how_to_serve(path, list(made.images.values()), made.others)]))
    elif is_own:
        from darkroom.models.export.export import check_free, load_reference  # noqa: PLC0415 - as above
        from darkroom.models.export.own_model import export_own_model  # noqa: PLC0415 - as above

        check_free(folder, parsed.version, force=parsed.force)
        path = export_own_model(
            load_reference(name),
            folder,
            preprocess_of(parsed, wire=parsed.wire or "base64"),
            answers=parsed.answers or "",
            labels=_labels(parsed),
            channels=int(parsed.channels) if parsed.channels.isdigit() else 3,
            progress=lambda line: print(f"{name}: {line}", flush=True),
            **common,
        )
        print("\n".join(_how_to_serve(path)))
    else:
        from darkroom.models.export.zoo import build  # noqa: PLC0415 - as above

        wire = parsed.wire or "base64"
        build(
            name, folder, wire=wire, reduced_scale=parsed.reduced_scale, progress=partial(print, flush=True), **common
        )


def preprocess_of(parsed: argparse.Namespace, *, wire: str) -> Preprocess:
    """What the flags say about pictures.

    Raises:
        ValueError: a flag has a wrong value, or two do not go together.
    """
    from darkroom.models.saved_model.front.preprocess import Preprocess  # noqa: PLC0415 - as above

    size = None
    if parsed.size is not None:
        height, _, width = parsed.size.partition("x")
        if not (height.isdigit() and width.isdigit()):
            raise ValueError(f"--size={parsed.size} isn't HxW, such as 224x224")
        size = int(height), int(width)
    return Preprocess(
        preprocess=parsed.preprocess,
        mean=parsed.mean,
        std=parsed.std,
        channels="" if parsed.channels.isdigit() else parsed.channels,
        layout=parsed.layout,
        size=size,
        resize=parsed.resize,
        fit=parsed.fit,
        antialias=parsed.antialias,
        orient=parsed.orient,
        reduced_scale=parsed.reduced_scale,
        batch_decode=parsed.batch_decode,
        formats=parsed.formats,
        wire=wire,
        signature=parsed.signature,
        input=parsed.input,
    )


def _labels(parsed: argparse.Namespace) -> list[str]:
    return parsed.labels.read_text(encoding="utf-8").splitlines() if parsed.labels else []


def _how_to_serve(path: Path, images: Sequence[str] = ("images",), others: Sequence[str] = ()) -> list[str]:
    """The commands that serve what was written and send a picture to it, or the form of the JSON if it takes more."""
    serve = f"  darkroom serve --model_base_path={path.parent}"
    if len(images) == 1 and not others:
        send = "  curl -H 'Content-Type: image/jpeg' --data-binary @cat.jpg http://localhost:8500"
        return [f"wrote {path}; serve it and send an image:", serve, send]
    values = [f'"{name}": ["<base64>"]' for name in images] + [f'"{name}": [...]' for name in others]
    return [f"wrote {path}; serve it and send JSON to POST /:", serve, f'  {{"data": {{{", ".join(values)}}}}}']


def _numbers(text: str) -> float | tuple[float, ...]:
    """One number, or several separated by commas."""
    values = tuple(float(part) for part in text.split(","))
    return values[0] if len(values) == 1 else values
