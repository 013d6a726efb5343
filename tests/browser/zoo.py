"""Models without TensorFlow that answer every kind of output, for the pages to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from darkroom.models.engine import LoadedModel, PassReport
from darkroom.models.engines.fakes import FORMATS
from darkroom.models.rows import Rows
from darkroom.models.spec import ModelSpec, SignatureSpec, TensorSpec, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from darkroom.models.rows import Column

HOSTILE = "<img src=x onerror=window.hit=1>"  # the name of a model, of a label and of an output
LONG = "a-model-whose-name-is-long-" * 6
CLASSES = 21
SIDE = 64

IMAGES = (TensorSpec("images", "string", (None,)),)


class FunctionEngine:
    """Answers what `function` makes of the columns and the number of rows."""

    def __init__(self, spec: SignatureSpec, function: Callable[[Mapping[str, Column], int], dict[str, Column]]) -> None:
        self.spec = spec
        self.passes = (PassReport("freeze", applied=True), PassReport("shard", applied=False, reason="too small"))
        self._function = function

    def run(self, rows: Rows) -> Rows:
        """The outputs that are asked for."""
        found = self._function(rows.columns, len(rows))
        return Rows({name: found[name] for name in rows.asked or found})

    def close(self) -> None:
        """Nothing to free."""


def pictures(
    outputs: Sequence[TensorSpec],
    function: Callable[[Sequence[bytes]], dict[str, Column]],
    name: str = "serving_default",
) -> FunctionEngine:
    """A signature that takes pictures."""
    spec = SignatureSpec(name, IMAGES, tuple(outputs), wire=Wire.BYTES, image_input="images", formats=FORMATS)
    return FunctionEngine(spec, lambda columns, _: function(list(columns["images"])))


def model(name: str, *engines: FunctionEngine, version: int = 1, labels: Sequence[str] = ()) -> LoadedModel:
    """One version of a model with these signatures."""
    signatures = {engine.spec.name: engine.spec for engine in engines}
    spec = ModelSpec(name, version, signatures, labels=tuple(labels))
    return LoadedModel(spec, {engine.spec.name: engine for engine in engines})


def _floats(name: str, *inner: int) -> TensorSpec:
    return TensorSpec(name, "float32", (None, *inner))


def _random(pictures: Sequence[bytes], *shape: int) -> np.ndarray[Any, np.dtype[Any]]:
    rows = [np.random.default_rng(crc32(data)).normal(size=shape) for data in pictures]
    return np.array(rows, np.float32).reshape(len(pictures), *shape)


def _softmax(logits: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    powers = np.exp(logits)
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def classifier() -> FunctionEngine:
    """An embedding, whose name is the first, a class and softmax scores of five labels."""
    outputs = [_floats("a_vector", 32), TensorSpec("predict", "int64", (None,)), _floats("probability", 5)]

    def answer(data: Sequence[bytes]) -> dict[str, Column]:
        scores = _softmax(_random(data, 5) * 3)
        return {"a_vector": _random(data, 32), "predict": scores.argmax(-1), "probability": scores}

    return pictures(outputs, answer)


def logits() -> FunctionEngine:
    """Logits up to 25.595, and scores that are not finite."""

    def answer(data: Sequence[bytes]) -> dict[str, Column]:
        values = _random(data, 5)
        values[:, 2] = 25.595
        broken = _random(data, 5)
        broken[:, 1:3] = np.nan
        return {"logits": values, "not_finite": broken}

    return pictures([_floats("logits", 5), _floats("not_finite", 5)], answer)


def detector() -> FunctionEngine:
    """100 boxes of which two count, as TensorFlow's detectors answer."""
    boxes = np.zeros((100, 4), np.float32)
    boxes[:2] = [0.1, 0.2, 0.6, 0.7], [0.5, 0.5, 0.9, 0.95]
    scores = np.linspace(0.9, 0.0, 100, dtype=np.float32)
    outputs = [
        _floats("detection_boxes", 100, 4), _floats("detection_classes", 100), _floats("detection_scores", 100),
        _floats("num_detections"),
    ]  # fmt: skip

    def answer(data: Sequence[bytes]) -> dict[str, Column]:
        n = len(data)
        return {
            "detection_boxes": np.stack([boxes] * n),
            "detection_classes": np.stack([np.arange(1, 101, dtype=np.float32)] * n),  # as TensorFlow counts them
            "detection_scores": np.stack([scores] * n),
            "num_detections": np.full(n, 2, np.float32),
        }

    return pictures(outputs, answer)


