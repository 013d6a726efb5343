"""What an entry that needs more than one batch knows of itself."""

import pytest

from darkroom.batching.entry import EngineCall, Entry, Progress, Reason, Timing
from tests.property.rig import BadPictureError

ERROR = BadPictureError("?")


@pytest.mark.parametrize(
    ("keep_going", "guilty", "left"),
    [(True, {}, [0, 1, 2]), (True, {1: ERROR}, [0, 2]), (False, {}, [0, 1, 2]), (False, {1: ERROR}, [])],
)
def test_a_guilty_row_leaves_the_others_only_where_the_entry_keeps_going(
    keep_going: bool, guilty: dict[int, BaseException], left: list[int]
) -> None:
    assert Entry(None, 3, keep_going=keep_going).rows_without(guilty) == left


def test_rows_run_from_one_that_is_left_out_to_the_next() -> None:
    entry = Entry(None, 6, keep_going=True)
    entry.exclude({0: ERROR, 2: ERROR, 3: ERROR})
    runs = []
    for row in range(6):
        entry.start_run(row)
        runs.append((entry.next_row, entry.run_stop))
    assert runs == [(1, 2), (1, 2), (4, 6), (4, 6), (4, 6), (5, 6)]


def test_the_times_of_an_entry_are_those_of_all_its_batches_each_counted_once() -> None:
    entry = Entry(None, 3)
    entry.arrived_s = 2.0
    assert entry.timing(5.0) == Timing(3.0)
    progress = entry.progress = Progress()
    assert entry.timing(5.0) == Timing(3.0)
    calls = tuple(
        EngineCall(number, started_s, 0.25, 1.0, 0.125, images, padding=0, parts=1, reason=reason)
        for number, (started_s, images, reason) in enumerate(
            [(3.0, 4, Reason.FULL), (3.0, 2, Reason.RETRY), (4.0, 3, Reason.RETRY)]
        )
    )
    for call in calls:
        for _ in range(2):
            progress.add_call(call)
    assert entry.timing(9.0) == Timing(1.0, 3.0, 4, Reason.FULL, 0.75, 0.375, 2, calls)
    assert [call.seconds for call in calls] == [1.375] * 3


def test_pieces_are_in_the_order_of_their_rows_whatever_they_are() -> None:
    progress = Progress()
    for start, piece in ((2, "a"), (0, "c"), (1, "b")):
        progress.add_piece(start, start + 1, piece)
    assert progress.answer(Entry(None, 3), 0.0).pieces == ("c", "b", "a")
