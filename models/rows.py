"""Rows: the payload of a request, or a part of its answer; one column for each tensor."""

from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np

Column: TypeAlias = "list[bytes] | np.ndarray[Any, np.dtype[Any]]"


class Rows:
    """The rows of one request, or a part of its answer. Immutable by convention; slices share its memory.

    Attributes:
        columns: the values of each tensor, by name. Strings of rank 1 are `list[bytes]` of n elements. All other values
            are an array `[n, ...]`; strings of another rank have dtype object and elements of type bytes.
        aligned: whether every column has n = `len(rows)` as its first dimension and a shape that the signature allows.
            Rows that are not aligned are run as one whole: they are never cut, merged or padded. Their length is the
            largest first dimension, at least 1. (TensorFlow accepts such requests: 2 keys with 1 feature, or flat
            values for `[-1, 1]`.)
        folded: how many independent rows the one row stands for (see `fold`); 0: it stands for itself.
        asked: names of the outputs to return; empty: all outputs.
        shares: whether they may share a batch with rows that ask for other outputs. The batch then computes what any of
            them asks for, and each gets its own.
        pixels: decoded pixels of all pictures together; 0 where there are no pictures or they were not counted.
    """

    __slots__ = ("_count", "aligned", "asked", "columns", "folded", "pixels", "shares")

    def __init__(
        self,
        columns: dict[str, Column],
        *,
        count: int | None = None,
        aligned: bool = True,
        asked: tuple[str, ...] = (),
        pixels: int = 0,
        folded: int = 0,
        shares: bool = False,
    ) -> None:
        self.columns = columns
        self.pixels = pixels
        self.aligned = aligned
        self.asked = asked
        self.folded = folded
        self.shares = shares
        self._count = _count(columns) if count is None else count

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (self.columns, self._count, self.aligned, self.asked, self.pixels)

    def __repr__(self) -> str:
        return f"Rows({self._count}, {', '.join(self.columns)})"

    @property
    def key(self) -> Hashable:
        """Two Rows may share a batch if their keys are equal: names, dtypes, inner shapes, `aligned`, and the outputs.

        Rows that share have the key of rows that ask for all outputs.
        """
        inner = [
            (name, "string" if isinstance(column, list) else (column.dtype.str, column.shape[1:]))
            for name, column in self.columns.items()
        ]
        return *inner, () if self.shares else self.asked, self.aligned

    @property
    def size_bytes(self) -> int:
        """The bytes of all columns together."""
        columns = self.columns.values()
        return sum([sum(map(len, column)) if isinstance(column, list) else column.nbytes for column in columns])

    def digest(self) -> str:
        """Returns a hash of all values, the same in every process."""
        found = blake2b(digest_size=16)
        for name, column in sorted(self.columns.items()):
            found.update(f"{name}{len(column) if isinstance(column, list) else column.shape}".encode())
            values = column if isinstance(column, list) else column.ravel().tolist() if column.dtype == object else None
            for value in [np.ascontiguousarray(column).tobytes()] if values is None else values:
                found.update(value)
        return found.hexdigest()

    def cut(self, start: int, stop: int) -> "Rows":
        """Returns rows `start` to `stop` (exclusive). The arrays are views, not copies."""
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        return Rows(columns, count=stop - start, asked=self.asked, pixels=self.pixels)

    def asking(self, outputs: Sequence[str], *, shares: bool = False) -> "Rows":
        """Returns the same rows with `outputs`, in any order, as the outputs to return. The columns are shared."""
        names = tuple(sorted(set(outputs)))
        return Rows(
            self.columns,
            count=self._count,
            aligned=self.aligned,
            asked=names,
            pixels=self.pixels,
            folded=self.folded,
            shares=shares,
        )

    def picking(self, outputs: tuple[str, ...]) -> "Rows":
        """Returns the same rows of an answer with only these columns."""
        return Rows({name: self.columns[name] for name in outputs}, count=self._count, aligned=self.aligned)

    def fold(self) -> "Rows":
        """Returns these rows as one whole: for very many small rows, which would be too many images for a queue.

        Whoever runs them may cut them by `unfold` if they were aligned.
        """
        return Rows(self.columns, count=1, aligned=False, asked=self.asked, folded=len(self) if self.aligned else 0)

    def unfold(self) -> "Rows":
        """Returns the `folded` rows one by one again."""
        return Rows(self.columns, count=self.folded, asked=self.asked)

    def replacing(self, name: str, values: list[bytes]) -> "Rows":
        """Returns the same rows with other strings, as many and in the same order, in column `name`."""
        column: Column = values
        if not isinstance(old := self.columns[name], list):
            column = np.empty(len(values), dtype=object)
            column[:] = values
            column = column.reshape(old.shape)
        columns = self.columns | {name: column}
        return Rows(
            columns,
            count=self._count,
            aligned=self.aligned,
            asked=self.asked,
            pixels=self.pixels,
            shares=self.shares,
        )


