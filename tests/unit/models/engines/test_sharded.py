"""Shards: which rows run where, and that the answer is as if nothing had been divided."""

from __future__ import annotations

import itertools
import threading
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.models.engines.devices import Device
from darkroom.models.engines.sharded import SHARD, ShardedEngine, shard, why_not_sharded
from darkroom.models.engines.tuning import Timer, time_both
from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows
from darkroom.models.spec import SignatureSpec, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from darkroom.models.engine import PassReport
    from darkroom.models.runtime.session import SessionEngine

SPEC = SignatureSpec("s", (TensorSpec("x", "int64", (None,)),), (TensorSpec("y", "int64", (None,)),), batched=True)


class Doubler:
    """Doubles its rows, notes how many came, and refuses the row 13."""

    def __init__(self, spec: SignatureSpec = SPEC, meanwhile: Callable[[int], None] = lambda _: None) -> None:
        self.spec = spec
        self.passes: tuple[PassReport, ...] = ()
        self.calls: list[int] = []
        self.split = ""
        self.meanwhile = meanwhile
        self.is_closed = False

    def run(self, rows: Rows) -> Rows:
        x = cast("np.ndarray[tuple[int], np.dtype[np.int64]]", rows.columns["x"])
        self.calls.append(len(x))
        self.meanwhile(len(x))
        if 13 in x:
            raise InvalidInput("13 is refused")
        return Rows({"y": 2 * x})

    def screen(self, rows: Rows) -> list[InvalidInput | None]:
        return [InvalidInput("13") if value == 13 else None for value in rows.columns["x"]]

    def close(self) -> None:
        self.is_closed = True


def engine(threaded: Doubler, single: Doubler, cores: int = 2) -> ShardedEngine:
    return ShardedEngine(cast("SessionEngine", threaded), cast("SessionEngine", single), cores)


def rows(values: Sequence[int], *, aligned: bool = True) -> Rows:
    return Rows({"x": np.array(values, np.int64)}, aligned=aligned)


