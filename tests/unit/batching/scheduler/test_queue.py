"""The textbook cases of the state machine; the properties hold the rest."""

import math

import pytest

from darkroom.batching.entry import Batch, Entry, EntryState, Reason
from darkroom.batching.errors import Closed, PredictedLate, QueueFull
from darkroom.batching.limits import Limits
from darkroom.batching.scheduler.admission import Ticket
from darkroom.batching.scheduler.queue import MAX_SHAPES, BatchQueue
from darkroom.batching.scheduler.service_curve import ServiceCurve


def only(queue: BatchQueue, now: float) -> Batch:
    """The one batch of a turn that ends no entry."""
    batches, ended, _ = queue.turn(now)
    assert ended == []
    assert len(batches) == 1
    return batches[0]


def is_idle(queue: BatchQueue, now: float) -> bool:
    """Whether a turn does nothing."""
    return queue.turn(now)[:2] == ([], [])


def rows_of(batch: Batch) -> list[object]:
    """The labels that a batch carries."""
    return [payload[row] for payload, start, stop in batch.parts for row in range(start, stop)]  # type: ignore[index]


def entry(*labels: str, **options: object) -> Entry:
    """An entry with these rows."""
    return Entry(labels, len(labels), **options)  # type: ignore[arg-type]


def curve(*, call_s: float = 0.0, row_s: float = 0.1, images: int = 8) -> ServiceCurve:
    """A machine that needs `call_s` and `row_s` a row."""
    known = ServiceCurve(images)
    for n in known.sizes:
        known.seed(n, call_s + row_s * n)
    return known


def test_an_idle_engine_gets_whatever_waits_at_once() -> None:
    queue = BatchQueue(Limits())
    queue.offer(entry("a"), 0.0)
    queue.offer(entry("b", "c"), 0.0)
    batch = only(queue, 0.0)
    assert rows_of(batch) == ["a", "b", "c"]
    assert batch.reason is Reason.IDLE
    assert is_idle(queue, 0.0)


def test_while_the_engine_works_the_next_batch_grows() -> None:
    queue = BatchQueue(Limits())
    queue.offer(entry("a"), 0.0)
    first = only(queue, 0.0)
    queue.offer(entry("b"), 0.1)
    queue.offer(entry("c"), 0.2)
    assert is_idle(queue, 0.2)
    queue.finish(first, 0.3, is_ok=True)
    assert rows_of(only(queue, 0.3)) == ["b", "c"]


def test_one_tick_before_the_window_nothing_leaves_and_at_its_end_exactly_one_batch() -> None:
    queue = BatchQueue(Limits(linger_s=0.005))
    queue.offer(entry("a"), 0.0)
    queue.offer(entry("b"), 0.0049)
    assert queue.turn(0.00499) == ([], [], 0.005)
    batch = only(queue, 0.005)
    assert rows_of(batch) == ["a", "b"]
    assert batch.reason is Reason.LINGER
    assert is_idle(queue, 0.005)


def test_a_full_batch_keeps_no_window() -> None:
    queue = BatchQueue(Limits(max_batch_images=2, linger_s=1.0))
    queue.offer(entry("a"), 0.0)
    queue.offer(entry("b"), 0.0)
    batch = only(queue, 0.0)
    assert rows_of(batch) == ["a", "b"]
    assert batch.reason is Reason.FULL


def test_a_window_ends_when_the_most_urgent_row_must_leave() -> None:
    queue = BatchQueue(Limits(linger_s=5.0), curve=curve(row_s=0.5))
    queue.offer(entry("a", deadline=2.0), 0.0)
    assert queue.turn(0.0).wake_at == pytest.approx(1.5)
    assert is_idle(queue, 1.4)
    batch = only(queue, 1.5)
    assert batch.reason is Reason.SLACK


def test_without_a_curve_a_window_ends_when_a_row_is_due() -> None:
    queue = BatchQueue(Limits(linger_s=5.0))
    queue.offer(entry("a", deadline=3.0), 0.0)
    assert queue.turn(0.0).wake_at == 3.0


def test_a_batch_is_expected_to_take_as_long_as_its_padded_size() -> None:
    known = ServiceCurve(4, allowed=(2, 4))
    known.seed(2, 1.0)
    known.seed(4, 1.5)
    queue = BatchQueue(Limits(max_batch_images=4, allowed_batch_sizes=(2, 4)), curve=known)
    queue.offer(entry("a", "b", "c"), 0.0)
    batch = only(queue, 0.0)
    assert (batch.padding, batch.expected_s) == (1, 1.5)


