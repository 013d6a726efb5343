"""The memory of guilty rows: the cache by itself, and what it saves a batcher."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.batching.entry import Entry, EntryState
from darkroom.batching.errors import BatchingError, DeadlineExceeded, QueueFull
from darkroom.batching.limits import Limits
from darkroom.batching.scheduler.poison_cache import PoisonCache
from tests.property.rig import BadPictureError, Diary, EchoBackend, batcher_of
from tests.vclock import run

if TYPE_CHECKING:
    from darkroom.batching.entry import Answer


def identity(payload: Any, row: int) -> str:
    """A label is its own hash."""
    return str(payload[row])


def test_a_guilty_row_is_remembered_for_its_time_and_no_longer() -> None:
    cache, error = PoisonCache(identity, ttl_s=60), ValueError("bad")
    entry = Entry(["fine", "bad"], 2)
    cache.add(entry, 1, error, now=0.0)
    assert cache.find(entry, now=59.9) == {1: error}
    assert cache.find(entry, now=60.0) == {}


def test_a_row_is_remembered_for_its_key_only_and_never_for_a_whole_entry() -> None:
    cache = PoisonCache(identity)
    cache.add(Entry(["bad"], 1, key="a"), 0, ValueError("bad"), now=0.0)
    assert list(cache.find(Entry(["bad"], 1, key="a"), now=1.0)) == [0]
    assert cache.find(Entry(["bad"], 1, key="b"), now=1.0) == {}
    assert cache.find(Entry(["bad"], 1, key="a", whole=True), now=1.0) == {}


def test_the_oldest_is_forgotten_first_when_there_are_too_many() -> None:
    cache = PoisonCache(identity, rows=2)
    entry = Entry("abc", 3)
    for row in range(3):
        cache.add(entry, row, ValueError(row), now=float(row))
    assert list(cache.find(entry, now=3.0)) == [1, 2]


def test_a_row_that_is_guilty_again_is_the_youngest_again() -> None:
    cache = PoisonCache(identity, rows=2)
    entry = Entry("abc", 3)
    for now, row in enumerate([0, 1, 0, 2]):
        cache.add(entry, row, ValueError(row), now=float(now))
    assert list(cache.find(entry, now=4.0)) == [0, 2]


def test_a_row_found_guilty_is_not_run_again_for_a_minute() -> None:
    backend, diary = EchoBackend(), Diary()

    async def main() -> list[BaseException | None]:
        batcher = batcher_of(backend, row_identity=identity, observer=diary)
        errors = [(await batcher.predict(Entry(["poison"], 1))).error for _ in range(2)]
        await asyncio.sleep(60)
        errors.append((await batcher.predict(Entry(["poison"], 1))).error)
        return errors

    first, second, third = run(main())
    assert first is second
    assert third is not first
    assert len(backend.calls) == 2
    assert diary.of("guilty") == [(first,), (second,), (third,)]


def test_a_remembered_row_is_left_out_of_an_entry_that_keeps_going() -> None:
    backend = EchoBackend()

    async def main() -> list[Answer]:
        batcher = batcher_of(backend, row_identity=identity)
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
    assert [call.rows for call in backend.calls] == [["poison"], ["a", "b"]]


def test_the_rows_around_remembered_ones_are_split_over_batches_and_answered_in_order() -> None:
    backend = EchoBackend()

    async def main() -> tuple[Answer, Any, Any]:
        batcher = batcher_of(backend, Limits(max_batch_images=2), row_identity=identity)
        await batcher.predict(Entry(["poison"], 1))
        labels = ["poison", "a", "b", "poison", "poison", "c", "d", "e", "poison"]
        entry = Entry(labels, 9, row_bytes=range(9), keep_going=True)
        waiting = asyncio.ensure_future(batcher.predict(entry))
        await asyncio.sleep(0)
        before = batcher.stats()
        return await waiting, before, batcher.stats()

    answer, before, after = run(main())
    assert [row for piece in answer.pieces for row in piece] == list("abcde")  # type: ignore[attr-defined]  # lists
    assert set(answer.errors) == {0, 3, 4, 8}
    assert [call.rows for call in backend.calls] == [["poison"], ["a", "b"], ["c", "d"], ["e"]]
    assert (before.images, before.bytes) == (5, 1 + 2 + 5 + 6 + 7)
    assert (after.images, after.bytes) == (0, 0)


def test_bytes_cut_a_batch_between_remembered_rows_too() -> None:
    backend = EchoBackend()

    async def main() -> Answer:
        batcher = batcher_of(backend, Limits(max_batch_bytes=10), row_identity=identity)
        await batcher.predict(Entry(["poison"], 1))
        entry = Entry(["a", "b", "poison", "c", "d"], 5, row_bytes=[4] * 5, keep_going=True)
        return await batcher.predict(entry)

    assert run(main()).errors.keys() == {2}
    assert [call.rows for call in backend.calls] == [["poison"], ["a", "b"], ["c", "d"]]


def test_remembered_rows_need_no_room_in_the_queue_and_a_refused_entry_stays_as_it_was() -> None:
    async def main() -> None:
        batcher = batcher_of(EchoBackend(), Limits(max_queue_images=2, max_queue_bytes=10), row_identity=identity)
        await batcher.predict(Entry(["poison"], 1))
        fits = Entry(["a", "poison", "b"], 3, row_bytes=(5, 99, 5), keep_going=True)
        too_many = Entry(["a", "poison", "b", "c"], 4, keep_going=True)
        with pytest.raises(QueueFull):
            batcher.submit(too_many, print)
        assert (too_many.state, too_many.progress, too_many.unsent_rows) == (EntryState.NEW, None, 4)
        assert (await batcher.predict(fits)).error is None

    run(main())


def test_an_entry_with_remembered_rows_expires_as_any_other() -> None:
    async def main() -> Answer:
        batcher = batcher_of(EchoBackend(), Limits(max_batch_images=1), row_identity=identity)
        await batcher.predict(Entry(["poison"], 1))
        batcher.submit(Entry(["blocks"], 1), lambda _: None)
        await asyncio.sleep(0.5)
        answer = await batcher.predict(Entry(["a", "poison", "b"], 3, deadline=2.5, keep_going=True))
        assert batcher.stats()[:2] == (0, 0)
        return answer

    answer = run(main())
    assert isinstance(answer.error, DeadlineExceeded)
    assert set(answer.errors) == {1}


def test_identical_healthy_rows_of_an_entry_are_each_run() -> None:
    backend = EchoBackend()

    async def main() -> Answer:
        batcher = batcher_of(backend, row_identity=identity)
        await batcher.predict(Entry(["poison"], 1))
        await batcher.predict(Entry(["clean"], 1))
        return await batcher.predict(Entry(["a", "a", "poison"], 3, keep_going=True))

    assert [row for piece in run(main()).pieces for row in piece] == ["a", "a"]  # type: ignore[attr-defined]  # lists
    assert backend.calls[-1].rows == ["a", "a"]


def test_no_identity_is_computed_while_nothing_is_remembered() -> None:
    def never(*_: object) -> str:
        pytest.fail("an identity was computed")

    async def main() -> Answer:
        return await batcher_of(EchoBackend(), row_identity=never).predict(Entry(["a"], 1))

    assert run(main()).pieces == (["a"],)


def test_an_identity_that_raises_forgets_the_row_and_affects_no_entry() -> None:
    def broken(*_: object) -> str:
        raise BatchingError("no hash")

    async def main() -> Answer:
        batcher = batcher_of(EchoBackend(), row_identity=broken)
        return await batcher.predict(Entry(["poison"], 1))

    answer = run(main())
    assert isinstance(answer.error, BadPictureError)
