"""What the outputs of a signature are to a client: scores, boxes, a mask, an image, an embedding. Imports no TensorFlow.

The operator may say it (`--outputs`); else names, shapes and what is known of the values decide, and what none of them
shows is plain `numbers`. The forms in which an output can be answered follow from its kind.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from darkroom.models.errors import LoadFailed, instead_of, quote
from darkroom.models.saved_model.front.geometry import fit_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from darkroom.models.spec import ModelSpec, PictureFit, SignatureSpec, TensorSpec

NUMBERS, BASE64, SOFTMAX, PIXELS, OBJECTS, PNG, COLOURS = (
    "numbers", "base64", "softmax", "pixels", "objects", "png", "colours",
)  # fmt: skip
FORMS: Final = (NUMBERS, BASE64, SOFTMAX, PIXELS, OBJECTS, PNG, COLOURS)
# The forms of each kind besides numbers and base64.
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "scores": (SOFTMAX,),
    "boxes": (PIXELS, OBJECTS),
    "detection": (),
    "mask": (PNG, COLOURS),
    "image": (PNG,),
    "embedding": (),
    "text": (),
    "numbers": (SOFTMAX,),
}
ORDERS: Final = ("yxyx", "xyxy", "xywh", "cxcywh")
UNITS: Final = ("normalised", "pixels")
VALUES: Final = ("softmax", "sigmoid", "logits", "unknown")
# Boxes, scores, classes and count as the TensorFlow Object Detection API names them, and tf.image's combined_non_max_suppression.
_DETECTIONS: Final = (
    ("detection_boxes", "detection_scores", "detection_classes", "num_detections"),
    ("nmsed_boxes", "nmsed_scores", "nmsed_classes", "valid_detections"),
)
_BACKGROUNDS: Final = frozenset({"???", "background", "__background__", "_background_"})
_EMBEDDING_WORDS: Final = ("embed", "feature", "vector", "descriptor", "bottleneck", "pooled")
_SCORE_WORDS: Final = ("logit", "score", "prob", "softmax", "predict", "class")
_MIN_MASK_SIDE: Final = 8  # guess: what is smaller, or has more classes, is a layer's activations
_MAX_CLASSES: Final = 256
_MIN_VECTOR: Final = 16  # guess: fewer numbers beside labels that do not fit are no embedding
_VALUES_OF: Final = {"softmax": "softmax", "sigmoid": "sigmoid", "linear": "logits"}  # by activation
_RANGES: Final = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
_ONLY: Final[Mapping[str, tuple[str, ...]]] = {  # keys of the operator, by the only kind that has them
    "scores": ("values",),
    "boxes": ("scores", "classes", "count", "order", "unit", "first_class", "size", "fit", "orient"),
    "image": ("range",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSaid:
    """What the operator says of one output. Empty or None: not said.

    Raises:
        ValueError: a value is not allowed.
    """

    kind: str = ""
    as_: str = ""  # the form that `POST /` and `:predict` answer by default
    values: str = ""
    scores: str = ""  # of boxes: the output with the scores of the objects,
    classes: str = ""  # with the numbers of their classes,
    count: str = ""  # and with how many of the boxes are objects
    order: str = ""
    unit: str = ""
    first_class: int | None = None  # the number of the class that has the first label
    size: tuple[int, int] | None = None  # how the graph lays pictures, where that is not seen
    fit: str = ""
    orient: bool | None = None
    range: tuple[float, float] | None = None  # the values of black and white

    def __post_init__(self) -> None:
        choices = {"kind": KINDS, "as": FORMS, "values": VALUES, "order": ORDERS, "unit": UNITS}
        for name, allowed in choices.items():
            if (value := getattr(self, "as_" if name == "as" else name)) and value not in allowed:
                raise ValueError(f"{name}: {quote(value)!r} isn't one of {', '.join(allowed)}")
        for kind, names in _ONLY.items():
            if said := [name for name in names if getattr(self, name) not in {"", None} and self.kind != kind]:
                raise ValueError(f"{said[0]}: is for an output of the kind {kind!r}: say so")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range: {list(self.range)} isn't [black, white], rising")
        self.laid()

    def laid(self) -> PictureFit | None:
        """How pictures are laid into the model's input; None where that is not said."""
        said = {"size": self.size, "fit": self.fit or None, "orient": self.orient}
        given = {name: value for name, value in said.items() if value is not None}
        if given.get("fit", "stretch") != "stretch" and self.size is None:
            raise ValueError(f"fit: {self.fit!r} needs size, [height, width] of the model's input")
        return fit_of(given) if given else None

    @classmethod
    def of(cls, said: object) -> OutputSaid:
        """Reads the JSON object of one output.

        Raises:
            ValueError: it is no object, a key is unknown, or a value is not allowed.
        """
        if not isinstance(said, dict):
            raise ValueError(f'expected an object, such as {{"kind": "mask"}}, got {quote(str(said))}')  # noqa: TRY004 - as every wrong value
        defaults = {each.name.removesuffix("_"): each.default for each in fields(cls)}
        if unknown := sorted(said.keys() - defaults.keys()):
            raise ValueError(f"unknown key {quote(unknown[0])!r}{instead_of(unknown[0], defaults)}")
        made: dict[str, Any] = {}
        for name, value in said.items():
            is_right = {
                "first_class": type(value) is int,
                "orient": type(value) is bool,
                "size": _are_numbers(value, int),
                "range": _are_numbers(value, int, float),
            }.get(name, type(value) is str)
            if not is_right:
                raise ValueError(f"{name}: {quote(str(value))} isn't of its kind")
            made[name + "_" * (name == "as")] = tuple(value) if isinstance(value, list) else value
        return cls(**made)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What belongs to boxes. `scores`, `classes` and `count` name outputs; empty: there is none."""

    scores: str = ""
    classes: str = ""
    count: str = ""
    order: str = "yxyx"
    unit: str = "normalised"
    first_class: int = 0  # the number of the class that has the first label
    fit: PictureFit | None = None  # how pictures are laid into the model's input; None: they are stretched
    takes_pictures: bool = True

    @property
    def members(self) -> tuple[str, ...]:
        """The outputs that belong to the boxes."""
        return tuple(filter(None, (self.scores, self.classes, self.count)))

    def describe(self) -> dict[str, Any]:
        """The details as metadata tells them."""
        names = {name: getattr(self, name) or None for name in ("scores", "classes", "count")}
        return {**names, "order": self.order, "unit": self.unit, "first_class": self.first_class}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputKind:
    """What one output is. `kind` is a key of KINDS; what only other kinds have is empty or None."""

    name: str
    kind: str
    default: str = NUMBERS  # the form of `POST /` and `:predict` that nothing asks for
    is_rows: bool = True  # its first dimension counts pictures
    values: str = ""  # of floats: one of VALUES
    has_labels: bool = False  # the labels are those of its last dimension or, in a mask, of its numbers
    classes: int | None = None  # how many; of an embedding, how many numbers
    detection: Detection | None = None  # of boxes
    boxes: str = ""  # of what belongs to boxes: their output
    range: tuple[float, float] | None = None  # of an image: the values of black and white

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms that may be asked for."""
        return (NUMBERS, BASE64, *(form for form in KINDS[self.kind] if not self.why_not(form)))

    def why_not(self, form: str) -> str:
        """Why this output has not a form that others of its kind have; empty where it has it."""
        if form == SOFTMAX and (self.values not in {"logits", "unknown"} or (self.classes or 0) < 2):
            return "it holds no logits"
        if self.detection is not None and form in {PIXELS, OBJECTS} and not self.detection.takes_pictures:
            return "the signature takes no encoded pictures, whose size would be needed"
        if form == PNG and self.kind == "image" and self.range is None:
            said = f'{{MODEL: {{"{self.name}": {{"kind": "image", "range": [0, 1]}}}}}}'
            return f"nothing says which values are black and white; start the server with --outputs='{said}'"
        return ""

    def describe(self) -> dict[str, Any]:
        """The output as metadata tells it."""
        more: dict[str, dict[str, Any]] = {
            "scores": {"values": self.values, "labels": self.has_labels},
            "boxes": {} if self.detection is None else self.detection.describe(),
            "detection": {"boxes": self.boxes},
            "mask": {"classes": self.classes, "labels": self.has_labels},
            "image": {"range": None if self.range is None else list(self.range)},
            "embedding": {"size": self.classes},
        }
        return {"kind": self.kind, "as": list(self.forms), "default": self.default, **more.get(self.kind, {})}


