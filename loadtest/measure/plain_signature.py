"""A SavedModel used as TensorFlow's guide does: its signature is loaded and called eagerly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class PlainSignature:
    """The signature `serving_default` of the SavedModel in `folder`; its only input takes strings."""

    def __init__(self, folder: Path) -> None:
        self._model = tf.saved_model.load(str(folder))  # owns the variables: it must outlive the signature
        self._signature = self._model.signatures["serving_default"]
        (self._input,) = self._signature.structured_input_signature[1]

    def caller(self, values: Sequence[bytes]) -> Callable[[], None]:
        """Returns a call with `values: bytes[n]`, encoded as the graph wants them, that fetches every output as numpy."""
        array = np.empty(len(values), dtype=object)
        array[:] = values
        fed = {self._input: tf.constant(array)}

        def call() -> None:
            for value in self._signature(**fed).values():
                value.numpy()

        return call