def segmenter() -> FunctionEngine:
    """A disc of class 3 before the background, as scores of 21 classes a pixel."""
    y, x = np.mgrid[:SIDE, :SIDE]
    mask = np.zeros((SIDE, SIDE, CLASSES), np.float32)
    mask[..., 0] = 0.5
    mask[..., 3] = (x - SIDE / 2) ** 2 + (y - SIDE / 2) ** 2 < (SIDE / 3) ** 2
    return pictures([_floats("mask", SIDE, SIDE, CLASSES)], lambda data: {"mask": np.stack([mask] * len(data))})


def painter() -> FunctionEngine:
    """A picture: red grows to the right, green downwards; and a grey one of 650x650 whose name says nothing."""
    ramp = np.linspace(0, 1, SIDE, dtype=np.float32)
    picture = np.stack(
        [np.tile(ramp, (SIDE, 1)), np.tile(ramp[:, None], (1, SIDE)), np.full((SIDE, SIDE), 0.5, np.float32)], -1
    )
    large = np.zeros((650, 650), np.float32)
    outputs = [_floats("picture", SIDE, SIDE, 3), _floats("x", 650, 650)]
    return pictures(
        outputs, lambda data: {"picture": np.stack([picture] * len(data)), "x": np.stack([large] * len(data))}
    )


def reader() -> FunctionEngine:
    """A text out of a text, and one that is long."""
    texts = (TensorSpec("words", "string", (None,)),)
    spec = SignatureSpec(
        "serving_default", texts, (TensorSpec("longer", "string", (None,)), TensorSpec("upper", "string", (None,)))
    )

    def answer(columns: Mapping[str, Column], _: int) -> dict[str, Column]:
        words = [bytes(word) for word in columns["words"]]
        return {"longer": [word * 2000 + b"!" for word in words], "upper": [word.upper() for word in words]}

    return FunctionEngine(spec, answer)


def table() -> FunctionEngine:
    """A sum of four numbers and of a tensor of 3,072."""
    inputs = (_floats("features", 4), _floats("pixels", 32, 32, 3))
    spec = SignatureSpec("serving_default", inputs, (_floats("sum", 1),))

    def answer(columns: Mapping[str, Column], n: int) -> dict[str, Column]:
        return {"sum": sum(np.asarray(column).reshape(n, -1).sum(1, keepdims=True) for column in columns.values())}

    return FunctionEngine(spec, answer)


def everything() -> list[LoadedModel]:
    """Every model of the zoo; `default` has a second signature, and `aged` two versions."""
    labels = ["tabby", HOSTILE, "espresso", "a very long label, " * 12, "rocket"]
    hostile = pictures([_floats(HOSTILE, 5)], lambda data: {HOSTILE: _softmax(_random(data, 5))})
    second = pictures([_floats("features", 8)], lambda data: {"features": _random(data, 8)}, "embed")
    return [
        model("default", classifier(), second, labels=labels),
        model("logits", logits(), labels=labels),
        model("detector", detector(), labels=[f"thing {index}" for index in range(100)]),
        model("segmenter", segmenter(), labels=[f"class of {index}" for index in range(CLASSES)]),
        model("painter", painter()),
        model("reader", reader()),
        model("table", table()),
        model("aged", classifier(), labels=labels),
        model("aged", logits(), version=2, labels=labels),
        model(HOSTILE, hostile, labels=labels),
        model(LONG, classifier(), labels=labels),
    ]