def test_draining_keeps_no_window() -> None:
    queue = BatchQueue(Limits(linger_s=5.0))
    queue.offer(entry("a"), 0.0)
    queue.drain()
    batch = only(queue, 0.0)
    assert batch.reason is Reason.DRAIN
    with pytest.raises(Closed, match=r"^the batcher takes no more entries$"):
        queue.offer(entry("b"), 0.0)


def test_a_failed_batch_is_halved_between_entries_and_within_one() -> None:
    queue = BatchQueue(Limits())
    for entries in (("ab", "cd"), ("a", "bcd"), ("abc",), ("a",)):
        for labels in entries:
            queue.offer(entry(*labels), 0.0)
        batch = only(queue, 0.0)
        queue.finish(batch, 0.0, is_ok=False)
        queue.suspect(batch.spans, 0.0)
        halves = []
        while queue.images:
            halves.append(only(queue, 0.0))
            queue.finish(halves[-1], 0.0, is_ok=False)
        middle = sum(map(len, entries)) // 2
        assert [row for half in halves for row in rows_of(half)] == list("".join(entries))
        assert [half.images for half in halves] == [size for size in (middle, batch.images - middle) if size]
        assert all(start < stop for half in halves for _, start, stop in half.spans)


def test_the_time_of_a_call_ends_when_the_backend_is_done_and_only_success_is_learned() -> None:
    known = ServiceCurve(1)
    queue = BatchQueue(Limits(max_batch_images=1), curve=known)
    for is_ok, returned_s, learned_s in ((True, 2.0, 2.0), (False, 50.0, 2.0), (True, None, 4.0)):
        queue.offer(entry("a", key=returned_s), 10.0)
        batch = only(queue, 10.0)
        batch.returned_s = None if returned_s is None else 10.0 + returned_s
        queue.finish(batch, 14.0, is_ok=is_ok)
        assert known.expected(1) == learned_s
    assert (known.version, known.learned_s) == (2, 14.0)
    assert queue.shapes == {2.0, None}


def test_only_so_many_keys_are_remembered() -> None:
    queue = BatchQueue(Limits())
    queue.shapes.update(range(MAX_SHAPES - 1))
    for key in ("last", "too many"):
        queue.offer(entry("a", key=key), 0.0)
        queue.finish(only(queue, 0.0), 0.0, is_ok=True)
    assert len(queue.shapes) == MAX_SHAPES
    assert "last" in queue.shapes


def test_a_large_entry_is_split_and_the_last_piece_shares_a_batch() -> None:
    queue = BatchQueue(Limits(max_batch_images=2, max_inflight_batches=2))
    queue.offer(entry("a0", "a1", "a2"), 0.0)
    queue.offer(entry("b"), 0.0)
    assert list(map(rows_of, queue.turn(0.0).batches)) == [["a0", "a1"], ["a2", "b"]]


def test_bytes_cut_a_batch_and_an_oversized_row_is_alone_in_its_batch() -> None:
    queue = BatchQueue(Limits(max_batch_bytes=10, max_inflight_batches=3))
    queue.offer(entry("small", "small2", row_bytes=(4, 4)), 0.0)
    queue.offer(entry("large", row_bytes=(50,)), 0.0)
    queue.offer(entry("last", row_bytes=(1,)), 0.0)
    first, second, third = queue.turn(0.0).batches
    assert (rows_of(first), first.reason) == (["small", "small2"], Reason.BYTES)
    assert rows_of(second) == ["large"]
    assert rows_of(third) == ["last"]


@pytest.mark.parametrize(("field", "reason"), [("row_bytes", Reason.BYTES), ("row_pixels", Reason.PIXELS)])
def test_a_batch_holds_as_much_as_it_may_and_rows_that_are_not_counted_weigh_nothing(
    field: str, reason: Reason
) -> None:
    queue = BatchQueue(Limits(max_batch_bytes=10, max_batch_pixels=10, max_inflight_batches=2))
    queue.offer(entry("a", "b", "c"), 0.0)
    queue.offer(entry("d", "e", **{field: (5, 5)}), 0.0)
    queue.offer(entry("f", **{field: (5,)}), 0.0)
    first, second = queue.turn(0.0).batches
    assert (rows_of(first), first.reason, len(first.spans)) == (["a", "b", "c", "d", "e"], reason, 2)
    assert rows_of(second) == ["f"]


def test_a_batch_that_has_no_bytes_left_and_too_many_pixels_is_cut_by_its_pixels() -> None:
    queue = BatchQueue(Limits(max_batch_bytes=10, max_batch_pixels=10))
    queue.offer(entry("a", "b", row_bytes=(5, 5), row_pixels=(6, 6)), 0.0)
    batch = only(queue, 0.0)
    assert (rows_of(batch), batch.reason) == (["a"], Reason.PIXELS)


