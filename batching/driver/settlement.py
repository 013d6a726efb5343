"""What a batch that came back means for the entries in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from darkroom.batching.entry import NO_ERRORS, PENDING, Answer, Entry, Progress, Timing
from darkroom.batching.errors import BadOutput
from darkroom.batching.observer import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Sized

    from darkroom.batching.backend import BatchReport
    from darkroom.batching.entry import Batch, Span
    from darkroom.batching.scheduler.queue import BatchQueue


OK = Outcome.OK

# An entry that is no longer pending, and what to tell its caller and the observer: the answer, how it ended, and why
# not well. A plain tuple, since one is made for each entry.
Ended: TypeAlias = "tuple[Entry, Answer, Outcome, BaseException | None]"


class Settlement:
    """Answers the rows of a batch that went well, and isolates the guilty rows of one that did not.

    Where a batch failed by the client's fault and the runner names the guilty rows, they end and the others are run
    again together. Where it names none, the batch is halved and run again until the guilty rows are alone: nobody is
    blamed for a row that neither failed alone nor was named. Any other failure ends each entry of the batch, once:
    nothing else is replayed.
    """

    def __init__(
        self,
        queue: BatchQueue,
        is_client_fault: Callable[[BaseException], bool],
        condemned: Callable[[Entry, int, BaseException, bool], None],
    ) -> None:
        self._queue = queue
        self._is_client_fault = is_client_fault
        self._condemned = condemned

    def settle(self, batch: Batch, report: BatchReport, now: float, ended: list[Ended]) -> None:
        """Frees the slot of `batch` and adds to `ended` each entry that `report` ends."""
        results = report.results
        error = report.error or _misfit(batch, results)
        self._queue.finish(batch, now, is_ok=error is None)
        if error is None:
            self._answer(batch, report, results or (), now, ended)
            return
        spans = [span for span in batch.spans if self._is_wanted(span[0])]
        owners = [owner for span in spans for owner in _owners(span)]
        for owner, _, _ in owners:
            _ledger(owner).ride(batch, report)
        is_fault = self._is_fault(error)
        if spans and is_fault and not spans[0][0].whole:
            guilty = _named(batch, report) if batch.images > 1 else {0: error}
            self._isolate(batch, guilty, now, ended)
            return
        for entry, _, _ in (*owners, *spans):
            self._fail(entry, error, Outcome.INVALID_INPUT if is_fault else Outcome.MODEL_ERROR, now, ended)

    def drop(self, entry: Entry, error: BaseException, outcome: Outcome, now: float, ended: list[Ended]) -> None:
        """Adds an entry that the queue has ended, or, where it is a carrier, ends its riders."""
        if entry.riders is None:
            ended.append(_failed(entry, error, outcome, now))
        for rider, _ in entry.riders or ():
            self._fail(rider, error, outcome, now, ended)

    def close(self, entry: Entry, now: float, ended: list[Ended]) -> None:
        """Ends `entry`, which has a ledger, if its rows are settled, or one is guilty and it does not keep going."""
        ledger = _ledger(entry)
        if ledger.errors and not entry.keep_going:
            self._fail(entry, next(iter(ledger.errors.values())), Outcome.INVALID_INPUT, now, ended)
        elif ledger.settled_rows == entry.rows and self._queue.end(entry):
            error = next(iter(ledger.errors.values()), None)
            ended.append((entry, ledger.answer(entry, now), Outcome.INVALID_INPUT if ledger.errors else OK, error))

    def _answer(
        self, batch: Batch, report: BatchReport, results: Sequence[Sized], now: float, ended: list[Ended]
    ) -> None:
        queue = self._queue
        execute_s, collate_s, split_s = report.execute_s, report.collate_s, report.split_s
        for span, piece in zip(batch.spans, results, strict=True):
            entry, start, stop = span
            if entry.state is not PENDING:
                continue
            if entry.ledger is None and stop - start == entry.rows and entry.riders is None:  # nearly always
                queue.end(entry)
                queue_s = report.started_s - entry.arrived_s
                timing = Timing(queue_s, execute_s, batch.images, batch.reason, collate_s, split_s)
                ended.append((entry, Answer((piece,), NO_ERRORS, None, timing), OK, None))
                continue
            for owner, first, last in _owners(span):
                ledger = _ledger(owner)
                ledger.ride(batch, report)
                ledger.answer_rows(first, last, piece)
                self.close(owner, now, ended)
            if entry.riders is not None:
                queue.end(entry)

    def _isolate(self, batch: Batch, guilty: Mapping[int, BaseException], now: float, ended: list[Ended]) -> None:
        """Ends the guilty rows, by their place in `batch`, and has the others run again; all of them where none is."""
        left: list[Span] = []
        place = 0
        for entry, start, stop in batch.spans:
            first = start  # of the rows since the last guilty one
            for row in range(start, stop):
                if (error := guilty.get(place)) is not None:
                    left.append((entry, first, row))
                    first = row + 1
                    self._condemn(entry, row, error, now, ended, is_alone=batch.images == 1)
                place += 1
            left.append((entry, first, stop))
        left = [span for span in left if span[1] < span[2] and span[0].state is PENDING]
        self._queue.suspect(left, now, halved=not guilty)

    def _condemn(
        self, entry: Entry, row: int, error: BaseException, now: float, ended: list[Ended], *, is_alone: bool
    ) -> None:
        """Ends a guilty row, for all who want it."""
        if entry.state is not PENDING:
            return
        self._condemned(entry, row, error, is_alone)
        for owner, first, _ in _owners((entry, row, row + 1)):
            _ledger(owner).condemn(first, error)
            self.close(owner, now, ended)
        if entry.riders is not None:
            self._queue.end(entry)

    def _is_wanted(self, entry: Entry) -> bool:
        """Whether somebody still waits for the rows of `entry`; ends a carrier for which nobody does."""
        if entry.riders is not None and not entry.has_riders:
            self._queue.end(entry)
        return entry.state is PENDING

    def _fail(self, entry: Entry, error: BaseException, outcome: Outcome, now: float, ended: list[Ended]) -> None:
        if self._queue.end(entry) and entry.riders is None:
            ended.append(_failed(entry, error, outcome, now))

    def _is_fault(self, error: BaseException) -> bool:
        try:
            return self._is_client_fault(error)
        except Exception:  # noqa: BLE001  whoever cannot tell blames nobody
            return False


def _failed(entry: Entry, error: BaseException, outcome: Outcome, now: float) -> Ended:
    errors = entry.ledger.errors if entry.ledger is not None else NO_ERRORS
    return entry, Answer((), errors, error, entry.timing(now)), outcome, error


def _ledger(entry: Entry) -> Progress:
    if entry.ledger is None:
        entry.ledger = Progress()
    return entry.ledger


def _owners(span: Span) -> list[Span]:
    """Whose rows these are: the entry's own, or for a carrier those of the riders that are left."""
    riders = span[0].riders
    return [span] if riders is None else [(rider, row, row + 1) for rider, row in riders if rider.state is PENDING]


def _named(batch: Batch, report: BatchReport) -> dict[int, BaseException]:
    """The rows that the runner names guilty, by their place in the batch; nonsense names nobody."""
    try:
        return {
            row: error
            for row, error in report.guilty.items()
            if isinstance(error, Exception) and 0 <= row < batch.images
        }
    except Exception:  # noqa: BLE001  what a runner reports is as foreign as what it raises
        return {}


def _misfit(batch: Batch, results: Sequence[Sized] | None) -> BadOutput | None:
    """What is wrong with the number of `results` or of their rows; None where each row has its answer."""
    if results is None:
        return BadOutput("the runner gave neither results nor an error")
    spans = batch.spans
    try:
        if len(results) != len(spans):
            return BadOutput(f"the runner gave {len(results)} results for {len(spans)} parts")
        for (_, start, stop), piece in zip(spans, results, strict=True):
            if len(piece) != stop - start:
                return BadOutput(f"a part of {stop - start} rows was answered with {len(piece)}")
    except Exception as error:  # noqa: BLE001  what has no length is as bad as a wrong one
        return BadOutput(f"a result has no length: {error!r}")
    return None
