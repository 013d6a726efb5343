"""bfloat16, on request: how far it moves a graph's answers, measured before it is believed. Lossy, off by default."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from darkroom.models.engine import Engine
from darkroom.models.rewriting.rewriter import BF16, Rewriter
from darkroom.models.rewriting.verify import batches
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import SessionEngine, open_session
from darkroom.models.runtime.tensorflow import SessionOptions
from darkroom.models.spec import SignatureSpec


def try_bf16(
    rewriting: Rewriter,
    specs: Mapping[str, SignatureSpec],
    samples: Mapping[str, Sequence[Rows]],
    options: SessionOptions,
) -> None:
    """Reports `bf16` as in force for the signatures of the rewritten graph, or why it is not: for all or for none.

    They share a session. What is compared is the session without it, on the warm-up rows alone and together.
    """
    names = list(rewriting.bindings)
    if not names:
        return
    session: Any = open_session(rewriting.graph, replace(options, bf16=True))
    try:
        drifts = {}
        for name in names:
            binding, passes = rewriting.bindings[name], rewriting.reports()[name]
            rounded = SessionEngine(specs[name], session, binding, passes=passes)
            drifts[name] = _drift(rewriting.engine(name), rounded, samples[name])
    finally:
        session.close()
    worst = max(drifts.values())
    for name in names:
        if worst <= options.max_drift:
            rewriting.note(name, BF16, f"it moves an output by {drifts[name]:.2g} at most on the warm-up rows")
        else:
            rewriting.refuse(name, BF16, f"it moves an output by {worst:.2g}, over --max_drift={options.max_drift:g}")


def _drift(exact: Engine, rounded: Engine, singles: Sequence[Rows]) -> float:
    """The largest difference of a float in any answer; infinite where one of them is no number."""
    worst = 0.0
    for rows in batches(singles):
        one, other = exact.run(rows), rounded.run(rows)
        for name, column in one.columns.items():
            if not isinstance(column, list) and column.dtype.kind in "fV":
                far = np.abs(column.astype(np.float64) - np.asarray(other.columns[name]).astype(np.float64))
                worst = max(worst, float(np.nan_to_num(far, nan=np.inf).max(initial=0.0)))
    return worst