def _remake(columns: dict[str, Column], count: int, aligned: bool, asked: tuple[str, ...], pixels: int) -> Rows:  # noqa: FBT001 - pickle calls by position
    """Unpickles a Rows. Compiled classes do not support pickling by themselves."""
    return Rows(columns, count=count, aligned=aligned, asked=asked, pixels=pixels)


def miscount(answer: Rows, count: int) -> str:
    """Returns which output does not have `count` rows, in words; empty where every output has."""
    for name, column in answer.columns.items():
        got = len(column) if isinstance(column, list) or column.ndim else "no"
        if got != count:
            return f"output {name!r} has {got} rows for {count}"
    return ""


def row_bytes(rows: Rows) -> list[int]:
    """Returns the bytes of each row, all columns together. Rows that are not aligned: all bytes count for row 0."""
    sizes = [0] * len(rows)
    for column in rows.columns.values():
        values = [len(item) for item in column] if isinstance(column, list) else _array_bytes(column)
        if rows.aligned:
            sizes = [size + more for size, more in zip(sizes, values, strict=True)]
        elif sizes:
            sizes[0] += sum(values)
    return sizes


def join(pieces: Sequence[Rows], *, padding: int = 0) -> Rows:
    """Returns the rows of all pieces, one after another, followed by `padding` copies of the last row.

    They ask for what any piece asks for. The pieces must have equal keys. A single piece without padding is returned itself, without a copy.
    """
    first = pieces[0]
    if len(pieces) == 1 and not padding:
        return first
    columns = {name: _join([piece.columns[name] for piece in pieces], padding) for name in first.columns}
    asked = {piece.asked for piece in pieces}
    every = first.asked
    if len(asked) > 1:  # all that they ask for together; empty, which is all outputs, where one asks for all
        every = tuple(sorted({name for names in asked for name in names})) if all(asked) else ()
    return Rows(columns, count=sum(map(len, pieces)) + padding, asked=every)


def fill(samples: Sequence[Rows], size: int) -> Rows:
    """Returns a batch of `size` rows: the single-row `samples` in turn, from the first one on."""
    return join([samples[index % len(samples)] for index in range(size)])


def _join(columns: list[Column], padding: int) -> Column:
    if isinstance(columns[0], list):
        values = [value for column in columns for value in column]
        return values + values[-1:] * padding
    if padding:
        columns = [*columns, np.repeat(np.asarray(columns[-1][-1:]), padding, axis=0)]
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _array_bytes(column: "np.ndarray[Any, np.dtype[Any]]") -> list[int]:
    """Returns the bytes of each row of an array. A scalar counts as one row."""
    rows = column if column.ndim else column.reshape(1)
    if not (count := len(rows)):
        return []
    if rows.dtype == object:
        return [sum(map(len, row)) for row in rows.reshape(count, -1).tolist()]
    return [rows.nbytes // count] * count


def _count(columns: dict[str, Column]) -> int:
    """Returns the largest first dimension; 1 where the only column is a scalar, or there is no column."""
    counts = [len(column) if isinstance(column, list) or column.ndim else 1 for column in columns.values()]
    return max(counts, default=1)