def test_pixels_cut_a_batch() -> None:
    queue = BatchQueue(Limits(max_batch_pixels=10))
    queue.offer(entry("a", "b", row_pixels=(6, 6)), 0.0)
    batch = only(queue, 0.0)
    assert (rows_of(batch), batch.reason) == (["a"], Reason.PIXELS)


@pytest.mark.parametrize("options", [{"row_bytes": (10,)}, {"row_pixels": (10,)}], ids=["bytes", "pixels"])
def test_a_batch_that_is_exactly_full_keeps_no_window(options: dict[str, object]) -> None:
    queue = BatchQueue(Limits(max_batch_bytes=10, max_batch_pixels=10, linger_s=1.0))
    queue.offer(entry("a", **options), 0.0)
    assert rows_of(only(queue, 0.0)) == ["a"]


def test_a_batch_that_is_full_of_images_first_says_so_though_bytes_are_scarce() -> None:
    queue = BatchQueue(Limits(max_batch_images=2, max_batch_bytes=10))
    queue.offer(entry("a", "b", "c", row_bytes=(4, 4, 4)), 0.0)
    batch = only(queue, 0.0)
    assert (rows_of(batch), batch.reason) == (["a", "b"], Reason.FULL)


def test_other_keys_do_not_share_a_batch() -> None:
    queue = BatchQueue(Limits(max_inflight_batches=2))
    queue.offer(entry("a1", key="a"), 0.0)
    queue.offer(entry("b1", key="b"), 0.0)
    queue.offer(entry("a2", key="a"), 0.0)
    assert list(map(rows_of, queue.turn(0.0).batches)) == [["a1", "a2"], ["b1"]]


def test_whole_entries_are_alone_in_their_batches_and_as_they_are() -> None:
    queue = BatchQueue(Limits(max_batch_images=2, allowed_batch_sizes=(2,), max_inflight_batches=3))
    queue.offer(entry("a", "b", "c", whole=True), 0.0)
    queue.offer(entry("d", whole=True), 0.0)
    first, second = queue.turn(0.0).batches
    assert (rows_of(first), first.padding) == (["a", "b", "c"], 0)
    assert (rows_of(second), second.padding, second.reason) == (["d"], 0, Reason.IDLE)


def test_interactive_goes_before_bulk_but_for_one_batch_in_eight() -> None:
    queue = BatchQueue(Limits(max_batch_images=1, max_inflight_batches=20))
    for number in range(20):
        queue.offer(entry(f"bulk{number}", bulk=True), 0.0)
        queue.offer(entry(f"fast{number}"), 0.0)
    order = [rows_of(batch)[0] for batch in queue.turn(0.0).batches]
    assert order == [*(f"fast{n}" for n in range(7)), "bulk0", *(f"fast{n}" for n in range(7, 14)), "bulk1"] + [
        f"fast{n}" for n in range(14, 18)
    ]


def test_a_queue_that_is_full_of_images_says_when_to_come_back() -> None:
    queue = BatchQueue(Limits(max_batch_images=8, max_queue_images=16), curve=curve(call_s=0.2, row_s=0.1))
    queue.offer(entry(*"abcdefgh"), 0.0)
    assert only(queue, 0.0)
    queue.offer(entry(*"abcdefghijklmnop"), 0.0)
    with pytest.raises(QueueFull, match="max_queue_images=16") as refused:
        queue.offer(entry("q"), 0.25)
    assert refused.value.retry_after_s == pytest.approx(0.75)  # the rest of the call of eight in flight
    with pytest.raises(QueueFull) as refused:
        queue.offer(entry(*"abcdefghi"), 0.25)
    assert refused.value.retry_after_s == pytest.approx(1.75)  # and another, for nine are too many


def test_a_full_queue_with_two_places_is_emptied_twice_as_fast_but_not_before_one_row_has_run() -> None:
    limits = Limits(max_batch_images=4, max_queue_images=8, max_queue_bytes=80, max_inflight_batches=2)
    queue = BatchQueue(limits, curve=curve(call_s=0.5, row_s=0.5, images=4))
    queue.offer(entry(*"abcdefgh", row_bytes=(10,) * 8), 0.0)
    for rows, row_bytes, retry_after_s in (
        (1, 0, 1.0),
        (4, 0, 1.0),
        (5, 0, 2.25),
        (8, 10, 2.25),
        (9, 0, None),
        (1, 81, None),
    ):
        with pytest.raises(QueueFull) as refused:
            queue.judge(rows, rows * row_bytes, math.inf, 0.0, is_bulk=False)
        assert refused.value.retry_after_s == retry_after_s


