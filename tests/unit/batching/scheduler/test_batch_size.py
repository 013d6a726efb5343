"""Batch sizes: for the most rows a second, and for the most rows in time."""

from itertools import product
from math import prod

import pytest

from darkroom.batching.entry import Batch, Entry, Reason
from darkroom.batching.errors import PredictedLate
from darkroom.batching.limits import Limits
from darkroom.batching.scheduler.batch_size import BatchSizer
from darkroom.batching.scheduler.deadline_fit import DeadlineFit
from darkroom.batching.scheduler.queue import BatchQueue
from darkroom.batching.scheduler.service_curve import ServiceCurve
from loadtest.simulate.simulation import EFFICIENTNET_LITE0


def lite0(images: int = 32) -> ServiceCurve:
    """EfficientNet-Lite0 on 2 cores: best in eights."""
    curve = ServiceCurve(images)
    for n, seconds in EFFICIENTNET_LITE0.items():
        if n <= images:
            curve.seed(n, seconds)
    return curve


def row(due_s: float | None = None) -> Entry:
    """One picture."""
    return Entry(None, 1, deadline=due_s)


def busy(curve: ServiceCurve, *, slo_s: float | None = None) -> tuple[BatchQueue, Batch]:
    """A queue whose engine runs a batch of one row since 0 s."""
    queue = BatchQueue(Limits(), curve=curve, slo_s=slo_s)
    queue.offer(row(), 0.0)
    (first,) = queue.turn(0.0).batches
    return queue, first


def test_a_long_queue_is_split_into_the_most_efficient_size() -> None:
    sizer = BatchSizer(Limits(), lite0())
    assert sizer.target() == 8
    assert sizer.size(500) == 8


def test_what_waits_goes_together_unless_a_smaller_size_is_more_efficient() -> None:
    sizer = BatchSizer(Limits(), lite0())
    assert [sizer.size(rows) for rows in (1, 3, 8, 12)] == [1, 3, 8, 8]


def test_without_a_curve_a_batch_is_as_large_as_allowed() -> None:
    sizer = BatchSizer(Limits(), None)
    assert (sizer.target(), sizer.size(500), sizer.size(3)) == (32, 32, 3)
    assert sizer.cost(8) == 1.0
    assert sizer.is_stale(0.0)


def test_before_anything_is_known_a_batch_is_as_large_as_allowed() -> None:
    sizer = BatchSizer(Limits(), ServiceCurve(32))
    assert (sizer.target(), sizer.size(500)) == (32, 32)


def test_every_eighth_choice_tries_the_next_size_above_and_below_alternately() -> None:
    sizer = BatchSizer(Limits(), lite0())
    sizes = [sizer.size(500) for _ in range(24)]
    assert sizes == [*[8] * 7, 12, *[8] * 7, 6, *[8] * 7, 12]
    assert {sizer.size(3) for _ in range(24)} == {3}, "a batch of all that wait chooses nothing"


def test_slow_sizes_that_were_never_measured_are_at_most_twice_the_largest_known_one() -> None:
    curve = ServiceCurve(32)
    curve.seed(1, 0.25)
    sizer = BatchSizer(Limits(), curve)
    ran = []
    for _ in range(64):
        ran.append(sizer.size(500))
        curve.learn(ran[-1], 0.25 * ran[-1] if ran[-1] <= 8 else 0.4 * ran[-1], 0.0)
    assert ran[:5] == [2, 4, 8, 16, 8]
    assert ran[-8:].count(8) >= 7
    for known, call_s, size in ((1, 0.001, 32), (1, 0.25 / 32, 32), (1, 0.26 / 32, 2), (12, 1.0, 24), (16, 1.0, 32)):
        curve = ServiceCurve(32)
        curve.seed(known, call_s)
        assert BatchSizer(Limits(), curve).size(500) == size


def test_a_size_without_a_neighbour_stays() -> None:
    curve = ServiceCurve(2)
    curve.seed(1, 1.0)
    curve.seed(2, 1.0)
    largest = BatchSizer(Limits(max_batch_images=2), curve)
    assert [largest.size(9) for _ in range(16)] == [2] * 15 + [1]
    curve = ServiceCurve(2)
    curve.seed(1, 1.0)
    curve.seed(2, 9.0)
    smallest = BatchSizer(Limits(max_batch_images=2), curve)
    assert [smallest.size(9) for _ in range(16)] == [1] * 7 + [2] + [1] * 8


def test_poison_makes_batches_smaller_and_time_makes_them_larger_again() -> None:
    sizer = BatchSizer(Limits(), lite0())
    sizer.note_run(1000)
    for _ in range(100):
        sizer.note_guilty()
    assert sizer.target() == 2
    for _ in range(300):
        sizer.note_run(100)
    sizer.note_guilty()
    assert sizer.target() == 8


