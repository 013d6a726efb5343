"""The queue and the settlement against a list model: every row of every entry has one state at any time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from darkroom.batching.driver.settlement import Settlement
from darkroom.batching.entry import Batch, Entry, EntryState, Reason
from darkroom.batching.errors import BadOutput, BatchingError, Closed, PredictedLate, QueueFull
from darkroom.batching.limits import Limits
from darkroom.batching.scheduler.queue import BatchQueue
from darkroom.batching.scheduler.service_curve import ServiceCurve
from tests.property.rig import (
    BadPictureError,
    FakeReport,
    is_client_fault,
    is_row,
    name_all,
    name_first,
    name_nonsense,
    name_strangers,
)

if TYPE_CHECKING:
    from darkroom.batching.entry import Answer
    from tests.property.rig import Names

LINGER_S = 2.0


@dataclass(frozen=True)
class Request:
    """What a caller asks for."""

    kinds: list[str]
    weight: int
    key: str
    whole: bool
    keep_going: bool
    bulk: bool
    patience_s: float | None
    is_known: bool
    has_ticket: bool


# Mostly of one kind, so that they meet in one FIFO.
REQUESTS = st.builds(
    Request,
    kinds=st.lists(st.sampled_from(["fine", "fine", "fine", "fine", "poison"]), min_size=1, max_size=5),
    weight=st.integers(1, 12),
    key=st.sampled_from("aaab"),
    whole=st.sampled_from([False] * 7 + [True]),
    keep_going=st.booleans(),
    bulk=st.sampled_from([False, False, False, True]),
    patience_s=st.none() | st.none() | st.sampled_from([-1.0, 0.5, 3.0, 20.0]),
    is_known=st.sampled_from([False, False, False, True]),
    has_ticket=st.booleans(),
)


class Row(Enum):
    """Where a row of a live entry is."""

    WAITS = auto()
    IN_FLIGHT = auto()
    SUSPECT = auto()
    SETTLED = auto()


class Known:
    """An entry as the model knows it."""

    def __init__(self, entry: Entry, labels: list[str], now: float) -> None:
        self.entry = entry
        self.labels = labels
        self.arrived_s = now
        self.rows = [Row.WAITS] * len(labels)
        self.is_live = True
        self.answer: Answer | None = None

    @property
    def fifo(self) -> tuple[bool, Any]:
        """What it has in common with the entries that it may share a batch with."""
        return self.entry.bulk, "whole" if self.entry.whole else self.entry.key

    def count(self, *states: Row) -> int:
        """How many of its rows are in one of `states`; none of an entry that ended."""
        return sum(row in states for row in self.rows) if self.is_live else 0


def rows_of(batch: Batch) -> list[tuple[Entry, int]]:
    """Every row of a batch, in the order of the call."""
    return [(entry, row) for entry, start, stop in batch.spans for row in range(start, stop)]


class QueueMachine(RuleBasedStateMachine):
    """Does everything that a driver may do, in any order, and compares (I1 to I9)."""

    @initialize(
        batch_images=st.integers(1, 5),
        sizes=st.booleans(),
        weights=st.booleans(),
        queue_images=st.integers(6, 40),
        places=st.integers(1, 2),
        lingers=st.booleans(),
        curve_s=st.none() | st.tuples(st.floats(0.1, 2), st.floats(0.0, 1)),
        slo_s=st.none() | st.sampled_from([1.0, 4.0]),
    )
    def make(
        self,
        *,
        batch_images: int,
        sizes: bool,
        weights: bool,
        queue_images: int,
        places: int,
        lingers: bool,
        curve_s: tuple[float, float] | None,
        slo_s: float | None,
    ) -> None:
        """A queue with small bounds; without a curve it must take all it can."""
        self.limits = Limits(
            max_batch_images=batch_images,
            max_batch_bytes=20 if weights else 10**9,
            max_batch_pixels=20 if weights else 10**9,
            max_queue_images=queue_images,
            max_queue_bytes=150,
            allowed_batch_sizes=tuple(sorted({(batch_images + 1) // 2, batch_images})) if sizes else (),
            max_inflight_batches=places,
            linger_s=LINGER_S if lingers else 0.0,
        )
        self.curve = None
        if curve_s is not None:
            self.curve = ServiceCurve(self.limits.top_images, allowed=self.limits.allowed_batch_sizes)
            for n in self.curve.sizes:
                self.curve.seed(n, curve_s[0] + curve_s[1] * n)
        self.queue = BatchQueue(self.limits, curve=self.curve, slo_s=slo_s)
        self.settlement = Settlement(self.queue, is_client_fault, lambda _: False, self.on_guilty)
        self.slo_s = math.inf if slo_s is None else slo_s
        self.now = 0.0
        self.known: dict[Entry, Known] = {}
        self.batches: list[Batch] = []
        self.dropped: set[Entry] = set()  # ended by a failed batch, and not named by a turn yet
        self.interactive_in_a_row = 0
        self.settled_images = 0  # rows of the batch that is being settled
        self.is_open = True

    def on_guilty(self, entry: Entry, row: int, error: BaseException, is_alone: bool) -> None:
        """Only a poisoned row may be blamed; one that was named was not alone."""
        assert is_alone == (self.settled_images == 1)
        assert is_row(self.known[entry].labels[row], "poison")
        assert isinstance(error, BadPictureError)

    @property
    def live(self) -> list[Known]:
        """The pending entries in order of arrival."""
        return [known for known in self.known.values() if known.is_live]

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, LINGER_S, 8.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule(burst=st.lists(REQUESTS, min_size=1, max_size=5))
    def offer(self, burst: list[Request]) -> None:
        """A few requests come at once."""
        for request in burst:
            self.ask(request)

    def ask(self, request: Request) -> None:
        """A request comes; it is taken, or refused and nothing has changed (I6)."""
        kinds, patience_s = request.kinds, request.patience_s
        labels = [f"{kind}-{len(self.known)}-{index}" for index, kind in enumerate(kinds)]
        weights = [request.weight] * len(kinds)
        entry = Entry(
            labels,
            len(kinds),
            row_bytes=weights,
            row_pixels=[13 - request.weight] * len(kinds),  # heavy rows are small pictures
            deadline=None if patience_s is None else self.now + patience_s,
            key=request.key,
            whole=request.whole,
            keep_going=request.keep_going,
            bulk=request.bulk,
        )
        poison = [index for index, kind in enumerate(kinds) if kind == "poison"]
        guilty: dict[int, BaseException] = {}
        if request.is_known and not request.whole:
            guilty = {index: BadPictureError("cannot decode, again") for index in poison}
        images = len(kinds) if not guilty else (len(kinds) - len(guilty)) * request.keep_going
        before = self.snapshot()
        has_room = (
            self.queue.images + images <= self.limits.max_queue_images
            and self.queue.bytes + images * request.weight <= 150
        )
        refusal: BatchingError | None = None
        try:
            ticket = None
            if request.has_ticket:
                ticket = self.queue.judge(images, 0, entry.deadline, self.now, is_bulk=request.bulk)
            assert self.snapshot() == before
            self.queue.offer(entry, self.now, guilty=guilty, ticket=ticket)
        except BatchingError as error:
            refusal = error
        if refusal is None:
            assert self.is_open
            assert has_room
            self.known[entry] = Known(entry, labels, self.now)
            self.settle_known(entry, guilty, images)
            return
        assert entry.state is EntryState.NEW
        assert entry.progress is None
        assert self.snapshot() == before
        self.check_refusal(refusal, has_room=has_room, patience_s=patience_s)

    def settle_known(self, entry: Entry, guilty: dict[int, BaseException], images: int) -> None:
        """Rows that are known to be guilty are settled; they end the entry, unless others are still to run."""
        for row in guilty if images else range(entry.rows):
            self.known[entry].rows[row] = Row.SETTLED
        if guilty:
            ended: list[Any] = []
            self.settlement.close(entry, self.now, ended)
            assert bool(ended) == (not images)
            for each, answer, _, _ in ended:
                self.end(each, answer)

    def check_refusal(self, refusal: BatchingError, *, has_room: bool, patience_s: float | None) -> None:
        """Each refusal has its reason, and says when to come back where that helps."""
        if isinstance(refusal, Closed):
            assert not self.is_open
            assert refusal.retry_after_s is None
        elif isinstance(refusal, QueueFull):
            assert not has_room
            assert refusal.retry_after_s is None or refusal.retry_after_s > 0
        else:
            assert isinstance(refusal, PredictedLate)
            overdue = patience_s is not None and patience_s <= 0
            assert overdue or (self.curve is not None and (patience_s is not None or self.slo_s < math.inf))
            assert (refusal.retry_after_s is None) == overdue

    def snapshot(self) -> tuple[object, ...]:
        """What a refusal must leave as it is."""
        return (
            self.queue.images,
            self.queue.bytes,
            list(self.queue.pending),
            self.queue.pending.earliest_s(),
            list(self.queue.in_flight.batches),
        )

    @rule()
    def turn(self) -> None:
        """The overdue end (I1), and the batches that are due leave; a second turn does nothing."""
        turn = self.queue.turn(self.now)
        # An entry that left in part may be doomed in the same turn: it ends after the last batch that carries it.
        last = {span[0]: batch.serial for batch in turn.batches for span in batch.spans}
        self.check_ended([entry for entry in turn.ended if entry not in last])
        for batch in turn.batches:
            self.check_batch(batch)
            self.check_ended([entry for entry in turn.ended if last.get(entry) == batch.serial])
        assert not self.dropped
        for known in self.live:
            assert known.entry.deadline > self.now
            assert known.arrived_s + self.slo_s > self.now or not known.count(Row.WAITS, Row.SUSPECT)
        assert self.queue.turn(self.now) == ([], [], turn.wake_at)
        if len(self.batches) < self.limits.max_inflight_batches:
            assert not self.due_fifos()
            assert not any(known.count(Row.SUSPECT) for known in self.live)
        self.check_wake_up(turn.wake_at)

    def check_ended(self, ended: list[Entry]) -> None:
        """Each entry that ends is overdue, or doomed by the curve."""
        for entry in ended:
            due_s = min(entry.deadline, self.known[entry].arrived_s + self.slo_s)
            assert due_s <= self.now or (self.curve is not None and due_s < math.inf)
            if entry in self.dropped:
                self.dropped.remove(entry)
            else:
                self.end(entry, None)

    def check_wake_up(self, wake_at: float) -> None:
        """No entry that waits for a time is forgotten, and no window that ends."""
        assert wake_at > self.now
        is_free = len(self.batches) < self.limits.max_inflight_batches
        for known in self.live:
            due_s = known.arrived_s + self.slo_s if known.count(Row.WAITS, Row.SUSPECT) else math.inf
            assert wake_at <= min(known.entry.deadline, due_s)
            assert not is_free or not known.count(Row.WAITS) or wake_at <= known.arrived_s + self.limits.linger_s

    def check_batch(self, batch: Batch) -> None:
        """A batch leaves, in a free place."""
        assert len(self.batches) < self.limits.max_inflight_batches
        self.batches.append(batch)
        self.check_bounds(batch)
        if batch.is_retry:
            assert all(self.known[e].rows[i] is Row.SUSPECT for e, a, b in batch.spans for i in range(a, b))
        else:
            self.check_order(batch)
        for entry, start, stop in batch.spans:
            assert self.known[entry].is_live
            self.known[entry].rows[start:stop] = [Row.IN_FLIGHT] * (stop - start)
        if not batch.is_retry:
            self.check_greed(batch)

    def fifos(self) -> dict[tuple[bool, Any], list[tuple[Entry, int]]]:
        """The rows that wait by FIFO, in order of arrival."""
        fifos: dict[tuple[bool, Any], list[tuple[Entry, int]]] = {}
        for known in self.live:
            rows = [(known.entry, index) for index, row in enumerate(known.rows) if row is Row.WAITS]
            if rows:
                fifos.setdefault(known.fifo, []).extend(rows)
        return fifos

    def due_fifos(self) -> list[tuple[bool, Any]]:
        """The FIFOs that must leave now, whatever the batch size (I4, I5)."""
        due = []
        for fifo, rows in self.fifos().items():
            entries = {entry: None for entry, _ in rows}
            if (
                not self.limits.linger_s
                or not self.is_open
                or fifo[1] == "whole"
                or self.known[rows[0][0]].arrived_s + self.limits.linger_s <= self.now
                or len(rows) >= self.limits.top_images
                or sum(entry.bytes for entry in entries) >= self.limits.max_batch_bytes
                or sum(entry.pixels for entry in entries) >= self.limits.max_batch_pixels
            ):
                due.append(fifo)
        return due

    def check_bounds(self, batch: Batch) -> None:
        """I2, and the padding."""
        rows = rows_of(batch)
        assert batch.images == len(rows) >= 1
        if batch.spans[0][0].whole:
            assert len(batch.spans) == 1
            assert batch.images == batch.spans[0][0].rows
            assert batch.padding == 0
            return
        assert batch.images <= self.limits.max_batch_images
        if len(rows) > 1:
            assert sum(entry.row_bytes[index] for entry, index in rows) <= self.limits.max_batch_bytes
            assert sum(entry.row_pixels[index] for entry, index in rows) <= self.limits.max_batch_pixels
        allowed = self.limits.allowed_batch_sizes
        assert batch.padding >= 0
        assert (batch.images + batch.padding in allowed) if allowed else not batch.padding
        assert not any(batch.images <= size < batch.images + batch.padding for size in allowed)

    def check_order(self, batch: Batch) -> None:
        """I3 and the lanes: the first live rows of the oldest FIFO of the lane that is next."""
        first = batch.spans[0][0]
        fifos, fifo = self.fifos(), self.known[first].fifo
        rows = rows_of(batch)
        assert rows == fifos[fifo][: len(rows)]
        rivals = [fifos[other][0][0] for other in self.due_fifos() if other != fifo]
        for rival in rivals:
            if rival.bulk == first.bulk:
                assert first.serial < rival.serial
            elif first.bulk:
                assert self.interactive_in_a_row >= 7
            else:
                assert self.interactive_in_a_row < 7
        self.interactive_in_a_row = 0 if first.bulk else self.interactive_in_a_row + 1

    def check_greed(self, batch: Batch) -> None:
        """Without a curve a batch is as large as the bounds allow, and says which of them it met."""
        first = batch.spans[0][0]
        rest = self.fifos().get(self.known[first].fifo, [])
        if self.curve is not None or first.whole:
            return
        taken = [(entry.row_bytes[0], entry.row_pixels[0]) for entry, a, b in batch.spans for _ in range(a, b)]
        if not rest or batch.images == self.limits.top_images:
            assert batch.reason in {Reason.FULL, Reason.IDLE, Reason.LINGER, Reason.SLACK, Reason.DRAIN}
            assert (batch.reason is Reason.FULL) == (batch.images == self.limits.top_images)
        else:
            weighs, shows = (sum(column) for column in zip(*taken, strict=True))
            is_heavy = weighs + rest[0][0].row_bytes[0] > self.limits.max_batch_bytes
            assert is_heavy or shows + rest[0][0].row_pixels[0] > self.limits.max_batch_pixels
            assert batch.reason is (Reason.BYTES if is_heavy else Reason.PIXELS)

    @precondition(lambda self: self.batches)
    @rule(
        data=st.data(),
        fate=st.sampled_from(["well", "well", "well", "crash", "short"]),
        names=st.sampled_from([None, name_all, name_first, name_nonsense, name_strangers]),
    )
    def finish(self, data: st.DataObject, fate: str, names: Names | None) -> None:
        """The backend gives a batch back."""
        self.give_back(data.draw(st.integers(0, len(self.batches) - 1)), fate, names)

    @rule(calls=st.integers(2, 10))
    def serve(self, calls: int) -> None:
        """The backend does a few calls in a row, which succeed unless there is poison in them."""
        for _ in range(calls):
            if self.batches:
                self.give_back(0, "well")
            self.turn()

    def give_back(self, number: int, fate: str, names: Names | None = None) -> None:
        """A call ends: well, with the client's fault if there is poison in it, or broken."""
        batch = self.batches.pop(number)
        report = self.report_of(batch, fate, names)
        self.settled_images = batch.images
        alive = [span for span in batch.spans if self.known[span[0]].is_live]
        ended: list[Any] = []
        self.settlement.settle(batch, report, self.now, ended)
        # Rows that were not alone are run again, even where the others have ended since.
        is_suspect = isinstance(report.error, BadPictureError) and not batch.spans[0][0].whole and batch.images > 1
        if is_suspect:
            self.note_dropped(alive, {entry for entry, _, _, _ in ended})
            alive = [span for span in alive if self.known[span[0]].is_live]
        places = {(entry, row): place for place, (entry, row) in enumerate(rows_of(batch))}
        named = report.guilty if names in {name_all, name_first} else {}
        for entry, start, stop in alive:
            for row in range(start, stop):
                is_free = not is_suspect or places[entry, row] in named
                self.known[entry].rows[row] = Row.SETTLED if is_free else Row.SUSPECT
        for entry, answer, _, _ in ended:
            assert entry in {span[0] for span in alive}
            self.end(entry, answer)
        if fate == "crash" or (fate == "short" and report.error is None):
            for entry, _, _ in alive:
                self.check_failed(entry, RuntimeError if fate == "crash" else BadOutput)

    def note_dropped(self, alive: list[Any], ended: set[Entry]) -> None:
        """An entry that missed its SLO in flight is not worth a retry; the next turn names it."""
        for entry in {span[0] for span in alive} - ended:
            if entry.state is EntryState.ENDED:
                assert min(entry.deadline, self.known[entry].arrived_s + self.slo_s) <= self.now
                self.dropped.add(entry)
                self.end(entry, None)

    def report_of(self, batch: Batch, fate: str, names: Names | None) -> FakeReport:
        """What the backend says of a call."""
        labels = [self.known[entry].labels[row] for entry, row in rows_of(batch)]
        if fate == "crash":
            return FakeReport(None, RuntimeError("out of memory"), self.now)
        if guilty := [place for place, label in enumerate(labels) if is_row(label, "poison")]:
            error = BadPictureError("cannot decode")
            return FakeReport(None, error, self.now, guilty=names(guilty) if names else {})
        results = [payload[a:b] for payload, a, b in batch.parts]  # type: ignore[index]  # payloads are lists of labels
        if fate == "short":
            results[-1] = results[-1][1:]
        return FakeReport(results, None, self.now)

    def check_failed(self, entry: Entry, kind: type[BaseException]) -> None:
        """The whole entry failed."""
        assert not self.known[entry].is_live
        answer = self.known[entry].answer
        assert answer is not None
        assert answer.pieces == ()
        assert isinstance(answer.error, kind)

    def end(self, entry: Entry, answer: Answer | None) -> None:
        """An entry ended: once (I1), and each of its rows has its own answer (I8)."""
        known = self.known[entry]
        assert known.is_live
        assert entry.state is EntryState.ENDED
        assert entry.payload is None
        known.is_live = False
        known.answer = answer
        if answer is None or (answer.error is not None and not isinstance(answer.error, BadPictureError)):
            return
        poison = {index for index, label in enumerate(known.labels) if is_row(label, "poison")}
        assert set(answer.errors) <= poison
        if answer.error is None:
            pieces = [label for piece in answer.pieces for label in piece]  # type: ignore[attr-defined]  # lists
            assert set(answer.errors) == poison
            assert pieces == [label for index, label in enumerate(known.labels) if index not in poison]
        else:
            assert poison
            assert answer.pieces == ()
            assert entry.whole or (answer.errors and not entry.keep_going)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """A caller hangs up."""
        entry = data.draw(st.sampled_from([known.entry for known in self.live]))
        assert self.queue.end(entry)
        assert not self.queue.end(entry)
        self.end(entry, None)

    @rule(chance=st.integers(0, 29))
    def shut(self, chance: int) -> None:
        """The queue drains, seldom, or closes, more seldom."""
        if chance < 2:
            self.queue.drain()
            self.is_open = False
        if chance == 0:
            self.close()

    def close(self) -> None:
        """Twice is as once (I9)."""
        live = [known.entry for known in self.live]
        closed = self.queue.close()
        assert [entry for entry in closed if entry not in self.dropped] == live
        assert self.dropped <= set(closed)
        self.dropped.clear()
        assert self.queue.close() == []
        for entry in live:
            self.end(entry, None)
        assert not any(batch.is_out for batch in self.batches)
        self.batches.clear()
        self.is_open = False
        assert self.queue.turn(self.now) == ([], [], math.inf)

    @invariant()
    def counts_agree(self) -> None:
        """I1: nothing is lost or counted twice."""
        live = self.live
        assert [entry.serial for entry in self.queue.pending] == [known.entry.serial for known in live]
        assert self.queue.images == sum(known.count(Row.WAITS, Row.SUSPECT) for known in live)
        assert self.queue.bytes == sum(known.entry.bytes for known in live if known.count(Row.WAITS))
        assert self.queue.in_flight.batches == self.batches
        assert len(self.batches) <= self.limits.max_inflight_batches
        waiting = [known.arrived_s for known in live if known.count(Row.WAITS)]
        assert self.queue.oldest_s() == min(waiting, default=None)

    def teardown(self) -> None:
        """Run to the end: everything that is pending ends (I1)."""
        if not hasattr(self, "queue"):
            return
        for _ in range(1000):
            self.now += LINGER_S
            self.turn()
            for _ in range(len(self.batches)):
                batch = self.batches.pop()
                ended: list[Any] = []
                results = [payload[a:b] for payload, a, b in batch.parts]  # type: ignore[index]  # as above
                self.settlement.settle(batch, FakeReport(results, None, self.now), self.now, ended)
                for entry, _, _, _ in ended:
                    self.known[entry].is_live = False
            if not self.live:
                break
        assert not self.queue.pending.entries
        assert not self.queue.images
        assert not self.queue.bytes


TestQueueMachine = QueueMachine.TestCase
