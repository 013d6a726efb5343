"""The driver on a virtual clock, one behaviour a test; `tests/property` holds it over generated days."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.batching.batcher import Batcher
from darkroom.batching.driver.dispatcher import GATHER_S, PASS_S
from darkroom.batching.entry import Entry, Reason
from darkroom.batching.errors import BadOutput, Closed, DeadlineExceeded, PredictedLate, QueueFull
from darkroom.batching.limits import Limits
from darkroom.batching.observer import Observer, Outcome
from tests.property.rig import (
    BadPictureError,
    Call,
    Diary,
    EchoBackend,
    FakeReport,
    batcher_of,
    is_client_fault,
    name_all,
)
from tests.vclock import VirtualLoop, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from darkroom.batching.backend import BatchReport
    from darkroom.batching.entry import Answer


def test_entries_of_one_pass_of_the_loop_share_a_batch() -> None:
    backend = EchoBackend()

    async def main() -> list[Answer]:
        batcher = batcher_of(backend)
        return await asyncio.gather(*(batcher.predict(Entry([n], 1)) for n in range(5)))

    answers = run(main())
    assert [call.rows for call in backend.calls] == [[0, 1, 2, 3, 4]]
    assert [answer.pieces for answer in answers] == [([n],) for n in range(5)]
    assert {answer.timing.batch_images for answer in answers} == {5}


def test_a_batcher_is_idle_when_nothing_waits_and_no_call_runs_whoever_still_wants_it() -> None:
    async def main() -> list[bool]:
        batcher = batcher_of(EchoBackend(seconds=lambda _: 1.0))
        idle = [batcher.is_idle]
        entry = Entry([1], 1)
        batcher.submit(entry, lambda _: None)
        idle.append(batcher.is_idle)
        await asyncio.sleep(0.5)
        batcher.withdraw(entry)
        idle.append(batcher.is_idle)
        await asyncio.sleep(1)
        return [*idle, batcher.is_idle]

    assert run(main()) == [True, False, False, True]


async def _one_a_pass(batcher: Batcher, count: int, pause: Callable[[], None] = lambda: None) -> list[Answer]:
    """`count` entries, of which each pass of the loop brings one."""
    waiting = []
    for n in range(count):
        waiting.append(asyncio.ensure_future(batcher.predict(Entry([n], 1))))
        await asyncio.sleep(0)
        pause()
    return await asyncio.gather(*waiting)


def test_a_batch_waits_for_as_long_as_each_pass_of_the_loop_brings_another_entry() -> None:
    backend = EchoBackend()
    run(_one_a_pass_of(backend, Limits(), 9))
    assert [call.rows for call in backend.calls] == [list(range(9))]


def test_a_batch_that_is_full_does_not_wait() -> None:
    backend = EchoBackend(seconds=lambda _: 1.0)
    run(_one_a_pass_of(backend, Limits(max_batch_images=4, max_inflight_batches=2), 8))
    assert [call.rows for call in backend.calls] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_loop_that_is_always_busy_keeps_a_batch_no_longer_than_a_moment() -> None:
    backend = EchoBackend(seconds=lambda _: 60.0)
    loop = VirtualLoop()

    async def main() -> None:
        def a_third_of_it() -> None:
            loop.pass_time(GATHER_S / 3)

        await _one_a_pass(batcher_of(backend, Limits(max_inflight_batches=9)), 12, a_third_of_it)

    run(main(), loop)
    assert len(backend.calls) > 1
    assert all(2 <= len(call.rows) <= 5 for call in backend.calls)
    assert [row for call in backend.calls for row in call.rows] == list(range(12))


async def _one_a_pass_of(backend: EchoBackend, limits: Limits, count: int) -> list[Answer]:
    return await _one_a_pass(batcher_of(backend, limits), count)


class _Thread(EchoBackend):
    """Gives back the calls that have taken their time when it is asked to, as its thread would, in the middle of a pass."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds=lambda _: seconds)
        self._out: list[tuple[float, Call, Callable[[BatchReport], None]]] = []

    def start(self, parts: Sequence[tuple[Any, int, int]], padding: int, done: Callable[[BatchReport], None]) -> None:
        """As `EchoBackend`, but without a timer."""
        call = Call(asyncio.get_running_loop().time(), list(parts), padding)
        self.calls.append(call)
        self._out.append((call.at_s + self.seconds(1), call, done))

    def give_back(self) -> None:
        """Reports the calls whose time is over."""
        now = asyncio.get_running_loop().time()
        over = [each for each in self._out if each[0] <= now]
        self._out = [each for each in self._out if each not in over]
        for _, call, done in over:
            done(self.report(call, self.seconds(1)))


