"""Runs the rows of one call on all cores at once, a piece of the rows on each: row parallelism in place of op parallelism.

TensorFlow splits every op of a call over its threads and waits for all of them before the next op. Calls with one
thread each, at the same time, wait for nobody. Measured with TensorFlow 2.21 on 2 cores, medians of one run, the plain
signature, a session with two threads, and two shards: EfficientNet-Lite0 of 8 rows 45.6, 41.4 and 33.2 ms, of 16 rows
81.3, 78.7 and 66.9; 64 JPEGs of 224x224 into the 28x28 model 6.9, 9.9 and 5.5. A single row cannot be divided: for it
the session with two threads takes 9.0 ms and one thread 13.3.

Above some size, more rows at once only take more memory, and TensorFlow never returns what its largest call took. So
a piece has a largest size. EfficientNet-Lite0, two threads, ms a row of pieces of 1, 2, 4, 8 and 16 rows: 4.40, 4.13,
4.11, 4.11, 4.51.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from queue import SimpleQueue
from threading import Lock, Thread
from types import MappingProxyType
from typing import NamedTuple

from darkroom.models.engine import PassReport
from darkroom.models.engines.devices import Device
from darkroom.models.engines.tuning import Timer, Tuning, time_both
from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows, fill, join
from darkroom.models.runtime.session import SessionEngine

SHARD = "shard"  # the pass's name in metrics, metadata and logs
ROWS_A_CORE = (1, 2, 4, 8, 16)  # tried; small models need many rows before waking the threads is worth it
LONG_ENOUGH_S = 0.03  # a call's fixed cost, 0.1 to 0.3 ms, no longer matters (guess)
FLAT = 0.9  # twice as many rows no longer make a row cheaper (guess)
MIN_GAIN = 0.95  # times as fast; less is a loss, more may be background load
TOO_LONG_S = 0.1  # no call takes so long for what its rows share: 256 MB of weights are read in less (guess)
NOTHING_KNOWN: Mapping[str, Tuning] = MappingProxyType({})
MAX_GRAPH_BYTES = 256 << 20  # the weights are held twice: for larger models memory is dearer than speed (guess)


class _Piece(NamedTuple):
    """Rows of one call for one thread; the answer, or what was raised, goes into `done` with the piece's place."""

    rows: Rows
    place: int
    done: "SimpleQueue[tuple[int, Rows | BaseException]]"


