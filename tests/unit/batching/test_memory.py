"""Batches for which the memory does not suffice, on a virtual clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from darkroom.batching.entry import Entry
from darkroom.batching.limits import Limits
from tests.property.rig import Call, EchoBackend, FakeReport, batcher_of
from tests.vclock import run

if TYPE_CHECKING:
    from darkroom.batching.batcher import Batcher
    from darkroom.batching.entry import Answer


@dataclass
class SmallBackend(EchoBackend):
    """Has memory for `room` rows."""

    room: int = 1

    def report(self, call: Call, seconds: float) -> FakeReport:
        report = super().report(call, seconds)
        is_over = len(call.rows) + call.padding > self.room
        return replace(report, results=None, error=MemoryError("too large")) if is_over else report


def _small(room: int, limits: Limits) -> tuple[SmallBackend, Batcher]:
    backend = SmallBackend(room=room)
    return backend, batcher_of(backend, limits, is_out_of_memory=lambda error: isinstance(error, MemoryError))


def _sizes(backend: EchoBackend, since: int = 0) -> list[int]:
    """The rows of each call, padding included."""
    return [len(call.rows) + call.padding for call in backend.calls[since:]]


async def _ask(batcher: Batcher, rows: int, *, whole: bool = False) -> Answer:
    return await batcher.predict(Entry(list(range(rows)), rows, whole=whole))


def test_a_batch_that_is_too_large_is_halved_and_the_next_ones_are_smaller() -> None:
    async def main() -> None:
        backend, batcher = _small(5, Limits(max_batch_images=16))
        answer = await _ask(batcher, 16)
        assert [row for piece in answer.pieces for row in piece] == list(range(16))  # type: ignore[attr-defined]
        assert _sizes(backend) == [16, 8, 8, 4, 4, 4, 4]
        assert (batcher.doubt, batcher.stats().target_images) == (None, 4)
        answers = await asyncio.gather(*(_ask(batcher, 2) for _ in range(10)))
        assert all(answer.error is None for answer in answers)
        assert max(_sizes(backend, since=7)) == 4

    run(main())


def test_two_rows_are_halved_too() -> None:
    async def main() -> None:
        backend, batcher = _small(1, Limits(max_batch_images=16))
        assert batcher.doubt is None
        assert (await _ask(batcher, 2)).error is None
        assert _sizes(backend) == [2, 1, 1]

    run(main())


def test_with_given_sizes_the_next_smaller_one_is_the_largest() -> None:
    async def main() -> None:
        backend, batcher = _small(8, Limits(max_batch_images=32, allowed_batch_sizes=(2, 8, 32)))
        assert (await _ask(batcher, 20)).error is None
        assert batcher.stats().target_images == 8
        assert (await _ask(batcher, 20)).error is None
        assert _sizes(backend)[-3:] == [8, 8, 8]

    run(main())


def test_after_a_while_larger_batches_are_tried_again() -> None:
    async def main() -> None:
        backend, batcher = _small(2, Limits(max_batch_images=4))
        await _ask(batcher, 4)
        backend.room = 4
        for _ in range(1000):
            await _ask(batcher, 1)
        await _ask(batcher, 4)
        assert _sizes(backend)[-1] == 4

    run(main())


@pytest.mark.parametrize(("rows", "is_whole"), [(1, False), (3, True)])
def test_what_can_not_be_made_smaller_fails_once(rows: int, is_whole: bool) -> None:
    async def main() -> None:
        backend, batcher = _small(0, Limits())
        assert isinstance((await _ask(batcher, rows, whole=is_whole)).error, MemoryError)
        assert isinstance(batcher.doubt, MemoryError)
        assert _sizes(backend) == [rows]
        backend.room = 3
        await _ask(batcher, 1)
        assert batcher.doubt is None

    run(main())