def _passes(limits: Limits, *passes: tuple[int, float]) -> tuple[_Thread, list[float]]:
    """So many entries in each pass of the loop, one every so many seconds, due in 0.2 s; a call takes 4 ms.

    Returns:
        The backend, and how long each accepted entry waited for its answer; infinity if it ended otherwise.
    """
    backend, loop, waited_s = _Thread(0.004), VirtualLoop(), list[float]()

    async def main() -> None:
        batcher = batcher_of(backend, limits, slo_s=0.2)

        def submit(n: int) -> None:
            came_s = loop.time()

            def answered(answer: Answer) -> None:
                waited_s.append(math.inf if answer.error else loop.time() - came_s)

            with contextlib.suppress(PredictedLate):
                batcher.admit(1, math.inf)
                batcher.submit(Entry([n], 1), answered)

        for count, each_s in passes:
            for n in range(count):
                submit(n)
                loop.pass_time(each_s)
                backend.give_back()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        while not batcher.is_idle:
            await asyncio.sleep(0.004)
            backend.give_back()

    run(main(), loop)
    return backend, waited_s


def test_a_pass_of_the_loop_that_takes_longer_than_rows_have_time_does_not_make_them_late() -> None:
    _, waited_s = _passes(Limits(max_batch_images=8), (600, 0.001))
    assert len(waited_s) == 600  # the backend takes two rows a millisecond, so none has to be refused
    assert max(waited_s) < 0.1


def test_a_long_pass_of_the_loop_takes_the_answers_of_a_call_that_began_before_it() -> None:
    _, waited_s = _passes(Limits(max_batch_images=8, max_inflight_batches=1), (1, 0.0), (100, 0.001))
    assert len(waited_s) == 101
    assert max(waited_s) < 0.06


def test_a_long_pass_of_the_loop_still_makes_batches() -> None:
    backend, waited_s = _passes(Limits(max_batch_images=64, max_inflight_batches=64), (600, GATHER_S / 10))
    assert len(waited_s) == 600
    assert len(backend.calls) < 600 / 8


@pytest.mark.parametrize("before", [(), ((300, 0.001),)], ids=["at first", "after a long one"])
def test_a_pass_of_the_loop_that_is_short_keeps_its_rows_together(before: tuple[tuple[int, float], ...]) -> None:
    backend, _ = _passes(Limits(), *before, (8, PASS_S / 10))
    assert backend.calls[-1].rows[-8:] == list(range(8))


def test_in_a_long_pass_no_caller_is_answered_before_its_submit_returns_and_none_within_another() -> None:
    backend, loop, open_submits, answered = _Thread(0.001), VirtualLoop(), list[int](), list[int]()

    async def main() -> None:
        batcher = batcher_of(backend, Limits(max_batch_images=4))

        def submit(n: int) -> None:
            def on_done(_: Answer) -> None:
                assert len(open_submits) <= 1
                assert n not in open_submits
                answered.append(n)
                if n < 300:
                    loop.pass_time(2 * GATHER_S)
                    backend.give_back()
                    submit(n + 300)

            open_submits.append(n)
            batcher.submit(Entry([n], 1), on_done)
            open_submits.remove(n)

        for n in range(300):
            submit(n)
            loop.pass_time(GATHER_S)
            backend.give_back()
        assert len(answered) > 300  # in this very pass
        while len(answered) < 600:
            await asyncio.sleep(GATHER_S)
            backend.give_back()

    run(main(), loop)
    assert sorted(answered) == list(range(600))
    assert loop.failures == []


def test_an_answer_explains_where_its_time_went() -> None:
    async def main() -> list[Answer]:
        batcher = batcher_of(EchoBackend(seconds=lambda _: 0.5), Limits(max_batch_images=1))
        return await asyncio.gather(*(batcher.predict(Entry([row], 1)) for row in "ab"))

    first, second = (answer.timing for answer in run(main()))
    assert (first.queue_s, first.execute_s, first.batch_images, first.retries) == (0.0, 0.5, 1, 0)
    assert second.queue_s == 0.5
    assert first.reason is Reason.FULL