def test_a_queue_that_is_full_of_bytes_refuses_and_knows_no_time_without_a_curve() -> None:
    queue = BatchQueue(Limits(max_queue_bytes=100))
    queue.offer(entry("a", row_bytes=(80,)), 0.0)
    with pytest.raises(QueueFull, match="max_queue_bytes=100") as refused:
        queue.offer(entry("b", row_bytes=(30,)), 0.0)
    assert refused.value.retry_after_s == 1.0


def test_an_entry_that_never_fits_is_told_no_time() -> None:
    queue = BatchQueue(Limits(max_queue_images=2))
    with pytest.raises(QueueFull) as refused:
        queue.offer(entry("a", "b", "c"), 0.0)
    assert refused.value.retry_after_s is None


def test_an_entry_is_submitted_once() -> None:
    queue = BatchQueue(Limits())
    once = entry("a")
    queue.offer(once, 0.0)
    with pytest.raises(ValueError, match=r"^an entry is submitted once$"):
        queue.offer(once, 0.0)


def test_an_entry_has_at_least_one_row() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Entry([], 0)


def test_what_would_be_late_is_refused_with_the_lateness() -> None:
    queue = BatchQueue(Limits(max_batch_images=4), curve=curve(row_s=0.25, images=4))
    queue.offer(entry(*"abcdefgh"), 0.0)
    assert only(queue, 0.0)
    late = entry("i", deadline=2.5)
    with pytest.raises(PredictedLate) as refused:
        queue.offer(late, 0.0)
    # A second each for the call in flight, the four ahead, and its own, which others will fill.
    assert refused.value.retry_after_s == pytest.approx(0.5)
    assert late.state is EntryState.NEW
    queue.offer(entry("i", deadline=3.0), 0.0)


def test_what_is_overdue_when_it_comes_is_refused_for_good() -> None:
    queue = BatchQueue(Limits())
    with pytest.raises(PredictedLate) as refused:
        queue.offer(entry("a", deadline=1.0), 1.0)
    assert refused.value.retry_after_s is None


def test_bulk_waits_for_the_interactive_rows_too_so_it_is_refused_sooner() -> None:
    queue = BatchQueue(Limits(max_batch_images=1), curve=curve(row_s=1.0, images=1))
    for label in "abc":
        queue.offer(entry(label, bulk=True), 0.0)
    queue.offer(entry("fast", deadline=1.5), 0.0)
    with pytest.raises(PredictedLate):
        queue.offer(entry("slow", deadline=1.5, bulk=True), 0.0)


@pytest.mark.parametrize(("is_bulk", "answered_s"), [(False, 4.0), (True, 7.0)], ids=["interactive", "bulk"])
def test_a_forecast_counts_the_rows_that_go_before_both_lanes_for_bulk(is_bulk: bool, answered_s: float) -> None:
    queue = BatchQueue(Limits(max_batch_images=1), curve=curve(row_s=1.0, images=1))
    queue.offer(entry("runs"), 0.0)
    assert only(queue, 0.0)
    for label in "ab":
        queue.offer(entry(label), 0.0)
    for label in "cde":
        queue.offer(entry(label, bulk=True), 0.0)
    assert queue.judge(1, 0, 99.0, 0.0, is_bulk=is_bulk).forecast_s == answered_s
    assert queue.judge(1, 0, math.inf, 0.0, is_bulk=is_bulk).forecast_s == -math.inf
    submitted = entry("new", deadline=99.0, bulk=is_bulk)
    queue.offer(submitted, 0.0)
    assert submitted.forecast_s == answered_s


def test_a_forecast_counts_the_rows_that_wait_for_a_retry() -> None:
    queue = BatchQueue(Limits(max_batch_images=2, max_queue_images=4), curve=curve(row_s=1.0, images=2))
    queue.offer(entry("a", "b"), 0.0)
    failed = only(queue, 0.0)
    queue.finish(failed, 0.0, is_ok=False)
    queue.suspect(failed.spans, 0.0)
    assert rows_of(only(queue, 0.0)) == ["a"]
    assert queue.judge(2, 0, 99.0, 0.0, is_bulk=False).forecast_s == 5.0
    message = "4 images beside 1 of 0 that wait are over max_queue_images=4 or max_queue_bytes=536870912"
    with pytest.raises(QueueFull, match=f"^{message}$"):
        queue.judge(4, 0, 99.0, 0.0, is_bulk=False)


