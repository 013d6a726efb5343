"""A shadow's decisions on a clock of their own, and how two answers are compared."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import ml_dtypes
import numpy as np
import pytest

from darkroom.batching.entry import Answer, Timing
from darkroom.batching.errors import Closed, QueueFull
from darkroom.models.engines.fakes import ECHO
from darkroom.models.errors import InvalidInput, PredictFailed
from darkroom.models.rows import Rows, row_bytes
from darkroom.models.saved_model.output_kinds import kinds_of
from darkroom.models.spec import TensorSpec
from darkroom.service.serving.shadow import GATHER_S, HUGE, MAX_BYTES, Shadow, compare, take_the_same
from darkroom.service.telemetry.metrics import ModelMetrics
from tests import vclock
from tests.echo import ScoresEcho

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from darkroom.batching.entry import Entry
    from darkroom.models.spec import SignatureSpec
    from darkroom.service.serving.servable import Target

SPEC = ScoresEcho(1).spec
KINDS = kinds_of(SPEC, ())


class Calls:
    """A batcher that keeps what it was given until a test answers."""

    def __init__(self, row_s: float = 0.0005) -> None:
        self.entries: list[Entry] = []
        self.refusal: Exception | None = None
        self._on_done: Callable[[Answer], None] | None = None
        self.curve = SimpleNamespace(expected=lambda rows: rows * row_s)

    def submit(self, entry: Entry, on_done: Callable[[Answer], None]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.entries.append(entry)
        self._on_done = on_done

    def answer(
        self, *pieces: Rows, error: BaseException | None = None, errors: dict[int, BaseException] | None = None
    ) -> None:
        assert self._on_done is not None
        rows = sum(map(len, pieces)) + len(errors or {})
        self._on_done(Answer(pieces, errors or {}, error, Timing(0.0, 0.03 if pieces else 0.0, rows)))


class Rig:
    """The shadow of one version beside another; `is_idle` says whether the server has nothing else to do."""

    def __init__(self, spec: SignatureSpec = SPEC, share: float = 1.0) -> None:
        self.calls, self.metrics, self.is_idle, self.drawn = Calls(), ModelMetrics("m", 2), True, 0.0
        model = SimpleNamespace(name="m", version=2)
        targets = [
            SimpleNamespace(batcher=each, spec=spec, kinds=KINDS, model=model, metrics=self.metrics)
            for each in (Calls(), self.calls)
        ]
        self.shadow = Shadow(
            *cast("list[Target]", targets),
            share=share,
            busy=0.05,
            is_idle=lambda: self.is_idle,
            chance=lambda: self.drawn,
            clock=asyncio.get_running_loop().time,
        )

    def offer(self, count: int = 1, *, answer: Rows | None = None, **more: Any) -> None:
        rows = Rows({"images": [b"picture"] * count})
        timing = Timing(0.0, 0.25, count)
        pieces = (answer or scores(0, count),)
        self.shadow.offer(
            rows, row_bytes(rows), [6] * count, Answer(pieces, more.get("errors", {}), more.get("error"), timing)
        )

    @property
    def images(self) -> dict[str, int]:
        """What was counted."""
        shadow = self.metrics.begin_shadow()
        return {outcome: count for outcome, count in shadow.images.items() if count}


def scores(best: int, count: int = 1, value: float = 1.0) -> Rows:
    return ScoresEcho(1, best=best, value=value).run(Rows({"images": [b""] * count}))


async def gather() -> None:
    """Lets pass what a shadow waits before it looks."""
    await asyncio.sleep(GATHER_S * 1.01)


def on_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Runs a test on a loop whose clock is a number."""

    def run() -> None:
        vclock.run(test())

    run.__name__ = test.__name__
    return run


