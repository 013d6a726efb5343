"""Proves at load that a rewritten signature answers like the original, and that a batch answers like its rows alone.

Each proof returns the difference it found, in words; an empty text means that there is none.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from darkroom.models.engine import Engine, PassReport
from darkroom.models.errors import InvalidInput, ModelError
from darkroom.models.rewriting.job import TRYING
from darkroom.models.rows import Column, Rows, join, miscount, row_bytes
from darkroom.models.runtime.session import SessionEngine, objects
from darkroom.models.spec import SignatureSpec, np_shape

_trying = logging.getLogger(TRYING)
# Floats may differ by this much, relative to the value and to the largest value of the output: fused kernels, and kernels
# for other batch sizes, add in another order. Half and bfloat16 keep 11 and 8 bits.
TOLERANCE = {2: 2e-2, 4: 1e-5, 8: 1e-9}  # by the bytes of the dtype
SLOW_S = 0.1  # guess: of a call with one row; 48 rows are run for the proofs of a quick model
LARGE_BYTES = 4 << 20  # guess: of the answer to one row
FEW_ROWS = 2  # of a set whose calls are slow, or whose answers are large
MAX_KEPT_BYTES = 128 << 20  # guess: of the answers that are remembered
MAX_DOUBTFUL = 4  # guess: sets of samples with useless answers after which no better ones are looked for
PART = 1 << 20  # floats that are compared at a time
EXACT_KINDS = frozenset("biuOS")
# The precision of a device's floats, as the bytes of a dtype. A GPU multiplies float32 in TF32, which has half's 11 bits.
EXACT, TF32 = 8, 2


class Remembered:
    """An engine that runs equal calls once, and keeps their answers as long as they are not too large.

    The engine is made when it is needed. `close` closes it, and keeps the answers.
    """

    def __init__(self, spec: SignatureSpec, make: Callable[[], Engine]) -> None:
        self.spec = spec
        self._make = make
        self._engine: Engine | None = None
        self._answers: dict[str, Rows] = {}
        self._left_bytes = MAX_KEPT_BYTES

    @property
    def passes(self) -> tuple[PassReport, ...]:
        """See darkroom.models.engine.Engine."""
        return self.engine.passes

    @property
    def engine(self) -> Engine:
        """The engine itself, which remembers nothing."""
        if self._engine is None:
            self._engine = self._make()
        return self._engine

    def run(self, rows: Rows) -> Rows:
        """Returns the answer; see darkroom.models.engine.Engine."""
        key = self.key_of(rows)
        if key not in self._answers:
            _trying.debug("%s", self.spec.name)
            answer = self.engine.run(rows)
            self._left_bytes -= sum(row_bytes(answer))
            if self._left_bytes < 0:
                return answer
            self._answers[key] = answer
        return self._answers[key]

    def learn(self, samples: Sequence[Rows]) -> None:
        """Runs what a comparison will ask. What fails now will fail then too."""
        with suppress(Exception):
            for rows in batches(samples):
                self.run(rows)

    @staticmethod
    def key_of(rows: Rows) -> str:
        """Equal for calls with the same values."""
        digest = hashlib.sha256()
        for name, column in rows.columns.items():
            values = column if isinstance(column, list) else column.ravel().tolist() if column.dtype == object else None
            digest.update(repr((name, np_shape(column), values)).encode())
            if not isinstance(column, list) and values is None:
                digest.update(column.tobytes())
        return digest.hexdigest()

    def close(self) -> None:
        """Closes the engine. A later call makes it again."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


def first_accepted(
    original: Engine,
    sets: Iterable[list[Rows]],
    *,
    again: Callable[[Rows], Rows] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Rows]:
    """Returns the first set of rows that the original accepts, one by one and as a batch; empty: it accepts none.

    Rows whose answers are not finite, or not the same twice, hide a wrong rewrite. They are used only where no others
    are accepted. Of a set whose calls are slow, or whose answers are large, two rows are returned: every proof is made
    with them as with four, on batches of 1, 2 and 4.

    Args:
        original: what runs them.
        sets: the sets.
        again: runs a call that was run before; None: `original` does.
        clock: in seconds.
    """
    doubtful: list[list[Rows]] = []
    again = again or original.run
    for samples in sets:
        try:
            original.run(samples[0])  # makes the kernels
            started_s = clock()
            second = again(samples[0])
            if clock() - started_s > SLOW_S or sum(row_bytes(second)) > LARGE_BYTES:
                samples = samples[:FEW_ROWS]  # noqa: PLW2901 - the others are not used
            answers = [original.run(rows) for rows in samples]
            if len(samples) > 1:
                original.run(join(samples))
            columns = (column for answer in answers for column in answer.columns.values())
            floats = [each for each in columns if not isinstance(each, list) and each.dtype.kind == "f"]
            if all(bool(np.isfinite(each).all()) for each in floats) and not unequal(answers[0], second):
                return samples
        except Exception:  # noqa: BLE001, S112 - rows that cannot be run, or joined, are not accepted
            continue
        doubtful.append(samples)
        if len(doubtful) == MAX_DOUBTFUL:
            break
    return doubtful[0] if doubtful else []


def batches(samples: Sequence[Rows]) -> list[Rows]:
    """Returns the calls that are compared: each row alone, then the first two together and the last three together."""
    if len(samples) == 1:
        return list(samples)
    return [*samples, join(samples[:2]), *([join(samples[-3:])] if len(samples) > FEW_ROWS else [])]


