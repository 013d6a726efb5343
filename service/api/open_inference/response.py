"""Writes the answer to an infer request: JSON, or JSON followed by binary tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from darkroom.models.errors import InvalidInput
from darkroom.service.api.open_inference import tensors
from darkroom.service.api.open_inference.body import LENGTH
from darkroom.service.predict import codec
from darkroom.service.predict.call import Rendered, body_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from darkroom.models.rows import Column, Rows
    from darkroom.models.spec import ModelSpec
    from darkroom.service.predict.call import AnswerBody
    from darkroom.service.predict.partial import PartialResult


class Output(NamedTuple):
    """One output that a request wants: its form, and if `classes` > 0, the names of its `classes` largest values instead."""

    name: str
    is_binary: bool
    classes: int = 0
    labels: tuple[str, ...] = ()  # of its classes
    parameters: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class InferReply:
    """Renders the outputs that a request wants, in its order; `request_id` is echoed if there is one.

    With `partial`, the tensors have the answered rows only, and `parameters.errors` explains the refused ones.
    """

    request_id: str | None
    model: ModelSpec
    outputs: tuple[Output, ...]
    partial: PartialResult | None = None

    def __call__(self, rows: Rows) -> AnswerBody | Rendered:
        """The body; with the header that a binary one needs, a `Rendered`."""
        described: list[dict[str, object]] = []
        buffers: list[bytes | memoryview] = []
        for name, is_binary, classes, labels, _ in self.outputs:
            column = rows.columns[name]
            if classes:
                column = classify(column, classes, labels, name, own=self.model.output_labels.get(name))
            tensor = tensors.describe(name, column)
            if is_binary:
                buffers.append(tensors.view_binary(column))
                tensor["parameters"] = {"binary_data_size": len(buffers[-1])}
            else:
                tensor |= tensors.write_json(column)
            described.append(tensor)
        name, version = self.model.name, str(self.model.version)
        answer: dict[str, object] = {"model_name": name, "model_version": version, "outputs": described}
        if self.request_id is not None:
            answer["id"] = self.request_id
        if self.partial is not None:
            answer["parameters"] = {"errors": self.partial.error_list()}
        head = codec.dump_answer(answer)
        if not buffers:
            return head
        pieces = [head, *buffers] if isinstance(head, bytes) else [*head, *buffers]
        size = body_size(pieces)
        body = b"".join(pieces) if size <= codec.LARGE_BYTES else pieces
        return Rendered(body, {LENGTH: str(body_size(head))}, "application/octet-stream")


def classify(column: Column, k: int, labels: Sequence[str], name: str, *, own: Sequence[str] | None = None) -> Column:
    """The `k` largest values of each row, written as in Triton's classification extension: `value:index[:label]`.

    Args:
        column: one vector of numbers for each row.
        k: how many values.
        labels: of the model, in class order; used if there are as many as values.
        name: of the output, for messages.
        own: the labels of this output, if it has some; values without one have no label.

    Returns:
        Object array, bytes[n, k or fewer].

    Raises:
        InvalidInput: the output is not one vector of numbers for each row.
    """
    if isinstance(column, list) or column.ndim < 2 or column.dtype.kind not in "iufV":
        raise InvalidInput(f"classification: output {name!r} holds no vector of numbers a row")
    values = column.reshape(len(column), -1)
    scores = values.astype(np.float64)
    if own is not None or len(labels) != scores.shape[1]:
        labels = own or ()
    form = "d" if column.dtype.kind in "iu" else "f"
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.empty(order.shape, dtype=object)
    for row, column_of in np.ndindex(order.shape):
        index = int(order[row, column_of])
        label = f":{labels[index]}" if index < len(labels) else ""
        value = values[row, index] if form == "d" else scores[row, index]
        best[row, column_of] = f"{value:{form}}:{index}{label}".encode()
    return best