@pytest.mark.parametrize("samples", [1, 200])
def test_a_guilty_row_changes_the_size_at_once_whatever_is_known(samples: int) -> None:
    curve = ServiceCurve(32)
    for _ in range(samples):
        curve.seed(1, 0.001)
    sizer = BatchSizer(Limits(), curve)
    assert sizer.target() == 32
    for _ in range(100):
        sizer.note_guilty()
    assert sizer.target() == 1


def test_one_guilty_row_counts_where_small_batches_cost_no_more() -> None:
    curve = ServiceCurve(32)
    for n in curve.sizes:
        curve.seed(n, 0.01 * n)
    sizer = BatchSizer(Limits(), curve)
    assert sizer.target() == 32
    sizer.note_guilty()
    assert sizer.target() == 1


def test_the_share_of_guilty_rows_is_that_of_the_last_few_thousand() -> None:
    sizer = BatchSizer(Limits(), None)
    for _ in range(8):
        sizer.note_guilty()
    seen = []
    for images in (3968, 1, 2046, 1, 1):
        sizer.note_run(images)
        seen.append((sizer._rows, sizer._guilty))
    assert seen == [(4096, 8), (2048, 4), (4094, 4), (4095, 4), (4096, 4)]
    sizer.note_run(2)
    assert (sizer._rows, sizer._guilty) == (2049, 2)


def test_sizes_are_chosen_after_each_of_the_first_samples_and_then_after_each_eighth() -> None:
    curve = ServiceCurve(8)
    sizer = BatchSizer(Limits(max_batch_images=8), curve)
    looked = []
    for _ in range(145):
        curve.seed(1, 0.1)
        sizer.target()
        looked.append(sizer._version)
    assert looked == [*range(1, 128), *[127] * 7, *[135] * 8, *[143] * 3]


@pytest.mark.parametrize(("images", "most"), [(1, 1), (2, 1), (3, 1), (5, 2), (64, 32)])
def test_after_a_call_without_memory_batches_are_half_as_large_for_a_while(images: int, most: int) -> None:
    sizer = BatchSizer(Limits(), None)
    sizer.note_too_large(images)
    tops = []
    for _ in range(1000):
        tops.append(sizer.target())
        sizer.note_run(0)
    assert set(tops) == {most}
    assert sizer.target() == 32


def test_a_call_without_memory_makes_no_batch_larger_than_is_known() -> None:
    curve = ServiceCurve(32)
    curve.seed(1, 0.2)
    sizer = BatchSizer(Limits(), curve)
    assert sizer.target() == 2
    sizer.note_too_large(32)
    assert sizer.target() == 2


def test_a_curve_is_stale_after_a_second() -> None:
    curve = ServiceCurve(8)
    curve.learn(1, 0.1, now=5.0)
    assert [BatchSizer(Limits(), curve).is_stale(now) for now in (6.0, 6.01)] == [False, True]


@pytest.mark.parametrize("guilty", [0, 16, 64, 128, 200])
@pytest.mark.parametrize("images", [1, 2, 4, 8])
def test_the_cost_of_bisection_is_what_halving_every_batch_would_take(images: int, guilty: int) -> None:
    curve = ServiceCurve(8)
    for n in range(1, 9):
        curve.seed(n, 0.5 + n)
    sizer = BatchSizer(Limits(max_batch_images=8), curve)
    for _ in range(guilty):
        sizer.note_guilty()
    share = min(1.0, guilty / 128)

    def halves_s(rows: tuple[bool, ...]) -> float:
        if len(rows) == 1 or not any(rows):
            return 0.0
        middle = len(rows) // 2
        return 2 * curve.expected(middle) + halves_s(rows[:middle]) + halves_s(rows[middle:])

    wanted_s = sum(
        prod(share if is_guilty else 1 - share for is_guilty in rows) * halves_s(rows)
        for rows in product((False, True), repeat=images)
    )
    assert sizer._bisection_s(curve, images) == pytest.approx(wanted_s)


def test_the_least_time_of_an_entry_is_that_of_its_full_calls_on_all_places_or_of_one_call() -> None:
    curve = ServiceCurve(4)
    for n in curve.sizes:
        curve.seed(n, float(n))
    limits = Limits(max_batch_images=4, max_inflight_batches=2)
    fit = DeadlineFit(limits, BatchSizer(limits, curve), curve)
    assert [fit._alone_s(rows) for rows in (1, 3, 4, 9, 12, 15)] == [1.0, 3.0, 4.0, 4.0, 6.0, 6.0]


