"""What `darkroom check` prints of a signature that takes pictures as tensors: evidence, and the answers under each preset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.models.errors import ModelError
from darkroom.models.rows import Rows
from darkroom.models.saved_model.front.preprocess import PRESETS, Preprocess, pixels_of
from darkroom.models.spec import np_shape

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from darkroom.models.engine import LoadedModel

SHOWN = 5  # outputs, and values or classes of each


def picture_lines(folder: Path, model: LoadedModel, signature: str, picture: bytes | None) -> list[str]:
    """The lines on one signature; none where it does not take pictures as tensors. A picture is run under each preset."""
    from darkroom.models.runtime.tensorflow import tf  # noqa: PLC0415 - TensorFlow takes seconds; --help need not wait
    from darkroom.models.saved_model.front.decode import model_input  # noqa: PLC0415 - as above
    from darkroom.models.saved_model.front.evidence import evidence  # noqa: PLC0415 - as above
    from darkroom.models.saved_model.reader import read_meta_graph  # noqa: PLC0415 - as above

    spec = model.engines[signature].spec
    shaped = [(tensor, pixels) for tensor in spec.inputs if (pixels := pixels_of(tensor)) is not None]
    if not shaped:
        return []
    tensor, pixels = shaped[0]
    row = next(iter(model.samples.get(signature, ())), None)

    def answer(preset: str) -> str:
        assert row is not None  # noqa: S101 - see below
        size = np_shape(row.columns[tensor.name])[1:3] if pixels.is_open else None
        try:
            recipe = Preprocess(preprocess=preset, size=size).recipe(tensor)  # type: ignore[arg-type]  # two sides
            x = model_input(tf.constant([picture]), recipe).numpy()
            given = model.engines[signature].run(Rows(row.columns | {tensor.name: x}))
        except (ModelError, ValueError) as err:
            return f"can't be: {err}"
        found = list(given.columns.items())[:SHOWN]
        return "; ".join(f"{name}: {best(column, model.spec.labels)}" for name, column in found)

    lines = [
        f"images  {tensor.name} takes numbers, {pixels}",
        f"        {evidence(read_meta_graph(folder).graph_def, spec, tensor)}",
    ]
    if picture is not None and row is not None:
        lines += [f"        {preset:5} {answer(preset)}" for preset in PRESETS]
    size, size_words = (', "size": [224, 224]', ", the size that it was trained with") if pixels.is_open else ("", "")
    said = f"""--pictures='{{"default": {{"preprocess": "PRESET"{size}}}}}'"""  # `default`: what `serve` calls a model
    lines.append(f"        for image files: darkroom serve … {said}, PRESET one of {', '.join(PRESETS)}{size_words}")
    return [f"  {line}" for line in lines]


def best(column: Any, labels: Sequence[str]) -> str:
    """The largest scores of a row, with their labels; of any other column its first values."""
    values = np.asarray(column)
    if values.ndim != 2 or values.dtype.kind != "f" or values.shape[1] < 2:
        return f"{values.ravel()[:SHOWN].tolist()} of shape {list(values.shape)}"
    scores = values[0]
    names = labels if len(labels) == len(scores) else [f"class {index}" for index in range(len(scores))]
    return ", ".join(f"{names[at]} {scores[at]:.3f}" for at in (-scores).argsort(kind="stable")[:SHOWN])
