"""An engine for tests that gives back the tensors that it was fed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.models.rows import Rows
from darkroom.models.spec import SignatureSpec, TensorSpec

if TYPE_CHECKING:
    from darkroom.models.engine import PassReport


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
