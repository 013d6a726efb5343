"""Two proofs at load: a rewritten signature answers as the original does, and a batch answers as its rows alone do."""

from collections.abc import Iterable, Sequence

import numpy as np

from darkroom.models.engine import Engine
from darkroom.models.errors import InvalidInput, ModelError
from darkroom.models.rows import Column, Rows, join, miscount
from darkroom.models.runtime.session import SessionEngine, objects

# Floats may differ by this much, relative to the value and to the largest of its output: kernels for other batch sizes,
# and fused ones, add in another order. Half and bfloat16 keep 11 and 8 bits.
TOLERANCE = {2: 2e-2, 4: 1e-5, 8: 1e-9}  # by bytes of the dtype
EXACT_KINDS = frozenset("biuOS")
# How exact floats can be at most, as the bytes of a dtype: a GPU multiplies float32 in TF32, which has half's 11 bits.
EXACT, TF32 = 8, 2


def usable(original: Engine, sets: Iterable[list[Rows]]) -> list[Rows]:
    """The first set of rows that the original takes, one by one and together; empty: none of them."""
    for singles in sets:
        try:
            for rows in singles:
                original.run(rows)
            if len(singles) > 1:
                original.run(join(singles))
        except ModelError:
            continue
        return singles
    return []


def batches(singles: Sequence[Rows]) -> list[Rows]:
    """The calls that are compared: each row alone, then the first two and the last three together."""
    if len(singles) == 1:
        return list(singles)
    return [*singles, join(singles[:2]), join(singles[-3:])]


def difference(original: Engine, rewritten: Engine, singles: Sequence[Rows], *, float_bytes: int = EXACT) -> str:
    """How the rewritten signature differs from the original on these rows; empty: in nothing. See `unequal`."""
    for rows in batches(singles):
        try:
            found = unequal(original.run(rows), rewritten.run(rows), float_bytes=float_bytes)
        except ModelError as err:
            found = f"it fails: {err}"
        if found:
            return f"on {len(rows)} rows, {found}"
    return ""


def not_row_wise(engine: Engine, singles: Sequence[Rows]) -> str:
    """Why a batch of these rows does not answer as its rows alone do; empty: it does."""
    try:
        alone = [engine.run(rows) for rows in singles]
        for answer in alone:
            if found := miscount(answer, 1):
                return found
        order = list(range(len(singles)))
        for picked in (order, [*order[1:], 0], [0, 0], order * 2):
            together = engine.run(join([singles[index] for index in picked]))
            if found := miscount(together, len(picked)):
                return found
            if found := unequal(join([alone[index] for index in picked]), together):
                return f"the answer to a row depends on the rows beside it: {found}"
    except ModelError as err:
        return f"a batch fails where its rows alone do not: {err}"
    return ""


def misjudges(engine: SessionEngine, singles: Sequence[Rows]) -> str:
    """Why the engine's screen is not to be trusted; empty: it passes these rows, and not the first one cut short."""
    short = _cut_short(singles[0])
    if engine.screen(join(singles)) != [None] * len(singles):
        return "it finds a good row guilty"
    if engine.screen(short) == [None]:
        return "it finds nothing wrong with a row that is cut short"
    try:
        engine.run(short)
    except InvalidInput:
        return ""
    return "the graph takes a row that it finds guilty"


def _cut_short(rows: Rows) -> Rows:
    """The same row with the first half of each string."""
    halves: dict[str, Column] = {}
    for name, column in rows.columns.items():
        flat = column if isinstance(column, list) else column.ravel().tolist()
        if flat and isinstance(flat[0], bytes):
            half = [value[: len(value) // 2] for value in flat]
            halves[name] = half if isinstance(column, list) else objects(half).reshape(column.shape)
    return Rows(rows.columns | halves)


def unequal(one: Rows, other: Rows, *, float_bytes: int = EXACT) -> str:
    """How two answers differ by more than rounding; empty: in nothing. A float is as exact as one of `float_bytes`."""
    for name, column in one.columns.items():
        if found := _unequal_columns(column, other.columns[name], float_bytes):
            return f"output {name!r} {found}"
    return ""


def _unequal_columns(one: Column, other: Column, float_bytes: int) -> str:
    if isinstance(one, list) or isinstance(other, list):
        same = isinstance(one, list) and isinstance(other, list) and one == other
        return "" if same else "differs"
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"is {other.dtype}{list(other.shape)} for {one.dtype}{list(one.shape)}"
    if one.dtype.kind in EXACT_KINDS:
        return "" if np.array_equal(one, other) else "differs"
    left, right = one.astype(np.float64), other.astype(np.float64)
    tolerance = TOLERANCE[min(one.dtype.itemsize, float_bytes)]
    scale = float(np.max(np.abs(left[np.isfinite(left)]), initial=0.0))
    if np.allclose(left, right, rtol=tolerance, atol=tolerance * max(scale, 1e-3), equal_nan=True):
        return ""
    if not np.array_equal(np.isfinite(left), np.isfinite(right)):
        return "is not finite where it should be, or is where it should not"
    with np.errstate(invalid="ignore"):  # equal infinities
        return f"differs by {float(np.nanmax(np.abs(left - right))):.3g}"
