"""The two proofs find every kind of difference, and only differences."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from darkroom.models.engine import PassReport
from darkroom.models.errors import InvalidInput
from darkroom.models.rewriting import verify
from darkroom.models.rewriting.verify import TF32, Remembered, difference, first_accepted, not_row_wise, unequal
from darkroom.models.rows import Rows
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.spec import SignatureSpec

Array = "np.ndarray[Any, np.dtype[Any]]"
SINGLE_ROWS = [Rows({"x": np.full((1, 2), value, np.float32)}) for value in (1.0, 2.5, -3.0, 0.5)]
NO_GRAPH = tf.compat.v1.GraphDef()


class Computes:
    """An engine of one function of `x`."""

    spec = SignatureSpec("s", (), ())
    passes: tuple[PassReport, ...] = ()

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def run(self, rows: Rows) -> Rows:
        return Rows({"y": self._function(rows.columns["x"])})

    def close(self) -> None: ...


def test_a_gpus_rounding_is_no_difference_on_a_gpu_and_one_on_a_cpu() -> None:
    one, other = (Rows({"y": np.array(values, np.float32)}) for values in ([1.0, 0.5], [1.0008, 0.4995]))
    assert unequal(one, other, float_bytes=TF32) == ""
    assert unequal(one, other) == "output 'y' differs by 0.0008"
    far = Rows({"y": np.array([1.1, 0.5], np.float32)})
    assert unequal(one, far, float_bytes=TF32) == "output 'y' differs by 0.1"


def refuses(_: Any) -> Any:
    raise InvalidInput("no")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x, lambda x: x * 1.0001),
        (lambda x: x, lambda x: x[:, :1]),
        (lambda x: x, lambda x: x.astype(np.float64)),
        (lambda x: x.astype(int), lambda x: x.astype(int) + (np.abs(x) > 2)),
        (lambda x: [b"a"] * len(x), lambda x: [b"a\x00"] * len(x)),
        (lambda x: [b"a"] * len(x), lambda x: x),
        (lambda x: x, lambda x: x * np.nan),
        (lambda x: x, refuses),
    ],
    ids=["a value", "a shape", "a dtype", "an integer", "a zero byte", "a kind", "not a number", "an error"],
)
def test_a_difference_from_the_original_is_found(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> None:
    assert difference(Computes(one), Computes(other), SINGLE_ROWS) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x, lambda x: x * (1 + 1e-6)),
        (lambda x: x / 0.0, lambda x: x / 0.0),
        (np.sqrt, np.sqrt),
        (lambda x: x.astype(np.float16), lambda x: x.astype(np.float16) * np.float16(1.001)),
        (lambda x: [b"%d" % len(x)] * len(x), lambda x: [b"%d" % len(x)] * len(x)),
    ],
    ids=["rounding", "infinities", "not a number in both", "half precision", "strings"],
)
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_rounding_is_no_difference(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> None:
    assert difference(Computes(one), Computes(other), SINGLE_ROWS) == ""


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(axis=0),
        lambda x: x.sum(axis=0, keepdims=True),
        lambda x: x.sum(),
        lambda x: x[::-1],
        lambda x: x + np.arange(len(x))[:, None],
        lambda x: np.repeat(x, 2, axis=0),
        lambda x: x if len(x) < 8 else x * 2,
        lambda x: x if len(x) == 1 else refuses(x),
    ],
    ids=["centred", "summed", "a scalar", "reversed", "numbered", "doubled", "only from 8 rows", "only alone"],
)
def test_a_function_that_is_not_row_wise_is_found(function: Callable[[Any], Any]) -> None:
    assert not_row_wise(Computes(function), SINGLE_ROWS) != ""


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2,
        lambda x: x.sum(axis=1),
        lambda x: [b"%.1f" % value for value in x[:, 0]],
        lambda x: x * (1 + 1e-7 * len(x)),
    ],
    ids=["doubled", "summed by row", "strings", "rounding that follows the batch"],
)
def test_a_row_wise_function_is_left_alone(function: Callable[[Any], Any]) -> None:
    assert not_row_wise(Computes(function), SINGLE_ROWS) == ""


def test_the_first_set_of_rows_that_runs_is_used() -> None:
    wrong = [Rows({"x": np.zeros((1, 3))})] * 2
    engine = Computes(lambda x: x if x.shape[1] == 2 else refuses(x))
    assert first_accepted(engine, iter([wrong, SINGLE_ROWS, wrong])) is SINGLE_ROWS
    assert first_accepted(engine, [wrong]) == []


def test_rows_that_are_answered_with_no_number_or_joined_wrongly_are_the_last_choice() -> None:
    bad, good = ([Rows({"x": np.full((1, 2), value, np.float32)})] for value in (-1.0, 1.0))
    apart = [Rows({"x": np.ones((1, width), np.float32)}) for width in (2, 3)]
    with np.errstate(invalid="ignore"):
        assert first_accepted(Computes(np.sqrt), [apart, bad, good]) is good
        assert first_accepted(Computes(np.sqrt), [bad]) is bad


def test_equal_calls_run_once_and_answers_outlive_the_engine() -> None:
    calls: list[int] = []

    def counted(x: Any) -> Any:
        calls.append(len(x))
        return x * 2

    engine = Remembered(Computes.spec, lambda: Computes(counted))
    assert difference(engine, engine, SINGLE_ROWS) == ""
    engine.close()
    assert difference(engine, Computes(lambda x: x * 2), SINGLE_ROWS) == ""
    assert calls == [1, 1, 1, 1, 2, 3]


def test_large_answers_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "MAX_KEPT_BYTES", 8)
    calls: list[Any] = []
    engine = Remembered(Computes.spec, lambda: Computes(lambda x: calls.append(x) or x))  # type: ignore[func-returns-value]
    for rows in (SINGLE_ROWS[0], SINGLE_ROWS[0], SINGLE_ROWS[1], SINGLE_ROWS[1]):
        engine.run(rows)
    assert len(calls) == 3


@pytest.mark.parametrize(("call_s", "function"), [(1.0, np.abs), (0.0, lambda x: np.repeat(x, 1 << 21, axis=1))])
def test_a_slow_model_and_one_with_large_answers_are_proven_on_two_rows(
    call_s: float, function: Callable[[Any], Any]
) -> None:
    ticks = itertools.count()
    found = first_accepted(Computes(function), [SINGLE_ROWS], clock=lambda: call_s * next(ticks))
    assert found == SINGLE_ROWS[:2]


@pytest.mark.parametrize(
    "function",
    [lambda x: x - x.mean(axis=0), lambda x: x[::-1], lambda x: x + np.arange(len(x))[:, None], lambda x: x * len(x)],
    ids=["centred", "reversed", "numbered", "by count"],
)
def test_two_rows_find_what_is_not_row_wise(function: Callable[[Any], Any]) -> None:
    assert not_row_wise(Computes(function), SINGLE_ROWS[:2]) != ""


def test_a_difference_at_the_end_of_a_large_answer_is_found() -> None:
    def large(x: Any) -> Any:
        return np.ones((len(x), 3 << 19), np.float32)

    def other(x: Any) -> Any:
        answer = large(x)
        answer[0, -1] = 1.5
        return answer

    assert "differs by 0.5" in difference(Computes(large), Computes(other), SINGLE_ROWS[:1])


def test_a_row_that_is_padded_for_its_neighbours_is_found() -> None:
    def padded(x: Any) -> Any:
        return np.ones((len(x), int(np.abs(x).max()), 4))

    assert "is [3, 4] a row in a batch and [1, 4] alone" in not_row_wise(Computes(padded), SINGLE_ROWS)
