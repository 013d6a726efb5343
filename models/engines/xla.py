"""XLA, on request: the layers of a graph compiled, once for each shape, and kept only where that is measured to pay.

Nodes are marked one by one, which TensorFlow heeds without a switch of the process (`TF_XLA_FLAGS`). What decodes is
not marked: each size of picture would be compiled anew. TensorFlow runs a new shape as if nothing were marked, and
compiles when that shape comes again (lazy compilation, its default).
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from darkroom.models.engine import Engine, PassReport
from darkroom.models.engines.devices import decoding
from darkroom.models.engines.tuning import in_turns
from darkroom.models.rewriting.verify import EXACT, unequal
from darkroom.models.rows import Rows, fill
from darkroom.models.runtime.session import Binding, SessionEngine, clean
from darkroom.models.runtime.tensorflow import graph_pb2
from darkroom.models.spec import SignatureSpec

_log = logging.getLogger("darkroom.models")
XLA = "xla"  # the name of the pass
SIZES = (1, 8)  # rows of the calls that are timed (guess); the cheaper first, since one that does not pay ends it
MIN_GAIN = 1.02  # guess: less is noise, and not worth a compilation


class CompiledEngine(SessionEngine):
    """A signature of a marked graph. A size that is new is run twice, so that it is compiled then and not later."""

    def __init__(self, spec: SignatureSpec, session: Any, binding: Binding, **rest: Any) -> None:
        super().__init__(spec, session, binding, **rest)
        self._met: set[tuple[tuple[str, ...], int]] = set()  # asked outputs, rows

    def run(self, rows: Rows) -> Rows:
        """The outputs of one call; see darkroom.models.engine.Engine."""
        call = (rows.asked, len(rows))
        if call not in self._met:
            super().run(rows)
            self._met.add(call)
        return super().run(rows)


def mark(graph_def: Any, bindings: Iterable[Binding]) -> Any:
    """A copy of the graph in which XLA may compile every node but those that judge and decode strings."""
    marked = graph_pb2.GraphDef()
    marked.CopyFrom(graph_def)
    left = decoding(graph_def, bindings)
    for node in marked.node:
        if node.name not in left:
            node.attr["_XlaCompile"].b = True
    return marked


def compiled(
    plain: Mapping[str, Engine],
    session: Any,
    bindings: Mapping[str, Binding],
    samples: Mapping[str, Sequence[Rows]],
    *,
    float_bytes: int = EXACT,
) -> dict[str, CompiledEngine]:
    """The signatures for which XLA is measured to pay; every other one is told why not in its passes. Never raises.

    Args:
        plain: the signatures as they are without it, and as XLA must answer.
        session: one of the marked graph.
        bindings: where each signature is in that graph.
        samples: single rows that each takes.
        float_bytes: how exact the device is; see models/rewriting/verify.py.
    """
    kept = {}
    for name, engine in plain.items():
        try:
            candidate = CompiledEngine(engine.spec, session, bindings[name], passes=engine.passes)
            report = _judge(engine, candidate, samples[name], float_bytes)
        except Exception as err:  # noqa: BLE001 - whatever XLA raises, the plain graph still serves
            refuse({name: engine}, f"it fails: {clean(str(err))}")
            continue
        if report.applied:
            candidate.passes = (*engine.passes, report)
            kept[name] = candidate
        else:
            candidate.close()
            refuse({name: engine}, report.reason)
    return kept


def refuse(engines: Mapping[str, Any], reason: str) -> None:
    """Tells engines, and the log, why they are not compiled."""
    for name, engine in engines.items():
        engine.passes = (*engine.passes, PassReport(XLA, applied=False, reason=reason))
        _log.warning("pass %s is dropped for signature %r: %s", XLA, name, reason)


def _judge(plain: Engine, candidate: CompiledEngine, singles: Sequence[Rows], float_bytes: int) -> PassReport:
    """Whether XLA is faster at every size and answers as the plain graph does, which answers as the original does."""
    if not plain.spec.batched:
        return PassReport(XLA, applied=False, reason="each of its requests may have another shape")
    gains = []
    for size in SIZES:
        calls = [fill(singles, size, first=first) for first in range(len(singles))]
        plain_s, candidate_s = in_turns(plain.run, candidate.run, calls[0])
        gain = plain_s / candidate_s
        gains.append(f"{gain:.2f} times as fast at {size} row{'s' * (size > 1)}")
        if gain < MIN_GAIN:
            return PassReport(XLA, applied=False, reason=gains[-1])
        for rows in calls:
            if found := unequal(plain.run(rows), candidate.run(rows), float_bytes=float_bytes):
                return PassReport(XLA, applied=False, reason=f"its answer is not the graph's: at {size} rows, {found}")
    if not any(node.endswith("/xla_run") for node in candidate.nodes_of(singles[0])):
        return PassReport(XLA, applied=False, reason="XLA finds nothing in it to compile")
    return PassReport(XLA, applied=True, reason=", ".join(gains))
