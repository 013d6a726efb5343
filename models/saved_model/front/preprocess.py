"""How pictures become the input of a model that takes tensors: what the operator says, and what the signature shows.

The operator says how pixels become numbers (a preset, or mean and std); size, channels, layout and dtype come from the
signature where it fixes them. Imports no TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from darkroom.models.errors import LoadFailed, instead_of, quote
from darkroom.models.saved_model.front.recipe import Recipe
from darkroom.models.spec import PictureFit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from darkroom.models.spec import SignatureSpec, TensorSpec

# The modes of keras.applications' preprocess_input (keras/src/applications/imagenet_utils.py), 0 to 1, and 0 to 255.
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "tf": {"scale": 127.5, "mean": 1.0, "std": 1.0},
    "torch": {"scale": 255.0, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "caffe": {"mean": (103.939, 116.779, 123.68), "std": 1.0, "order": "bgr"},
    "unit": {"mean": 0.0, "std": 255.0},
    "raw": {"mean": 0.0, "std": 1.0},
}
DEFAULT, TENSORS = "serving_default", "serving_tensors"
_IMAGES: Final = "images"  # the name of a signature's only picture
_DTYPES: Final = frozenset({"float32", "float16", "bfloat16", "float64", "uint8", "int32"})
_CHANNELS: Final = frozenset({1, 3, 4})


class Pixels(NamedTuple):
    """What the shape of a picture-shaped tensor says. A side of None is any."""

    layout: str
    sides: tuple[int | None, int | None]
    channels: int

    @property
    def is_open(self) -> bool:
        """Whether the tensor takes pictures of any size."""
        return None in self.sides

    def __str__(self) -> str:
        sides = "any size" if self.is_open else "x".join(map(str, self.sides))
        return f"{sides} with {self.channels} channel{'s' * (self.channels > 1)}, {self.layout}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """What the operator says about the pictures of a model that takes tensors.

    Raises:
        ValueError: a value is not allowed.
    """

    preprocess: str = ""  # one of PRESETS; empty: `mean` and `std` say it
    mean: float | tuple[float, ...] | None = None  # subtracted from pixels of 0 to 255
    std: float | tuple[float, ...] | None = None  # divides the result
    channels: str = ""  # rgb or bgr; empty: the preset's, else rgb
    layout: str = ""  # nhwc or nchw; empty: as the shape shows
    size: tuple[int, int] | None = None  # height, width; needed where the signature leaves them open
    resize: str = "bilinear"
    fit: str = "stretch"
    antialias: bool = False
    orient: bool = False
    reduced_scale: bool = False
    batch_decode: str = "map_defun"
    formats: str = "any"
    wire: str = "bytes"
    signature: str = ""  # the one that takes tensors; empty: serving_default, or the only one
    input: str = ""  # its input that is a picture; empty: all that have the shape of one

    def __post_init__(self) -> None:
        problems = []
        if self.preprocess not in {"", *PRESETS}:
            problems.append(f"preprocess={self.preprocess!r} isn't one of {', '.join(PRESETS)}")
        if self.preprocess and not (self.mean is None and self.std is None):
            problems.append(f"preprocess={self.preprocess!r} says mean and std itself")
        if self.channels not in {"", "rgb", "bgr"}:
            problems.append(f"channels={self.channels!r} isn't one of rgb, bgr")
        if self.layout not in {"", "nhwc", "nchw"}:
            problems.append(f"layout={self.layout!r} isn't one of nhwc, nchw")
        try:
            per_channel = next((each for each in (self.mean, self.std) if isinstance(each, tuple)), (0, 0, 0))
            self._recipe(self.preprocess, size=self.size or (1, 1), channels=len(per_channel))
        except (ValueError, TypeError) as err:
            problems.append(str(err))
        if problems:
            raise ValueError("; ".join(problems))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Reads a JSON object: lists become tuples, and one number as the size stands for a square.

        Raises:
            ValueError: a key is unknown, or a value is not allowed.
        """
        known = {field.name: field for field in fields(cls)}
        if unknown := sorted(values.keys() - known.keys()):
            raise ValueError(f"unknown key {quote(unknown[0])!r}{instead_of(unknown[0], known)}")
        made: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        for name, value in made.items():
            default = known[name].default
            numbers = value if isinstance(value, tuple) else (value,)
            is_number = all(type(each) is int or (name != "size" and type(each) is float) for each in numbers)
            if not (is_number if default is None else type(value) is type(default)):
                raise ValueError(f"{name}: {quote(str(value))} isn't of its kind")
        if isinstance(size := made.get("size"), int):
            made["size"] = (size, size)
        return cls(**made)

    @property
    def is_said(self) -> bool:
        """Whether it says how pixels become numbers."""
        return bool(self.preprocess) or self.mean is not None or self.std is not None

    def recipe(self, tensor: TensorSpec) -> Recipe:
        """Returns the recipe for pictures that are fed to `tensor`.

        Raises:
            LoadFailed: what the operator says and the tensor's shape or dtype do not go together.
        """
        pixels = pixels_of(tensor, self.layout)
        if pixels is None:
            raise LoadFailed(f"input {tensor.name!r} ({shape_text(tensor)}) has not the shape of pictures")
        size = self.sides_of(tensor, pixels)
        is_integer = "int" in tensor.dtype
        if is_integer and self.is_said and self.preprocess != "raw":
            raise LoadFailed(f"input {tensor.name!r} is {tensor.dtype}, which takes pixels from 0 to 255: say raw")
        if pixels.channels != 3 and self.preprocess in {"torch", "caffe"}:
            raise LoadFailed(f"{self.preprocess!r} is for 3 channels; input {tensor.name!r} has {pixels.channels}")
        try:
            return self._recipe(
                "raw" if is_integer else self.preprocess,
                size=size,
                channels=pixels.channels,
                layout=pixels.layout,
                dtype=tensor.dtype,
            )
        except ValueError as err:
            raise LoadFailed(f"input {tensor.name!r}: {err}") from err

    def choose(self, specs: Mapping[str, SignatureSpec]) -> SignatureSpec:
        """Returns the signature that is meant, which takes pictures as tensors.

        Raises:
            LoadFailed: there is none, or it is not clear which.
        """
        there = "; ".join(
            f"{name} takes {', '.join(f'{each.name}: {shape_text(each)}' for each in spec.inputs) or 'nothing'}"
            for name, spec in specs.items()
        )
        if self.signature:
            if self.signature not in specs:
                raise LoadFailed(f"it has no signature {self.signature!r}: {there}")
            return specs[self.signature]
        shaped = [
            name
            for name, spec in specs.items()
            if any(pixels_of(each, self.layout) is not None for each in spec.inputs)
        ]
        if not shaped:
            raise LoadFailed(
                f"no signature has an input of the shape of pictures, [-1, height, width, channels]: {there}"
            )
        if DEFAULT not in shaped and len(shaped) > 1:
            raise LoadFailed(f"several signatures take pictures as tensors, so say which one: {there}")
        return specs[DEFAULT if DEFAULT in shaped else shaped[0]]

    def sides_of(self, tensor: TensorSpec, pixels: Pixels) -> tuple[int, int]:
        """Returns height and width, from the tensor or as they were said.

        Raises:
            LoadFailed: neither says them, or they differ.
        """
        asked = self.size or (None, None)
        for wanted, side in zip(asked, pixels.sides, strict=True):
            if wanted is not None and side is not None and wanted != side:
                raise LoadFailed(f"size {asked[0]}x{asked[1]}: input {tensor.name!r} takes {shape_text(tensor)}")
        height, width = (side or wanted for side, wanted in zip(pixels.sides, asked, strict=True))
        if height is None or width is None:
            raise LoadFailed(
                f"input {tensor.name!r} ({shape_text(tensor)}) takes any size: say which one it was trained with, "
                "such as --size=224x224, or size in --pictures"
            )
        return height, width

    def _recipe(self, preset: str, **found: Any) -> Recipe:
        said = dict(PRESETS.get(preset, {"mean": self.mean or 0.0, "std": 1.0 if self.std is None else self.std}))
        if self.channels:
            said["order"] = self.channels
        return Recipe(
            **said | found,
            wire=self.wire,
            formats=self.formats,
            resize=self.resize,
            fit=self.fit,
            antialias=self.antialias,
            orient=self.orient,
            reduced_scale=self.reduced_scale,
            batch_decode=self.batch_decode,
        )


