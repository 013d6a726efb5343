"""A shadow: a version that runs on requests which another version has answered, to compare the two."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from darkroom.batching.entry import Entry
from darkroom.batching.errors import BatchingError, Closed, DeadlineExceeded
from darkroom.models.errors import quote
from darkroom.models.rows import Column, Rows, join

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable

    from darkroom.batching.entry import Answer
    from darkroom.models.saved_model.output_kinds import OutputKind
    from darkroom.models.spec import SignatureSpec
    from darkroom.service.serving.servable import Target

_log = logging.getLogger("darkroom.service")
GATHER_S = 0.1  # guess: answers of so long share a call; nobody waits for it
RETRY_S = 0.01  # guess: how soon a busy server is looked at again
PATIENCE_S = 1.0  # guess: what finds the server busy for so long is dropped
SHORT_S = 0.002  # guess: how long a request may find an engine busy with others' shadows; a lone one may take longer
_SIZES = (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)  # rows of a call, 64 at most: a guess
MAX_BYTES = 32 << 20  # guess: of the inputs and the answers that wait
TIMEOUT_S = 30.0  # guess
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0  # guess: after a call that failed; doubled each time
LARGE_BYTES = 1 << 18  # guess: answers of more are compared in a thread
HUGE = 1e6  # stands for the distance to what is not a finite number
_FLOATS = frozenset("fV")  # the kinds of numpy's dtypes; bfloat16 is V

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


class Compared(NamedTuple):
    """One request that was answered. Those of one kind may share a call, if they are `joined` at all."""

    rows: Rows
    answer: Rows
    row_bytes: Sequence[int]
    row_pixels: Sequence[int]
    joined: bool

    @property
    def kind(self) -> Hashable:
        """What the requests of one call have in common."""
        return self.joined, self.rows.key, self.answer.key

    @property
    def bytes(self) -> int:
        """What it holds in memory."""
        return sum(self.row_bytes) + self.answer.size_bytes


class Shadow:
    """Runs one signature of a version on a share of the requests that another version has answered. On the event loop.

    No request waits for it. It keeps as many answered rows as its next call may have, in SHORT_S, and makes that call, in
    the bulk lane, when no engine of the process has anything to do. What does not fit, or finds the server busy for
    PATIENCE_S, is dropped and counted. After a call that failed it pauses.

    Args:
        answering: what answers the requests.
        target: what runs beside it. It takes the same inputs, so rows are shared.
        share: of the answers, from 0 to 1.
        busy: of the time, in which its calls run at most: after each it waits.
        is_idle: whether no engine of the process has anything to do.
        chance: a number from 0 to 1, for each answer.
        clock: that of the batchers.
    """

    def __init__(
        self,
        answering: Target,
        target: Target,
        *,
        share: float,
        busy: float,
        is_idle: Callable[[], bool],
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answering = answering
        self._target = target
        self._share, self._busy = share, busy
        self._is_idle = is_idle
        self._chance = chance
        self._clock = clock
        self._counts = target.metrics.begin_shadow()
        self._group: list[Compared] = []  # of the next call; all of `_kind`
        self._kind: Hashable = None
        self._rows = self._bytes = 0
        self._most = self._fitting()
        self._timer: asyncio.TimerHandle | None = None
        self._is_running = self._is_closed = False
        self._spent_s = 0.0  # by the event loop, on the call that runs
        self._give_up_s = 0.0  # when what waits is dropped, if the server is still busy
        self._pause_s = self._resume_s = 0.0

    def offer(self, rows: Rows, row_bytes: Sequence[int], row_pixels: Sequence[int], answer: Answer) -> None:
        """Takes note of a request and its answer; of one with an error, or that chance leaves out, it takes none.

        Args:
            rows: of the request.
            row_bytes: encoded bytes of each.
            row_pixels: decoded pixels of each; empty if they are not counted.
            answer: what the batcher gave.
        """
        if answer.error is not None or answer.errors or not answer.pieces or self._chance() >= self._share:
            return
        is_over = self._group and self._rows + len(rows) > self._most
        if (
            is_over
            or self._is_closed
            or self._clock() < self._resume_s
            or not self._keep(rows, row_bytes, row_pixels, answer)
        ):
            self._counts.images["dropped"] += len(rows)
        elif self._timer is None and not self._is_running:
            self._look_in(GATHER_S)

    def close(self) -> None:
        """Drops what waits. What runs is not compared any more."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._drop(self._taken())

    def look(self) -> None:
        """Starts a call if something waits and the server is idle; else looks again soon."""
        self._timer, now = None, self._clock()
        if not self._group:
            return
        if not self._is_idle():
            if now < self._give_up_s:
                self._timer = asyncio.get_running_loop().call_later(RETRY_S, self.look)
            else:
                self._drop(self._taken())
            return
        group = self._taken()
        try:
            self._target.batcher.submit(entry_of(group, now + TIMEOUT_S), partial(self._settle, group))
            self._is_running, self._spent_s = True, self._clock() - now
        except BatchingError:  # it has no room, or is closed
            self._drop(group)

    def _keep(self, rows: Rows, row_bytes: Sequence[int], row_pixels: Sequence[int], answer: Answer) -> bool:
        """Puts an answered request into the next call; False if it can't be."""
        pieces = [piece for piece in answer.pieces if isinstance(piece, Rows)]
        if len({piece.key for piece in pieces}) != 1:
            return False
        joined = rows.aligned and self._answering.spec.batched and self._target.spec.batched
        each = Compared(rows, join(pieces), row_bytes, row_pixels, joined)
        if (self._group and not (joined and each.kind == self._kind)) or self._bytes + each.bytes > MAX_BYTES:
            return False
        self._group.append(each)
        self._kind = each.kind
        self._rows += len(rows)
        self._bytes += each.bytes
        return True

    def _taken(self) -> list[Compared]:
        """What waits, which is taken out."""
        group, self._group = self._group, []
        self._rows = self._bytes = 0
        return group

    def _fitting(self) -> int:
        """How many rows a call may have, so that it takes SHORT_S at most."""
        expected = self._target.batcher.curve.expected
        return next((rows for rows in _SIZES if expected(rows) <= SHORT_S), 1)

    def _look_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self.look)
        self._give_up_s = self._clock() + seconds + PATIENCE_S

    def _drop(self, group: Sequence[Compared]) -> None:
        self._counts.images["dropped"] += sum([len(each.rows) for each in group])

    def _settle(self, group: Sequence[Compared], answer: Answer) -> None:
        """Takes the answer to a call, and compares it."""
        self._is_running, now = False, self._clock()
        if isinstance(answer.error, (Closed, DeadlineExceeded)):
            self._drop(group)
        elif answer.error is not None:
            self._counts.images["failed"] += sum([len(each.rows) for each in group])
            self._pause(answer.error)
        elif not self._is_closed:
            self._pause_s = 0.0
            self._note(group, answer)
        self._most = self._fitting()
        if not self._is_closed:
            timing = answer.timing
            engine_s, loop_s = timing.collate_s + timing.execute_s + timing.split_s, self._clock() - now
            self._look_in(max(GATHER_S, (engine_s + loop_s + self._spent_s) / self._busy))

    def _pause(self, error: BaseException) -> None:
        """Stops for a while, longer after each failure."""
        if not self._pause_s:
            model = self._target.model
            fields = {"model": model.name, "version": model.version, "reason": quote(str(error))}
            _log.warning("a shadow fails; it is tried again after a pause", extra={"fields": fields})
        self._pause_s = min(MAX_PAUSE_S, 2 * self._pause_s or FIRST_PAUSE_S)
        self._resume_s = self._clock() + self._pause_s
        self._drop(self._taken())

    def _note(self, group: Sequence[Compared], answer: Answer) -> None:
        """Counts a good answer: its time, its guilty rows, and how it compares; a large one is compared in a thread."""
        counts, timing, joined = self._counts, answer.timing, group[0].joined
        counts.images["failed"] += len(answer.errors)
        if timing.batch_images == sum([len(each.rows) for each in group]) and not timing.retries:
            counts.seconds["shadow"] += timing.execute_s
            counts.seconds["answer"] += self._answering.batcher.curve.expected(timing.batch_images)
        pieces = [piece for piece in answer.pieces if isinstance(piece, Rows)]
        answered = join([each.answer for each in group])
        look = partial(compare, answered, pieces, answer.errors.keys(), self._answering.kinds, joined=joined)

        def count(found: Comparison) -> None:
            for outcome, rows in found.rows.items():
                counts.images[outcome] += rows * (1 if joined else len(group[0].rows))
            for distance in found.distances:
                counts.distance.observe(distance)

        if answered.size_bytes <= LARGE_BYTES:
            count(look())
        else:
            looking = asyncio.get_running_loop().run_in_executor(None, look)
            looking.add_done_callback(lambda done: None if done.cancelled() else count(done.result()))


