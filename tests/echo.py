"""Engines for tests: one gives back the tensors that it was fed, one says which version it is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from darkroom.models.engines.fakes import ECHO, fake_model
from darkroom.models.rows import Rows
from darkroom.models.spec import SignatureSpec, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.models.engine import Engine, LoadedModel, PassReport
    from darkroom.models.rows import Column


class TensorEcho:
    """Answers `x`, float32[n, …], and `text`, bytes[n], as they came."""

    def __init__(self) -> None:
        tensors = (TensorSpec("x", "float32", (None, None)), TensorSpec("text", "string", (None,)))
        self.spec = SignatureSpec("serving_default", tensors, tensors)
        self.passes: tuple[PassReport, ...] = ()

    def run(self, rows: Rows) -> Rows:
        """What was fed, of the outputs that are asked for."""
        return Rows({name: rows.columns[name] for name in rows.asked or rows.columns})

    def close(self) -> None:
        """Nothing to free."""


class ScoresEcho:
    """Answers `scores`, float32[n, 3], of each picture: `value` for the class `best`; and `version`, int64[n]."""

    def __init__(self, version: int, *, best: int = 0, value: float = 1.0) -> None:
        outputs = (TensorSpec("scores", "float32", (None, 3)), TensorSpec("version", "int64", (None,)))
        self.spec = replace(ECHO, outputs=outputs)
        self.passes: tuple[PassReport, ...] = ()
        self._version, self._best, self._value = version, best, value

    def run(self, rows: Rows) -> Rows:
        """The same for every picture, of the outputs that are asked for."""
        scores = np.zeros((len(rows), 3), np.float32)
        scores[:, self._best] = self._value
        columns: dict[str, Column] = {"scores": scores, "version": np.full(len(rows), self._version, np.int64)}
        return Rows({name: columns[name] for name in rows.asked or columns})

    def close(self) -> None:
        """Nothing to free."""


def scores_model(
    version: int, *, best: int = 0, value: float = 1.0, wrap: Callable[[Engine], Engine] = lambda engine: engine
) -> LoadedModel:
    """A version of the model `default` that answers scores; `wrap` puts another engine around its own."""
    return fake_model(wrap(ScoresEcho(version, best=best, value=value)), name="default", version=version)