def test_the_queue_takes_no_more_rows_than_can_all_be_in_time() -> None:
    curve = ServiceCurve(32)
    queue = BatchQueue(Limits(), curve=curve)
    for _ in range(8):
        queue.offer(row(due_s=0.04), 0.0)  # nothing is known yet, so all are admitted
    for n, seconds in EFFICIENTNET_LITE0.items():
        curve.seed(n, seconds)
    (batch,) = queue.turn(0.0).batches
    assert (batch.images, batch.reason) == (5, Reason.SLACK)  # eight take 56 ms, five 37


def test_an_idle_engine_admits_as_many_rows_as_can_ride_together_in_time() -> None:
    queue = BatchQueue(Limits(), curve=lite0())
    for _ in range(5):
        queue.offer(row(due_s=0.04), 0.0)
    with pytest.raises(PredictedLate):
        queue.offer(row(due_s=0.04), 0.0)


def test_a_row_that_nothing_can_save_is_dropped_before_it_costs() -> None:
    curve = lite0()
    queue, first = busy(curve)
    doomed, fine = row(due_s=0.1), row(due_s=9.0)
    queue.offer(doomed, 0.0)
    queue.offer(fine, 0.0)
    curve.learn(1, 1 / 82, now=0.095)
    queue.finish(first, 0.095, is_ok=False)
    (batch,), ended, _ = queue.turn(0.095)
    assert [span[0] for span in batch.spans] == [fine]
    assert ended == [doomed]


def test_when_all_that_wait_are_doomed_nothing_runs() -> None:
    curve = lite0()
    queue, first = busy(curve)
    doomed = row(due_s=0.1)
    queue.offer(doomed, 0.0)
    curve.learn(1, 1 / 82, now=0.095)
    queue.finish(first, 0.095, is_ok=False)
    assert queue.turn(0.095)[:2] == ([], [doomed])


def test_a_stale_curve_dooms_no_entry() -> None:
    queue = BatchQueue(Limits(), curve=lite0())
    hopeful = row(due_s=50.001)
    queue.offer(hopeful, 0.0)
    (batch,) = queue.turn(50.0).batches
    assert [span[0] for span in batch.spans] == [hopeful]


def test_heads_are_given_up_where_small_batches_would_only_hand_the_delay_on() -> None:
    """Sixteen rows, 1 ms apart: the first six can only be saved one by one, and then all would be as late."""
    curve = lite0()
    queue, first = busy(curve, slo_s=1.0)
    rows = [row() for _ in range(16)]
    for number, each in enumerate(rows):
        queue.offer(each, 0.001 * number)
    now = 1.0 - curve.tail(8) + 0.0055
    curve.learn(1, 1 / 82, now=now)
    queue.finish(first, now, is_ok=False)
    (batch,), ended, _ = queue.turn(now)
    assert [span[0] for span in batch.spans] == rows[6:14]
    assert batch.reason is Reason.FULL
    assert ended == rows[:6]


def test_heads_are_not_given_up_for_fewer_rows_a_second() -> None:
    """Two of three are late in any case; of the tight head and the last, the head goes first."""
    curve = ServiceCurve(32)
    queue = BatchQueue(Limits(), curve=curve)
    rows = [row(due_s) for due_s in (0.013, 0.02, 0.036)]
    for each in rows:
        queue.offer(each, 0.0)
    for n, seconds in EFFICIENTNET_LITE0.items():
        curve.seed(n, seconds)
    curve.learn(1, 1 / 82, now=0.0)
    (batch,), ended, _ = queue.turn(0.0)
    assert [span[0] for span in batch.spans] == rows[:1]
    assert ended == []


def test_the_head_is_saved_where_no_other_can_be() -> None:
    curve = ServiceCurve(32)
    queue = BatchQueue(Limits(), curve=curve)
    rows = [row(due_s) for due_s in (0.013, 0.0185)]
    for each in rows:
        queue.offer(each, 0.0)
    for n, seconds in EFFICIENTNET_LITE0.items():
        curve.seed(n, seconds)
    curve.learn(1, 1 / 82, now=0.0)
    (batch,) = queue.turn(0.0).batches
    assert [span[0] for span in batch.spans] == rows[:1]


def test_heads_are_saved_where_the_others_have_time() -> None:
    curve = lite0()
    queue = BatchQueue(Limits(), curve=curve)
    curve.learn(1, 1 / 82, now=0.0)
    tight = row(due_s=0.015)
    queue.offer(tight, 0.0)
    for _ in range(10):
        queue.offer(row(due_s=9.0), 0.0)
    (batch,) = queue.turn(0.0).batches
    assert [span[0] for span in batch.spans] == [tight]


