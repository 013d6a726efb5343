"""Generated days of a batcher on a virtual clock, and what must be true of each (I1 to I9).

`live_through` takes the scheduler as an argument, so that the same property can be shown a scheduler with a known bug
in it (`test_field_bugs.py`).
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hypothesis import strategies as st

from tests.property.rig import (
    BadPictureError,
    Diary,
    EchoBackend,
    FakeReport,
    is_client_fault,
    is_row,
    name_all,
    name_first,
    name_nonsense,
    name_strangers,
)
from tests.vclock import VirtualLoop, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.property.rig import Call, Names

AGAIN = "poison-again"
KINDS = ["fine"] * 14 + ["poison", "poison", AGAIN, AGAIN, "crash", "short"]
SIZES = {"a": 8, "b": 8}


@dataclass(frozen=True)
class Ask:
    """One request of the day: when, which rows, and how its caller behaves."""

    at_s: float
    rows: tuple[str, ...]
    bulk: bool
    key: str
    whole: bool
    keep_going: bool
    patience_s: float | None
    hangs_up_after_s: float | None
    awaits: bool


@dataclass(frozen=True)
class Day:
    """A whole schedule: the settings, the machine, the requests, and when the batcher drains."""

    limits: dict[str, Any]
    asks: tuple[Ask, ...]
    call_s: float
    row_s: float
    names: Names | None
    slo_s: float | None
    remembers: bool
    drain_at_s: float | None


@dataclass
class Fate:
    """What became of one request."""

    ask: Ask
    labels: list[str]
    refused: BaseException | None = None
    order: int = 0  # among all requests, as they came
    answers: list[Any] = field(default_factory=list)
    ended_at_s: float = math.inf
    withdrawn_at_s: float | None = None


def load(package: str = "darkroom.batching") -> SimpleNamespace:
    """The scheduler's classes, from `package`."""
    names = {"batcher": "Batcher", "entry": "Entry", "limits": "Limits"}
    found = {name: getattr(import_module(f"{package}.{module}"), name) for module, name in names.items()}
    return SimpleNamespace(errors=import_module(f"{package}.errors"), **found)


# Strategies are made once: hypothesis looks into each new one, which took longer than the days themselves.
_ROWS = st.integers(1, 8)
_BYTES = st.sampled_from([10**9, 20])
_QUEUE = st.sampled_from([100, 12])
_PLACES = st.integers(1, 2)
_LINGER_S = st.sampled_from([0.0, 0.0, 0.5, 2.0])
_PADDED = st.sampled_from([False, False, True])
_QUARTERS = st.integers(0, 40).map(lambda n: n / 4)  # much happens at once, and times add without rounding


def _asks(kinds: list[str]) -> st.SearchStrategy[tuple[Ask, ...]]:
    ask = st.builds(
        Ask,
        at_s=_QUARTERS,
        rows=st.lists(st.sampled_from(kinds), min_size=1, max_size=6).map(tuple),
        bulk=st.booleans(),
        key=st.sampled_from("aab"),
        whole=st.sampled_from([False, False, False, True]),
        keep_going=st.booleans(),
        patience_s=st.none() | st.sampled_from([0.5, 3.0, 20.0]),
        hangs_up_after_s=st.none() | st.none() | _QUARTERS,
        awaits=st.booleans(),
    )
    return st.lists(ask, min_size=1, max_size=14).map(lambda asks: tuple(sorted(asks, key=lambda ask: ask.at_s)))