class ShardedEngine:
    """One row-wise signature over two sessions of its graph: `threaded` has a thread a core, `single` only its caller's.

    The rows of a call are divided into pieces, which wait in one queue for as many threads as there are cores. A thread
    that has finished its piece takes the next one, of any call: with two calls at once no core waits for another, and
    no more threads work than there are cores. A call of fewer than `min_rows` rows that runs alone goes to `threaded`.

    Attributes:
        min_rows: rows from which on a call is divided; at least one a core.
        piece_rows: the most rows that a thread runs at once; 0: its whole share of a call.
    """

    def __init__(self, threaded: SessionEngine, single: SessionEngine, cores: int) -> None:
        self.spec = threaded.spec
        self.passes = threaded.passes
        self._threaded = threaded
        self._single = single
        self._cores = self.min_rows = cores
        self.piece_rows = 0
        self._lock = Lock()
        self._calls = 0
        self._pieces: SimpleQueue[_Piece | None] = SimpleQueue()
        self._threads = [Thread(target=self._serve, name=f"shard-{n}", daemon=True) for n in range(cores)]
        for thread in self._threads:
            thread.start()

    @property
    def split(self) -> str:
        """The tensor up to which the rows of a piece run one by one; empty: none."""
        return self._single.split

    def run(self, rows: Rows) -> Rows:
        """The outputs of one call; see darkroom.models.engine.Engine."""
        with self._lock:
            self._calls += 1
            is_alone = self._calls == 1
        try:
            if not rows.aligned or (is_alone and len(rows) < self.min_rows):
                return self._threaded.run(rows)
            return self._run_pieces(rows, is_alone=is_alone)
        finally:
            with self._lock:
                self._calls -= 1

    def run_inline(self, rows: Rows) -> Rows:
        """As `run`, in the calling thread only; see darkroom.models.engine.SupportsInline."""
        return self._single.run(rows)

    def screen(self, rows: Rows) -> list[InvalidInput | None]:
        """What is wrong with each row; see darkroom.models.engine.Screener."""
        return self._single.screen(rows)

    def close(self) -> None:
        """Ends the threads and releases both sessions' callables; idempotent. No call may be running."""
        self.end_threads()
        self._threaded.close()
        self._single.close()

    def end_threads(self) -> None:
        """Ends the threads; idempotent."""
        for _ in self._threads:
            self._pieces.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def tune(self, samples: Sequence[Rows], *, timer: Timer = time_both) -> PassReport:
        """Sets `min_rows` and `piece_rows` by timing calls of rising size, divided and not; returns what was found.

        Shards pay from the size on after which they never lost; if they lost at the largest size, they do not pay. A
        piece is as large as the size at which twice the rows take twice as long, and long enough. With a row prefix, in
        which rows run one by one anyway, it is what a core had of the first call that was long enough, and the timing
        ends there: 32 rows of EfficientNet-Lite0 in the threaded session took 147 MiB, which TensorFlow keeps.

        Args:
            samples: single rows that the signature takes.
            timer: what compares the two.
        """
        min_rows, gain, row_s = 0, 0.0, math.inf
        for rows_a_core in ROWS_A_CORE:
            size = rows_a_core * self._cores
            threaded_s, shards_s = timer(self._threaded.run, self._run_pieces, fill(samples, size))
            gain = threaded_s / shards_s
            if gain < MIN_GAIN:
                min_rows = 0
            elif not min_rows:
                min_rows = size
            half_s, row_s = row_s, shards_s / size
            if shards_s > TOO_LONG_S or (shards_s > LONG_ENOUGH_S and (self.split or row_s > FLAT * half_s)):
                self.piece_rows = rows_a_core
                break
        self.min_rows = min_rows or self.min_rows
        found = f"{gain:.2f} times as fast at {size} rows on {self._cores} cores"
        if self.piece_rows:
            found = f"{self.piece_rows} a core at once; {found}"
        return PassReport(SHARD, min_rows > 0, f"from {min_rows} rows on; {found}" if min_rows else found)

    def apply(self, tuning: Tuning) -> PassReport:
        """As `tune`, by the tuning of a graph with the same key."""
        self.min_rows, self.piece_rows = tuning.min_rows or self.min_rows, tuning.piece_rows
        (report,) = tuning.shard_reports
        return report

    def _run_pieces(self, rows: Rows, *, is_alone: bool = True) -> Rows:
        """Runs a call in pieces, and waits for every piece even if one fails.

        A call that runs alone is divided among all cores. When another call is running, it is divided only as far as
        `piece_rows` requires, since the other call keeps the cores busy.
        """
        share = self._cores if is_alone else 1
        count = min(len(rows), share * (-(-len(rows) // (share * self.piece_rows)) if self.piece_rows else 1))
        edges = [len(rows) * n // count for n in range(count + 1)]
        done: SimpleQueue[tuple[int, Rows | BaseException]] = SimpleQueue()
        for place, (start, stop) in enumerate(pairwise(edges)):
            self._pieces.put(_Piece(rows.cut(start, stop), place, done))
        answers = dict(done.get() for _ in range(count))
        found = []
        for place in range(count):
            answer = answers[place]
            if not isinstance(answer, Rows):
                raise answer
            found.append(answer)
        if len({answer.key for answer in found}) > 1:  # pieces whose answers have different shapes
            return self._threaded.run(rows)
        return join(found)

    def _serve(self) -> None:
        """What each thread does until it takes None."""
        while (piece := self._pieces.get()) is not None:
            answer: Rows | BaseException
            try:
                answer = self._single.run(piece.rows)
            except BaseException as err:  # noqa: BLE001 - carried to the caller's thread
                answer = err
            piece.done.put((piece.place, answer))
            del piece, answer  # a piece's pictures must not stay until the next one comes


def why_not_sharded(devices: Sequence[Device], cores: int, graph_bytes: int) -> str:
    """Why shards are not tried for a graph; empty where they are."""
    if any(device.kind == "gpu" for device in devices):
        return "a GPU shares its cores out itself"
    if len(devices) > 1:
        return "there is an engine on each device"
    if cores < 2:
        return "one core"
    if graph_bytes > MAX_GRAPH_BYTES:
        return f"{graph_bytes >> 20} MB of weights would be held twice"
    return ""


def shard(
    threaded: Mapping[str, SessionEngine],
    single: Mapping[str, SessionEngine],
    samples: Mapping[str, Sequence[Rows]],
    *,
    cores: int,
    known: Mapping[str, Tuning] = NOTHING_KNOWN,
    timer: Timer = time_both,
) -> dict[str, ShardedEngine]:
    """The signatures for which shards are measured to pay. For every other one the reason is added to its passes.

    Args:
        threaded: the signatures in a session with a thread for each core.
        single: the same signatures in a session without threads of its own.
        samples: single rows that each takes; a signature without any is left as it is.
        cores: shards of a call, at least 2.
        known: what was decided before; such a signature is not timed again.
        timer: what compares the two.
    """
    sharded = {}
    for name, whole in threaded.items():
        if not (whole.spec.batched and samples[name]):
            continue
        candidate = ShardedEngine(whole, single[name], cores)
        report = candidate.apply(known[name]) if name in known else candidate.tune(samples[name], timer=timer)
        whole.passes = candidate.passes = (*whole.passes, report)
        if report.applied:
            sharded[name] = candidate
        else:
            candidate.end_threads()
    return sharded
