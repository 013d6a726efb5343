"""XLA: tried where it is asked for, told either way, kept only where it pays, and never the end of a load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from darkroom.models.engines import xla
from darkroom.models.engines.open import SessionOptions, load_model, prepare
from darkroom.models.engines.xla import XLA, CompiledEngine, compiled, mark
from darkroom.models.errors import InvalidInput
from darkroom.models.rewriting.verify import unequal
from darkroom.models.rows import Rows, join
from darkroom.models.runtime.session import Binding, SessionEngine
from darkroom.models.runtime.tensorflow import graph_pb2
from darkroom.models.spec import SignatureSpec, TensorSpec
from tests import savedmodels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from darkroom.models.engine import Engine, LoadedModel, PassReport
    from tests.unit.models.conftest import Build

    Built = Callable[[Build], Path]

SPEC = SignatureSpec("s", (TensorSpec("x", "int64", (None,)),), (TensorSpec("y", "int64", (None,)),), batched=True)
NAME = "serving_default"


def load(path: Path, *, is_asked: bool = True) -> LoadedModel:
    return load_model(path, name="m", version=1, xla=is_asked)


def report(model: LoadedModel) -> PassReport | None:
    return {each.name: each for each in model.engines[NAME].passes}.get(XLA)


def test_where_it_pays_what_serves_is_compiled_and_answers_as_the_plain_graph_does(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xla, "MIN_GAIN", 0.0)
    plain, fast = load(built(savedmodels.classic), is_asked=False), load(built(savedmodels.classic))
    found = report(fast)
    assert found is not None
    assert found.applied
    assert "times as fast at 1 row, " in found.reason
    for singles in (plain.samples[NAME], plain.samples[NAME][:1]):
        one, other = (model.engines[NAME].run(join(singles)) for model in (plain, fast))
        assert unequal(one, other) == ""
    plain.close()
    fast.close()


def test_where_it_does_not_pay_the_plain_graph_serves_and_the_report_says_how_slow_it_was(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xla, "MIN_GAIN", 1e9)
    model = load(built(savedmodels.keys_and_features))
    found = report(model)
    assert found is not None
    assert not found.applied
    assert found.reason.endswith(" times as fast at 1 row")
    model.close()


def test_it_is_not_even_tried_unless_it_is_asked_for(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("the graph was marked")

    monkeypatch.setattr("darkroom.models.engines.on_devices.mark", refuse)
    model = load(built(savedmodels.keys_and_features), is_asked=False)
    assert report(model) is None
    model.close()


def test_a_graph_that_tensorflow_refuses_is_dropped_with_the_reason_and_the_model_serves(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(graph_def: Any, bindings: object) -> Any:
        spoilt = mark(graph_def, cast("Any", bindings))
        spoilt.node.add(name="planted", op="NoSuchOp")
        return spoilt

    monkeypatch.setattr("darkroom.models.engines.on_devices.mark", spoil)
    model = load(built(savedmodels.keys_and_features))
    found = report(model)
    assert found is not None
    assert not found.applied
    assert found.reason.startswith("TensorFlow refuses the graph: ")
    assert "NoSuchOp" in found.reason
    assert len(model.engines[NAME].run(join(model.samples[NAME]))) == len(model.samples[NAME])
    model.close()


def test_a_graph_that_is_not_rewritten_is_not_compiled(built: Built) -> None:
    model = load(built(savedmodels.table))
    assert report(model) == (XLA, False, "the graph is not frozen")
    model.close()


def test_what_decodes_is_not_marked(built: Built) -> None:
    artifact = prepare(built(savedmodels.classic), name="m", version=1, options=SessionOptions())
    marked = mark(graph_pb2.GraphDef.FromString(artifact.graph), artifact.bindings.values())
    ops: dict[bool, set[str]] = {True: set(), False: set()}
    for node in marked.node:
        ops["_XlaCompile" in node.attr].add(node.op)
    assert {"MatMul", "Softmax", "ArgMax"} <= ops[True]
    assert {"DecodeJpeg", "ResizeBilinear"} <= ops[False]
    assert not {"DecodeJpeg", "ResizeBilinear"} & ops[True]


class Adder:
    """Adds one to its rows; each call takes so long on the test's clock."""

    def __init__(self, spend: Callable[[int], None], *, added: int = 1, spec: SignatureSpec = SPEC) -> None:
        self.spec = spec
        self.passes: tuple[PassReport, ...] = ()
        self.is_closed = False
        self._spend = spend
        self._added = added

    def run(self, rows: Rows) -> Rows:
        x = cast("np.ndarray[tuple[int], np.dtype[np.int64]]", rows.columns["x"])
        self._spend(len(x))
        return Rows({"y": x + self._added})

    def nodes_of(self, rows: Rows) -> dict[str, float]:
        del rows
        return {"MatMul": 0.1, "cluster_0_1/xla_run": 0.1}

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Mapping[str, Any], Adder]]:
    """What becomes of a candidate that takes so many seconds where the plain graph takes one; and the plain graph."""
    clock = [0.0]

    def spend(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr("darkroom.models.engines.tuning.time.monotonic", lambda: clock[0])

    def judge(
        taken_s: Callable[[int], float], *, spec: SignatureSpec = SPEC, **changes: Any
    ) -> tuple[Mapping[str, Any], Adder]:
        plain = Adder(lambda _: spend(1.0), spec=spec)
        candidate = Adder(lambda count: spend(taken_s(count)), spec=spec, added=changes.pop("added", 1))
        for name, value in changes.items():
            setattr(candidate, name, value)
        monkeypatch.setattr("darkroom.models.engines.xla.CompiledEngine", lambda *_, **__: candidate)
        samples: Sequence[Rows] = [Rows({"x": np.array([value], np.int64)}) for value in range(3)]
        kept = compiled({"s": cast("Engine", plain)}, None, {"s": cast("Any", None)}, {"s": samples})
        assert not (kept and candidate.is_closed)
        return kept, plain

    return judge


def test_a_candidate_that_is_faster_at_every_size_is_kept_and_its_gains_are_told(judged: Any) -> None:
    kept, plain = judged(lambda count: 0.5 if count == 8 else 0.8)
    assert kept["s"].passes == ((XLA, True, "1.25 times as fast at 1 row, 2.00 times as fast at 8 rows"),)
    assert plain.passes == ()


@pytest.mark.parametrize(
    ("taken_s", "changes", "reason"),
    [
        (lambda _: 14.0, {}, "0.07 times as fast at 1 row"),
        (lambda count: 0.5 if count == 1 else 14.0, {}, "0.07 times as fast at 8 rows"),
        (lambda _: 0.5, {"added": 2}, "its answer is not the graph's: at 1 rows, output 'y' differs"),
        (lambda _: 0.5, {"nodes_of": lambda _: {"MatMul": 0.1}}, "XLA finds nothing in it to compile"),
    ],
    ids=["slow", "slow for several rows", "another answer", "nothing compiled"],
)
def test_what_does_not_pay_or_is_not_the_same_is_dropped_with_the_reason(
    judged: Any, taken_s: Callable[[int], float], changes: dict[str, Any], reason: str
) -> None:
    kept, plain = judged(taken_s, **changes)
    assert kept == {}
    assert plain.passes == ((XLA, False, reason),)


def test_a_candidate_that_fails_is_dropped_with_what_it_said(judged: Any) -> None:
    def fail(_: int) -> float:
        raise RuntimeError("XLA raises: no kernel")

    kept, plain = judged(fail)
    assert kept == {}
    assert plain.passes == ((XLA, False, "it fails: XLA raises: no kernel"),)


def test_a_size_that_is_met_for_the_first_time_is_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def run(_: SessionEngine, rows: Rows) -> Rows:
        calls.append(len(rows))
        if len(rows) == 3:
            raise InvalidInput("3 is refused")
        return rows

    monkeypatch.setattr(SessionEngine, "run", run)
    monkeypatch.setattr(SessionEngine, "_make", lambda *_: None)
    engine = CompiledEngine(SPEC, None, Binding({}, {}))
    for count in (1, 1, 2, 1):
        engine.run(Rows({"x": np.zeros(count, np.int64)}))
    assert calls == [1, 1, 1, 2, 2, 1]
    calls.clear()
    for _ in range(2):
        with pytest.raises(InvalidInput, match="3 is refused"):
            engine.run(Rows({"x": np.zeros(3, np.int64)}))
    assert calls == [3, 3], "once each: a call that failed has compiled nothing"


def test_a_signature_that_is_not_batched_is_left_as_it_is(judged: Any) -> None:
    kept, plain = judged(lambda _: 0.5, spec=SignatureSpec("s", SPEC.inputs, SPEC.outputs, batched=False))
    assert kept == {}
    assert plain.passes == ((XLA, False, "each of its requests may have another shape"),)
