"""bfloat16 is tried at load, its drift is reported, and it is refused where it moves an answer too far."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.models.engine import PassReport
from darkroom.models.engines.open import load_model
from darkroom.models.graph.reachability import GraphTraits
from darkroom.models.rewriting.bfloat16 import try_bf16
from darkroom.models.rewriting.rewriter import Rewriter
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import Binding, SessionEngine
from darkroom.models.runtime.tensorflow import SessionOptions, tf
from darkroom.models.spec import SignatureSpec, TensorSpec
from tests import savedmodels
from tests.unit.models.conftest import Build

Built = Callable[[Build], Path]


def report(path: Path, max_drift: float | None) -> PassReport | None:
    model = load_model(path, name="m", version=1, max_drift=max_drift)
    reports = {each.name: each for each in model.engines["serving_default"].passes}
    model.close()
    return reports.get("bf16")


def test_bfloat16_is_in_force_with_its_drift_told(built: Built) -> None:
    found = report(built(savedmodels.classic), 1.0)
    assert found is not None
    assert found.applied
    assert found.reason.startswith("it moves an output by ")


def test_bfloat16_is_not_even_tried_unless_it_is_asked_for(built: Built) -> None:
    assert report(built(savedmodels.classic), None) is None


def test_a_graph_that_is_not_rewritten_has_no_bfloat16(built: Built) -> None:
    assert report(built(savedmodels.table), 1.0) == ("bf16", False, "the graph is not frozen")


class Frozen:
    """A SavedModel that is a frozen graph already."""

    def __init__(self, engine: SessionEngine, graph_def: Any, binding: Binding) -> None:
        self._engine = engine
        self._frozen = graph_def, binding

    def engine(self, spec: SignatureSpec, passes: tuple[PassReport, ...] = ()) -> SessionEngine:
        del spec, passes
        return self._engine

    def freeze(self, specs: Mapping[str, SignatureSpec]) -> tuple[Any, dict[str, Binding]]:
        graph_def, binding = self._frozen
        return graph_def, dict.fromkeys(specs, binding)

    def close(self) -> None: ...


@pytest.mark.parametrize(("max_drift", "applied"), [(0.0, False), (1e6, True)])
def test_what_moves_an_answer_past_the_limit_is_refused_and_named(
    max_drift: float,
    applied: bool,
) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        tf.identity(x * 3.0, name="y")
    binding = Binding({"x": "x:0"}, {"y": "y:0"})
    spec = SignatureSpec("s", (TensorSpec("x", "float32", (None, 4)),), (TensorSpec("y", "float32", (None, 4)),))
    options = SessionOptions(bf16=True, max_drift=max_drift)
    engine = SessionEngine(spec, tf.compat.v1.Session(graph=graph), binding)
    rewriter = Rewriter(Frozen(engine, graph.as_graph_def(), binding), {"s": spec}, {"s": GraphTraits()}, options, ())
    samples = {"s": [Rows({"x": np.full((1, 4), seed + 1.0, np.float32)}) for seed in range(3)]}
    rewriter.apply_passes(samples)

    class Rounded(SessionEngine):
        def run(self, rows: Rows) -> Rows:
            return Rows({name: np.asarray(column) + 0.25 for name, column in super().run(rows).columns.items()})

    try_bf16(rewriter, {"s": spec}, samples, options, make_engine=Rounded)  # a CPU without bfloat16 changes nothing
    found = rewriter.reports()["s"][-1]
    assert (found.name, found.applied) == ("bf16", applied)
    assert "0.25" in found.reason
    assert ("over --max_drift=0" in found.reason) is not applied
    rewriter.close()
