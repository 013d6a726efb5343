"""Shards: the rows of a call on as many cores as there are, each core running its own pieces to the end.

TensorFlow splits every op of a call over its threads and waits for all of them before the next op. Calls that have one
thread each, beside each other, wait for nobody. Measured with TensorFlow 2.21 on 2 cores, medians of one run, the plain
signature, a session with two threads, and two shards: EfficientNet-Lite0 of 8 rows 45.6, 41.4 and 33.2 ms, of 16 rows
81.3, 78.7 and 66.9; 64 JPEGs of 224x224 into the 28x28 model 6.9, 9.9 and 5.5. A lone row has nothing to be shared:
there the session with two threads takes 9.0 ms and a single thread 13.3.

Past some size more rows at once bring nothing but memory, and TensorFlow never gives back what its largest call took:
so a piece has its size. EfficientNet-Lite0, two threads, ms a row of pieces of 1, 2, 4, 8 and 16 rows: 4.40, 4.13,
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
from darkroom.models.engines.choices import Choice
from darkroom.models.engines.devices import Device
from darkroom.models.engines.tuning import in_turns
from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows, fill, join
from darkroom.models.runtime.session import SessionEngine

SHARD = "shard"  # the name of the pass
ROWS_A_CORE = (1, 2, 4, 8, 16)  # tried; small models need many rows before the threads' waking is worth it
ENOUGH_S = 0.03  # beside it, what a call costs whatever its rows is nothing: 0.1 to 0.3 ms (guess)
FLAT = 0.9  # a row takes no less of its share when there are twice as many (guess)
LOSS = 0.95  # times as fast; less is a loss, more may be what else ran
LONG_S = 0.1  # no call takes so long for what its rows share: 256 MB of weights are read in less (guess)
NOTHING_KNOWN: Mapping[str, Choice] = MappingProxyType({})
MAX_GRAPH_BYTES = 256 << 20  # the weights are held twice: for larger models memory is dearer than speed (guess)


class _Piece(NamedTuple):
    rows: Rows
    place: int
    done: "SimpleQueue[tuple[int, Rows | BaseException]]"


class ShardedEngine:
    """One row-wise signature over two sessions of its graph: `wide` has a thread a core, `narrow` only its caller's.

    The rows of a call are cut into pieces, which wait in one line for as many threads as there are cores. A thread that
    has done its piece takes the next, of whichever call: with two calls at once no core waits for another, and no more
    threads are at work than there are cores. A call of fewer than `least` rows that is alone runs wide.

    Attributes:
        least: rows from which on a call is cut; at least one a core.
        piece: the most rows that a thread runs at once; 0: its whole share of a call.
    """

    def __init__(self, wide: SessionEngine, narrow: SessionEngine, cores: int) -> None:
        self.spec = wide.spec
        self.passes = wide.passes
        self._wide = wide
        self._narrow = narrow
        self._cores = self.least = cores
        self.piece = 0
        self._lock = Lock()
        self._calls = 0
        self._line: SimpleQueue[_Piece | None] = SimpleQueue()
        self._threads = [Thread(target=self._serve, name=f"shard-{n}", daemon=True) for n in range(cores)]
        for thread in self._threads:
            thread.start()

    @property
    def waist(self) -> str:
        """The tensor up to which a shard's rows go one by one; empty: none."""
        return self._narrow.split

    def run(self, rows: Rows) -> Rows:
        """The outputs of one call; see darkroom.models.engine.Engine."""
        with self._lock:
            self._calls += 1
            is_alone = self._calls == 1
        try:
            if not rows.aligned or (is_alone and len(rows) < self.least):
                return self._wide.run(rows)
            return self._run_pieces(rows, is_alone=is_alone)
        finally:
            with self._lock:
                self._calls -= 1

    def run_inline(self, rows: Rows) -> Rows:
        """As `run`, in the calling thread only; see darkroom.models.engines.runner.SupportsInline."""
        return self._narrow.run(rows)

    def screen(self, rows: Rows) -> list[InvalidInput | None]:
        """What is wrong with each row; see darkroom.models.engine.Screener."""
        return self._narrow.screen(rows)

    def close(self) -> None:
        """Ends the threads and lets the callables go; idempotent. No call may be running."""
        self.end_threads()
        self._wide.close()
        self._narrow.close()

    def end_threads(self) -> None:
        """Ends the threads; idempotent."""
        for _ in self._threads:
            self._line.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def judge(self, samples: Sequence[Rows]) -> PassReport:
        """Sets `least` and `piece` by measuring sizes from small to large, cut and not, in turns; says what came of it.

        Shards pay from the size on after which they never lost; where they lost at the largest, they don't. A piece is
        the size at which twice the rows took twice as long, and long enough. With a waist, up to which rows go one by
        one anyhow, it is what a core had of the first call that is long enough, and the measuring ends there: 32 rows
        of EfficientNet-Lite0 in the wide session took 147 MiB, which TensorFlow keeps.
        """
        least, gain, row_s = 0, 0.0, math.inf
        for rows_a_core in ROWS_A_CORE:
            size = rows_a_core * self._cores
            wide_s, shards_s = in_turns(self._wide.run, self._run_pieces, fill(samples, size))
            gain = wide_s / shards_s
            if gain < LOSS:
                least = 0
            elif not least:
                least = size
            half_s, row_s = row_s, shards_s / size
            if shards_s > LONG_S or (shards_s > ENOUGH_S and (self.waist or row_s > FLAT * half_s)):
                self.piece = rows_a_core
                break
        self.least = least or self.least
        found = f"{gain:.2f} times as fast at {size} rows on {self._cores} cores"
        if self.piece:
            found = f"{self.piece} a core at once; {found}"
        return PassReport(SHARD, least > 0, f"from {least} rows on; {found}" if least else found)

    def take_over(self, choice: Choice) -> PassReport:
        """As `judge`, by what was measured of a graph of the same structure."""
        self.least, self.piece = choice.least or self.least, choice.piece
        (report,) = choice.found_shards
        return report

    def _run_pieces(self, rows: Rows, *, is_alone: bool = True) -> Rows:
        """All pieces; waits for every one, whatever becomes of the others."""
        pieces = _cut(rows, self._count(len(rows), is_alone=is_alone))
        done: SimpleQueue[tuple[int, Rows | BaseException]] = SimpleQueue()
        for place, piece in enumerate(pieces):
            self._line.put(_Piece(piece, place, done))
        answers = dict(done.get() for _ in pieces)
        found = []
        for place in range(len(pieces)):
            answer = answers[place]
            if not isinstance(answer, Rows):
                raise answer
            found.append(answer)
        return join(found)

    def _count(self, rows: int, *, is_alone: bool) -> int:
        """Into how many pieces a call is cut. Beside another, which keeps the other cores busy, it is cut the least."""
        share = self._cores if is_alone else 1
        return min(rows, share * (-(-rows // (share * self.piece)) if self.piece else 1))

    def _serve(self) -> None:
        while (piece := self._line.get()) is not None:
            piece.done.put((piece.place, self._try(piece.rows)))
            del piece  # its pictures must not stay until the next one comes

    def _try(self, rows: Rows) -> Rows | BaseException:
        try:
            return self._narrow.run(rows)
        except BaseException as err:  # noqa: BLE001 - carried to the caller's thread
            return err


def _cut(rows: Rows, count: int) -> list[Rows]:
    """The rows in `count` parts of equal sizes, or nearly."""
    edges = [len(rows) * n // count for n in range(count + 1)]
    return [rows.cut(start, stop) for start, stop in pairwise(edges)]


def objection(devices: Sequence[Device], cores: int, graph_bytes: int) -> str:
    """Why a graph is not to be tried in shards; empty where it may be."""
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
    wide: Mapping[str, SessionEngine],
    narrow: Mapping[str, SessionEngine],
    samples: Mapping[str, Sequence[Rows]],
    *,
    cores: int,
    known: Mapping[str, Choice] = NOTHING_KNOWN,
) -> dict[str, ShardedEngine]:
    """The signatures for which shards are measured to pay; every other one is told why not in its passes.

    Args:
        wide: the signatures in a session with a thread for each core.
        narrow: the same in a session without threads of its own.
        samples: single rows that each takes; a signature without any is left as it is.
        cores: shards of a call, at least 2.
        known: what was measured before; such a signature isn't measured again.
    """
    sharded = {}
    for name, whole in wide.items():
        if not (whole.spec.batched and samples[name]):
            continue
        candidate = ShardedEngine(whole, narrow[name], cores)
        report = candidate.take_over(known[name]) if name in known else candidate.judge(samples[name])
        whole.passes = candidate.passes = (*whole.passes, report)
        if report.applied:
            sharded[name] = candidate
        else:
            candidate.end_threads()
    return sharded
