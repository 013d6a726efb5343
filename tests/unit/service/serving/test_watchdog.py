"""The watchdog's decisions on a clock of their own."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from darkroom.batching.entry import Answer, Timing
from darkroom.batching.errors import Closed, DeadlineExceeded
from darkroom.models.errors import PredictFailed
from darkroom.models.rows import Rows
from darkroom.service.config.settings import Settings
from darkroom.service.serving.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.batching.entry import Entry
    from darkroom.service.serving.servable import Target

ROW = Rows({"images": [b"x"]})


class Calls:
    """A batcher with one call that began at the first look; it returns when a test says so.

    `ask` is what it was given to run; `doubt` is the error of its last call.
    """

    doubt: BaseException | None = None
    failing = ""

    def __init__(self) -> None:
        self.ask: Callable[[Answer], None] | None = None
        self.refusal: Exception | None = None
        self.began_s: float | None = None
        self.runs = True
        self.stuck_s = 0.0

    def watch(self, watched_s: float, least_s: float) -> float:
        self.began_s = watched_s if self.began_s is None else self.began_s
        ran_s = watched_s - self.began_s if self.runs else 0.0
        self.stuck_s = ran_s if ran_s > least_s else 0.0
        return self.stuck_s / least_s

    def submit(self, entry: Entry, on_done: Callable[[Answer], None]) -> None:
        assert (entry.rows, entry.whole, self.ask) == (1, True, None)
        if self.refusal:
            raise self.refusal
        self.ask = on_done

    def answer(self, error: BaseException | None = None) -> None:
        """Answers the row that it was given, as a batcher does."""
        assert self.ask is not None
        ask, self.ask, self.doubt = self.ask, None, error
        ask(Answer((), {}, error, Timing(0.0)))


class Rig:
    """A watchdog over one call, a clock that a test moves on, and what was ended."""

    def __init__(self, **settings: Any) -> None:
        self.now = 1000.0
        self.calls = Calls()
        self.ended: list[float] = []
        self.is_on_trial = False
        target = SimpleNamespace(
            batcher=self.calls,
            model=SimpleNamespace(name="m", version=7),
            spec=SimpleNamespace(name="s"),
            samples=[ROW],
        )
        self.targets = [cast("Target", target)]
        self.watchdog = Watchdog(
            Settings(**settings),
            lambda: self.targets,
            is_on_trial=lambda _: self.is_on_trial,
            clock=lambda: self.now,
            end=lambda: self.ended.append(self.now),
        )

    def look_for(self, seconds: int) -> None:
        """A look a second."""
        for _ in range(seconds):
            self.watchdog.look()
            self.now += 1


def test_a_call_that_hangs_is_told_then_ends_the_process_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(engine_timeout_ms=30_000, engine_kill_ms=60_000)
    rig.look_for(31)
    assert rig.watchdog.reason == ""
    rig.look_for(1)
    assert rig.watchdog.reason == "an engine call of model 'm', version 7, signature 's' has run for 31 s"
    assert rig.ended == []
    rig.look_for(40)
    assert rig.ended == [1060.0]
    assert [record.levelname for record in caplog.records] == ["ERROR", "CRITICAL"]


def test_a_call_that_returns_makes_the_engine_well_again() -> None:
    rig = Rig(engine_timeout_ms=30_000, engine_kill_ms=60_000)
    rig.look_for(40)
    rig.calls.runs = False
    rig.look_for(100)
    assert rig.watchdog.reason == ""
    assert rig.ended == []


def test_without_a_second_limit_the_process_goes_on() -> None:
    rig = Rig(engine_timeout_ms=30_000, engine_kill_ms=0)
    rig.look_for(10_000)
    assert rig.watchdog.reason
    assert rig.ended == []


BROKEN = PredictFailed("InternalError: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered")


def _broken() -> Rig:
    """An engine that has just failed a known good row."""
    rig = Rig()
    rig.calls.runs = False
    rig.look_for(5)
    assert rig.calls.ask is None  # nothing is run on an engine that works
    rig.calls.doubt = BROKEN
    rig.look_for(3)
    assert rig.watchdog.reason == ""
    rig.calls.answer(BROKEN)
    rig.look_for(1)
    assert rig.watchdog.reason == (
        f"the engine of model 'm', version 7, signature 's' fails with a row that ran at the load: {BROKEN}"
    )
    return rig


def test_an_engine_that_fails_a_known_good_row_is_told_then_ends_the_process_once() -> None:
    rig = _broken()
    for _ in range(30):
        rig.calls.answer(BROKEN)
        rig.look_for(1)
    assert len(rig.ended) == 1


def test_an_engine_of_which_a_call_succeeds_is_well_again() -> None:
    rig = _broken()
    rig.calls.answer()
    rig.look_for(1)
    assert (rig.watchdog.reason, rig.calls.failing) == ("", "")
    rig.calls.doubt = BROKEN  # a row of a client, and the known good one runs
    for _ in range(30):
        rig.look_for(1)
        rig.calls.answer()
        rig.calls.doubt = BROKEN
    assert (rig.watchdog.reason, rig.ended) == ("", [])


def test_a_broken_engine_that_is_gone_ends_nothing() -> None:
    rig = _broken()
    rig.targets.clear()
    rig.look_for(30)
    assert (rig.watchdog.reason, rig.ended) == ("", [])


@pytest.mark.parametrize("error", [Closed("draining"), DeadlineExceeded("late")])
def test_a_known_good_row_that_never_ran_tells_nothing(error: Exception) -> None:
    rig = Rig()
    rig.calls.doubt = BROKEN
    rig.look_for(1)
    rig.calls.answer(error)
    rig.calls.refusal = error
    rig.look_for(25)
    assert (rig.watchdog.reason, rig.ended) == ("", [])


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    rig = Rig()
    rig.look_for(5)
    rig.now += 3600  # SIGSTOP, or a machine that was suspended
    rig.look_for(5)
    assert rig.watchdog.reason == ""


def test_a_loop_that_stands_still_is_ended_by_a_thread() -> None:
    ended = threading.Event()

    async def main() -> None:
        watchdog = Watchdog(Settings(engine_timeout_ms=40, engine_kill_ms=80), list, end=ended.set)
        looking = asyncio.ensure_future(watchdog.run())
        await asyncio.sleep(0)
        assert not ended.is_set()
        assert ended.wait(30)  # the loop stands still here
        looking.cancel()

    asyncio.run(main())


def test_the_thread_ends_with_the_watchdog() -> None:
    async def main() -> None:
        looking = asyncio.ensure_future(Watchdog(Settings(), list).run())
        await asyncio.sleep(0)
        assert _threads() == before + 1
        looking.cancel()

    before = _threads()
    asyncio.run(main())
    ends_s = time.monotonic() + 30
    while _threads() > before:
        assert time.monotonic() < ends_s


def _threads() -> int:
    return sum(thread.name == "loop-watchdog" for thread in threading.enumerate())


def test_the_second_limit_is_not_below_the_first() -> None:
    with pytest.raises(ValueError, match="engine_kill_ms: must be at least --engine_timeout_ms, or 0"):
        Settings(engine_timeout_ms=2000, engine_kill_ms=1000)


def test_a_version_that_only_runs_beside_another_is_watched_and_not_judged() -> None:
    hangs = Rig(engine_timeout_ms=30_000, engine_kill_ms=60_000)
    hangs.is_on_trial = True
    hangs.look_for(100)
    assert hangs.calls.stuck_s > 30  # its callers were told
    assert (hangs.watchdog.reason, hangs.ended) == ("", [])
    fails = _broken()
    fails.is_on_trial = True
    fails.look_for(100)
    assert (fails.watchdog.reason, fails.calls.failing, fails.ended) == ("", "", [])
    fails.is_on_trial = False
    fails.look_for(1)
    assert fails.calls.ask is not None  # it is judged anew