def test_a_split_entry_is_answered_in_pieces_in_order_with_the_times_of_all_its_batches() -> None:
    """The first batch is the slowest, so its piece comes last."""

    async def main() -> Answer:
        backend = EchoBackend(seconds=float)
        batcher = batcher_of(backend, Limits(max_batch_images=3, max_inflight_batches=2))
        return await batcher.predict(Entry(list("abcde"), 5))

    answer = run(main())
    assert answer.pieces == (["a", "b", "c"], ["d", "e"])
    assert answer.timing.execute_s == 5.0
    assert answer.timing.batch_images == 3


def test_a_batcher_holds_one_timer_at_most_and_none_once_it_rang_for_nothing() -> None:
    loop = VirtualLoop()

    async def main() -> list[int]:
        batcher = batcher_of(EchoBackend(seconds=lambda _: 1.0), Limits(max_batch_images=1))
        counts = [loop.timers]
        waiting = [asyncio.ensure_future(batcher.predict(Entry(["a"], 1, deadline=9.0 + n))) for n in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        counts.append(loop.timers)  # the backend's own, and the earliest deadline
        await asyncio.gather(*waiting)
        counts.append(loop.timers)  # a ring for nothing is cheaper than a timer for each entry
        await asyncio.sleep(10)
        counts.append(loop.timers)
        return counts

    assert run(main(), loop) == [0, 2, 1, 0]


def test_a_callback_that_raises_affects_no_other_entry_and_is_reported() -> None:
    loop = VirtualLoop()

    async def main() -> Answer:
        batcher = batcher_of(EchoBackend())

        def broken(_: Answer) -> None:
            raise RuntimeError("the caller's own bug")

        def cancelled(_: Answer) -> None:
            raise asyncio.CancelledError

        batcher.submit(Entry(["a"], 1), broken)
        batcher.submit(Entry(["b"], 1), cancelled)
        answer = await batcher.predict(Entry(["c"], 1))
        assert batcher.is_healthy
        return answer

    assert run(main(), loop).pieces == (["c"],)
    assert [str(failure["exception"]) for failure in loop.failures] == ["the caller's own bug", ""]


def test_an_observer_that_raises_affects_no_entry() -> None:
    class Broken(Observer):
        def ended(self, *_: object) -> None:
            raise RuntimeError("a broken metric")

        def dispatched(self, _: object) -> None:
            raise RuntimeError("another")

    loop = VirtualLoop()

    async def main() -> Answer:
        return await batcher_of(EchoBackend(), observer=Broken()).predict(Entry(["a"], 1))

    assert run(main(), loop).pieces == (["a"],)
    assert len(loop.failures) == 2


def test_a_caller_that_is_cancelled_in_the_pass_of_its_answer_affects_no_other() -> None:
    """The field's bug: `set_result` on a cancelled future."""
    loop = VirtualLoop()

    async def main() -> Answer:
        batcher = batcher_of(EchoBackend(seconds=lambda _: 1.0))
        doomed = asyncio.create_task(batcher.predict(Entry(["a"], 1)))
        mate = asyncio.create_task(batcher.predict(Entry(["b"], 1)))
        await asyncio.sleep(0)
        loop.call_at(1.0, doomed.cancel)
        return await mate

    assert run(main(), loop).pieces == (["b"],)
    assert loop.failures == []


def test_the_answer_of_a_future_cancelled_by_a_batch_mate_is_left_alone() -> None:
    loop = VirtualLoop()

    async def main() -> bool:
        batcher = batcher_of(EchoBackend(seconds=lambda _: 1.0))
        batcher.submit(Entry(["blocks"], 1), lambda _: None)
        await asyncio.sleep(0.5)

        def on_done(_: Answer) -> None:
            doomed.cancel()

        batcher.submit(Entry(["a"], 1), on_done)
        doomed = asyncio.create_task(batcher.predict(Entry(["b"], 1)))
        await asyncio.wait([doomed])
        return doomed.cancelled()

    assert run(main(), loop)
    assert loop.failures == []


def test_withdrawing_is_told_once_and_frees_the_place() -> None:
    diary = Diary()

    async def main() -> list[bool]:
        batcher = batcher_of(EchoBackend(), observer=diary)
        entry = Entry(["a"], 1)
        batcher.submit(entry, lambda _: pytest.fail("it was withdrawn"))
        withdrawn = [batcher.withdraw(entry), batcher.withdraw(entry), batcher.withdraw(Entry(["b"], 1))]
        await asyncio.sleep(5)
        assert batcher.stats().images == 0
        return withdrawn

    assert run(main()) == [True, False, False]
    assert [event[:2] for event in diary.of("ended")] == [(1, Outcome.CANCELLED)]
    assert diary.of("dispatched") == []


def test_a_row_that_expires_in_the_queue_never_runs() -> None:
    backend = EchoBackend(seconds=lambda _: 10.0)

    async def main() -> tuple[Answer, float]:
        batcher = batcher_of(backend, Limits(max_batch_images=1))
        asyncio.get_running_loop().call_soon(batcher.submit, Entry(["blocks"], 1), lambda _: None)
        await asyncio.sleep(0)
        answer = await batcher.predict(Entry(["waits"], 1, deadline=3.0))
        ended_s = asyncio.get_running_loop().time()
        await asyncio.sleep(20)
        return answer, ended_s

    answer, ended_s = run(main())
    assert isinstance(answer.error, DeadlineExceeded)
    assert ended_s == 3.0
    assert answer.timing == (3.0, 0.0, 0, None, 0.0, 0.0, 0, ())
    assert [call.rows for call in backend.calls] == [["blocks"]]


def test_rows_that_the_backend_names_end_and_the_others_run_again_together() -> None:
    backend = EchoBackend(names=name_all)

    async def main() -> list[Answer]:
        batcher = batcher_of(backend)
        entries = [Entry(["a"], 1), Entry(["poison", "b", "poison"], 3), Entry(["c", "poison"], 2, keep_going=True)]
        return await asyncio.gather(*map(batcher.predict, entries))

    alone, ended, kept = run(main())
    assert [call.rows for call in backend.calls] == [["a", "poison", "b", "poison", "c", "poison"], ["a", "c"]]
    assert len(backend.calls[1].parts) == 2
    assert alone.pieces == (["a"],)
    assert str(ended.error) == "row 1", "its own error, not that of the call"
    assert list(ended.errors) == [0], "the first ends it"
    assert kept.pieces == (["c"],)
    assert list(kept.errors) == [1]


def test_a_backend_that_names_the_place_after_the_last_names_none() -> None:
    class OneTooFar(EchoBackend):
        def report(self, call: Call, seconds: float) -> FakeReport:
            report = super().report(call, seconds)
            return replace(report, guilty={len(call.rows): report.error})

    backend = OneTooFar()

    async def main() -> list[Answer]:
        batcher = batcher_of(backend)
        return await asyncio.gather(*(batcher.predict(Entry([row], 1)) for row in ("poison", "a")))

    bad, good = run(main())
    assert isinstance(bad.error, BadPictureError)
    assert good.pieces == (["a"],)
    assert [call.rows for call in backend.calls] == [["poison", "a"], ["poison"], ["a"]]


def test_one_poisoned_row_is_named_and_its_batch_mates_are_answered() -> None:
    diary = Diary()

    async def main() -> list[Answer]:
        batcher = batcher_of(EchoBackend(), observer=diary)
        rows = ["a", "b", "poison", "d"]
        return await asyncio.gather(*(batcher.predict(Entry([row], 1)) for row in rows))

    answers = run(main())
    assert [answer.pieces for answer in answers] == [(["a"],), (["b"],), (), (["d"],)]
    assert isinstance(answers[2].error, BadPictureError)
    assert answers[2].errors == {0: answers[2].error}
    assert answers[0].timing.retries == 1
    assert len(diary.of("guilty")) == 1
    assert len(diary.of("retried")) == len(diary.of("dispatched")) - 1 == 4
    assert sorted(outcome for _, outcome, _, _ in diary.of("ended")) == ["invalid_input", "ok", "ok", "ok"]


def test_an_entry_that_keeps_going_answers_its_healthy_rows() -> None:
    async def main() -> Answer:
        entry = Entry(["a", "poison", "c", "poison"], 4, keep_going=True)
        return await batcher_of(EchoBackend()).predict(entry)

    answer = run(main())
    assert [row for piece in answer.pieces for row in piece] == ["a", "c"]  # type: ignore[attr-defined]  # lists
    assert set(answer.errors) == {1, 3}
    assert answer.error is None


def test_an_entry_that_does_not_keep_going_ends_with_its_first_guilty_row() -> None:
    backend = EchoBackend(seconds=lambda _: 1.0)

    async def main() -> Answer:
        return await batcher_of(backend).predict(Entry(["poison", "b", "c", "d"], 4))

    answer = run(main())
    assert answer.errors == {0: answer.error}
    assert [call.rows for call in backend.calls] == [["poison", "b", "c", "d"], ["poison", "b"], ["c", "d"], ["poison"]]


def test_a_row_left_alone_by_its_batch_mates_end_is_not_blamed_for_them() -> None:
    """The poisoned row expires at the instant when its batch fails; the healthy row must be run again."""

    async def main() -> Answer:
        batcher = batcher_of(EchoBackend(seconds=lambda _: 1.0))
        batcher.submit(Entry(["poison"], 1, deadline=1.0), lambda _: None)
        return await batcher.predict(Entry(["fine"], 1))

    answer = run(main())
    assert answer.error is None
    assert answer.pieces == (["fine"],)


def test_what_is_not_the_clients_fault_fails_once_and_is_not_replayed() -> None:
    backend, diary = EchoBackend(), Diary()

    async def main() -> list[Answer]:
        batcher = batcher_of(backend, observer=diary)
        return await asyncio.gather(*(batcher.predict(Entry([row], 1)) for row in ("a", "crash")))

    answers = run(main())
    assert [str(answer.error) for answer in answers] == ["out of memory", "out of memory"]
    assert len(backend.calls) == 1
    assert {outcome for _, outcome, _, _ in diary.of("ended")} == {Outcome.MODEL_ERROR}


def test_a_retry_that_fails_fails_an_entry_that_it_holds_in_two_pieces_once() -> None:
    class FailsLater(EchoBackend):
        def report(self, call: Call, seconds: float) -> FakeReport:
            if len(self.calls) == 1:
                return super().report(call, seconds)
            return FakeReport(None, RuntimeError("out of memory"), call.at_s)

    backend, diary = FailsLater(names=name_all), Diary()

    async def main() -> Answer:
        batcher = batcher_of(backend, observer=diary)
        return await batcher.predict(Entry(["a", "poison", "b"], 3, keep_going=True))

    answer = run(main())
    assert str(answer.error) == "out of memory"
    assert set(answer.errors) == {1}
    assert [call.rows for call in backend.calls] == [["a", "poison", "b"], ["a", "b"]]
    assert [outcome for _, outcome, _, _ in diary.of("ended")] == [Outcome.MODEL_ERROR]


def test_a_whole_entry_is_never_retried() -> None:
    backend, diary = EchoBackend(), Diary()

    async def main() -> Answer:
        return await batcher_of(backend, observer=diary).predict(Entry(["a", "poison"], 2, whole=True))

    answer = run(main())
    assert isinstance(answer.error, BadPictureError)
    assert answer.errors == {}
    assert len(backend.calls) == 1
    assert [outcome for _, outcome, _, _ in diary.of("ended")] == [Outcome.INVALID_INPUT]


def test_a_callback_that_cannot_tell_whose_fault_it_is_blames_no_row() -> None:
    def cannot_tell(_: BaseException) -> bool:
        raise RuntimeError("no idea")

    async def main() -> Answer:
        clock = asyncio.get_running_loop().time
        batcher = Batcher(EchoBackend(), Limits(), is_client_fault=cannot_tell, clock=clock)
        batcher.start()
        return await batcher.predict(Entry(["a", "poison"], 2))

    answer = run(main())
    assert isinstance(answer.error, BadPictureError)
    assert answer.errors == {}


class OddBackend(EchoBackend):
    """Reports whatever it was made with."""

    def __init__(self, report: Any) -> None:
        super().__init__()
        self._report = report

    def report(self, *_: object) -> Any:
        """As EchoBackend."""
        return self._report


class NoLength:
    """A piece that can't be counted."""

    def __len__(self) -> int:
        raise TypeError("no length")


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (FakeReport([["a"]], None, 0.0), "the runner gave 1 results for 2 parts"),
        (FakeReport([["a"], []], None, 0.0), "a part of 1 rows was answered with 0"),
        (FakeReport(None, None, 0.0), "the runner gave neither results nor an error"),
        (FakeReport([["a"], NoLength()], None, 0.0), "a result has no length: TypeError('no length')"),
        (object(), "the runner's report has no times: "),
    ],
)
def test_a_report_that_does_not_fit_fails_the_batch_and_only_it(report: Any, message: str) -> None:
    async def main() -> list[Answer]:
        batcher = batcher_of(OddBackend(report))
        answers = await asyncio.gather(*(batcher.predict(Entry([row], 1)) for row in "ab"))
        assert batcher.is_healthy
        return answers

    for answer in run(main()):
        assert isinstance(answer.error, BadOutput)
        assert str(answer.error).startswith(message)