class FrontPlan(NamedTuple):
    """Which signature gets a decode front, and under which names.

    Attributes:
        signature: the one that takes tensors.
        recipes: the recipe of each of its inputs that is a picture.
        images: the name under which the new signature takes that input.
        renamed: the name of each signature that stays, in the SavedModel → beside the new one.
        others: the inputs that are no pictures.
    """

    signature: str
    recipes: dict[str, Recipe]
    images: dict[str, str]
    renamed: dict[str, str]
    others: tuple[str, ...] = ()

    def fit(self, image: str = "") -> PictureFit | None:
        """How the pictures of the input `image` of the new signature are laid; of the first where none is named."""
        laid = {
            self.images[name]: PictureFit(recipe.size, recipe.fit, recipe.orient)
            for name, recipe in self.recipes.items()
        }
        return laid.get(image) if image else next(iter(laid.values()), None)

    def describe(self) -> list[str]:
        """What was done, for people."""
        takes = [f"{self.images[name]!r}: {recipe.describe()}" for name, recipe in self.recipes.items()]
        lines = [f"serving_default takes encoded images as {each}" for each in takes]
        kept = ", ".join(f"{new} (was {old})" if old != new else new for old, new in self.renamed.items())
        return [*lines, f"it still has, with tensors: {kept}"]


