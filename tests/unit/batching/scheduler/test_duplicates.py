"""Rows that were seen before: single flight, and the memory of guilty ones."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.batching.entry import Entry
from darkroom.batching.errors import BatchingError, Closed, DeadlineExceeded, QueueFull
from darkroom.batching.limits import Limits
from tests.property.rig import BadPictureError, Diary, EchoRunner, batcher_of
from tests.vclock import run

if TYPE_CHECKING:
    from darkroom.batching.batcher import Batcher
    from darkroom.batching.entry import Answer


def identity(payload: Any, row: int) -> str:
    """A label is its own hash."""
    return str(payload[row])


def shared(runner: EchoRunner, limits: Limits | None = None, **options: Any) -> Batcher:
    """A batcher with single flight."""
    return batcher_of(runner, limits, row_identity=identity, single_flight=True, **options)


def test_identical_rows_in_flight_share_one_row() -> None:
    runner = EchoRunner()

    async def main() -> list[Answer]:
        batcher = shared(runner)
        first = asyncio.ensure_future(batcher.predict(Entry(["cat", "dog"], 2)))
        await asyncio.sleep(0.5)
        return [*await asyncio.gather(first, batcher.predict(Entry(["dog", "owl", "dog"], 3)))]

    first, second = run(main())
    assert [row for piece in first.pieces for row in piece] == ["cat", "dog"]  # type: ignore[attr-defined]  # lists
    assert [row for piece in second.pieces for row in piece] == ["dog", "owl", "dog"]  # type: ignore[attr-defined]
    assert [call.rows for call in runner.calls] == [["cat", "dog"], ["owl"]]
    assert second.timing.queue_s == 0.0  # it joined a call under way


def test_rows_are_run_again_once_nobody_waits_for_them() -> None:
    runner = EchoRunner()

    async def main() -> None:
        batcher = shared(runner)
        for _ in range(2):
            await batcher.predict(Entry(["cat"], 1))

    run(main())
    assert [call.rows for call in runner.calls] == [["cat"], ["cat"]]


def test_one_callers_cancellation_does_not_end_the_others() -> None:
    runner = EchoRunner()

    async def main() -> Answer:
        batcher = shared(runner, Limits(max_batch_images=1))
        batcher.submit(Entry(["blocks"], 1), lambda _: None)
        first, second = (asyncio.ensure_future(batcher.predict(Entry(["cat"], 1))) for _ in range(2))
        await asyncio.sleep(0.5)
        first.cancel()
        return await second

    assert run(main()).pieces == (["cat"],)
    assert [call.rows for call in runner.calls] == [["blocks"], ["cat"]]


def test_a_row_leaves_the_queue_with_the_last_caller_that_waits_for_it() -> None:
    runner = EchoRunner()

    async def main() -> None:
        batcher = shared(runner, Limits(max_batch_images=1))
        batcher.submit(Entry(["blocks"], 1), lambda _: None)
        callers = [asyncio.ensure_future(batcher.predict(Entry(["cat"], 1))) for _ in range(2)]
        await asyncio.sleep(0.5)
        assert batcher.stats().images == 1
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        assert batcher.stats().images == 0
        await batcher.drain(9.0)

    run(main())
    assert [call.rows for call in runner.calls] == [["blocks"]]


def test_a_later_caller_lets_the_row_wait_for_as_long_as_it_can_itself() -> None:
    """The first caller's time is over in the queue, and the row is still run for the second."""

    async def main() -> list[Answer]:
        batcher = shared(EchoRunner(seconds=lambda _: 4.0), Limits(max_batch_images=1))
        batcher.submit(Entry(["blocks"], 1), lambda _: None)
        await asyncio.sleep(0)
        waiting = [batcher.predict(Entry(["cat"], 1, deadline=due_s)) for due_s in (3.0, 20.0)]
        waiting.append(batcher.predict(Entry(["owl"], 1, deadline=19.0)))
        return await asyncio.gather(*waiting)

    first, second, third = run(main())
    assert isinstance(first.error, DeadlineExceeded)
    assert second.pieces == (["cat"],)
    assert third.pieces == (["owl"],)


