"""Runs batches on an engine: collates the parts of a batch, makes one call in a thread, and splits the answer by part."""

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
from darkroom.models.errors import InvalidInput, ModelError, PredictFailed
from darkroom.models.rows import Rows, join, miscount

_log = logging.getLogger("darkroom.models")
NO_ROWS: Mapping[int, BaseException] = MappingProxyType({})
CLOSE_TIMEOUT_S = 30.0  # guess: longer than any batch that is worth waiting for
# A busy interpreter takes longer to switch to a thread and back, and every other client waits at most this (guess).
INLINE_S = 0.002
# Once an inline call took this long, its engine may hang, and while it hangs nothing else runs in this process. A guess:
# longer than a busy or throttled machine holds a thread up.
NEVER_AGAIN_S = 0.5
# Of all pictures together: 1 to 2 ms of JPEG decoding, so that one client's large picture does not delay the others.
MAX_INLINE_PIXELS = 1 << 17
FOLDED_ROWS = 1024  # of one call: small rows of numbers, for which calls of 32 would be mostly overhead (guess)
_SHARE = 1 / 8  # weight of the latest call in the expected time of a row (guess)
_FORGET = 0.998  # per batch that went to a thread: a bad spell must not last for good (guess)

Part = tuple[Rows, int, int]  # rows `start` to `stop` of one request: (rows, start, stop)


class RunReport(NamedTuple):
    """The outcome of one batch: a result for each part, or one error.

    Attributes:
        results: one Rows a part, in their order; None where the batch failed.
        error: why it failed; None where it did not.
        started_s: when it began, by `time.monotonic()`.
        collate_s: seconds to make one Rows of the parts.
        execute_s: seconds of the engine's call.
        split_s: seconds to divide the answer.
        guilty: rows of a failed batch, counted over its parts, that fail by themselves, each with its error. A row that
            is not in it may be guilty all the same.
        device: where it ran, as `gpu:1`; empty where a runner of one engine was not told.
    """

    results: list[Rows] | None
    error: BaseException | None
    started_s: float
    collate_s: float = 0.0
    execute_s: float = 0.0
    split_s: float = 0.0
    guilty: Mapping[int, BaseException] = NO_ROWS
    device: str = ""


class InlineRule:
    """Decides which batches are so short that the event loop runs them itself, and learns how long a row takes.

    Only pictures of known size qualify, since nothing is known about the time that other inputs take.

    Args:
        lone_s: seconds of a call of one row. Where that is over INLINE_S, no batch is ever run inline.
    """

    def __init__(self, lone_s: float) -> None:
        self._is_quick = lone_s <= INLINE_S
        self._row_s = lone_s

    def allows(self, parts: Sequence[Part], padding: int) -> bool:
        """Whether a batch of these parts, with `padding` rows more, is run inline."""
        if not self._is_quick:
            return False
        rows, pixels = padding, 0
        for payload, start, stop in parts:
            rows += stop - start
            pixels += payload.pixels or MAX_INLINE_PIXELS + 1
        if pixels <= MAX_INLINE_PIXELS and rows * self._row_s <= INLINE_S:
            return True
        self._row_s *= _FORGET
        return False

    def learn(self, rows: int, seconds: float) -> None:
        """Takes the time of an inline call. An interrupted one counts for at most twice the expected time.

        After a call of NEVER_AGAIN_S no batch is run inline any more.
        """
        if seconds > NEVER_AGAIN_S and self._is_quick:
            self._is_quick = False
            _log.warning("a call on the event loop took long; from now on this signature's calls run in threads")
        self._row_s += (min(seconds / rows, 2 * self._row_s) - self._row_s) * _SHARE


class _Work(NamedTuple):
    parts: Sequence[Part]
    padding: int
    done: Callable[[RunReport], None]


class _WorkQueue:
    """Batches that wait for a thread, in order. The thread that became idle last takes the next: its caches are warm.

    Measured with EfficientNet-Lite0 on 2 cores and two threads, one request after the other over HTTP, medians of 6
    interleaved rounds: 143 a second where any idle thread may take the next batch, 175 with this rule.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: deque[_Work | None] = deque()
        self._idle: list[SimpleQueue[_Work | None]] = []

    def put(self, work: _Work | None) -> None:
        """Hands `work` to an idle thread, or keeps it until one asks."""
        with self._lock:
            if not self._idle:
                self._waiting.append(work)
                return
            idle = self._idle.pop()
        idle.put(work)

    def get(self, own: "SimpleQueue[_Work | None]") -> _Work | None:
        """The next work for the thread whose own queue is `own`. Blocks until there is some."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(own)
        return own.get()