def difference(original: Engine, rewritten: Engine, samples: Sequence[Rows], *, float_bytes: int = EXACT) -> str:
    """Returns how the answers of the rewritten signature differ from the original's; empty: not at all. See `unequal`."""
    for rows in batches(samples):
        try:
            found = unequal(original.run(rows), rewritten.run(rows), float_bytes=float_bytes)
        except ModelError as err:
            found = f"it fails: {err}"
        if found:
            return f"on {len(rows)} rows, {found}"
    return ""


def not_row_wise(engine: Engine, samples: Sequence[Rows]) -> str:
    """Returns why a batch of these rows does not answer like its rows alone; empty: it does."""
    try:
        alone = [engine.run(rows) for rows in samples]
        for answer in alone:
            if found := miscount(answer, 1):
                return found
        order = list(range(len(samples)))
        for picked in (order, [*order[1:], 0], [0, 0], order * 2):
            together = engine.run(join([samples[index] for index in picked]))
            if found := miscount(together, len(picked)):
                return found
            if found := _other_shape([alone[index] for index in picked], together):
                return f"the shape of the answer to a row depends on the rows beside it: {found}"
            if found := unequal(join([alone[index] for index in picked]), together):
                return f"the answer to a row depends on the rows beside it: {found}"
    except ModelError as err:
        return f"a batch fails where its rows alone do not: {err}"
    return ""


def other_sizes_fault(engine: Remembered, sets: Iterable[list[Rows]], doubt: str) -> str:
    """Returns why a batch of rows of another size does not answer like its rows alone; empty: it does.

    Args:
        engine: what runs them.
        sets: rows of other sizes than those that were tried. The first that it takes are tried.
        doubt: why one size proves nothing.
    """
    samples = first_accepted(engine, sets, again=engine.engine.run)
    if not samples:
        return f"it takes one size of the inputs that was tried, and {doubt}"
    found = not_row_wise(engine, samples)
    shapes = ", ".join(f"{name} {list(np_shape(column))}" for name, column in samples[0].columns.items())
    return f"with rows of {shapes}: {found}" if found else ""


def screen_fault(engine: SessionEngine, samples: Sequence[Rows]) -> str:
    """Returns why the engine's screen cannot be trusted; empty: it accepts these rows and rejects one cut in half."""
    halves: dict[str, Column] = {}  # the first row with the first half of each string
    for name, column in samples[0].columns.items():
        flat = column if isinstance(column, list) else column.ravel().tolist()
        if flat and isinstance(flat[0], bytes):
            half = [value[: len(value) // 2] for value in flat]
            halves[name] = half if isinstance(column, list) else objects(half).reshape(column.shape)
    short = Rows(samples[0].columns | halves)
    if engine.screen(join(samples)) != [None] * len(samples):
        return "it finds a good row guilty"
    if engine.screen(short) == [None]:
        return "it finds nothing wrong with a row that is cut short"
    try:
        engine.run(short)
    except InvalidInput:
        return ""
    return "the graph takes a row that it finds guilty"


def unequal(one: Rows, other: Rows, *, float_bytes: int = EXACT) -> str:
    """Returns how two answers differ by more than rounding; empty: not at all.

    Floats are compared with the tolerance of their dtype, or of a float of `float_bytes` where that is less exact.
    """
    for name, column in one.columns.items():
        if found := _unequal_columns(column, other.columns[name], float_bytes):
            return f"output {name!r} {found}"
    return ""


def _other_shape(alone: Sequence[Rows], together: Rows) -> str:
    """Returns which output has another inner shape for a row alone than for the batch; empty: none has."""
    for name, column in together.columns.items():
        want = np_shape(column)[1:]
        for answer in alone:
            if (got := np_shape(answer.columns[name])[1:]) != want:
                return f"output {name!r} is {list(want)} a row in a batch and {list(got)} alone"
    return ""


def _unequal_columns(one: Column, other: Column, float_bytes: int) -> str:
    if isinstance(one, list) or isinstance(other, list):
        same = isinstance(one, list) and isinstance(other, list) and one == other
        return "" if same else "differs"
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"is {other.dtype}{list(other.shape)} for {one.dtype}{list(one.shape)}"
    if one.dtype.kind in EXACT_KINDS:
        return "" if np.array_equal(one, other) else "differs"
    tolerance = TOLERANCE[min(one.dtype.itemsize, float_bytes)]
    scale = max((float(np.max(np.abs(part[np.isfinite(part)]), initial=0.0)) for part in _parts(one)), default=0.0)
    for left, right in zip(_parts(one), _parts(other), strict=True):
        if np.allclose(left, right, rtol=tolerance, atol=tolerance * max(scale, 1e-3), equal_nan=True):
            continue
        if not np.array_equal(np.isfinite(left), np.isfinite(right)):
            return "is not finite where it should be, or is where it should not"
        with np.errstate(invalid="ignore"):  # equal infinities
            return f"differs by {float(np.nanmax(np.abs(left - right))):.3g}"
    return ""


def _parts(column: "np.ndarray[Any, np.dtype[Any]]") -> Iterable["np.ndarray[Any, np.dtype[np.float64]]"]:
    """Yields the floats of a column as float64, some at a time: all of a large answer would take a gigabyte."""
    flat = column.ravel()
    return (flat[start : start + PART].astype(np.float64) for start in range(0, flat.size, PART))
