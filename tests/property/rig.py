"""A backend on the loop's own clock, and an observer that writes down what it hears."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from hypothesis import settings

from darkroom.batching.batcher import Batcher
from darkroom.batching.limits import Limits
from darkroom.batching.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Sized

    from darkroom.batching.backend import Backend, BatchReport
    from darkroom.batching.entry import Batch, Timing
    from darkroom.batching.errors import BatchingError
    from darkroom.batching.observer import Outcome

    Names: TypeAlias = Callable[
        [list[int]], Mapping[Any, Any]
    ]  # of the guilty places of a call, what the backend tells

FEW = settings(max_examples=min(500, settings().max_examples))  # of properties with little to vary, in CI too


class BadPictureError(Exception):
    """The client's fault."""


def is_client_fault(error: BaseException) -> bool:
    """As the service tells TensorFlow's InvalidArgumentError from the rest."""
    return isinstance(error, BadPictureError)


@dataclass(frozen=True)
class FakeReport:
    """What the backend says."""

    results: Sequence[Sized] | None
    error: BaseException | None
    started_s: float
    collate_s: float = 0.0
    execute_s: float = 0.0
    split_s: float = 0.0
    guilty: Mapping[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call of the backend."""

    at_s: float
    parts: list[tuple[Any, int, int]]
    padding: int

    @property
    def rows(self) -> list[Any]:
        """All rows of the call, padding left out."""
        return [payload[row] for payload, start, stop in self.parts for row in range(start, stop)]


@dataclass
class EchoBackend:
    """Answers each row with itself after `seconds(rows)`; a row that is "poison" fails the call that it is in.

    Attributes:
        seconds: the time of a call by its rows, padding included.
        failing: the share of a call's time after which a guilty row fails it.
        names: which of the guilty rows of a call, by place, the backend names; None: it can't tell.
        calls: what came, in order.
        running, most_running: calls at the moment, and at most.
    """

    seconds: Callable[[int], float] = lambda _: 1.0
    names: Names | None = None
    failing: float = 1.0
    calls: list[Call] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    def start(self, parts: Sequence[tuple[Any, int, int]], padding: int, done: Callable[[BatchReport], None]) -> None:
        """As `darkroom.batching.backend.Backend`."""
        loop = asyncio.get_running_loop()
        call = Call(loop.time(), list(parts), padding)
        self.calls.append(call)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        seconds = self.seconds(len(call.rows) + padding)
        if any(is_row(row, "poison") for row in call.rows):
            seconds *= self.failing
        loop.call_later(seconds, self._end, call, seconds, done)

    def _end(self, call: Call, seconds: float, done: Callable[[BatchReport], None]) -> None:
        self.running -= 1
        done(self.report(call, seconds))

    def report(self, call: Call, seconds: float) -> FakeReport:
        """What to say of a call."""
        error: BaseException | None = None
        if any(is_row(row, "crash") for row in call.rows):
            error = RuntimeError("out of memory")
        elif any(is_row(row, "poison") for row in call.rows):
            error = BadPictureError("cannot decode")
        results = None if error else [list(payload[start:stop]) for payload, start, stop in call.parts]
        guilty = [place for place, row in enumerate(call.rows) if is_row(row, "poison")]
        named = self.names(guilty) if self.names and isinstance(error, BadPictureError) else {}
        return FakeReport(results, error, call.at_s, execute_s=seconds, guilty=named)


def name_all(guilty: list[int]) -> Mapping[Any, Any]:
    """A backend that names every guilty row."""
    return {place: BadPictureError(f"row {place}") for place in guilty}


def name_first(guilty: list[int]) -> Mapping[Any, Any]:
    """A backend that names one of them."""
    return name_all(guilty[:1])


def name_nonsense(guilty: list[int]) -> Mapping[Any, Any]:
    """A backend that names places that no row has, and the guilty without an error."""
    return {-1: BadPictureError("?"), 10**6: BadPictureError("?"), **dict.fromkeys(guilty)}


def name_strangers(_: list[int]) -> Mapping[Any, Any]:
    """A backend that takes places for words."""
    return {"first": BadPictureError("?")}


def batcher_of(backend: Backend, limits: Limits | None = None, **options: Any) -> Batcher:
    """A batcher on the running loop's clock, started."""
    clock = asyncio.get_running_loop().time
    batcher = Batcher(backend, limits or Limits(), is_client_fault=is_client_fault, clock=clock, **options)
    batcher.start()
    return batcher


def is_row(row: Any, kind: str) -> bool:
    """Whether a row is of that kind: its name begins with it."""
    return isinstance(row, str) and row.startswith(kind)


@dataclass
class Diary(Observer):
    """Every event in order, by name."""

    events: list[tuple[Any, ...]] = field(default_factory=list)

    def refused(self, rows: int, error: BatchingError) -> None:
        """Writes it down, as do the others."""
        self.events.append(("refused", rows, error))

    def ended(self, rows: int, outcome: Outcome, timing: Timing, error: BaseException | None) -> None:
        self.events.append(("ended", rows, outcome, timing, error))

    def dispatched(self, batch: Batch) -> None:
        self.events.append(("dispatched", batch))

    def ran(self, batch: Batch, report: BatchReport) -> None:
        self.events.append(("ran", batch, report))

    def retried(self, batch: Batch) -> None:
        self.events.append(("retried", batch))

    def guilty(self, error: BaseException) -> None:
        self.events.append(("guilty", error))

    def predicted(self, error_s: float) -> None:
        self.events.append(("predicted", error_s))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """What follows the name in each event of that name."""
        return [event[1:] for event in self.events if event[0] == name]
