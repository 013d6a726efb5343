"""The recipe of an export: how a picture becomes the model's input. Imports no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# The methods of tf.image.resize, and TensorFlow 1's resize_images (no half-pixel centres) for models trained with it.
TF1_BILINEAR: Final = "bilinear_tf1"
RESIZE_METHODS: Final = ("bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", TF1_BILINEAR)
FITS: Final = ("stretch", "crop", "pad")
_CHOICES: Final[Mapping[str, tuple[object, ...]]] = {
    "channels": (1, 3, 4),
    "order": ("rgb", "bgr"),
    "layout": ("nhwc", "nchw"),
    "wire": ("base64", "bytes"),
    "formats": ("any", "jpeg"),
    "resize": RESIZE_METHODS,
    "fit": FITS,
    "batch_decode": ("map_defun", "map_fn"),
    "answers": ("logits", "probability", "values"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How pictures become the model's input `x: dtype[n, height, width, channels]`, and what the model returns.

    The input is (pixels / scale - mean) / std, with pixels from 0 to 255.

    Raises:
        ValueError: a value is not allowed; the message lists all problems.
    """

    size: tuple[int, int]  # height, width
    channels: int = 3  # 1: grey, 3: RGB (an alpha channel is dropped), 4: RGBA
    order: str = "rgb"  # "bgr": blue first, as OpenCV and Caffe have it
    layout: str = "nhwc"  # "nchw": x is [n, channels, height, width]
    dtype: str = "float32"  # of x; integers are rounded
    scale: float = 1.0  # divides the pixels first
    mean: float | tuple[float, ...] = 0.0  # one number, or one per channel, in the order of `order`
    std: float | tuple[float, ...] = 255.0  # likewise; a mean of 0 and a std of 255 give an input from 0 to 1
    wire: str = "base64"  # "base64": URL-safe text, for Simple TensorFlow Serving; "bytes": for TensorFlow Serving
    formats: str = "any"  # "any": all formats of DecodeImage; "jpeg": only the op decode_jpeg, as in the classic recipe
    resize: str = "bilinear"  # one of RESIZE_METHODS
    fit: str = "stretch"  # "crop": the largest centred part of the model's shape; "pad": all of it, in a black frame
    antialias: bool = False  # average over what a smaller picture leaves out, as Pillow does; slower
    orient: bool = False  # turn a JPEG as its EXIF orientation says
    batch_decode: str = (
        "map_defun"  # "map_defun": rows in parallel; "map_fn": for runtimes without the kernels of tf.data
    )
    reduced_scale: bool = False  # decode large JPEGs to 1/2, 1/4 or 1/8, never below `size`; the pixels then differ
    answers: str = "logits"  # what the model returns; a softmax is added to "logits" only; "values" keep their names

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)!r} isn't one of {', '.join(map(str, choices))}"
            for name, choices in _CHOICES.items()
            if getattr(self, name) not in choices
        ]
        if len(self.size) != 2 or min(self.size) < 1:
            problems.append(f"size={self.size} isn't (height, width) of at least 1 pixel")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.channels:
                problems.append(f"{name} has {len(value)} numbers for {self.channels} channels")
        problems += self._contradictions()
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one picture in the model's input."""
        return (self.channels, *self.size) if self.layout == "nchw" else (*self.size, self.channels)

    def describe(self) -> str:
        """How a picture becomes the input, for people."""
        numbers = "pixels" if self.scale == 1 else f"pixels / {self.scale}"
        if self.mean != 0:
            numbers += f" - {self.mean}"
        if self.std != 1:
            numbers = f"({numbers}) / {self.std}" if " " in numbers else f"{numbers} / {self.std}"
        return f"{'x'.join(map(str, self.size))}, {self.fit}, {numbers}, {self.order}, {self.layout}"

    def _contradictions(self) -> list[str]:
        """What no other value allows, or two values do not allow together."""
        problems = []
        if 0.0 in (self.std if isinstance(self.std, tuple) else (self.std,)):
            problems.append("std may not be 0")
        if self.order == "bgr" and self.channels != 3:
            problems.append(f"order='bgr' is for 3 channels, not {self.channels}")
        if self.reduced_scale and self.channels == 4:
            problems.append("reduced_scale is for 1 or 3 channels: a JPEG has no alpha channel")
        if self.resize == TF1_BILINEAR and (self.antialias or self.fit == "pad"):
            problems.append(f"resize={TF1_BILINEAR!r} has neither antialias nor fit='pad'")
        return problems