def test_the_first_measurement_of_all_is_used_at_once() -> None:
    known = ServiceCurve(8)
    queue = BatchQueue(Limits(max_batch_images=8), curve=known)
    queue.offer(entry("runs"), 0.0)
    assert only(queue, 0.0)
    known.seed(1, 1.0)
    assert queue.judge(1, 0, 5.0, 0.0, is_bulk=False).forecast_s == 3.0


@pytest.mark.parametrize(
    ("due_s", "answered_s"),
    [(9.0, 6.0), (4.0, 6.0), (3.5, 5.5), (0.5, 5.5)],
    ids=["pairs", "the tail just fits", "pairs with a tail would be late", "nothing fits"],
)
def test_a_forecast_is_by_the_median_of_the_batches_ahead_and_by_the_tail_of_its_own(
    due_s: float, answered_s: float
) -> None:
    """A pair takes a second, one in three takes three seconds; one row takes 0.9. Four rows wait behind a pair."""
    known = ServiceCurve(2)
    known.seed(1, 0.9)
    for pair_s in (1.0, 3.0, 1.0):
        known.seed(2, pair_s)
    queue = BatchQueue(Limits(max_batch_images=2), curve=known)
    queue.offer(entry("a", "b"), 0.0)
    assert only(queue, 0.0)
    queue.offer(entry(*"cdef"), 0.0)
    late_s = answered_s - due_s
    if late_s <= 0:
        assert queue.judge(1, 0, due_s, 0.0, is_bulk=False).forecast_s == pytest.approx(answered_s)
        return
    with pytest.raises(PredictedLate, match=f"answered {late_s * 1000:.0f} ms after it is due") as refused:
        queue.judge(1, 0, due_s, 0.0, is_bulk=False)
    assert refused.value.retry_after_s == pytest.approx(late_s)


def test_rows_that_leave_at_once_are_answered_by_the_tail_of_their_batch_if_others_wait_else_by_its_median() -> None:
    known = ServiceCurve(2)
    for pair_s in (1.0, 3.0, 1.0):
        known.seed(2, pair_s)
    queue = BatchQueue(Limits(max_batch_images=2), curve=known)
    assert queue.judge(2, 0, 99.0, 0.0, is_bulk=False).forecast_s == 1.0
    queue.offer(entry("a"), 0.0)
    assert queue.judge(1, 0, 99.0, 0.0, is_bulk=False).forecast_s == 3.0


def test_a_few_slow_pictures_do_not_refuse_all_others_of_an_idle_engine() -> None:
    """One picture in sixteen takes a second, the others 10 ms; the rows are due after half a second."""
    known = ServiceCurve(8)
    for _ in range(2):
        for seconds in (*[0.01] * 15, 1.0):
            known.learn(1, seconds, 0.0)
    assert known.tail(1) > 0.5
    queue = BatchQueue(Limits(max_batch_images=8), curve=known)
    assert queue.judge(1, 0, 0.5, 0.0, is_bulk=False).forecast_s < 0.1
    queue.offer(entry("next"), 0.0)
    with pytest.raises(PredictedLate):
        queue.judge(1, 0, 0.5, 0.0, is_bulk=False)


def test_a_forecast_takes_no_batches_whose_tail_would_be_late() -> None:
    """Four rows take 2 s, a pair 1.5 and one in three 3, one row 1. Due after 3.9 s a row may wait for one batch and lead the next."""
    known = ServiceCurve(4)
    for rows, seconds in ((1, 1.0), (2, 1.5), (2, 3.0), (2, 1.5), (4, 2.0)):
        known.seed(rows, seconds)
    queue = BatchQueue(Limits(max_batch_images=4), curve=known)
    queue.offer(entry(*"abcd"), 0.0)
    assert only(queue, 0.0)
    queue.offer(entry(*"efgh"), 0.0)
    with pytest.raises(PredictedLate) as refused:
        queue.judge(1, 0, 3.9, 0.0, is_bulk=False)
    assert refused.value.retry_after_s == pytest.approx(2.0 + 4 * 1.0 + 1.0 - 3.9)  # one by one


@pytest.mark.parametrize(
    ("rows", "due_s", "answered_s"),
    [(4, 99.0, 9.0), (4, 9.0, 9.0), (6, 99.0, 18.0), (6, 18.0, 18.0), (6, 17.5, 14.0)],
    ids=["in one batch", "just in time", "in two batches", "two are just in time", "in smaller ones"],
)
def test_rows_that_fit_in_one_batch_of_an_idle_engine_leave_at_once(rows: int, due_s: float, answered_s: float) -> None:
    """A call takes a second, and one more for each row; four rows wait already."""
    queue = BatchQueue(Limits(max_batch_images=8, linger_s=1.0), curve=curve(call_s=1.0, row_s=1.0))
    queue.offer(entry(*"abcd"), 0.0)
    assert queue.judge(rows, 0, due_s, 0.0, is_bulk=False).forecast_s == answered_s


