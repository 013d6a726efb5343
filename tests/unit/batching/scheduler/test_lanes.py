"""The books of one FIFO, and of the due times."""

import math

import pytest

from darkroom.batching.entry import Entry
from darkroom.batching.limits import Limits
from darkroom.batching.scheduler.deadlines import Deadlines
from darkroom.batching.scheduler.lanes import Fifo


def due(due_s: float, size: int = 1) -> Entry:
    """One row that is due then."""
    entry = Entry(None, 1, row_bytes=(size,), row_pixels=(2 * size,))
    entry.due_s = due_s
    return entry


def fifo_of(*entries: Entry) -> Fifo:
    """A FIFO with these entries."""
    fifo = Fifo("key", is_bulk=False, is_whole=False)
    for entry in entries:
        fifo.append(entry)
    return fifo


def test_a_fifo_knows_a_time_before_which_none_of_its_entries_is_due() -> None:
    entries = [due(due_s) for due_s in (5.0, 5.0, 9.0)]
    fifo = fifo_of(*entries)
    fifo.take(2, Limits())
    assert fifo.due_s == 9.0, "in order, so the head's"
    for due_s, earliest_s in ((3.0, 3.0), (7.0, 3.0), (2.0, 2.0), (math.inf, 2.0)):
        fifo.append(due(due_s))
        assert fifo.due_s == earliest_s
    fifo.take(5, Limits())
    fifo.append(due(8.0))
    assert fifo.due_s == 8.0, "none of those before is left"


def test_a_fifo_counts_what_comes_and_what_leaves_from_anywhere() -> None:
    first, second, third = (due(1.0, size) for size in (10, 20, 30))
    fifo = fifo_of(first, second, third)
    assert (fifo.rows, fifo.bytes, fifo.pixels) == (3, 60, 120)
    fifo.remove(second)
    assert (fifo.rows, fifo.bytes, fifo.pixels) == (2, 40, 80)
    fifo.take(1, Limits())
    assert (fifo.rows, fifo.bytes, fifo.pixels) == (1, 30, 60)


@pytest.mark.parametrize("step_s", [1.0, -1.0], ids=["in order", "out of order"])
def test_due_times_of_ended_entries_are_at_most_as_many_as_those_of_pending_ones_and_a_few(step_s: float) -> None:
    deadlines = Deadlines()
    for number in range(100):
        deadlines.accept(due(1e4 + step_s * number), 0.0)
    for number in range(100, 600):
        gone = due(1e4 + step_s * number)
        deadlines.accept(gone, 0.0)
        assert len(deadlines._ordered) + len(deadlines._heap) <= 2 * len(deadlines.entries) + 64
        deadlines.end(gone)