def entry_of(group: Sequence[Compared], deadline: float) -> Entry:
    """The rows of a group for the batcher.

    They do not say how many pixels they have, so that the runner never computes them on the event loop.
    """
    rows, joined = join([each.rows for each in group]), group[0].joined
    if joined:
        rows = Rows(rows.columns, count=len(rows), asked=rows.asked)
    return Entry(
        rows,
        len(rows),
        row_bytes=[size for each in group for size in each.row_bytes],
        row_pixels=[pixels for each in group for pixels in each.row_pixels],
        deadline=deadline,
        key=rows.key,
        whole=not joined,
        keep_going=joined,
        bulk=True,
    )


def take_the_same(one: SignatureSpec, other: SignatureSpec) -> bool:
    """Whether the rows of any request to `one` can be fed to `other` as they are."""
    inputs = [{(each.name, each.dtype, each.shape) for each in spec.inputs} for spec in (one, other)]
    pictures = [(spec.image_input, spec.other_pictures) for spec in (one, other)]
    return inputs[0] == inputs[1] and pictures[0] == pictures[1] and one.formats <= other.formats


class Comparison(NamedTuple):
    """How two versions answered the same rows.

    Attributes:
        rows: the number of rows by outcome: `same` or `different` class, `unranked` where there is no class to compare.
        distances: the largest absolute difference of any float, for each row; empty where there are no floats.
    """

    rows: Mapping[str, int]
    distances: Sequence[float]