def test_a_batch_is_counted_in_the_largest_size_of_which_two_are_in_time() -> None:
    """Two calls of three rows take 8 s, and two of two rows 6."""
    queue = BatchQueue(Limits(max_batch_images=8), curve=curve(call_s=1.0, row_s=1.0))
    queue.offer(entry("runs"), 0.0)
    assert only(queue, 0.0)
    queue.offer(entry(*"abcd"), 0.0)
    with pytest.raises(PredictedLate) as refused:
        queue.judge(1, 0, 8.0, 0.0, is_bulk=False)
    assert refused.value.retry_after_s == 2.0


def test_two_places_run_the_batches_ahead_in_half_the_time() -> None:
    queue = BatchQueue(Limits(max_batch_images=1, max_inflight_batches=2), curve=curve(row_s=1.0, images=1))
    queue.offer(entry(*"ab"), 0.0)
    assert len(queue.turn(0.0).batches) == 2
    queue.offer(entry(*"cdef"), 0.0)
    assert queue.judge(1, 0, 99.0, 0.0, is_bulk=False).forecast_s == 4.0


def test_retries_take_as_much_engine_time_as_the_last_batch_of_others_and_save_none_up() -> None:
    queue = BatchQueue(Limits(max_batch_images=4), curve=curve(row_s=1.0, images=4))

    def run_batches(count: int) -> list[Batch]:
        ran = []
        for _ in range(count):
            ran.append(only(queue, 0.0))
            queue.finish(ran[-1], 0.0, is_ok=False)
        return ran

    queue.offer(entry(*"abcdefghijkl"), 0.0)
    failed = run_batches(3)
    queue.offer(entry(*"mnopqrstuvwx"), 0.0)
    for batch in failed:
        for each, start, stop in batch.spans:
            for row in range(start, stop):
                queue.suspect([(each, row, row + 1)], 0.0, halved=False)
    retries = "".join("r" if batch.is_retry else "-" for batch in run_batches(15))
    assert retries == "rrrr-" * 3


def test_an_idle_engine_tries_again_when_its_curve_is_stale() -> None:
    known = curve(row_s=1.0)
    queue = BatchQueue(Limits(), curve=known, slo_s=0.5)
    queue.offer(entry("probe"), 0.0)
    batch = only(queue, 0.0)
    for number in range(6):
        known.learn(1, 5.0, now=float(number))
    queue.finish(batch, 5.0, is_ok=True)
    with pytest.raises(PredictedLate):
        queue.offer(entry("too soon"), 5.5)
    queue.offer(entry("probe again"), 6.1)


def test_what_finishes_at_the_very_time_it_is_due_is_neither_doomed_nor_left_behind() -> None:
    queue = BatchQueue(Limits(max_batch_images=8), curve=curve(row_s=1.0))
    queue.offer(entry("runs"), 0.0)
    first = only(queue, 0.0)
    for label, due_s in (("a", 3.0), ("b", 3.0), ("c", 9.0)):
        queue.offer(entry(label, deadline=due_s), 0.0)
    queue.finish(first, 1.0, is_ok=True)
    batch = only(queue, 1.0)
    assert (rows_of(batch), batch.reason) == (["a", "b"], Reason.SLACK)
    for each, _, _ in batch.spans:
        queue.end(each)
    queue.finish(batch, 3.0, is_ok=True)
    last = only(queue, 3.0)
    assert rows_of(last) == ["c"]
    for label, due_s in (("d", 5.0), ("e", 9.0)):
        queue.offer(entry(label, deadline=due_s), 3.0)
    queue.finish(last, 4.0, is_ok=True)
    assert rows_of(only(queue, 4.0)) == ["d"]


def test_an_overdue_entry_leaves_the_queue_and_is_told_once() -> None:
    queue = BatchQueue(Limits())
    queue.offer(entry("blocks"), 0.0)
    assert only(queue, 0.0)
    waits = entry("waits", deadline=2.0)
    queue.offer(waits, 0.0)
    assert queue.turn(1.9) == ([], [], 2.0)
    assert queue.turn(2.0) == ([], [waits], math.inf)
    assert queue.turn(2.0) == ([], [], math.inf)
    assert queue.images == 0