class Runner:
    """Threads that own an engine. Batches start in the order in which they were given; each thread runs one at a time.

    `done` is called exactly once for each batch, from the thread that ran it, whatever the engine raises. The threads
    are daemons: they never keep the interpreter alive, and a batch that runs at its exit is never answered.

    A batch that InlineRule allows is run by the caller of `start`. Measured on a 28x28 model, interleaved with a runner
    that hands every batch to a thread: 2,200 lone requests a second over HTTP instead of 1,650.
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
                of its own, and a free thread of any device takes the next batch.
            lone_s: seconds that one row takes, with which InlineRule begins. With several devices nothing is run
                inline: the caller could use only one of them.
        """
        self._engine = engine
        self._device = next(iter(devices), "") if devices else ""
        self._inline_rule = InlineRule(lone_s if not devices or len(devices) == 1 else math.inf)
        self._queue = _WorkQueue()
        self._closed = False
        self._threads = [
            Thread(target=self._serve, args=(each, device), name=f"runner-{device}-{index}", daemon=True)
            for device, each in (devices or {"": engine}).items()
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, parts: Sequence[Part], padding: int, done: Callable[[RunReport], None]) -> None:
        """Hands a batch to a thread and returns at once; or runs it first, where InlineRule allows it.

        The rows of `parts`, in order, become one call, with the last row repeated `padding` times; the repeats are not
        answered. Rows that are not aligned, and rows for an unbatched signature, come alone, whole and unpadded.

        Args:
            parts: (rows, start, stop): rows `start` to `stop` of a request. All have equal `Rows.key`.
            padding: rows to add, to reach an allowed batch size.
            done: takes the report, in the thread that ran the batch.

        Raises:
            RuntimeError: the runner is closed; `done` is not called.
        """
        if self._closed:
            raise RuntimeError("the runner is closed")
        work = _Work(parts, padding, done)
        if not self._inline_rule.allows(parts, padding):
            self._queue.put(work)
            return
        engine = self._engine
        call = engine.run_inline if isinstance(engine, SupportsInline) else engine.run
        report = _run(engine, work, call, self._device)
        rows = padding + sum([stop - start for _, start, stop in parts])
        self._inline_rule.learn(rows, report.execute_s)
        done(report)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Runs what was handed over, then ends the threads, waiting `timeout_s` for all of them at most; idempotent.

        Returns:
            Whether all threads have ended. If not, a call still runs, and the engine must not be closed.
        """
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._queue.put(None)
        until_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self, engine: Engine, device: str) -> None:
        """What each thread does until it takes None."""
        own: SimpleQueue[_Work | None] = SimpleQueue()
        while (work := self._queue.get(own)) is not None:
            report = _run(engine, work, engine.run, device)
            try:
                work.done(report)
            except Exception:  # noqa: BLE001 - the callback's fault (a closed loop); the next batch must run all the same
                _log.exception("a batch ran but its answer could not be handed over")
            del work, report  # a batch's pictures must not stay until the next one comes


def _run(engine: Engine, work: _Work, call: Callable[[Rows], Rows], device: str) -> RunReport:
    """Runs one batch; never raises."""
    started_s = collated_s = executed_s = time.monotonic()
    try:
        rows = _collate(work.parts, work.padding)
        collated_s = time.monotonic()
        answer = _run_folded(call, rows) if rows.folded else call(rows)
        executed_s = time.monotonic()
        results = _split(engine, answer, rows, work)
    except BaseException as err:  # noqa: BLE001 - no exception may cost a caller its answer; threads get no Ctrl-C
        failed_s = time.monotonic()
        guilty = _screen(engine, work) if isinstance(err, InvalidInput) else {}
        if isinstance(err, ModelError):
            error: BaseException = err
        else:
            error = PredictFailed(f"the engine raised {type(err).__name__}: {err}"[:256])
            error.__cause__ = err
        return RunReport(
            None, error, started_s, collated_s - started_s, failed_s - collated_s, guilty=guilty, device=device
        )
    split_s = time.monotonic() - executed_s
    return RunReport(results, None, started_s, collated_s - started_s, executed_s - collated_s, split_s, device=device)


def _run_folded(call: Callable[[Rows], Rows], rows: Rows) -> Rows:
    """Runs the rows that are folded into one, FOLDED_ROWS a call, so that their number does not set the memory."""
    rows = rows.unfold()
    pieces = []
    for start in range(0, len(rows), FOLDED_ROWS):
        piece = rows.cut(start, min(start + FOLDED_ROWS, len(rows)))
        answer = call(piece)
        if wrong := miscount(answer, len(piece)):
            raise PredictFailed(f"{wrong} that were fed")
        pieces.append(answer)
    return join(pieces)


def _screen(engine: Engine, work: _Work) -> dict[int, InvalidInput]:
    """The guilty rows of a failed batch, where the engine can tell. Never raises: bisection works without a screen."""
    if not (isinstance(engine, Screener) and engine.spec.batched):
        return {}
    try:
        rows = _collate(work.parts, 0)
        if len(rows) < 2 or not rows.aligned:
            return {}
        return {row: fault for row, fault in enumerate(engine.screen(rows)) if fault is not None}
    except Exception:  # noqa: BLE001 - whatever the screen raised, the batch's own error stands
        _log.exception("a failed batch could not be screened")
        return {}


def _split(engine: Engine, answer: Rows, fed: Rows, work: _Work) -> list[Rows]:
    """The answer's rows by part: views, not copies. Rows that were fed whole get the answer as it came."""
    if not (fed.aligned and engine.spec.batched):
        return [Rows(answer.columns, count=len(fed), aligned=False)]
    # It is not known which answer is whose. The rows run apart, so that only those fail for which the model has too few or too many.
    if wrong := miscount(answer, len(fed)):
        raise InvalidInput(f"{wrong} that were fed")
    if len(work.parts) == 1 and not work.padding:
        return [answer]
    results = []
    at = 0
    for rows, start, stop in work.parts:
        result = answer.cut(at, at + stop - start)
        results.append(result if rows.asked == fed.asked else result.picking(rows.asked))
        at += stop - start
    return results


def _collate(parts: Sequence[Part], padding: int) -> Rows:
    """One Rows of all parts; a single whole part is passed on without a copy."""
    pieces = [rows if stop - start == len(rows) else rows.cut(start, stop) for rows, start, stop in parts]
    return join(pieces, padding=padding)