def test_a_row_in_flight_may_be_joined_by_a_caller_with_more_time() -> None:
    """Its call fails with a neighbour's fault after the first caller's SLO, and it is run again for the second."""

    async def main() -> list[Answer]:
        batcher = shared(EchoRunner(seconds=lambda _: 3.0), slo_s=4.0)
        told: list[Answer] = []
        batcher.submit(Entry(["poison"], 1), lambda _: None)
        batcher.submit(Entry(["cat"], 1, deadline=2.0), told.append)
        await asyncio.sleep(2.5)
        return [*told, await batcher.predict(Entry(["cat"], 1))]

    first, second = run(main())
    assert isinstance(first.error, DeadlineExceeded)
    assert second.pieces == (["cat"],)


def test_a_postponed_row_expires_with_its_last_caller() -> None:
    async def main() -> list[Answer]:
        batcher = shared(EchoRunner(seconds=lambda _: 50.0), Limits(max_batch_images=1), slo_s=10.0)
        batcher.submit(Entry(["blocks"], 1), lambda _: None)
        await asyncio.sleep(1.0)
        first = asyncio.ensure_future(batcher.predict(Entry(["cat"], 1)))
        await asyncio.sleep(1.0)
        return [*await asyncio.gather(first, batcher.predict(Entry(["cat"], 1)))]

    answers = run(main())
    assert all(isinstance(answer.error, DeadlineExceeded) for answer in answers)
    assert all(answer.timing.execute_s == 0 for answer in answers)


def test_interactive_rows_do_not_wait_for_a_bulk_twin() -> None:
    runner = EchoRunner()

    async def main() -> None:
        batcher = shared(runner, Limits(max_batch_images=1))
        bulk = batcher.predict(Entry(["cat"], 1, bulk=True))
        await asyncio.gather(bulk, batcher.predict(Entry(["cat"], 1)), batcher.predict(Entry(["cat"], 1)))

    run(main())
    assert len(runner.calls) == 2


def test_a_guilty_row_is_guilty_for_all_who_share_it() -> None:
    diary = Diary()

    async def main() -> list[Answer]:
        batcher = shared(EchoRunner(), observer=diary)
        rows = (["poison", "a"], ["b", "poison"])
        return await asyncio.gather(*(batcher.predict(Entry(list(row), 2, keep_going=True)) for row in rows))

    first, second = run(main())
    assert (set(first.errors), set(second.errors)) == ({0}, {1})
    assert first.pieces == (["a"],)
    assert second.pieces == (["b"],)
    assert len(diary.of("guilty")) == 1


def test_a_failed_row_for_which_nobody_waits_any_more_is_not_run_again() -> None:
    runner = EchoRunner()

    async def main() -> None:
        batcher = shared(runner)
        caller = asyncio.ensure_future(batcher.predict(Entry(["a", "poison"], 2)))
        await asyncio.sleep(0.5)
        caller.cancel()
        await batcher.drain(9.0)

    run(main())
    assert len(runner.calls) == 1


def test_a_failed_call_fails_all_who_share_its_rows() -> None:
    async def main() -> list[Answer]:
        batcher = shared(EchoRunner())
        return await asyncio.gather(*(batcher.predict(Entry(["crash"], 1)) for _ in range(3)))

    assert [str(answer.error) for answer in run(main())] == ["out of memory"] * 3