@on_loop
async def test_what_was_answered_meanwhile_shares_one_call_in_the_bulk_lane() -> None:
    rig = Rig()
    rig.offer(1)
    rig.offer(2)
    assert rig.calls.entries == []
    await gather()
    (entry,) = rig.calls.entries
    assert (entry.rows, entry.bulk, entry.keep_going, entry.whole) == (3, True, True, False)
    assert (entry.row_bytes, entry.row_pixels) == ([7, 7, 7], [6, 6, 6])
    assert isinstance(entry.payload, Rows)
    assert entry.payload.pixels == 0  # so that the event loop never runs it
    rig.offer(1)
    await asyncio.sleep(0.03)
    assert len(rig.calls.entries) == 1  # one call at a time
    rig.calls.answer(scores(0, 2), scores(1, 1, 0.25))
    assert rig.images == {"same": 2, "different": 1}
    shadow = rig.metrics.begin_shadow()
    assert shadow.seconds == {"shadow": 0.03, "answer": pytest.approx(0.0015)}
    assert shadow.distance.total == 1.0
    await asyncio.sleep(0.55)
    assert len(rig.calls.entries) == 1  # the engine took 30 ms, which is 5 % of 0.6 s
    await asyncio.sleep(0.1)
    assert [entry.rows for entry in rig.calls.entries] == [3, 1]


@on_loop
async def test_a_call_is_short_and_has_rows_of_one_kind() -> None:
    rig = Rig()
    for count in (1, 2, 2, 1):  # five rows would take more than 2 ms
        rig.offer(count)
    await gather()
    rig.calls.answer(error=Closed("over"))
    rig.offer(1, answer=Rows({"scores": np.zeros((1, 3), np.float32)}))  # only one output was asked for
    rig.offer(1)
    await gather()
    rig.calls.answer(error=Closed("over"))
    rig.offer(9)  # too much for a short call, but somebody's one request
    rig.offer(1)
    await gather()
    assert [entry.rows for entry in rig.calls.entries] == [4, 1, 9]
    assert rig.images == {"dropped": 2 + 4 + 1 + 1 + 1}


@on_loop
async def test_a_busy_server_runs_no_shadow_and_what_waits_too_long_is_dropped() -> None:
    rig = Rig()
    rig.is_idle = False
    rig.offer(2)
    await asyncio.sleep(0.9)
    assert rig.images == {}
    await asyncio.sleep(0.3)
    assert rig.images == {"dropped": 2}
    rig.offer(3)
    await asyncio.sleep(0.5)
    rig.is_idle = True
    await asyncio.sleep(0.02)
    assert [entry.rows for entry in rig.calls.entries] == [3]


@on_loop
async def test_what_finds_no_room_is_dropped() -> None:
    rig = Rig()
    rig.offer(1, answer=Rows({"mask": np.zeros((1, MAX_BYTES), np.uint8)}))
    assert rig.images == {"dropped": 1}
    rig.calls.refusal = QueueFull("full")
    rig.offer(4)
    await gather()
    assert rig.images == {"dropped": 5}
    rig.offer(1)
    rig.shadow.close()
    rig.offer(1)
    assert rig.images == {"dropped": 7}


@on_loop
async def test_only_a_share_of_the_good_answers_is_taken() -> None:
    rig = Rig(share=0.5)
    rig.drawn = 0.5
    rig.offer()
    rig.drawn = 0.49
    rig.offer(2, error=PredictFailed("no"))
    rig.offer(2, errors={0: InvalidInput("bad")})
    rig.offer(4)
    await gather()
    assert [entry.rows for entry in rig.calls.entries] == [4]


def test_a_version_that_fails_pauses_longer_each_time_and_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        rig = Rig()
        for pause_s in (1, 2, 4):
            rig.offer(1)
            await gather()
            rig.offer(1)  # waits for the call, and is dropped with it
            rig.calls.answer(error=PredictFailed("it is broken"))
            await asyncio.sleep(pause_s - 0.1)
            rig.offer(1)
            await asyncio.sleep(0.2)
        assert rig.images == {"failed": 3, "dropped": 6}
        rig.offer(2)
        await gather()
        rig.calls.answer(scores(0, 1), errors={1: InvalidInput("no picture")})
        assert rig.images == {"failed": 4, "dropped": 6, "same": 1}

    vclock.run(fail())
    (record,) = caplog.records
    assert (record.message, cast("Any", record).fields["reason"]) == (
        "a shadow fails; it is tried again after a pause",
        "it is broken",
    )