def test_a_missed_slo_in_flight_is_answered_but_a_missed_deadline_is_not() -> None:
    queue = BatchQueue(Limits(), slo_s=1.0)
    flying = entry("flying", deadline=3.0)
    queue.offer(flying, 0.0)
    assert only(queue, 0.0)
    assert queue.turn(1.0) == ([], [], 3.0)
    assert queue.turn(3.0).ended == [flying]


def test_a_missed_slo_in_flight_without_a_deadline_needs_no_timer() -> None:
    queue = BatchQueue(Limits(), slo_s=1.0)
    queue.offer(entry("flying"), 0.0)
    assert only(queue, 0.0)
    assert queue.turn(1.0) == ([], [], math.inf)


def test_a_missed_slo_is_not_worth_a_retry_but_a_deadline_to_come_is() -> None:
    queue = BatchQueue(Limits(), slo_s=2.0)
    late, fine = entry("late", "later"), entry("fine")
    queue.offer(late, 0.0)
    queue.offer(fine, 1.0)
    batch = only(queue, 1.0)
    assert queue.turn(2.0).ended == []
    queue.finish(batch, 2.0, is_ok=False)
    queue.suspect(batch.spans, 2.0)
    assert queue.images == 1
    batches, ended, wake_at = queue.turn(2.0)
    assert ended == [late]
    assert list(map(rows_of, batches)) == [["fine"]]
    assert wake_at == 3.0


def test_an_overdue_entry_that_a_failed_batch_holds_in_two_pieces_ends_once() -> None:
    queue = BatchQueue(Limits(), slo_s=2.0)
    late = entry("a", "poison", "b")
    queue.offer(late, 0.0)
    batch = only(queue, 0.0)
    queue.finish(batch, 2.0, is_ok=False)
    queue.suspect([(late, 0, 1), (late, 2, 3)], 2.0)
    assert queue.turn(2.0) == ([], [late], math.inf)


def test_rows_without_a_due_time_are_retried_whenever() -> None:
    queue = BatchQueue(Limits())
    queue.offer(entry("a", "b"), 0.0)
    batch = only(queue, 0.0)
    queue.finish(batch, 9.0, is_ok=False)
    queue.suspect(batch.spans, 9.0)
    assert rows_of(only(queue, 9.0)) == ["a"]
    assert queue.turn(9.0).wake_at == math.inf


def test_deadlines_out_of_order_are_kept_too() -> None:
    queue = BatchQueue(Limits())
    queue.offer(entry("blocks"), 0.0)
    assert only(queue, 0.0)
    entries = [entry(str(due), deadline=due) for due in (5.0, 2.0, 9.0, 1.0)]
    for each in entries:
        queue.offer(each, 0.0)
    assert queue.turn(0.0).wake_at == 1.0
    assert queue.turn(2.0) == ([], [entries[3], entries[1]], 5.0)
    queue.end(entries[0])
    assert queue.turn(2.0).wake_at == 9.0


def test_hangups_by_the_thousand_leave_nothing_behind() -> None:
    queue = BatchQueue(Limits())
    queue.offer(entry("blocks"), 0.0)
    assert only(queue, 0.0)
    stays = [entry("stays", deadline=100.0), entry("stays too", deadline=50.0)]
    for each in stays:
        queue.offer(each, 0.0)
    for number in range(5000):
        gone = entry("gone", deadline=60.0 + number)
        queue.offer(gone, 0.0)
        queue.end(gone)
    assert queue.images == 2
    assert len(queue.pending._ordered) + len(queue.pending._heap) < 200
    assert queue.turn(0.0).wake_at == 50.0
    assert queue.turn(100.0).ended == [stays[1], stays[0]]


def test_the_oldest_row_that_waits_is_known() -> None:
    queue = BatchQueue(Limits())
    assert queue.oldest_s() is None
    queue.offer(entry("a"), 3.0)
    queue.offer(entry("b", bulk=True), 1.0)
    assert queue.oldest_s() == 1.0


def test_a_second_turn_at_the_same_time_does_nothing() -> None:
    queue = BatchQueue(Limits(max_batch_images=1, max_inflight_batches=3, linger_s=1.0))
    for label in "abcd":
        queue.offer(entry(label, deadline=9.0), 0.0)
    first = queue.turn(0.0)
    assert list(map(rows_of, first.batches)) == [["a"], ["b"], ["c"]]
    assert queue.turn(0.0) == ([], [], first.wake_at)