def test_a_backend_that_raises_fails_its_batch_and_the_driver_lives_on() -> None:
    class Broken(EchoBackend):
        def start(self, *call: Any) -> None:
            if not self.calls:
                self.calls.append(call)  # type: ignore[arg-type]  # only counted
                raise OSError("no thread")
            super().start(*call)

    async def main() -> list[Answer]:
        batcher = batcher_of(Broken())
        return [await batcher.predict(Entry([row], 1)) for row in ("a", "b")]

    first, second = run(main())
    assert isinstance(first.error, OSError)
    assert second.pieces == (["b"],)


def test_a_backend_that_reports_twice_is_heard_once() -> None:
    class Twice(EchoBackend):
        def start(
            self, parts: Sequence[tuple[Any, int, int]], padding: int, done: Callable[[BatchReport], None]
        ) -> None:
            def twice(report: BatchReport) -> None:
                done(report)
                done(report)

            super().start(parts, padding, twice)

    diary = Diary()

    async def main() -> None:
        batcher = batcher_of(Twice(), observer=diary)
        await batcher.predict(Entry(["a"], 1))
        await asyncio.sleep(1)
        assert batcher.stats().inflight_batches == 0

    run(main())
    assert len(diary.of("ran")) == 1


def test_a_driver_that_fails_in_itself_is_not_healthy_and_leaves_no_caller_waiting() -> None:
    loop = VirtualLoop()

    async def main() -> Answer:
        batcher = batcher_of(EchoBackend())
        batcher.curve.sizes = ()  # our own bug: no class for any batch
        answer = await batcher.predict(Entry(["a"], 1))
        assert not batcher.is_healthy
        with pytest.raises(Closed):
            batcher.submit(Entry(["b"], 1), print)
        return answer

    assert isinstance(run(main(), loop).error, Closed)
    assert "the driver failed" in loop.failures[0]["message"]