def test_a_tight_row_in_the_middle_cuts_the_batch_only_as_far_as_it_must() -> None:
    queue = BatchQueue(Limits(), curve=lite0())
    for due_s in (9.0, 9.0, 0.045, 9.0, 9.0, 9.0):
        queue.offer(row(due_s=due_s), 0.0)
    (batch,) = queue.turn(0.0).batches
    assert batch.images == 6  # 44 ms


@pytest.mark.parametrize(
    ("deadlines", "ran", "ended"),
    [
        ((2.0, 6.0, 6.0), [0], []),
        ((2.0, 5.9, 5.9), [1, 2], [0]),
        ((0.5, 2.0, 9.0, 9.0), [1], [0]),
        ((0.5, 0.4), [], [0, 1]),
        ((2.0, 9.0, 2.0), [0], []),
    ],
    ids=["the others are just in time", "they would be late", "one is doomed", "all are", "the last is as tight"],
)
def test_who_goes_first_and_who_is_given_up(deadlines: tuple[float, ...], ran: list[int], ended: list[int]) -> None:
    """A call takes a second, and one more for each row."""
    curve = ServiceCurve(8)
    queue = BatchQueue(Limits(max_batch_images=8), curve=curve)
    rows = [row(due_s) for due_s in deadlines]
    for each in rows:
        queue.offer(each, 0.0)  # nothing is known yet, so all are admitted
    for n in curve.sizes:
        curve.seed(n, 1.0 + n)
    curve.learn(1, 2.0, now=0.0)
    turn = queue.turn(0.0)
    assert [rows.index(span[0]) for batch in turn.batches for span in batch.spans] == ran
    assert [rows.index(each) for each in turn.ended] == ended
    assert all(batch.reason in {Reason.SLACK, Reason.IDLE} for batch in turn.batches)


def test_rows_of_an_entry_that_is_due_later_than_its_first_batch_are_started() -> None:
    """Its first four rows are just in time, and whether the others will be is seen when they leave."""
    curve = ServiceCurve(4)
    queue = BatchQueue(Limits(max_batch_images=4), curve=curve)
    queue.offer(Entry(None, 8, deadline=4.0), 0.0)
    for n in curve.sizes:
        curve.seed(n, float(n))
    curve.learn(1, 1.0, now=0.0)
    (batch,), ended, _ = queue.turn(0.0)
    assert (batch.images, batch.reason, ended) == (4, Reason.FULL, [])


def test_a_whole_entry_is_judged_by_its_own_rows() -> None:
    curve = ServiceCurve(8)
    queue = BatchQueue(Limits(max_batch_images=8), curve=curve)
    for _ in range(2):
        queue.offer(Entry(None, 2, whole=True, deadline=2.5), 0.0)
    for n in curve.sizes:
        curve.seed(n, float(n))
    (batch,) = queue.turn(0.0).batches
    assert (batch.images, batch.reason) == (2, Reason.IDLE)


@pytest.mark.parametrize(("linger_s", "reason"), [(0.0, Reason.IDLE), (0.5, Reason.LINGER)])
def test_rows_that_are_all_in_time_leave_for_the_usual_reason(linger_s: float, reason: Reason) -> None:
    """The FIFO does not know that its tightest row has left."""
    curve = ServiceCurve(8)
    queue = BatchQueue(Limits(max_batch_images=8, linger_s=linger_s), curve=curve)
    rows = [row(due_s) for due_s in (9.0, 3.0, 9.0, 9.0, 9.0)]
    for each in rows:
        queue.offer(each, 0.0)
    queue.end(rows[1])
    for n in curve.sizes:
        curve.seed(n, 0.5 * n + 1.25)
    curve.learn(1, 1.75, now=linger_s)
    (batch,) = queue.turn(linger_s).batches
    assert (batch.images, batch.reason) == (4, reason)


def test_a_whole_entry_is_doomed_as_a_whole() -> None:
    curve = lite0()
    queue, first = busy(curve)
    doomed = Entry(None, 4, whole=True, deadline=0.2)
    queue.offer(doomed, 0.0)
    curve.learn(1, 1 / 82, now=0.18)
    queue.finish(first, 0.18, is_ok=False)
    assert queue.turn(0.18)[:2] == ([], [doomed])


def test_a_tight_slo_makes_admission_count_in_smaller_batches() -> None:
    """70 ms are too few to wait for one batch of eight and leave in the next; for fours they suffice."""
    queue = BatchQueue(Limits(), curve=lite0(), slo_s=0.07)
    for _ in range(3):
        queue.offer(row(), 0.0)
    assert queue.turn(0.0).batches
    for _ in range(4):
        queue.offer(row(), 0.001)
    with pytest.raises(PredictedLate):
        queue.offer(row(), 0.001)