@st.composite
def _limits(draw: st.DrawFn) -> dict[str, Any]:
    images = draw(_ROWS)
    return {
        "max_batch_images": images,
        "max_batch_bytes": draw(_BYTES),
        "max_queue_images": draw(_QUEUE),
        "allowed_batch_sizes": tuple(sorted({(images + 1) // 2, images})) if draw(_PADDED) else (),
        "max_inflight_batches": draw(_PLACES),
        "linger_s": draw(_LINGER_S),
    }


def days(*, kinds: list[str] = KINDS) -> st.SearchStrategy[Day]:
    """Any day of requests with rows of these kinds."""
    return st.builds(
        Day,
        limits=_limits(),
        asks=_asks(kinds),
        call_s=st.sampled_from([0.0, 0.25, 1.0]),
        row_s=st.sampled_from([0.0, 0.25]),
        names=st.sampled_from([None, None, name_all, name_first, name_nonsense, name_strangers]),
        slo_s=st.none() | st.none() | st.sampled_from([1.0, 4.0]),
        remembers=st.booleans(),
        drain_at_s=st.none() | _QUARTERS,
    )


class ShortBackend(EchoBackend):
    """Loses a row of each part that holds a "short" one."""

    def report(self, call: Call, seconds: float) -> FakeReport:
        """As EchoBackend, with the row lost."""
        report = super().report(call, seconds)
        if report.results is None:
            return report
        results = [
            rows[1:] if any(is_row(row, "short") for row in rows) else rows
            for rows in cast("list[list[Any]]", report.results)
        ]
        return FakeReport(results, None, report.started_s, execute_s=report.execute_s)


def live_through(day: Day, scheduler: SimpleNamespace) -> None:
    """Runs the day, and asserts what must be true of any."""
    loop = VirtualLoop()
    backend = ShortBackend(lambda rows: day.call_s + day.row_s * rows, day.names)
    diary = Diary()
    fates = [Fate(ask, _labels(number, ask)) for number, ask in enumerate(day.asks)]
    run(_main(day, scheduler, backend, diary, fates), loop)
    assert loop.failures == []
    assert loop.timers == 0
    for fate in fates:
        _check_end(day, scheduler, fate, fates)
    _check_calls(day, backend, fates)
    _check_diary(day, diary, backend, fates)


def _labels(number: int, ask: Ask) -> list[str]:
    """A name for each row: unlike all others, except for the poison that comes again."""
    again = None if ask.whole else AGAIN
    return [kind if kind == again else f"{kind}-{number}-{index}" for index, kind in enumerate(ask.rows)]


async def _main(day: Day, scheduler: SimpleNamespace, backend: EchoBackend, diary: Diary, fates: list[Fate]) -> None:
    loop = asyncio.get_running_loop()
    batcher = scheduler.Batcher(
        backend,
        scheduler.Limits(**day.limits),
        is_client_fault=is_client_fault,
        observer=diary,
        clock=loop.time,
        slo_s=day.slo_s,
        row_identity=(lambda payload, row: payload[row]) if day.remembers else None,
    )
    batcher.start()
    arrivals = count()
    callers = [asyncio.create_task(_call(batcher, scheduler, fate, arrivals)) for fate in fates]
    if day.drain_at_s is not None:
        await asyncio.sleep(day.drain_at_s)
        await batcher.drain(3.0)
        _check_closed(batcher, scheduler)
    await asyncio.gather(*callers)
    await asyncio.sleep(0)
    stats = batcher.stats()
    assert (stats.images, stats.bytes) == (0, 0)
    if day.drain_at_s is None:
        assert batcher.is_healthy
        await batcher.drain(1000.0)
    _check_closed(batcher, scheduler)
    await asyncio.sleep(1000.0)  # calls without a caller come back
    assert not backend.running


def _check_closed(batcher: Any, scheduler: SimpleNamespace) -> None:
    """I9."""
    assert not batcher.is_healthy
    batcher.close()
    try:
        batcher.submit(scheduler.Entry(["late"], 1), print)
    except scheduler.errors.Closed:
        return
    raise AssertionError("a closed batcher took an entry")


async def _call(batcher: Any, scheduler: SimpleNamespace, fate: Fate, arrivals: Iterator[int]) -> None:
    """One caller, from its request to its end."""
    ask, loop = fate.ask, asyncio.get_running_loop()
    await asyncio.sleep(ask.at_s)
    entry = scheduler.Entry(
        fate.labels,
        len(fate.labels),
        row_bytes=[SIZES[ask.key]] * len(fate.labels),
        deadline=None if ask.patience_s is None else loop.time() + ask.patience_s,
        key=ask.key,
        whole=ask.whole,
        keep_going=ask.keep_going,
        bulk=ask.bulk,
    )
    answered = asyncio.Event()

    def on_done(answer: Any) -> None:
        fate.answers.append(answer)
        fate.ended_at_s = loop.time()
        answered.set()

    try:
        if ask.awaits:
            await _await_answer(batcher, entry, fate, arrivals, on_done)
            return
        fate.order = next(arrivals)
        batcher.submit(entry, on_done)
        assert not fate.answers, "answered from inside submit"
        async with asyncio.timeout(ask.hangs_up_after_s):
            await answered.wait()
    except scheduler.errors.BatchingError as error:
        fate.refused = error
    except TimeoutError:
        if batcher.withdraw(entry):
            fate.withdrawn_at_s = loop.time()
        assert not batcher.withdraw(entry)


async def _await_answer(
    batcher: Any, entry: Any, fate: Fate, arrivals: Iterator[int], on_done: Callable[[Any], None]
) -> None:
    """A caller that awaits, and whose task is cancelled when it hangs up."""

    async def ask() -> Any:
        fate.order = next(arrivals)
        return await batcher.predict(entry)

    task = asyncio.create_task(ask())
    await asyncio.wait([task], timeout=fate.ask.hangs_up_after_s)
    if not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.0)
        await asyncio.sleep(0)
    if task.cancelled():
        fate.withdrawn_at_s = asyncio.get_running_loop().time()
    else:
        on_done(task.result())


def _check_end(day: Day, scheduler: SimpleNamespace, fate: Fate, fates: list[Fate]) -> None:
    """I1: one end; I7: no other entry may cause it; I8: its own rows, in order."""
    ends = [fate.refused is not None, bool(fate.answers), fate.withdrawn_at_s is not None]
    assert sum(ends) == 1
    assert len(fate.answers) <= 1
    if not fate.answers:
        return
    answer = fate.answers[0]
    poison = {index for index, label in enumerate(fate.labels) if is_row(label, "poison")}
    assert set(answer.errors) <= poison
    assert all(isinstance(error, BadPictureError) for error in answer.errors.values())
    if answer.error is None:
        assert set(answer.errors) == poison
        healthy = [label for index, label in enumerate(fate.labels) if index not in poison]
        assert [label for piece in answer.pieces for label in piece] == healthy
        assert not poison or fate.ask.keep_going
        return
    assert answer.pieces == ()
    if isinstance(answer.error, BadPictureError):
        assert poison
        assert fate.ask.whole or (answer.errors and not fate.ask.keep_going)
    elif isinstance(answer.error, RuntimeError):
        assert any("crash" in other.ask.rows for other in fates)
    elif isinstance(answer.error, scheduler.errors.BadOutput):
        assert any("short" in other.ask.rows for other in fates)
    elif isinstance(answer.error, scheduler.errors.DeadlineExceeded):
        assert fate.ask.patience_s is not None or day.slo_s is not None
        limit_s = math.inf if fate.ask.patience_s is None else fate.ask.patience_s
        assert fate.ended_at_s <= fate.ask.at_s + limit_s
    else:
        assert isinstance(answer.error, scheduler.errors.Closed)
        assert day.drain_at_s is not None


def _check_calls(day: Day, backend: EchoBackend, fates: list[Fate]) -> None:
    """I2 to I4, and that nothing runs for a caller who has gone or whose time is over."""
    limits = day.limits
    owner = {label: fate for fate in fates for label in fate.labels if label != AGAIN}
    assert backend.most_running <= limits["max_inflight_batches"]
    first_run: dict[str, float] = {}
    for call in backend.calls:
        rows = call.rows
        assert all(start < stop for _, start, stop in call.parts)
        fates_here = [owner[row] for row in rows if row in owner]
        if any(fate.ask.whole for fate in fates_here):
            assert len(call.parts) == 1
            assert len(rows) == len(fates_here[0].labels)
            assert call.padding == 0
        else:
            assert 1 <= len(rows) <= limits["max_batch_images"]
            assert len(rows) == 1 or len(rows) * SIZES["a"] <= limits["max_batch_bytes"]
            if sizes := limits["allowed_batch_sizes"]:
                assert len(rows) + call.padding in sizes
        assert len({(fate.ask.key, fate.ask.whole) for fate in fates_here}) <= 1
        for row in rows:
            first_run.setdefault(row, call.at_s)
        for fate in fates_here:
            assert fate.ask.patience_s is None or call.at_s < fate.ask.at_s + fate.ask.patience_s, "ran overdue"
            assert fate.withdrawn_at_s is None or call.at_s <= fate.withdrawn_at_s, "ran although its caller had gone"
    _check_fifo(first_run, fates)
    _check_no_idling(day, backend, first_run, owner)


def _check_fifo(first_run: dict[str, float], fates: list[Fate]) -> None:
    """I3: within a FIFO no entry overtakes another, and rows of one entry are in order."""
    fifos: dict[object, list[float]] = {}
    for fate in sorted(fates, key=lambda fate: fate.order):
        fifo = (fate.ask.bulk, "whole" if fate.ask.whole else fate.ask.key)
        times = [first_run[label] for label in fate.labels if label in first_run and label != AGAIN]
        fifos.setdefault(fifo, []).extend(times)
    for times in fifos.values():
        assert times == sorted(times)


def _check_no_idling(day: Day, backend: EchoBackend, first_run: dict[str, float], owner: dict[str, Fate]) -> None:
    """I4: between the end of its window and its first call, all places of the backend were taken."""
    places = day.limits["max_inflight_batches"]
    ends = [(call.at_s, call.at_s + day.call_s + day.row_s * (len(call.rows) + call.padding)) for call in backend.calls]
    for row, ran_s in first_run.items():
        if row not in owner:
            continue
        start_s = owner[row].ask.at_s + day.limits["linger_s"]
        if start_s < ran_s:
            busy_s = sum(max(0.0, min(end_s, ran_s) - max(at_s, start_s)) for at_s, end_s in ends)
            assert busy_s >= places * (ran_s - start_s) - 1e-6, f"{row} waited while the backend had a free place"


def _check_diary(day: Day, diary: Diary, backend: EchoBackend, fates: list[Fate]) -> None:
    """Each event is told once, and the outcomes fit what the callers saw."""
    assert len(diary.of("dispatched")) == len(backend.calls)
    late = 1 if day.drain_at_s is None else 2  # of `_check_closed`
    assert len(diary.of("refused")) == sum(fate.refused is not None for fate in fates) + late
    ended = diary.of("ended")
    assert len(ended) == sum(fate.refused is None for fate in fates)
    assert sum(rows for rows, *_ in ended) == sum(len(fate.labels) for fate in fates if fate.refused is None)
    cancelled = sum(outcome == "cancelled" for _, outcome, _, _ in ended)
    hung_up = [fate for fate in fates if fate.withdrawn_at_s is not None]
    # A task that is cancelled in the very turn of its answer has been answered.
    assert sum(not fate.ask.awaits for fate in hung_up) <= cancelled <= len(hung_up)
    for _, outcome, timing, error in ended:
        assert (error is None) == (outcome in {"ok", "cancelled"})
        assert timing.queue_s >= 0
