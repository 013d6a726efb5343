"""Rows: the payload of a request and the pieces of an answer, one column a tensor."""

from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np

Column: TypeAlias = "list[bytes] | np.ndarray[Any, np.dtype[Any]]"


class Rows:
    """The rows of one request, or of one piece of its answer.

    `columns` maps a tensor's name to its values: strings of rank 1 as `list[bytes]`, everything else as an ndarray
    (strings of another rank: dtype object, elements bytes). A Rows is never changed once made; slices share its memory.

    `aligned` says that every column has `len(rows)` as its first dimension, and the shape that the signature names.
    Rows that are not aligned (TensorFlow takes 2 keys beside 1 feature, or flat values for `[-1, 1]`) are answered, but
    as one whole: never cut, merged or padded. Their length is the largest first dimension, at least 1.

    `asked` names the outputs that are wanted; empty: all of them. `pixels` of its pictures, once decoded, all together;
    0: it has no pictures, or nobody counted.
    """

    __slots__ = ("_count", "aligned", "asked", "columns", "pixels")

    def __init__(
        self,
        columns: dict[str, Column],
        *,
        count: int | None = None,
        aligned: bool = True,
        asked: tuple[str, ...] = (),
        pixels: int = 0,
    ) -> None:
        self.columns = columns
        self.pixels = pixels
        self.aligned = aligned
        self.asked = asked
        self._count = _count(columns) if count is None else count

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (self.columns, self._count, self.aligned, self.asked, self.pixels)

    def __repr__(self) -> str:
        return f"Rows({self._count}, {', '.join(self.columns)})"

    @property
    def key(self) -> Hashable:
        """Equal for rows that may ride in one batch: names, dtypes, inner shapes, asked outputs."""
        inner = [
            (name, "string" if isinstance(column, list) else (column.dtype.str, column.shape[1:]))
            for name, column in self.columns.items()
        ]
        return *inner, self.asked, self.aligned

    def cut(self, start: int, stop: int) -> "Rows":
        """Rows `start` to `stop`; arrays are views of this one's."""
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        return Rows(columns, count=stop - start, asked=self.asked, pixels=self.pixels)

    def asking(self, outputs: Sequence[str]) -> "Rows":
        """The same rows, wanting only `outputs` (in any order; the names are the signature's)."""
        names = tuple(sorted(set(outputs)))
        return Rows(self.columns, count=self._count, aligned=self.aligned, asked=names, pixels=self.pixels)


def _remake(columns: dict[str, Column], count: int, aligned: bool, asked: tuple[str, ...], pixels: int) -> Rows:  # noqa: FBT001 - pickle calls by place
    """A Rows that another process had; compiled classes are not pickled by themselves."""
    return Rows(columns, count=count, aligned=aligned, asked=asked, pixels=pixels)


def miscount(answer: Rows, count: int) -> str:
    """Which output does not have `count` rows; empty: every one has."""
    for name, column in answer.columns.items():
        got = len(column) if isinstance(column, list) or column.ndim else "no"
        if got != count:
            return f"output {name!r} has {got} rows for {count}"
    return ""


def row_bytes(rows: Rows) -> list[int]:
    """The bytes of each row over all its columns; of rows that are not aligned, all on the first."""
    sizes = [0] * len(rows)
    for column in rows.columns.values():
        values = [len(item) for item in column] if isinstance(column, list) else _array_bytes(column)
        if rows.aligned:
            sizes = [size + more for size, more in zip(sizes, values, strict=True)]
        elif sizes:
            sizes[0] += sum(values)
    return sizes


def join(pieces: Sequence[Rows], *, padding: int = 0) -> Rows:
    """The rows of `pieces` one after another, then `padding` repeats of the last row.

    The pieces have equal keys. One piece without padding is returned as it is, without a copy.
    """
    first = pieces[0]
    if len(pieces) == 1 and not padding:
        return first
    columns = {name: _join([piece.columns[name] for piece in pieces], padding) for name in first.columns}
    return Rows(columns, count=sum(map(len, pieces)) + padding, asked=first.asked)


def fill(singles: Sequence[Rows], size: int, *, first: int = 0) -> Rows:
    """`size` rows made of single ones, over and over, from the one at `first` on."""
    return join([singles[(first + place) % len(singles)] for place in range(size)])


def _join(columns: list[Column], padding: int) -> Column:
    if isinstance(columns[0], list):
        values = [value for column in columns for value in column]
        return values + values[-1:] * padding
    if padding:
        last = columns[-1][-1:]
        columns = [*columns, np.repeat(np.asarray(last), padding, axis=0)]
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _array_bytes(column: "np.ndarray[Any, np.dtype[Any]]") -> list[int]:
    """The bytes of each row of an array; a scalar is one row."""
    rows = column if column.ndim else column.reshape(1)
    if not (count := len(rows)):
        return []
    if rows.dtype == object:
        return [sum(map(len, row)) for row in rows.reshape(count, -1).tolist()]
    return [rows.nbytes // count] * count


def _count(columns: dict[str, Column]) -> int:
    """The largest first dimension; 1 for a scalar, and for no column at all."""
    counts = [len(column) if isinstance(column, list) or column.ndim else 1 for column in columns.values()]
    return max(counts, default=1)