def test_refusals_are_told_to_the_observer() -> None:
    diary = Diary()

    async def main() -> None:
        batcher = batcher_of(EchoBackend(), Limits(max_queue_images=2), observer=diary)
        with pytest.raises(QueueFull):
            batcher.submit(Entry(["a"] * 3, 3), print)

    run(main())
    assert [rows for rows, _ in diary.of("refused")] == [3]


def test_rows_that_were_admitted_are_submitted_with_their_ticket() -> None:
    diary = Diary()

    async def main() -> list[Answer]:
        batcher = batcher_of(EchoBackend(), Limits(max_queue_images=2), observer=diary)
        answers: list[Answer] = []
        ticket = batcher.admit(2, math.inf)
        batcher.submit(Entry(["a", "b"], 2), answers.append, ticket)
        with pytest.raises(QueueFull):  # the ticket reserves nothing, and the queue has changed
            batcher.submit(Entry(["c", "d"], 2), answers.append, ticket)
        with pytest.raises(QueueFull, match="of 300000000 bytes"):
            batcher.admit(1, math.inf, size_bytes=300_000_000)
        await asyncio.sleep(2)
        return answers

    assert [answer.pieces for answer in run(main())] == [(["a", "b"],)]
    assert [rows for rows, _ in diary.of("refused")] == [2, 1]


