"""What observers, callers and the loop's exception handler are told, word for word."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.batching.batcher import TAIL_FACTOR, Batcher
from darkroom.batching.driver.dispatcher import GATHER_S
from darkroom.batching.entry import Entry
from darkroom.batching.errors import Closed, DeadlineExceeded, EngineTimeout, QueueFull
from darkroom.batching.limits import Limits
from darkroom.batching.observer import Observer, Outcome
from tests.property.rig import BadPictureError, Diary, EchoBackend, FakeReport, batcher_of, is_client_fault
from tests.vclock import VirtualLoop, run

if TYPE_CHECKING:
    from darkroom.batching.entry import Answer
    from tests.property.rig import Call

HUNG_S = 1e5


def test_each_event_is_told_with_what_it_is_about() -> None:
    diary = Diary()

    async def main() -> list[Answer]:
        batcher = batcher_of(EchoBackend(seconds=lambda _: 1.0), Limits(max_queue_images=2), observer=diary)
        refused = []
        for refuse in (lambda: batcher.admit(3, math.inf), lambda: batcher.submit(Entry(["a"] * 3, 3), print)):
            with pytest.raises(QueueFull) as caught:
                refuse()
            refused.append((3, caught.value))
        assert diary.of("refused") == refused
        return list(await asyncio.gather(batcher.predict(Entry(["a"], 1)), batcher.predict(Entry(["poison"], 1))))

    _, bad = run(main())
    assert isinstance(bad.error, BadPictureError)
    assert diary.of("guilty") == [(bad.error,)]
    batches = [batch for (batch,) in diary.of("dispatched")]
    assert [batch.serial for batch in batches] == [1, 2, 3]
    assert [batch for batch, _ in diary.of("ran")] == batches
    assert [(report.started_s, report.execute_s) for _, report in diary.of("ran")] == [
        (0.0, 1.0),
        (1.0, 1.0),
        (2.0, 1.0),
    ]
    assert [batch.returned_s for batch in batches] == [1.0, 2.0, 3.0]
    assert diary.of("retried") == [(batch,) for batch in batches[1:]]


def test_only_an_answer_that_was_predicted_is_compared_with_its_prediction() -> None:
    diary = Diary()

    async def main() -> None:
        batcher = batcher_of(EchoBackend(seconds=lambda _: 1.5), observer=diary)
        batcher.curve.seed(1, 1.0)
        for row, deadline in (("due", 10.0), ("never due", None), ("poison", 20.0)):
            await batcher.predict(Entry([row], 1, deadline=deadline))

    run(main())
    assert diary.of("predicted") == [(0.5,)]


def test_why_an_entry_ended_is_said_to_its_caller_and_to_the_observer() -> None:
    diary = Diary()

    async def main() -> list[str]:
        batcher = batcher_of(EchoBackend(seconds=lambda _: HUNG_S), Limits(max_batch_images=1), observer=diary)
        batcher.know_shape(None)
        answers: list[Answer] = []
        for deadline in (None, 1.0, None):
            batcher.submit(Entry(["a"], 1, deadline=deadline), answers.append)
        await asyncio.sleep(2)
        batcher.watch(2.0, 1.0)
        batcher.watch(4.0, 1.0)
        assert [type(answer.error) for answer in answers] == [DeadlineExceeded, EngineTimeout, Closed]
        other = batcher_of(EchoBackend(seconds=lambda _: HUNG_S), Limits(max_batch_images=1), observer=diary)
        other.submit(Entry(["a"], 1), answers.append)
        other.close()
        return [str(answer.error) for answer in answers]

    assert run(main()) == [
        "its time was over before it could be answered",
        "the engine's call did not return within 1 s; it may never return",
        "the engine does not answer: its calls have run far too long; ask another server",
        "the batcher was closed",
    ]
    outcomes = [outcome for _, outcome, _, _ in diary.of("ended")]
    assert outcomes == [Outcome.EXPIRED, Outcome.MODEL_ERROR, Outcome.MODEL_ERROR, Outcome.DRAINING]


@pytest.mark.parametrize("name", [None, "faces"])
def test_what_foreign_code_raises_is_reported_with_the_batcher_and_the_culprit(name: str | None) -> None:
    class Broken(Observer):
        """Raises wherever it can."""

        def __repr__(self) -> str:
            return "the observer"

        def ended(self, *_: object) -> None:
            raise RuntimeError("ended")

    class Listener:
        """A caller that raises too."""

        def __repr__(self) -> str:
            return "the caller"

        def __call__(self, _: Answer) -> None:
            raise RuntimeError("called")

    loop = VirtualLoop()

    async def main() -> None:
        options: dict[str, Any] = {} if name is None else {"name": name}
        batcher = batcher_of(EchoBackend(), observer=Broken(), **options)
        batcher.submit(Entry(["a"], 1), Listener())
        withdrawn = Entry(["b"], 1)
        batcher.submit(withdrawn, print)
        batcher.withdraw(withdrawn)
        await asyncio.sleep(2)
        batcher.curve.sizes = ()  # our own bug: no class for any batch
        batcher.submit(Entry(["c"], 1), print)
        await asyncio.sleep(2)

    run(main(), loop)
    told = [(failure["message"], str(failure["exception"])) for failure in loop.failures]
    start = f"batcher {name or ''}: "
    assert [message.removeprefix(start).partition(" at 0x")[0] for message, _ in told] == [
        f"{Broken().ended} failed".partition(" at 0x")[0],
        "the observer failed",
        "the caller failed",
        "the driver failed",
        "the observer failed",
    ]
    assert [exception for _, exception in told] == ["ended", "ended", "called", "tuple index out of range", "ended"]


def test_an_answer_says_how_long_each_step_took() -> None:
    class Slow(EchoBackend):
        """Needs time before and after the engine runs."""

        def report(self, call: Call, seconds: float) -> FakeReport:
            return replace(super().report(call, seconds), started_s=call.at_s + 0.5, collate_s=0.25, split_s=0.125)

    async def main() -> Answer:
        batcher = batcher_of(Slow(seconds=lambda _: 1.0))
        await asyncio.sleep(3)
        return await batcher.predict(Entry(["a"], 1))

    timing = run(main()).timing
    assert (timing.queue_s, timing.collate_s, timing.execute_s, timing.split_s) == (0.5, 0.25, 1.0, 0.125)


def test_a_part_in_the_middle_of_an_entry_that_lacks_a_row_is_told_by_its_own_rows() -> None:
    class SecondIsShort(EchoBackend):
        """Answers the second call with nothing."""

        def report(self, call: Call, seconds: float) -> FakeReport:
            report = super().report(call, seconds)
            return report if len(self.calls) == 1 else replace(report, results=[[]])

    async def main() -> Answer:
        return await batcher_of(SecondIsShort(), Limits(max_batch_images=2)).predict(Entry(["a"] * 4, 4))

    assert str(run(main()).error) == "a part of 2 rows was answered with 0"


def test_a_ticket_is_for_the_lane_that_was_asked_for_and_the_interactive_one_if_none_was() -> None:
    async def main() -> list[bool]:
        batcher = batcher_of(EchoBackend())
        return [batcher.admit(1, math.inf, **lane).is_bulk for lane in ({}, {"is_bulk": False}, {"is_bulk": True})]

    assert run(main()) == [False, False, True]


def test_rows_are_not_judged_again_when_they_bring_their_ticket() -> None:
    async def main() -> float:
        batcher = batcher_of(EchoBackend())
        batcher.curve.seed(1, 2.0)
        ticket = batcher.admit(1, 10.0)
        batcher.curve.seed(1, 3.0)  # a second judgement would say something else
        entry = Entry(["a"], 1, deadline=10.0)
        batcher.submit(entry, print, ticket)
        return entry.forecast_s

    assert run(main()) == 2.0


def test_a_batcher_that_was_not_started_says_so() -> None:
    async def main() -> None:
        batcher = Batcher(EchoBackend(), Limits(), is_client_fault=is_client_fault)
        assert (batcher.is_healthy, batcher.stuck_s) == (False, 0.0)
        with pytest.raises(Closed, match=r"^the batcher was not started$"):
            batcher.submit(Entry(["a"], 1), print)

    run(main())


def test_the_curve_and_the_watch_know_the_sizes_that_batches_are_padded_to() -> None:
    async def main() -> list[float]:
        limits = Limits(max_batch_images=4, allowed_batch_sizes=(2, 4))
        batcher = batcher_of(EchoBackend(seconds=lambda _: HUNG_S), limits)
        assert batcher.curve.sizes == (2, 4)
        batcher.know_shape(None)
        batcher.curve.seed(2, 1.0)
        batcher.curve.seed(4, 1.5)
        batcher.submit(Entry(["a"] * 3, 3), print)
        await asyncio.sleep(0.1)
        batcher.watch(0.0, 1.0)
        return [batcher.watch(times * TAIL_FACTOR, 1.0) for times in (1.5, 3.0)]

    assert run(main()) == [0.0, 2.0]


def test_the_age_of_the_oldest_row_counts_from_its_arrival() -> None:
    async def main() -> float:
        batcher = batcher_of(EchoBackend(seconds=lambda _: HUNG_S), Limits(max_batch_images=1))
        await asyncio.sleep(1.0)
        for _ in range(2):
            batcher.submit(Entry(["a"], 1), print)
        await asyncio.sleep(2.5)
        return batcher.stats().oldest_age_s

    assert run(main()) == 2.5


def test_a_caller_that_is_answered_shares_its_next_batch_with_those_that_wait() -> None:
    backend = EchoBackend(seconds=lambda _: 1.0)

    async def main() -> None:
        batcher = batcher_of(backend)
        batcher.submit(Entry(["a"], 1), lambda _: batcher.submit(Entry(["c"], 1), lambda _: None))
        await asyncio.sleep(0.5)
        batcher.submit(Entry(["b"], 1), lambda _: None)
        await asyncio.sleep(5)

    run(main())
    assert [call.rows for call in backend.calls] == [["a"], ["b", "c"]]


def test_a_timer_that_rings_before_the_clock_is_there_ends_what_it_was_set_for() -> None:
    """The clock of the machine may go in steps, here of a second."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        clock = lambda: float(math.floor(loop.time()))  # noqa: E731
        batcher = Batcher(
            EchoBackend(seconds=lambda _: HUNG_S),
            Limits(max_batch_images=1),
            is_client_fault=is_client_fault,
            clock=clock,
        )
        batcher.start()
        batcher.submit(Entry(["blocks"], 1), print)
        await batcher.predict(Entry(["waits"], 1, deadline=2.5))
        return loop.time()

    assert run(main()) == 2.5


def test_a_batch_is_kept_for_others_until_the_moment_is_over_and_no_longer() -> None:
    backend, loop = EchoBackend(seconds=lambda _: HUNG_S), VirtualLoop()

    async def main() -> None:
        batcher = batcher_of(backend, Limits(max_inflight_batches=9))
        for n in range(5):
            batcher.submit(Entry([n], 1), print)
            await asyncio.sleep(0)
            loop.pass_time(GATHER_S / 2)

    run(main(), loop)
    assert [call.rows for call in backend.calls] == [[0, 1, 2], [3, 4]]