@on_loop
async def test_rows_that_are_not_independent_are_run_and_compared_as_one() -> None:
    rig = Rig(replace(SPEC, batched=False))
    rig.offer(2)
    rig.offer(2)
    await gather()
    (entry,) = rig.calls.entries
    assert (entry.rows, entry.whole, entry.keep_going) == (2, True, False)
    rig.calls.answer(scores(1, 2))
    assert rig.images == {"different": 2, "dropped": 2}


def test_large_answers_are_compared_in_a_thread() -> None:
    async def compare_large() -> None:
        rig = Rig()
        large = Rows({"mask": np.zeros((1, 1 << 17), np.float32)})
        rig.offer(1, answer=large)
        rig.shadow.look()
        rig.calls.answer(Rows({"mask": np.full((1, 1 << 17), 0.5, np.float32)}))
        await asyncio.get_running_loop().shutdown_default_executor()
        await asyncio.sleep(0)
        assert rig.images == {"unranked": 1}
        assert rig.metrics.begin_shadow().distance.total == 0.5
        rig.shadow.close()

    asyncio.run(compare_large())


def _column(*values: Any, dtype: Any = np.float32) -> Any:
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("one", "two", "rows", "distances"),
    [
        ({"scores": _column([0, 0.5])}, {"scores": _column([0.1, 0.3])}, {"same": 1, "different": 0}, [0.2]),
        ({"scores": _column([0, 1], [1, 0])}, {"scores": _column([1, 0], [1, 0])}, {"same": 1, "different": 1}, [1, 0]),
        ({"n": _column(3, 4, dtype=np.int64)}, {"n": _column(3, 5, dtype=np.int64)}, {"same": 1, "different": 1}, []),
        ({"x": _column([1.5])}, {"x": _column([1.0])}, {"unranked": 1}, [0.5]),
        ({"x": _column([1, np.nan, np.inf])}, {"x": _column([1, np.nan, np.inf])}, {"unranked": 1}, [0]),
        ({"x": _column([np.nan]), "s": [b"a"]}, {"x": _column([1]), "s": [b"b"]}, {"unranked": 1}, [HUGE]),
        (
            {"x": _column([1], dtype=ml_dtypes.bfloat16)},
            {"x": _column([2], dtype=ml_dtypes.bfloat16)},
            {"unranked": 1},
            [1],
        ),
        ({"x": _column([1, 2])}, {"x": _column([1])}, {"different": 1}, []),
        ({"x": _column([1])}, {"y": _column([1])}, {"unranked": 1}, []),
        ({"s": [b"a", b"b"]}, {"s": [b"a", b"c"]}, {"unranked": 2}, []),
    ],
)
def test_the_class_and_the_largest_difference_are_compared(one: Any, two: Any, rows: Any, distances: Any) -> None:
    found = compare(Rows(one), [Rows(two)], (), KINDS, joined=True)
    assert found.rows == rows
    assert list(found.distances) == pytest.approx(distances)


def test_rows_that_the_shadow_refused_are_left_out_and_pieces_that_do_not_fit_are_different() -> None:
    ask = partial(compare, scores(0, 3), kinds=KINDS, joined=True)
    assert ask([scores(0, 1), scores(1, 1)], guilty={1}).rows == {"same": 1, "different": 1}
    assert ask([scores(0, 2), Rows({"version": _column(1, dtype=np.int64)})], guilty=()).rows == {"different": 3}


def test_versions_share_rows_if_they_take_the_same_inputs() -> None:
    assert take_the_same(ECHO, SPEC)
    assert take_the_same(replace(ECHO, formats=frozenset({"jpeg"})), ECHO)
    assert not take_the_same(ECHO, replace(ECHO, formats=frozenset({"jpeg"})))
    assert not take_the_same(ECHO, replace(ECHO, inputs=(TensorSpec("pictures", "string", (None,)),)))
    assert not take_the_same(ECHO, replace(ECHO, image_input=None))