def test_what_submit_would_refuse_is_refused_before_there_is_an_entry_and_changes_nothing() -> None:
    diary = Diary()

    async def main() -> None:
        backend = EchoBackend(seconds=lambda _: 1.0)
        batcher = batcher_of(backend, Limits(max_queue_images=2, max_batch_images=1), observer=diary)
        batcher.admit(2, math.inf)
        with pytest.raises(QueueFull, match=r"^3 images beside 0"):
            batcher.admit(3, math.inf)
        await batcher.predict(Entry(["a"], 1))
        waiting = [asyncio.ensure_future(batcher.predict(Entry([row], 1))) for row in "bc"]
        await asyncio.sleep(0.1)
        before = batcher.stats()
        with pytest.raises(PredictedLate):
            batcher.admit(1, time_s() + 0.5)
        with pytest.raises(PredictedLate):
            batcher.submit(Entry(["x"], 1, deadline=time_s() + 0.5), print)
        assert batcher.stats()._replace(oldest_age_s=before.oldest_age_s) == before
        batcher.admit(1, time_s() + 60)
        batcher.close()
        with pytest.raises(Closed):
            batcher.admit(1, math.inf)
        await asyncio.gather(*waiting)

    def time_s() -> float:
        return asyncio.get_running_loop().time()

    run(main())
    assert [rows for rows, _ in diary.of("refused")] == [3, 1, 1, 1]