def kinds_of(
    spec: SignatureSpec, labels: Sequence[str], said: Mapping[str, OutputSaid] | None = None
) -> dict[str, OutputKind]:
    """Returns the kind of each output of a signature, by name.

    Args:
        spec: the signature.
        labels: of the model, in class order; empty where it has none.
        said: what the operator says, by output; outputs that the signature does not have are ignored.

    Raises:
        LoadFailed: what is said and the output do not go together.
    """
    said = said or {}
    outputs = {tensor.name: tensor for tensor in spec.outputs}
    kinds = {}
    for name, tensor in outputs.items():
        each = said.get(name) or OutputSaid()
        kind = each.kind or _guess(tensor, outputs, labels)
        try:
            kinds[name] = _kind(tensor, kind, each, spec, labels)
        except ValueError as err:
            raise LoadFailed(f"--outputs: output {name!r}: {err}") from None
    for boxes in [each for each in kinds.values() if each.detection is not None]:
        assert boxes.detection is not None  # noqa: S101 - see above
        for member in boxes.detection.members:
            if member not in kinds:
                there = ", ".join(kinds)
                raise LoadFailed(f"--outputs: output {boxes.name!r}: there is no output {member!r}, only {there}")
            if member not in said or not said[member].kind:
                kinds[member] = replace(kinds[member], kind="detection", boxes=boxes.name, has_labels=False)
    return kinds


