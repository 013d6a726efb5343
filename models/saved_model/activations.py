"""Finds what the numbers of an output are: probabilities, logits or others, by the graph and by sample answers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from darkroom.models.graph.last_op import last_op

if TYPE_CHECKING:
    from collections.abc import Sequence

    from darkroom.models.engine import Engine
    from darkroom.models.rows import Column, Rows
    from darkroom.models.spec import SignatureSpec

SOFTMAX, SIGMOID, TANH, LINEAR = "softmax", "sigmoid", "tanh", "linear"
_BY_OP: Final = {"Softmax": SOFTMAX, "Sigmoid": SIGMOID, "Tanh": TANH}
_SUM_ERROR: Final = 1e-2  # of probabilities in half precision


def with_activations(spec: SignatureSpec, graph_def: Any, engine: Engine, samples: Sequence[Rows]) -> SignatureSpec:
    """Returns the spec with the `activation` of each float output.

    The last op of the graph decides. Where it is none of an activation, the answers to `samples` do: values outside of 0
    to 1 are `linear`, vectors that sum to 1 are a softmax. What neither shows stays empty.
    """
    answers: list[Rows] = []
    with suppress(Exception):  # what cannot be run tells nothing
        answers = [engine.run(rows) for rows in samples]

    def activation(name: str, source: str) -> str:
        by_op = _BY_OP.get(last_op(graph_def, source), "")
        return by_op or _seen([answer.columns[name] for answer in answers])

    outputs = [
        replace(tensor, activation=activation(tensor.name, tensor.source)) if "float" in tensor.dtype else tensor
        for tensor in spec.outputs
    ]
    return replace(spec, outputs=tuple(outputs))


def _seen(columns: Sequence[Column]) -> str:
    """What the answers show."""
    arrays = [np.asarray(column, np.float32) for column in columns if not isinstance(column, list) and column.size]
    if any(float(np.min(array)) < 0 or float(np.max(array)) > 1 for array in arrays):
        return LINEAR
    return SOFTMAX if arrays and all(_sums_to_1(array) for array in arrays) else ""


def _sums_to_1(array: np.ndarray[Any, Any]) -> bool:
    """Whether each vector along the last dimension, of two values or more, does."""
    return array.ndim > 0 and array.shape[-1] > 1 and bool(np.all(np.abs(array.sum(-1) - 1) < _SUM_ERROR))
