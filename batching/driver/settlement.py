"""What a returned batch means for its entries: answers, guilty rows, retries."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from darkroom.batching.entry import NO_ERRORS, PENDING, Answer, EngineCall, Entry, Progress, Timing
from darkroom.batching.errors import BadOutput
from darkroom.batching.observer import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Sized

    from darkroom.batching.backend import BatchReport
    from darkroom.batching.entry import Batch, Span
    from darkroom.batching.scheduler.queue import BatchQueue


OK = Outcome.OK

# An entry that is no longer pending, and what its caller and the observer must be told: the answer, the outcome, and
# the error if the outcome is not OK. A plain tuple, because one is made for each entry.
Ended: TypeAlias = "tuple[Entry, Answer, Outcome, BaseException | None]"


class Settlement:
    """Answers the rows of a batch that succeeded, and finds the guilty rows of one that failed.

    If a batch failed by the client's fault and the backend names the guilty rows, these end and the others run again
    together. If it names none, the batch is halved and run again until the guilty rows are alone: a row is blamed only
    if it failed alone or was named. A batch of several rows that had too little memory is halved and run again as well, and
    the next batches are smaller. Any other failure ends each entry of the batch, once: nothing else is replayed.

    Args:
        queue: the queue that made the batches.
        is_client_fault: whether an error of the backend is the fault of some row.
        is_out_of_memory: whether an error of the backend says that the call was too large.
        on_guilty: called for each guilty row of a pending entry: entry, row, error, and whether it ran alone.

    Attributes:
        doubt: the error of the last batch, if that failed and no client is to blame; None otherwise.
    """

    def __init__(
        self,
        queue: BatchQueue,
        is_client_fault: Callable[[BaseException], bool],
        is_out_of_memory: Callable[[BaseException], bool],
        on_guilty: Callable[[Entry, int, BaseException, bool], None],
    ) -> None:
        self._queue = queue
        self._is_client_fault = is_client_fault
        self._is_out_of_memory = is_out_of_memory
        self.doubt: BaseException | None = None
        self._on_guilty = on_guilty

    def settle(self, batch: Batch, report: BatchReport, now: float, ended: list[Ended]) -> None:
        """Gives the engine free for the next batch, and adds to `ended` each entry that `report` ends."""
        results = report.results
        error = report.error or _misfit(batch, results)
        self._queue.finish(batch, now, is_ok=error is None)
        call = EngineCall(
            batch.serial,
            report.started_s,
            report.collate_s,
            report.execute_s,
            report.split_s,
            batch.images,
            batch.padding,
            len(batch.spans),
            batch.reason,
        )
        if error is None:
            self.doubt = None
            self._answer(batch.spans, call, results or (), now, ended)
            return
        spans = [span for span in batch.spans if span[0].state is PENDING]
        for entry, _, _ in spans:
            _progress(entry).add_call(call)
        try:
            is_fault = self._is_client_fault(error)
            is_too_large = batch.images > 1 and self._is_out_of_memory(error)
        except Exception:  # noqa: BLE001  a callback that cannot tell blames no row
            is_fault = is_too_large = False
        if is_too_large and spans and not spans[0][0].whole:
            self._queue.sizer.note_too_large(batch.images + batch.padding)
            self._queue.suspect(spans, now)
            return
        if not is_fault:
            self.doubt = error
        if spans and is_fault and not spans[0][0].whole:
            guilty = _named(batch, report) if batch.images > 1 else {0: error}
            self._isolate(batch, guilty, now, ended)
            return
        for entry, _, _ in spans:
            self._fail(entry, error, Outcome.INVALID_INPUT if is_fault else Outcome.MODEL_ERROR, now, ended)

    def close(self, entry: Entry, now: float, ended: list[Ended]) -> None:
        """Ends a pending entry that has progress if all its rows are settled, or a guilty row ends it."""
        progress = _progress(entry)
        error = next(iter(progress.errors.values()), None)
        if error is not None and not entry.keep_going:
            self._fail(entry, error, Outcome.INVALID_INPUT, now, ended)
        elif progress.settled_rows == entry.rows and self._queue.end(entry):
            ended.append((entry, progress.answer(entry, now), OK if error is None else Outcome.INVALID_INPUT, error))

    def _answer(
        self, spans: Sequence[Span], call: EngineCall, results: Sequence[Sized], now: float, ended: list[Ended]
    ) -> None:
        queue, calls = self._queue, (call,)
        _, started_s, collate_s, execute_s, split_s, images, _, _, reason = call
        for (entry, start, stop), piece in zip(spans, results, strict=True):
            if entry.state is not PENDING:
                continue
            if entry.progress is None and stop - start == entry.rows:  # the usual case
                queue.end(entry)
                timing = Timing(started_s - entry.arrived_s, execute_s, images, reason, collate_s, split_s, 0, calls)
                ended.append((entry, Answer((piece,), NO_ERRORS, None, timing), OK, None))
                continue
            progress = _progress(entry)
            progress.add_call(call)
            progress.add_piece(start, stop, piece)
            self.close(entry, now, ended)

    def _isolate(self, batch: Batch, guilty: Mapping[int, BaseException], now: float, ended: list[Ended]) -> None:
        """Ends the rows that are guilty by their place in `batch`, and queues the others; halves them if none is."""
        rest: list[Span] = []
        place = 0
        for entry, start, stop in batch.spans:
            first = start  # of the rows since the last guilty one
            for row in range(start, stop):
                error = guilty.get(place)
                place += 1
                if error is None:
                    continue
                rest.append((entry, first, row))
                first = row + 1
                if entry.state is PENDING:
                    self._on_guilty(entry, row, error, batch.images == 1)
                    _progress(entry).add_guilty(row, error)
                    self.close(entry, now, ended)
            rest.append((entry, first, stop))
        rest = [span for span in rest if span[1] < span[2] and span[0].state is PENDING]
        self._queue.suspect(rest, now, halved=not guilty)

    def _fail(self, entry: Entry, error: BaseException, outcome: Outcome, now: float, ended: list[Ended]) -> None:
        if self._queue.end(entry):
            ended.append(failed(entry, error, outcome, now))


def failed(entry: Entry, error: BaseException, outcome: Outcome, now: float) -> Ended:
    """What to tell of an entry that failed as a whole and that the queue has ended."""
    errors = entry.progress.errors if entry.progress is not None else NO_ERRORS
    return entry, Answer((), errors, error, entry.timing(now)), outcome, error


def _progress(entry: Entry) -> Progress:
    if entry.progress is None:
        entry.progress = Progress()
    return entry.progress


def _named(batch: Batch, report: BatchReport) -> dict[int, BaseException]:
    """The rows that the backend names guilty, by their place in the batch; a malformed report names none."""
    try:
        return {
            row: error
            for row, error in report.guilty.items()
            if isinstance(error, Exception) and 0 <= row < batch.images
        }
    except Exception:  # noqa: BLE001  a report is foreign code and may raise anything
        return {}


def _misfit(batch: Batch, results: Sequence[Sized] | None) -> BadOutput | None:
    """The error if `results` do not have one row for each row of the batch; None if they do."""
    if results is None:
        return BadOutput("the runner gave neither results nor an error")
    spans = batch.spans
    try:
        if len(results) != len(spans):
            return BadOutput(f"the runner gave {len(results)} results for {len(spans)} parts")
        for (_, start, stop), piece in zip(spans, results, strict=True):
            if len(piece) != stop - start:
                return BadOutput(f"a part of {stop - start} rows was answered with {len(piece)}")
    except Exception as error:  # noqa: BLE001  a result without a length is as bad as a wrong length
        return BadOutput(f"a result has no length: {error!r}")
    return None