def test_closing_ends_those_who_share_rows_once() -> None:
    async def main() -> list[Answer]:
        batcher = shared(EchoRunner(seconds=lambda _: 9.0))
        callers = [asyncio.ensure_future(batcher.predict(Entry(["cat", "dog"], 2))) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        batcher.close()
        assert batcher.stats()[:2] == (0, 0)
        return await asyncio.gather(*callers)

    assert all(isinstance(answer.error, Closed) for answer in run(main()))


def test_a_refused_entry_takes_no_part_of_the_queue_and_shared_rows_need_no_room() -> None:
    async def main() -> None:
        batcher = shared(EchoRunner(), Limits(max_batch_images=1, max_queue_images=2))
        callers = [asyncio.ensure_future(batcher.predict(Entry(["cat", "dog"], 2)))]
        await asyncio.sleep(0.1)
        batcher.submit(Entry(["owl"], 1), lambda _: None)
        with pytest.raises(QueueFull):
            batcher.submit(Entry(["dog", "fox"], 2), print)
        assert batcher.stats().images == 2
        batcher.submit(Entry(["dog", "owl"], 2, row_bytes=(5, 5)), lambda _: None)
        await asyncio.gather(*callers)
        await batcher.drain(9.0)

    run(main())


def test_whole_entries_share_nothing() -> None:
    runner = EchoRunner()

    async def main() -> None:
        batcher = shared(runner)
        await asyncio.gather(*(batcher.predict(Entry(["cat"], 1, whole=True)) for _ in range(2)))

    run(main())
    assert len(runner.calls) == 2


def test_thousands_of_shared_rows_leave_nothing_behind() -> None:
    async def main() -> int:
        batcher = shared(EchoRunner(seconds=lambda _: 0.1))
        for number in range(2000):
            await batcher.predict(Entry([f"cat-{number}"], 1))
        assert batcher._repeats is not None
        return len(batcher._repeats._carriers)

    assert run(main()) < 200


def test_a_row_found_guilty_is_not_run_again_for_a_minute() -> None:
    runner, diary = EchoRunner(), Diary()

    async def main() -> list[BaseException | None]:
        batcher = batcher_of(runner, row_identity=identity, observer=diary)
        errors = [(await batcher.predict(Entry(["poison"], 1))).error for _ in range(2)]
        await asyncio.sleep(60)
        errors.append((await batcher.predict(Entry(["poison"], 1))).error)
        return errors

    first, second, third = run(main())
    assert first is second
    assert third is not first
    assert len(runner.calls) == 2
    assert len(diary.of("guilty")) == 3


def test_a_remembered_row_is_left_out_of_an_entry_that_keeps_going() -> None:
    runner = EchoRunner()

    async def main() -> list[Answer]:
        batcher = batcher_of(runner, row_identity=identity)
        await batcher.predict(Entry(["poison"], 1))
        keeps = batcher.predict(
            Entry(["a", "poison", "b"], 3, row_bytes=(1, 2, 3), row_pixels=(1, 2, 3), keep_going=True)
        )
        ends = batcher.predict(Entry(["c", "poison"], 2))
        none = batcher.predict(Entry(["poison"], 1, keep_going=True))
        return [*await asyncio.gather(keeps, ends, none)]

    keeps, ends, none = run(main())
    assert [row for piece in keeps.pieces for row in piece] == ["a", "b"]  # type: ignore[attr-defined]  # lists
    assert set(keeps.errors) == {1}
    assert isinstance(ends.error, BadPictureError)
    assert ends.errors == {1: ends.error}
    assert (none.pieces, none.error) == ((), None)
    assert [call.rows for call in runner.calls] == [["poison"], ["a", "b"]]


def test_without_single_flight_identical_rows_of_an_entry_are_each_run() -> None:
    runner = EchoRunner()

    async def main() -> Answer:
        batcher = batcher_of(runner, row_identity=identity)
        await batcher.predict(Entry(["poison"], 1))
        await batcher.predict(Entry(["clean"], 1))
        return await batcher.predict(Entry(["a", "a", "poison"], 3, keep_going=True))

    assert [row for piece in run(main()).pieces for row in piece] == ["a", "a"]  # type: ignore[attr-defined]  # lists
    assert runner.calls[-1].rows == ["a", "a"]


def test_no_identity_is_computed_while_nothing_is_remembered() -> None:
    def never(*_: object) -> str:
        pytest.fail("an identity was computed")

    async def main() -> Answer:
        return await batcher_of(EchoRunner(), row_identity=never).predict(Entry(["a"], 1))

    assert run(main()).pieces == (["a"],)


def test_an_identity_that_raises_forgets_the_row_and_hurts_nobody() -> None:
    def broken(*_: object) -> str:
        raise BatchingError("no hash")

    async def main() -> Answer:
        batcher = batcher_of(EchoRunner(), row_identity=broken)
        return await batcher.predict(Entry(["poison"], 1))

    answer = run(main())
    assert isinstance(answer.error, BadPictureError)


def test_rows_that_may_share_a_row_are_not_refused_by_their_number() -> None:
    limits = Limits(max_queue_images=2)

    async def main() -> None:
        shared(EchoRunner(), limits).refuse_early(3, 60.0)
        with pytest.raises(QueueFull):
            batcher_of(EchoRunner(), limits, row_identity=identity).refuse_early(3, 60.0)

    run(main())