def test_a_batcher_that_was_not_started_takes_nothing() -> None:
    async def main() -> None:
        batcher = Batcher(EchoBackend(), Limits(), is_client_fault=is_client_fault)
        assert not batcher.is_healthy
        with pytest.raises(Closed):
            batcher.submit(Entry(["a"], 1), print)

    run(main())


def test_draining_answers_what_it_has_refuses_what_comes_and_ends() -> None:
    async def main() -> tuple[Answer, float]:
        loop = asyncio.get_running_loop()
        batcher = batcher_of(EchoBackend(seconds=lambda _: 2.0), Limits(linger_s=60.0))
        answer = asyncio.ensure_future(batcher.predict(Entry(["a"], 1)))
        await asyncio.sleep(1)
        drained = asyncio.ensure_future(batcher.drain(10.0))
        await asyncio.sleep(0)
        with pytest.raises(Closed):
            batcher.submit(Entry(["b"], 1), print)
        await drained
        return await answer, loop.time()

    answer, ended_s = run(main())
    assert answer.timing.reason is Reason.DRAIN
    assert ended_s == 3.0


def test_draining_ends_what_takes_too_long() -> None:
    diary = Diary()

    async def main() -> tuple[Answer, float]:
        batcher = batcher_of(EchoBackend(seconds=lambda _: 100.0), observer=diary)
        answer = asyncio.ensure_future(batcher.predict(Entry(["a"], 1)))
        await asyncio.sleep(0)
        await batcher.drain(5.0)
        ended_s = asyncio.get_running_loop().time()
        await asyncio.sleep(200)  # the call comes back after the close
        return await answer, ended_s

    answer, ended_s = run(main())
    assert isinstance(answer.error, Closed)
    assert ended_s == 5.0
    assert [outcome for _, outcome, _, _ in diary.of("ended")] == [Outcome.DRAINING]
    assert diary.of("ran") == []


def test_an_empty_batcher_drains_at_once_and_a_withdrawal_can_be_the_last() -> None:
    async def main() -> float:
        batcher = batcher_of(EchoBackend(seconds=lambda _: 100.0))
        entry = Entry(["a"], 1)
        batcher.submit(entry, print)
        drained = asyncio.ensure_future(batcher.drain(50.0))
        await asyncio.sleep(1.0)
        batcher.withdraw(entry)
        await drained
        await batcher.drain(50.0)
        return asyncio.get_running_loop().time()

    assert run(main()) == 1.0


def test_stats_show_what_the_gauges_need() -> None:
    async def main() -> tuple[Any, Any]:
        batcher = batcher_of(EchoBackend(seconds=lambda _: 1.0), Limits(max_batch_images=1, max_queue_images=9))
        empty = batcher.stats()
        for label in "abc":
            batcher.submit(Entry([label], 1, row_bytes=(5,)), lambda _: None)
        await asyncio.sleep(0.5)
        busy = batcher.stats()
        await asyncio.sleep(5)
        return empty, busy

    empty, busy = run(main())
    slots = Limits().max_inflight_batches
    assert empty == (0, 0, 9, 0.0, 0, 1, slots, 0, 0)
    assert busy == (2, 10, 9, 0.5, 1, 1, slots, 0, 0)


