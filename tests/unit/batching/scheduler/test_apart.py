"""Rows that fail together and are fine apart: what the queue learns from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from darkroom.batching.entry import Entry, Halves
from darkroom.batching.limits import Limits
from darkroom.batching.scheduler.apart import ALONE, BY_KIND, FORGIVEN, MISFITS, TOGETHER, Apart, KeptApart
from darkroom.batching.scheduler.queue import BatchQueue

if TYPE_CHECKING:
    from collections.abc import Hashable

    from darkroom.batching.entry import Batch


def entries(*kinds: Hashable) -> list[Entry]:
    return [Entry(None, 1, key="k", kind=kind) for kind in kinds]


def live(queue: BatchQueue, *offered: Entry, by: str = "kind") -> list[list[Hashable]]:
    """Runs all batches of these entries: one fails if its rows differ in `by`. Returns the kinds of each call."""
    calls: list[list[Hashable]] = []
    for entry in offered:
        queue.offer(entry, 0.0)
    while batches := queue.turn(0.0).batches:
        for batch in batches:
            calls.append([entry.kind for entry, start, stop in batch.spans for _ in range(start, stop)])
            differ = batch.images > 1 if by == "row" else len(set(calls[-1])) > 1
            queue.finish(batch, 0.0, is_ok=not differ)
            if differ:
                queue.suspect(batch.spans, 0.0)
            else:
                _end(queue, batch)
    return calls


def _end(queue: BatchQueue, batch: Batch) -> None:
    for entry, _, _ in batch.spans:
        if not entry.waiting_rows:
            queue.end(entry)


def learned(by: str, kinds: int = 4) -> BatchQueue:
    queue = BatchQueue(Limits(max_batch_images=8, max_inflight_batches=1))
    for _ in range(20):
        live(queue, *entries(*range(kinds), *range(kinds)), by=by)
    return queue


def test_kinds_that_fail_together_share_no_batch_once_that_is_learned() -> None:
    queue = learned("kind")
    assert queue.apart.level == BY_KIND
    assert live(queue, *entries(1, 2, 1, 2, 1)) == [[1, 1, 1], [2, 2]]


def test_rows_that_came_before_kinds_were_kept_apart_do_not_part_rows_of_one_kind() -> None:
    queue = BatchQueue(Limits(max_batch_images=8, max_inflight_batches=1, max_queue_images=128))
    live(queue, *entries(*[0, 1, 2, 3] * 32))
    assert queue.apart.level == BY_KIND


def test_rows_that_fail_together_whatever_their_kind_run_alone() -> None:
    queue = learned("row")
    assert queue.apart.level == ALONE
    assert live(queue, *entries(1, 2, 1)) == [[1], [2], [1]]


def test_an_entry_of_unknown_or_of_several_kinds_runs_row_by_row() -> None:
    queue = learned("kind")
    assert live(queue, Entry(None, 3, key="k"), *entries(1, 1)) == [[None], [None], [None], [1, 1]]


def test_an_entry_that_leaves_is_found_under_its_new_key() -> None:
    queue = learned("kind")
    kept, left = entries(1, 1)
    queue.offer(kept, 0.0)
    queue.offer(left, 0.0)
    assert left.key == KeptApart("k", 1)
    assert queue.end(left)
    assert live(queue) == [[1]]


def test_a_guilty_row_teaches_nothing() -> None:
    queue = BatchQueue(Limits(max_batch_images=8, max_inflight_batches=1))
    for _ in range(50):
        offered = entries(*"abcdefgh")
        for entry in offered:
            queue.offer(entry, 0.0)
        while batches := queue.turn(0.0).batches:
            (batch,) = batches
            is_bad = any(entry.kind == "c" for entry, _, _ in batch.spans)
            queue.finish(batch, 0.0, is_ok=not is_bad)
            if is_bad and batch.images > 1:
                queue.suspect(batch.spans, 0.0)
            else:
                _end(queue, batch)
    assert queue.apart.level == TOGETHER


@pytest.mark.parametrize(("successes", "level"), [(0, BY_KIND), (round(2 / FORGIVEN), TOGETHER)])
def test_merged_calls_that_succeed_outweigh_a_few_that_do_not(successes: int, level: int) -> None:
    apart = Apart()
    for _ in range(round(MISFITS)):
        halves = Halves()
        apart.note_success(halves, _new(apart))
        apart.note_success(halves, _new(apart))
        for _ in range(successes):
            apart.note_success(None, _new(apart))
    assert apart.level == level


@pytest.mark.parametrize("successes", [0, 1])
def test_so_many_misfits_raise_the_level_by_one_until_rows_are_alone(successes: int) -> None:
    apart = Apart()
    levels = [apart.level]
    for _ in range(successes):
        apart.note_success(None, _new(apart))
    for _ in range(3 * int(MISFITS)):
        _misfit(apart)
        levels.append(apart.level)
    assert [levels.count(level) for level in (TOGETHER, BY_KIND, ALONE)] == [MISFITS, MISFITS, MISFITS + 1]


def _new(apart: Apart) -> Entry:
    """An entry that comes now."""
    entry = Entry(None, 2)
    if apart.level != TOGETHER:
        apart.place(entry)
    return entry


def _misfit(apart: Apart) -> None:
    for halves in [Halves()] * 2:
        apart.note_success(halves, _new(apart))


def test_a_pair_that_is_answered_counts_for_sharing_and_a_single_row_does_not() -> None:
    pairs, singles = (BatchQueue(Limits(max_batch_images=2)) for _ in range(2))
    for queue, kinds in ((pairs, (0, 0)), (singles, (0,))):
        for _ in range(int(MISFITS) - 1):
            _misfit(queue.apart)
        for _ in range(int(1 / FORGIVEN)):
            live(queue, *entries(*kinds))
        _misfit(queue.apart)
    assert (pairs.apart.level, singles.apart.level) == (TOGETHER, BY_KIND)