class FakeTime:
    """A clock that only `spend` moves, from any thread."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._lock = threading.Lock()
        self.timer: Timer = partial(time_both, clock=lambda: self._now_s)

    def spend(self, seconds: float) -> None:
        with self._lock:
            self._now_s += seconds


@given(values=st.lists(st.integers(14, 10**6), min_size=1, max_size=40), cores=st.integers(2, 5))
def test_the_answer_is_as_if_nothing_had_been_divided(values: list[int], cores: int) -> None:
    threaded, single = Doubler(), Doubler()
    sharded = engine(threaded, single, cores)
    answer = sharded.run(rows(values))
    sharded.close()
    assert list(answer.columns["y"]) == [2 * value for value in values]
    if len(values) < cores:
        assert (threaded.calls, single.calls) == ([len(values)], [])
    else:
        assert threaded.calls == []
        assert len(single.calls) == cores
        assert max(single.calls) - min(single.calls) <= 1


def test_a_call_that_is_to_run_alone_stays_in_its_callers_thread_whatever_its_size() -> None:
    places: list[int] = []
    threaded, single = Doubler(), Doubler(meanwhile=lambda _: places.append(threading.get_ident()))
    sharded = engine(threaded, single)
    answer = sharded.run_inline(rows([1, 2, 3, 4]))
    sharded.close()
    assert list(answer.columns["y"]) == [2, 4, 6, 8]
    assert (threaded.calls, single.calls, places) == ([], [4], [threading.get_ident()])


def test_rows_that_are_not_aligned_are_never_divided() -> None:
    threaded, single = Doubler(), Doubler()
    sharded = engine(threaded, single)
    sharded.run(rows([1, 2, 3, 4], aligned=False))
    sharded.close()
    assert (threaded.calls, single.calls) == ([4], [])


def test_a_call_during_another_is_not_divided_since_the_other_keeps_the_cores_busy() -> None:
    entered, may_end = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        entered.set()
        assert may_end.wait(10)

    threaded, single = Doubler(meanwhile=wait), Doubler()
    sharded = engine(threaded, single)
    first = threading.Thread(target=sharded.run, args=(rows([1]),))
    first.start()
    assert entered.wait(10)
    sharded.run(rows([1, 2, 3, 4]))
    sharded.run(rows([5]))
    may_end.set()
    first.join()
    assert (threaded.calls, single.calls) == ([1], [4, 1])
    threaded.meanwhile = lambda _: None
    sharded.run(rows([6]))
    assert threaded.calls == [1, 1], "alone again"
    sharded.close()


@pytest.mark.parametrize("cores", [2, 3])
def test_however_many_calls_there_are_no_more_threads_are_at_work_than_cores(cores: int) -> None:
    lock, at_work, most = threading.Lock(), [0], [0]
    all_cores = threading.Barrier(cores)

    def work(_: int) -> None:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        all_cores.wait(10)  # none goes on before every core has a piece: of 4 * cores pieces none is left over
        with lock:
            at_work[0] -= 1

    sharded = engine(Doubler(), Doubler(meanwhile=work), cores)
    sharded.piece_rows = 1
    answers: dict[int, list[int]] = {}

    def call(first: int) -> None:
        answers[first] = [int(value) for value in sharded.run(rows(range(first, first + cores))).columns["y"]]

    calls = [threading.Thread(target=call, args=(100 * number,)) for number in range(1, 5)]
    for each in calls:
        each.start()
    for each in calls:
        each.join(10)
    sharded.close()
    assert most == [cores]
    assert answers == {100 * n: [2 * (100 * n + row) for row in range(cores)] for n in range(1, 5)}


@pytest.mark.parametrize("values", [[13, 1, 2, 3], [1, 2, 3, 13], [13, 13]])
def test_a_shard_that_fails_fails_the_call_once_all_have_ended(values: list[int]) -> None:
    single = Doubler()
    sharded = engine(Doubler(), single)
    with pytest.raises(InvalidInput, match="13 is refused"):
        sharded.run(rows(values))
    assert len(single.calls) == 2
    assert [fault is not None for fault in sharded.screen(rows(values))] == [value == 13 for value in values]
    assert list(sharded.run(rows([1, 2])).columns["y"]) == [2, 4], "nothing is left of the failed call"
    sharded.close()


def test_close_ends_the_threads_and_both_engines() -> None:
    threaded, single = Doubler(), Doubler()
    before = threading.active_count()
    sharded = engine(threaded, single, cores=4)
    assert threading.active_count() == before + 4
    sharded.close()
    sharded.close()
    assert threading.active_count() == before
    assert threaded.is_closed
    assert single.is_closed


@pytest.mark.parametrize(
    ("row_s", "wakes_s", "min_rows"),
    [(1.0, 0.0, 2), (1e-4, 3.5e-4, 8), (1e-4, 5e-3, 0)],
    ids=["always", "from eight rows on", "never"],
)
def test_shards_stay_from_the_size_on_at_which_they_are_measured_to_pay(
    row_s: float, wakes_s: float, min_rows: int
) -> None:
    """A row takes `row_s` of one core, two shards together as long as one; threaded, both cores do no better than one."""
    time = FakeTime()
    threaded = Doubler(meanwhile=lambda images: time.spend(row_s * images))
    single = Doubler(meanwhile=lambda images: time.spend(row_s * images / 2 + wakes_s / 2))
    named = {"s": cast("SessionEngine", threaded)}
    found = shard(named, {"s": cast("SessionEngine", single)}, {"s": (rows([1]),)}, cores=2, timer=time.timer)
    assert [(report.name, report.applied) for report in threaded.passes] == [(SHARD, min_rows > 0)]
    assert {name: each.min_rows for name, each in found.items()} == ({"s": min_rows} if min_rows else {})
    for each in found.values():
        assert each.passes == threaded.passes
        threaded.calls.clear()
        each.run(rows(range(20, 20 + min_rows - 1)))
        assert threaded.calls == [min_rows - 1]
        each.run(rows(range(20, 20 + min_rows)))
        assert threaded.calls == [min_rows - 1]
        each.close()


def test_what_is_unbatched_or_has_no_rows_to_be_measured_with_is_left_alone() -> None:
    unbatched = Doubler(SignatureSpec("s", SPEC.inputs, SPEC.outputs, batched=False))
    threaded = {"a": cast("SessionEngine", unbatched), "b": cast("SessionEngine", Doubler())}
    single = {name: cast("SessionEngine", Doubler()) for name in threaded}
    assert shard(threaded, single, {"a": (rows([1]),), "b": ()}, cores=2) == {}
    assert [each.passes for each in threaded.values()] == [(), ()]


@given(values=st.lists(st.integers(14, 10**6), min_size=1, max_size=40), piece=st.integers(1, 9))
def test_a_thread_runs_no_more_rows_at_once_than_a_piece_and_the_answer_is_the_same(
    values: list[int], piece: int
) -> None:
    threaded, single = Doubler(), Doubler()
    sharded = engine(threaded, single)
    sharded.min_rows, sharded.piece_rows = 1, piece
    answer = sharded.run(rows(values))
    sharded.close()
    assert list(answer.columns["y"]) == [2 * value for value in values]
    assert threaded.calls == []
    assert sum(single.calls) == len(values)
    assert max(single.calls) <= piece
    assert min(single.calls) > 0, "TensorFlow fails on none"


def test_a_call_during_another_runs_in_pieces_too() -> None:
    meanwhile: list[int] = []

    def another(_: int) -> None:
        sharded.run(rows(range(20, 29)))
        meanwhile.extend(single.calls)

    single = Doubler()
    sharded = engine(Doubler(meanwhile=another), single)
    sharded.piece_rows = 4
    sharded.run(rows([1]))
    sharded.close()
    assert meanwhile == [3, 3, 3]


@pytest.mark.parametrize(
    ("call_s", "row_s", "piece"),
    [(0.0, 0.01, 4), (0.0, 0.2, 1), (0.03, 0.001, 0), (0.008, 0.005, 16), (0.0, 0.0001, 0)],
    ids=["as soon as it is long", "a long row", "always better with more", "better until then", "never long"],
)
def test_a_piece_is_as_large_as_it_brings_something(call_s: float, row_s: float, piece: int) -> None:
    """A call takes `call_s` and each of its rows `row_s`; two shards at once as long as one."""
    time = FakeTime()
    threaded = Doubler(meanwhile=lambda images: time.spend(2 * (call_s + row_s * images)))
    sharded = engine(threaded, Doubler(meanwhile=lambda images: time.spend((call_s + row_s * images) / 2)))
    sharded.tune([rows([1])], timer=time.timer)
    sharded.close()
    assert sharded.piece_rows == piece


def test_with_a_row_prefix_a_piece_is_what_a_core_had_of_the_first_long_call() -> None:
    ticks = itertools.count()
    single = Doubler()
    single.split = "layer:0"
    sharded = engine(Doubler(), single)
    report = sharded.tune([rows([1])], timer=partial(time_both, clock=lambda: float(next(ticks))))
    sharded.close()
    assert sharded.piece_rows == 1
    assert "at 2 rows" in report.reason


def test_with_a_row_prefix_no_larger_call_is_made_than_the_first_long_one() -> None:
    """Though more rows would always be better: what the largest call took stays."""
    time = FakeTime()
    threaded = Doubler(meanwhile=lambda images: time.spend(0.06 + 0.002 * images))
    single = Doubler(meanwhile=lambda images: time.spend((0.03 + 0.001 * images) / 2))
    single.split = "layer:0"
    sharded = engine(threaded, single)
    sharded.tune([rows([1])], timer=time.timer)
    sharded.close()
    assert set(threaded.calls) == {2}


CPU = Device("cpu", 0)


@pytest.mark.parametrize(
    ("devices", "cores", "graph_bytes", "word"),
    [
        ([CPU], 2, 1000, ""),
        ([CPU], 1, 1000, "one core"),
        ([CPU], 2, 300 << 20, "300 MB"),
        ([CPU, Device("cpu", 1)], 2, 1000, "each device"),
        ([Device("gpu", 0)], 2, 1000, "GPU"),
    ],
)
def test_why_a_graph_is_not_tried(devices: list[Device], cores: int, graph_bytes: int, word: str) -> None:
    reason = why_not_sharded(devices, cores, graph_bytes)
    assert word in reason
    assert bool(reason) == bool(word)


def test_pieces_that_are_answered_in_different_shapes_run_again_whole() -> None:
    class Padded(Doubler):
        def run(self, rows: Rows) -> Rows:
            self.calls.append(len(rows))
            return Rows({"y": np.zeros((len(rows), len(rows)))})

    threaded, single = Padded(), Padded()
    divided = engine(threaded, single)
    answer = divided.run(Rows({"x": np.arange(5)}))
    divided.close()
    assert np.shape(answer.columns["y"]) == (5, 5)
    assert threaded.calls == [5]
    assert sorted(single.calls) == [2, 3]