def test_a_ticket_lets_the_same_rows_in_with_one_judgement() -> None:
    known = curve(row_s=0.25)
    queue = BatchQueue(Limits(), curve=known, slo_s=2.0)
    ticket = queue.judge(1, 0, 9.0, 1.0, is_bulk=False)
    assert (ticket.due_s, ticket.forecast_s) == (3.0, 1.25)
    known.seed(1, 0.5)  # a second judgement would say something else
    submitted = entry("a", deadline=9.0)
    queue.offer(submitted, 1.5, ticket=ticket)
    assert (submitted.due_s, submitted.forecast_s) == (3.5, 1.75)


def test_a_ticket_without_a_due_time_is_taken_as_it_is() -> None:
    queue = BatchQueue(Limits(max_queue_images=1))
    ticket = queue.judge(1, 0, math.inf, 0.0, is_bulk=False)
    submitted = entry("a")
    queue.offer(submitted, 5.0, ticket=ticket)
    assert (submitted.due_s, submitted.forecast_s) == (math.inf, -math.inf)
    with pytest.raises(QueueFull):
        queue.offer(entry("b"), 5.0, ticket=ticket)


@pytest.mark.parametrize(
    ("labels", "options"),
    [("ab", {"deadline": 9.0}), ("a", {"deadline": 5.0}), ("a", {"deadline": 9.0, "bulk": True})],
    ids=["rows", "deadline", "lane"],
)
def test_a_ticket_for_other_rows_is_judged_again(labels: str, options: dict[str, object]) -> None:
    queue = BatchQueue(Limits(), curve=curve(row_s=1.0))
    changed = entry(*labels, **options)
    ticket = queue.judge(1, 0, 9.0, 0.0, is_bulk=False)
    queue.offer(changed, 0.0, ticket=ticket)
    assert (changed.due_s, changed.forecast_s) == (changed.deadline, changed.rows)


def test_a_ticket_is_void_after_anything_that_a_judgement_depends_on() -> None:
    queue = BatchQueue(Limits())
    batches: list[Batch] = []
    steps = {
        "offer": lambda: queue.offer(entry("a", "b"), 0.0),
        "dispatch": lambda: batches.extend(queue.turn(0.0).batches),
        "finish": lambda: queue.finish(batches[-1], 0.0, is_ok=False),
        "suspect": lambda: queue.suspect(batches[-1].spans, 0.0),
        "give up": lambda: queue.give_up(batches[-1]),
        "drain": queue.drain,
    }
    order = ("offer", "offer", "dispatch", "finish", "suspect", "dispatch", "finish", "dispatch", "give up", "finish")

    def holds(ticket: Ticket) -> bool:
        return queue._admission.renew(ticket, 1, 0, math.inf, 0.0, is_bulk=False)

    tickets: list[Ticket] = []
    for step in (*order, "offer", "drain"):
        if not queue.in_flight.is_stuck:
            tickets.append(queue.judge(1, 0, math.inf, 0.0, is_bulk=False))
            assert holds(tickets[-1])
        steps[step]()
        assert not any(map(holds, tickets)), step


def test_a_ticket_is_void_when_the_queue_has_changed_its_time_is_over_or_bytes_are_short() -> None:
    limits = Limits(max_queue_images=1, max_queue_bytes=10)
    for shut in (BatchQueue.drain, BatchQueue.close):
        queue = BatchQueue(limits)
        ticket = queue.judge(1, 0, math.inf, 0.0, is_bulk=False)
        shut(queue)
        with pytest.raises(Closed):
            queue.offer(entry("a"), 0.0, ticket=ticket)
    queue = BatchQueue(limits, curve=curve(row_s=1.0))
    ticket = queue.judge(1, 0, 1.5, 0.0, is_bulk=False)
    with pytest.raises(QueueFull, match="11 bytes"):
        queue.offer(entry("a", deadline=1.5, row_bytes=(11,)), 0.0, ticket=ticket)
    for each in (BatchQueue(limits), queue):
        ticket = each.judge(1, 0, 1.5, 0.0, is_bulk=False)
        with pytest.raises(PredictedLate):
            each.offer(entry("a", deadline=1.5), 1.5, ticket=ticket)
    hopeful = entry("a", deadline=1.5)
    queue.offer(hopeful, 0.75, ticket=ticket)  # it would be late, but the engine is idle and the curve is old
    assert hopeful.forecast_s == 1.75
    busy = BatchQueue(limits, curve=curve(row_s=1.0))
    busy.offer(entry("a"), 0.0)
    ticket = busy.judge(0, 0, 1.5, 0.0, is_bulk=False)
    assert only(busy, 0.0)
    with pytest.raises(PredictedLate):
        busy.offer(entry("b", deadline=1.5), 0.0, ticket=ticket)