def check_said(model: ModelSpec, said: Mapping[str, OutputSaid]) -> None:
    """Returns if what the operator says of a model's outputs can be meant.

    Raises:
        LoadFailed: an output does not exist, or is not of that kind, or has that form in no signature.
    """
    known = {tensor.name for spec in model.signatures.values() for tensor in spec.outputs}
    if unknown := sorted(said.keys() - known):
        there = ", ".join(sorted(known))
        raise LoadFailed(f"--outputs: there is no output {quote(unknown[0])!r}; there are: {there}")
    every = [kinds_of(spec, model.labels, said) for spec in model.signatures.values()]
    for name, each in said.items():
        found = [kinds[name] for kinds in every if name in kinds]
        if each.as_ and all(kind.default != each.as_ for kind in found):
            has = f"an output of the kind {found[0].kind!r} has {', '.join(found[0].forms)}, not {each.as_!r}"
            why = found[0].why_not(each.as_)
            raise LoadFailed(f"--outputs: output {name!r}: as: {has}" + (f": {why}" if why else ""))


def read_said(said: Mapping[str, object]) -> dict[str, OutputSaid]:
    """Reads what is said of the outputs of one model, by name.

    Raises:
        ValueError: a value is not allowed; names the output.
    """
    read = {}
    for name, value in said.items():
        try:
            read[name] = OutputSaid.of(value)
        except ValueError as err:
            raise ValueError(f"{quote(name)}: {err}") from err
    return read


def _are_numbers(value: object, *kinds: type) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(each) in kinds for each in value)


def _guess(tensor: TensorSpec, outputs: Mapping[str, TensorSpec], labels: Sequence[str]) -> str:
    """The kind that names, shape and values show."""
    shape, is_float = tensor.shape or (), "float" in tensor.dtype
    if tensor.dtype == "string":
        return "text"
    if any(tensor.name == names[0] and names[1] in outputs for names in _DETECTIONS) and is_float and _is_boxes(shape):
        return "boxes"
    classes = shape[-1] if shape else None
    is_image = (is_float and classes != len(labels)) or tensor.dtype == "uint8"
    if len(shape) == 4 and is_image and classes in {1, 3, 4}:
        return "image"
    if is_float and len(shape) == 4:
        is_layer = any(side is not None and side < _MIN_MASK_SIDE for side in shape[1:3])
        fits = classes == len(labels) or (classes is not None and classes <= _MAX_CLASSES)
        return "mask" if fits and classes and not is_layer else "numbers"
    if "int" in tensor.dtype and (len(shape) == 3 or (len(shape) == 4 and classes == 1)):
        return "numbers" if any(side is not None and side < _MIN_MASK_SIDE for side in shape[1:3]) else "mask"
    return _guess_vector(tensor, labels) if is_float and classes is not None and classes > 1 else "numbers"