def compare(
    answered: Rows,
    pieces: Sequence[Rows],
    guilty: Collection[int],
    kinds: Mapping[str, OutputKind],
    *,
    joined: bool,
) -> Comparison:
    """Compares two answers to the same rows.

    The class is the place of the largest of the scores. Where there are no scores, it is the first output with one whole
    number a row. Texts, and outputs that only one answer has, are left out. Of answers of different shapes all rows count
    as different.

    Args:
        answered: one answer.
        pieces: the other one, in pieces.
        guilty: the rows that `pieces` lack.
        kinds: of the outputs.
        joined: rows are independent; else all are compared as one.
    """
    other: Mapping[str, Column] = join(pieces).columns if len({piece.key for piece in pieces}) == 1 else {}
    kept = [row for row in range(len(answered)) if row not in guilty] if joined else [0]
    pairs = {
        name: (np.asarray(column)[kept], np.asarray(other[name]))
        if joined
        else (column[None], np.asarray(other[name])[None])
        for name, column in answered.columns.items()
        if name in other and not isinstance(column, list) and column.dtype.kind != "O"
    }
    if not other or any(one.shape != two.shape for one, two in pairs.values()):
        return Comparison({"different": len(kept)}, ())
    floats = [pair for pair in pairs.values() if pair[0].dtype.kind in _FLOATS]
    distance = np.max([distance_of(*pair) for pair in floats], axis=0).tolist() if floats else ()
    scores = [name for name in pairs if name in kinds and kinds[name].kind == "scores"]
    whole = [name for name, (one, _) in pairs.items() if one.dtype.kind in "iu" and one.ndim == 1]
    if not scores and not whole:
        return Comparison({"unranked": len(kept)}, distance)
    one, two = pairs[scores[0]] if scores else pairs[whole[0]]
    is_same = one.argmax(axis=-1) == two.argmax(axis=-1) if scores else one == two
    same = int(is_same.reshape(len(kept), -1).all(axis=1).sum())
    return Comparison({"same": same, "different": len(kept) - same}, distance)


def distance_of(one: Array, two: Array) -> Array:
    """The largest absolute difference of each row; HUGE where only one of two numbers is finite, or one is no number."""
    one, two = (each.reshape(len(each), -1).astype(np.float64) for each in (one, two))
    with np.errstate(invalid="ignore"):
        gap = np.abs(one - two)
    is_equal = (one == two) | (np.isnan(one) & np.isnan(two))
    gap = np.nan_to_num(np.where(is_equal, 0.0, gap), nan=HUGE, posinf=HUGE)
    nearest: Array = np.minimum(gap, HUGE).max(axis=1, initial=0.0)
    return nearest