def test_a_batcher_whose_owner_found_its_backend_broken_is_not_healthy_and_counts_as_failing() -> None:
    async def main() -> None:
        batcher = batcher_of(EchoBackend())
        assert (batcher.is_healthy, batcher.failing, batcher.stats().failing) == (True, "", 0)
        batcher.failing = "it fails with a row that ran at the load"
        assert (batcher.is_healthy, batcher.stats().failing) == (False, 1)

    run(main())


def test_an_observer_hears_how_wrong_a_prediction_was() -> None:
    diary = Diary()

    async def main() -> None:
        batcher = batcher_of(EchoBackend(seconds=lambda _: 1.5), observer=diary, slo_s=5.0)
        batcher.curve.seed(1, 1.0)
        await batcher.predict(Entry(["a"], 1))

    run(main())
    assert diary.of("predicted") == [(0.5,)]


def test_two_calls_are_in_flight_where_the_backend_may_have_two() -> None:
    backend = EchoBackend(seconds=lambda _: 1.0)

    async def main() -> float:
        batcher = batcher_of(backend, Limits(max_batch_images=1, max_inflight_batches=2))
        await asyncio.gather(*(batcher.predict(Entry([n], 1)) for n in range(4)))
        return asyncio.get_running_loop().time()

    assert run(main()) == 2.0
    assert backend.most_running == 2


class ThreadedBackend:
    """Reports from a thread of its own, when told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.threads: list[threading.Thread] = []

    def start(self, parts: Sequence[tuple[Any, int, int]], padding: int, done: Callable[[BatchReport], None]) -> None:
        """As `darkroom.batching.backend.Backend`."""

        def work() -> None:
            self.go.wait()
            results = [[row] * (stop - start) for row, start, stop in parts]
            done(FakeReport(results, None, time.monotonic() + padding))

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()


def test_a_report_from_another_thread_is_carried_to_the_loop() -> None:
    backend = ThreadedBackend()
    backend.go.set()

    async def main() -> tuple[Answer, int]:
        batcher = Batcher(backend, Limits(), is_client_fault=is_client_fault)
        batcher.start()
        told: asyncio.Future[tuple[Answer, int]] = asyncio.get_running_loop().create_future()
        batcher.submit(Entry("a", 1), lambda answer: told.set_result((answer, threading.get_ident())))
        return await told

    answer, thread = asyncio.run(main())
    assert answer.pieces == (["a"],)
    assert thread == threading.get_ident()
    for each in backend.threads:
        each.join()


def test_a_report_after_the_end_of_the_loop_is_dropped() -> None:
    backend = ThreadedBackend()

    async def main() -> None:
        batcher = Batcher(backend, Limits(), is_client_fault=is_client_fault)
        batcher.start()
        batcher.submit(Entry("a", 1), lambda _: None)
        for _ in range(3):  # passes of the loop, until the batch has left
            await asyncio.sleep(0)
        batcher.close()

    asyncio.run(main())
    assert len(backend.threads) == 1
    backend.go.set()
    for each in backend.threads:
        each.join()  # an exception in the thread would be a warning, and so an error


class _Stack(EchoBackend):
    """Fails every call of more than one row, none of which is guilty."""

    def report(self, call: Call, seconds: float) -> FakeReport:
        error = BadPictureError("shapes differ") if len(call.rows) > 1 else None
        return FakeReport(None if error else [[row] for row in call.rows], error, call.at_s, execute_s=seconds)


def test_rows_that_fail_only_together_are_kept_apart_and_the_observer_hears_of_it_once() -> None:
    told: list[bool] = []

    class Heard(Observer):
        def kept_apart(self, is_alone: bool) -> None:
            told.append(is_alone)

    async def main() -> list[bool]:
        batcher = batcher_of(_Stack(), observer=Heard())
        kept = []
        for _ in range(4):
            await asyncio.gather(*(batcher.predict(Entry([n], 1, kind="a")) for n in range(9)))
            kept.append(batcher.keeps_apart)
        return kept

    assert run(main()) == [True] * 4
    assert told == [False, True]