def _guess_vector(tensor: TensorSpec, labels: Sequence[str]) -> str:
    """Scores, an embedding or numbers: of floats with a last dimension of 2 or more."""
    shape, name = tensor.shape or (), tensor.name.lower()
    classes = shape[-1] or 0
    if tensor.activation == "softmax":
        return "scores"
    if any(word in name for word in _EMBEDDING_WORDS):
        return "embedding"
    if classes == len(labels) or any(word in name for word in _SCORE_WORDS):
        return "scores"
    if len(shape) > 2:
        return "numbers"
    if labels:
        return "embedding" if classes >= _MIN_VECTOR else "numbers"
    return "scores"


def _is_boxes(shape: Sequence[int | None]) -> bool:
    return len(shape) in {2, 3} and shape[-1] in {4, None}


def _kind(tensor: TensorSpec, kind: str, said: OutputSaid, spec: SignatureSpec, labels: Sequence[str]) -> OutputKind:
    """The kind with its details. Raises ValueError where it does not go with the tensor."""
    shape, is_float = tensor.shape, "float" in tensor.dtype
    if shape is not None:
        _check_shape(tensor, kind)
    classes = shape[-1] if shape and (kind != "mask" or is_float) else None
    counts_rows = tensor.has_batch_dimension or (shape is not None and shape[:1] == (1,))
    are_labelled = classes == len(labels) or (kind == "mask" and classes in {None, 1})
    limits = (0.0, 255.0) if tensor.dtype in {"string", "uint8"} else _RANGES.get(tensor.activation)
    if tensor.dtype != "string" and said.range:
        limits = said.range
    named = "logits" if "logit" in tensor.name.lower() else "unknown"
    made = OutputKind(
        name=tensor.name,
        kind=kind,
        default=said.as_ or NUMBERS,
        is_rows=counts_rows,
        values=(said.values or _VALUES_OF.get(tensor.activation) or named) if is_float else "",
        has_labels=bool(labels) and kind in {"scores", "mask"} and are_labelled,
        classes=classes,
        detection=_detection(tensor, said, spec, labels) if kind == "boxes" else None,
        range=limits if kind == "image" else None,
    )
    return made if made.default in made.forms else replace(made, default=NUMBERS)


def _detection(tensor: TensorSpec, said: OutputSaid, spec: SignatureSpec, labels: Sequence[str]) -> Detection:
    names = next((names for names in _DETECTIONS if names[0] == tensor.name), ("", "", "", ""))
    known = {each.name for each in spec.outputs}
    scores, classes, count = (name if name in known else "" for name in names[1:])
    fit = said.laid() or spec.front
    if said.unit == "pixels" and fit is None:
        raise ValueError("unit: pixels of the model's input need its size, [height, width]")
    # TensorFlow's object detection counts classes from 1; some files of labels have a line for 0, the background.
    counts_from_1 = bool(classes) and next(iter(labels), "").strip().lower() not in _BACKGROUNDS
    return Detection(
        scores=said.scores or scores,
        classes=said.classes or classes,
        count=said.count or count,
        order=said.order or "yxyx",
        unit=said.unit or "normalised",
        first_class=int(counts_from_1) if said.first_class is None else said.first_class,
        fit=fit,
        takes_pictures=spec.image_input is not None,
    )


def _check_shape(tensor: TensorSpec, kind: str) -> None:
    """Raises ValueError where the shape or dtype of a tensor is not of its kind."""
    shape = tensor.shape or ()
    rank, is_text = len(shape), tensor.dtype == "string"
    fits = {
        "boxes": _is_boxes(shape) and not is_text,
        "mask": rank in {3, 4} and not is_text,
        "image": is_text or (rank == 4 and shape[-1] in {1, 3, 4, None}),
        "text": is_text,
        "numbers": not is_text,
        "embedding": rank >= 1 and not is_text,
        "scores": rank >= 1 and not is_text,
        "detection": not is_text,
    }
    if not fits[kind]:
        raise ValueError(f"{tensor.dtype}{[-1 if size is None else size for size in shape]} is no {kind}")
