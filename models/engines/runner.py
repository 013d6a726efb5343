"""The thread face of an engine: it builds one batch from many parts, runs it, and splits the answer back by row."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from threading import Lock, Thread
from types import MappingProxyType
from typing import NamedTuple

from darkroom.models.engine import Engine, Screener, SupportsInline
from darkroom.models.engines.light import InlineRule
from darkroom.models.errors import InvalidInput, ModelError, PredictFailed
from darkroom.models.rows import Rows, join, miscount

_log = logging.getLogger("darkroom.models")
NOBODY: Mapping[int, BaseException] = MappingProxyType({})
CLOSE_TIMEOUT_S = 30.0  # guess: longer than any batch that is worth waiting for


Part = tuple[Rows, int, int]  # rows, start, stop


class RunReport(NamedTuple):
    """What came of one batch: a result for each part, or one error. Durations in seconds; `started_s` is monotonic.

    `guilty` names rows of a failed batch, counted over its parts, that fail by themselves, each with its error; a row
    that is not in it may be guilty all the same.
    """

    results: list[Rows] | None
    error: BaseException | None
    started_s: float
    collate_s: float = 0.0
    execute_s: float = 0.0
    split_s: float = 0.0
    guilty: Mapping[int, BaseException] = NOBODY
    device: str = ""  # where it ran, as `gpu:1`; empty: a runner of one engine was not told


class _Work(NamedTuple):
    parts: Sequence[Part]
    padding: int
    done: Callable[[RunReport], None]


class _Line:
    """Batches that wait for a thread, in order. The thread that was busy last takes the next: its memory is in caches.

    Measured with EfficientNet-Lite0 on 2 cores and two threads, one request after the other over HTTP, medians of 6
    rounds in turns: 143 a second where any idle thread may take the next, 175 so.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: deque[_Work | None] = deque()
        self._idle: list[SimpleQueue[_Work | None]] = []

    def put(self, work: _Work | None) -> None:
        with self._lock:
            if not self._idle:
                self._waiting.append(work)
                return
            mine = self._idle.pop()
        mine.put(work)

    def get(self, mine: "SimpleQueue[_Work | None]") -> _Work | None:
        """The next for the thread whose own queue `mine` is; it waits there."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(mine)
        return mine.get()


class Runner:
    """Threads that own an engine. Batches start in the order in which they were given; each thread runs one at a time.

    `done` is called exactly once for each batch, from the thread that ran it, whatever the engine raises. The threads
    are daemons: they never keep the interpreter from leaving, and a batch that is running then is never answered.

    A light batch (`models/engines/light.py`) is run by whoever calls `start`. Measured on a 28x28 model, in turns beside a
    runner that hands everything over: 2,200 lone requests a second over HTTP where that does 1,650.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        threads: int = 1,
        devices: Mapping[str, Engine] | None = None,
        lone_s: float = math.inf,
    ) -> None:
        """Starts the threads.

        Args:
            engine: what runs a batch.
            threads: batches at once on a device.
            devices: the signature's engines by device where it has several; `engine` is one of them. Each has `threads`
                of its own, and whichever is free takes the next batch.
            lone_s: seconds that one row takes; from it the runner knows at first which batches are light. With several
                devices none is: the caller could feed but one of them.
        """
        self._engine = engine
        self._device = next(iter(devices), "") if devices else ""
        self._light = InlineRule(lone_s if not devices or len(devices) == 1 else math.inf)
        self._line = _Line()
        self._closed = False
        self._threads = [
            Thread(target=self._serve, args=(each, device), name=f"runner-{device}-{index}", daemon=True)
            for device, each in (devices or {"": engine}).items()
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, parts: Sequence[Part], padding: int, done: Callable[[RunReport], None]) -> None:
        """Hands over a batch and returns at once; runs a light one first.

        The rows of `parts`, in order, become one call, with the last row repeated `padding` times; the repeats are not
        answered. Rows that are not aligned, and rows for an unbatched signature, come alone, whole and unpadded.

        Raises:
            RuntimeError: the runner is closed; `done` is not called.
        """
        if self._closed:
            raise RuntimeError("the runner is closed")
        work = _Work(parts, padding, done)
        if self._light.takes(parts, padding):
            self._run_here(work)
        else:
            self._line.put(work)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Runs what was handed over, then ends the threads, waiting `timeout_s` for each at most; idempotent."""
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._line.put(None)
        for thread in self._threads:
            thread.join(timeout_s)

    def _run_here(self, work: _Work) -> None:
        engine = self._engine
        call = engine.run_inline if isinstance(engine, SupportsInline) else engine.run
        report = _run(engine, work, call)._replace(device=self._device)
        rows = work.padding + sum([stop - start for _, start, stop in work.parts])
        self._light.learn(rows, report.execute_s)
        work.done(report)

    def _serve(self, engine: Engine, device: str) -> None:
        mine: SimpleQueue[_Work | None] = SimpleQueue()
        while (work := self._line.get(mine)) is not None:
            report = _run(engine, work, engine.run)._replace(device=device)
            try:
                work.done(report)
            except Exception:  # noqa: BLE001 - the callback's fault (a closed loop); the next batch must run all the same
                _log.exception("a batch ran but its answer could not be handed over")
            del work, report  # a batch's pictures must not stay until the next one comes


def _run(engine: Engine, work: _Work, call: Callable[[Rows], Rows]) -> RunReport:
    started_s = collated_s = executed_s = time.monotonic()
    try:
        rows = _collate(work.parts, work.padding)
        collated_s = time.monotonic()
        answer = call(rows)
        executed_s = time.monotonic()
        results = _split(engine, answer, rows, work)
    except BaseException as err:  # noqa: BLE001 - no exception may cost a caller its answer; threads get no Ctrl-C
        failed_s = time.monotonic()
        guilty = _screen(engine, work) if isinstance(err, InvalidInput) else {}
        return RunReport(
            None, _as_model_error(err), started_s, collated_s - started_s, failed_s - collated_s, guilty=guilty
        )
    split_s = time.monotonic() - executed_s
    return RunReport(results, None, started_s, collated_s - started_s, executed_s - collated_s, split_s)


def _screen(engine: Engine, work: _Work) -> dict[int, InvalidInput]:
    """The guilty rows of a failed batch, where the engine can tell. Never raises: bisection needs no screen."""
    if not (isinstance(engine, Screener) and engine.spec.batched):
        return {}
    try:
        rows = _collate(work.parts, 0)
        if len(rows) < 2 or not rows.aligned:
            return {}
        return {row: fault for row, fault in enumerate(engine.screen(rows)) if fault is not None}
    except Exception:  # noqa: BLE001 - whatever the screen met, the batch's own error stands
        _log.exception("a failed batch could not be screened")
        return {}


def _split(engine: Engine, answer: Rows, fed: Rows, work: _Work) -> list[Rows]:
    """The answer's rows by part: views, not copies. What was fed whole gets the answer as it came."""
    if not (fed.aligned and engine.spec.batched):
        return [Rows(answer.columns, count=len(fed), aligned=False)]
    if wrong := miscount(answer, len(fed)):  # a model that does not keep this mixes its callers' answers
        raise PredictFailed(f"{wrong} that were fed")
    if len(work.parts) == 1 and not work.padding:
        return [answer]
    results = []
    at = 0
    for _, start, stop in work.parts:
        results.append(answer.cut(at, at + stop - start))
        at += stop - start
    return results


def _collate(parts: Sequence[Part], padding: int) -> Rows:
    """One Rows of all parts; a single whole part is passed on without a copy."""
    pieces = [rows if stop - start == len(rows) else rows.cut(start, stop) for rows, start, stop in parts]
    return join(pieces, padding=padding)


def _as_model_error(err: BaseException) -> BaseException:
    if isinstance(err, ModelError):
        return err
    failed = PredictFailed(f"the engine raised {type(err).__name__}: {err}"[:256])
    failed.__cause__ = err
    return failed