def plan(specs: Mapping[str, SignatureSpec], said: Preprocess) -> FrontPlan:
    """Chooses the signature and its pictures; the new signature is called `serving_default`.

    A signature that had this name is called `serving_tensors` beside it; every other one keeps its name.

    Raises:
        LoadFailed: there is no such signature or input, or the choice is not clear.
    """
    spec = said.choose(specs)
    shaped = [tensor for tensor in spec.inputs if pixels_of(tensor, said.layout) is not None]
    if said.input:
        shaped = [tensor for tensor in spec.inputs if tensor.name == said.input]
        if not shaped:
            there = ", ".join(tensor.name for tensor in spec.inputs)
            raise LoadFailed(f"signature {spec.name!r} has no input {said.input!r}; there are: {there}")
    others = {tensor.name for tensor in spec.inputs} - {tensor.name for tensor in shaped}
    is_only = len(shaped) == 1 and _IMAGES not in others
    images = {tensor.name: _IMAGES if is_only else tensor.name for tensor in shaped}
    free = next(name for name in (TENSORS, *(f"{TENSORS}_{n}" for n in range(2, 99))) if name not in specs)
    renamed = {name: free if name == DEFAULT else name for name in specs}
    return FrontPlan(
        spec.name, {tensor.name: said.recipe(tensor) for tensor in shaped}, images, renamed, tuple(sorted(others))
    )


def pixels_of(tensor: TensorSpec, layout: str = "") -> Pixels | None:
    """What the shape of a tensor says about its pictures; None where it has not the shape of pictures.

    That is `[n, height, width, channels]` or `[n, channels, height, width]`, with 1, 3 or 4 channels and `n` open or 1.
    """
    shape = tensor.shape
    if shape is None or len(shape) != 4 or tensor.dtype not in _DTYPES or shape[0] not in {None, 1}:
        return None
    _, one, two, three = shape
    if layout != "nchw" and three in _CHANNELS:
        return Pixels("nhwc", (one, two), three)
    if layout != "nhwc" and one in _CHANNELS:
        return Pixels("nchw", (two, three), one)
    return None


def shape_text(tensor: TensorSpec) -> str:
    """A tensor's dtype and shape for people, with -1 for a size that is open."""
    shape = "any shape" if tensor.shape is None else [-1 if size is None else size for size in tensor.shape]
    return f"{tensor.dtype}{shape}"
