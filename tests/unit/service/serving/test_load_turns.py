"""Which versions are loaded at the same time, and in which order."""

from __future__ import annotations

import asyncio

import pytest

from darkroom.service.serving.load_turns import BYTES_PER_BYTE, PROCESS_BYTES, LoadTurns
from tests import vclock

MB = 1 << 20


async def started(sizes: list[int], *, free: int = 1 << 60, ends: tuple[int, ...] = ()) -> list[int]:
    """The sizes of the versions whose load has begun, in order; those in `ends` are over at once."""
    turns, begun = LoadTurns(free=lambda: free), list[int]()

    async def load(size: int) -> None:
        async with turns.take(size):
            begun.append(size)
            if size not in ends:
                await asyncio.Event().wait()

    tasks = []
    for size in sizes:
        tasks.append(asyncio.create_task(load(size)))
        await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return begun


@pytest.mark.parametrize(
    ("sizes", "begun"),
    [
        ([100, 25], [100, 25]),  # a quarter
        ([100, 26], [100]),
        ([25, 100], [25]),  # a larger one does not overtake
        ([100, 25, 1], [100, 25]),  # never a third
        ([100, 0], [100]),  # its size is not known
        ([0, 0], [0]),
    ],
)
def test_only_one_that_is_much_smaller_is_loaded_beside_another(sizes: list[int], begun: list[int]) -> None:
    assert vclock.run(started([size * MB for size in sizes])) == [size * MB for size in begun]


@pytest.mark.parametrize(("spare", "count"), [(0, 2), (-1, 1)])
def test_it_waits_where_there_is_no_memory_for_both(spare: int, count: int) -> None:
    free = PROCESS_BYTES + BYTES_PER_BYTE * 110 * MB + spare
    assert len(vclock.run(started([100 * MB, 10 * MB], free=free))) == count


def test_what_is_over_lets_others_in() -> None:
    assert vclock.run(started([100, 20, 10, 90], ends=(20, 10))) == [100, 20, 10]


def test_those_that_wait_come_in_the_order_of_their_sizes_and_one_that_leaves_holds_up_none() -> None:
    turns, begun = LoadTurns(free=lambda: 0), list[int]()

    async def load(size: int) -> None:
        async with turns.take(size):
            begun.append(size)
            await asyncio.sleep(1)

    async def main() -> None:
        tasks = [asyncio.create_task(load(size)) for size in (5, 4, 1, 3)]
        await asyncio.sleep(0.5)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    vclock.run(main())
    assert begun == [5, 3, 4]
