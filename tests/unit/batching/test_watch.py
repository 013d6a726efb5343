"""Calls that run far too long, on a virtual clock: who is told, when, and what happens when they return after all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from darkroom.batching.batcher import FIRST_FACTOR, TAIL_FACTOR
from darkroom.batching.entry import Entry
from darkroom.batching.errors import Closed, EngineTimeout
from darkroom.batching.limits import Limits
from darkroom.batching.scheduler.queue import MAX_SHAPES
from tests.property.rig import EchoBackend, batcher_of
from tests.vclock import run

if TYPE_CHECKING:
    from darkroom.batching.batcher import Batcher
    from darkroom.batching.entry import Answer

LEAST_S = 2.0
HUNG_S = 1e5


def _limits(places: int = 1) -> Limits:
    return Limits(max_batch_images=1, max_inflight_batches=places)


async def _watched(batcher: Batcher, until_s: float) -> list[float]:
    """What a look a second returned, until that time."""
    loop = asyncio.get_running_loop()
    found = []
    while loop.time() < until_s:
        found.append(batcher.watch(loop.time(), LEAST_S))
        await asyncio.sleep(1)
    return found


def test_callers_of_a_call_that_hangs_are_told_and_others_go_on() -> None:
    async def main() -> None:
        backend = EchoBackend()
        backend.seconds = lambda _: HUNG_S if len(backend.calls) == 1 else 0.05
        batcher = batcher_of(backend, _limits(places=2))
        batcher.know_shape(None)
        hung = asyncio.ensure_future(batcher.predict(Entry(["hung"], 1)))
        await asyncio.sleep(0.5)
        watching = asyncio.ensure_future(_watched(batcher, 10))
        other = await batcher.predict(Entry(["other"], 1))
        assert other.pieces == (["other"],)
        assert isinstance((await hung).error, EngineTimeout)
        assert asyncio.get_running_loop().time() == 3.5
        late = await batcher.predict(Entry(["late"], 1))  # a place is left
        assert late.pieces == (["late"],)
        found = await watching
        assert found == [0.0, 0.0, 0.0, *(ran_s / LEAST_S for ran_s in range(3, 10))]
        assert (batcher.stuck_s, batcher.is_healthy, batcher.stats().stuck_batches) == (9.0, False, 1)

    run(main())


def test_a_call_that_returns_after_all_answers_nobody_twice_and_gives_its_place_back() -> None:
    async def main() -> None:
        told: list[Answer] = []
        batcher = batcher_of(EchoBackend(seconds=lambda _: 5.5), _limits())
        batcher.know_shape(None)
        batcher.submit(Entry(["slow"], 1), told.append)
        await asyncio.sleep(0.5)
        await _watched(batcher, 4)
        assert [type(answer.error) for answer in told] == [EngineTimeout]
        with pytest.raises(Closed, match=r"^the engine does not answer: .*; ask another server$"):
            batcher.submit(Entry(["refused"], 1), told.append)
        await asyncio.sleep(2)
        assert batcher.watch(6.5, LEAST_S) == 0.0
        assert batcher.is_healthy
        answer = await batcher.predict(Entry(["next"], 1))
        assert answer.pieces == (["next"],)
        assert len(told) == 1

    run(main())


@pytest.mark.parametrize(
    ("seeded_s", "is_known", "limit_s"),
    [(0.0, True, LEAST_S), (1.0, True, TAIL_FACTOR), (0.0, False, LEAST_S * FIRST_FACTOR), (1.0, False, TAIL_FACTOR * FIRST_FACTOR)],
)  # fmt: skip
def test_slow_engines_and_first_calls_of_a_shape_may_take_longer(
    *, seeded_s: float, is_known: bool, limit_s: float
) -> None:
    async def main() -> None:
        batcher = batcher_of(EchoBackend(seconds=lambda _: HUNG_S), _limits())
        if seeded_s:
            batcher.curve.seed(1, seeded_s)
        if is_known:
            batcher.know_shape("shape")
        told: list[Answer] = []
        batcher.submit(Entry([0], 1, key="shape"), told.append)
        await asyncio.sleep(0.1)
        assert batcher.watch(100.0, LEAST_S) == 0.0
        assert batcher.watch(100.0 + limit_s, LEAST_S) == 0.0
        assert not told
        assert batcher.watch(100.0 + 2 * limit_s, LEAST_S) == 2
        assert len(told) == 1

    run(main())


def test_a_shape_is_known_once_a_call_of_it_has_succeeded_and_many_shapes_are_not_remembered() -> None:
    async def main() -> None:
        hangs = False
        batcher = batcher_of(EchoBackend(seconds=lambda _: HUNG_S if hangs else 0.1), _limits())
        await batcher.predict(Entry([0], 1, key="used"))
        for n in range(MAX_SHAPES):
            batcher.know_shape(n)
        hangs = True
        for key in ("used", "new, but there are too many"):
            batcher = batcher if key == "used" else batcher_of(EchoBackend(seconds=lambda _: HUNG_S), _limits())
            for n in range(MAX_SHAPES):
                batcher.know_shape(n)
            batcher.submit(Entry([0], 1, key=key), lambda _: None)
            await asyncio.sleep(0.1)
            batcher.watch(100.0, LEAST_S)
            assert batcher.watch(103.0, LEAST_S) == 1.5

    run(main())


def test_what_waits_for_an_engine_that_is_stuck_is_refused_at_once_so_a_drain_does_not_wait() -> None:
    async def main() -> None:
        batcher = batcher_of(EchoBackend(seconds=lambda _: HUNG_S), _limits())
        batcher.know_shape(None)
        told: list[Answer] = []
        for n in range(3):
            batcher.submit(Entry([n], 1), told.append)
        await asyncio.sleep(0.5)
        await _watched(batcher, 4)
        assert [type(answer.error) for answer in told] == [EngineTimeout, Closed, Closed]
        assert await batcher.drain(20.0) == 0
        assert asyncio.get_running_loop().time() == 4.5

    run(main())
