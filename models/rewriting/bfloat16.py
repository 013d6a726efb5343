"""bfloat16, on request: measures how far it moves the answers before it is used. Lossy, and off by default."""

from collections.abc import Callable, Mapping, Sequence
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
    rewriter: Rewriter,
    specs: Mapping[str, SignatureSpec],
    samples: Mapping[str, Sequence[Rows]],
    options: SessionOptions,
    *,
    make_engine: Callable[..., Engine] = SessionEngine,
) -> None:
    """Reports the pass `bf16` as applied to all signatures of the rewritten graph, or to none with the reason.

    The signatures share a session, so one of them that moves too far refuses it for all. The answers to `samples`, one
    by one and in batches, are compared with those of a session without bfloat16. A change is absolute: the largest
    difference of any float of an answer, which may be at most `options.max_drift`.

    Args:
        rewriter: has the rewritten graph; it is given the reports.
        specs: the signatures by name.
        samples: rows that each signature takes.
        options: those of the session.
        make_engine: replaces SessionEngine in tests; a CPU without bfloat16 changes nothing.
    """
    names = list(rewriter.bindings)
    if not names:
        return
    session: Any = open_session(rewriter.graph, replace(options, bf16=True))
    try:
        drifts = {}
        for name in names:
            binding, passes = rewriter.bindings[name], rewriter.reports()[name]
            rounded = make_engine(specs[name], session, binding, passes=passes)
            drifts[name] = _drift(rewriter.engine(name), rounded, samples[name])
    finally:
        session.close()
    worst = max(drifts.values())
    for name in names:
        if worst <= options.max_drift:
            rewriter.note(name, BF16, f"it moves an output by {drifts[name]:.2g} at most on the warm-up rows")
        else:
            rewriter.drop(name, BF16, f"it moves an output by {worst:.2g}, over --max_drift={options.max_drift:g}")


def _drift(exact: Engine, rounded: Engine, samples: Sequence[Rows]) -> float:
    """Returns the largest difference of a float in any answer; infinite where one of the two is not a number."""
    worst = 0.0
    for rows in batches(samples):
        one, other = exact.run(rows), rounded.run(rows)
        for name, column in one.columns.items():
            if not isinstance(column, list) and column.dtype.kind in "fV":
                change = np.abs(column.astype(np.float64) - np.asarray(other.columns[name]).astype(np.float64))
                worst = max(worst, float(np.nan_to_num(change, nan=np.inf).max(initial=0.0)))
    return worst
