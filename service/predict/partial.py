"""Partial answers: which rows of a request were refused while the others are answered (`on_error: "per_image"`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from darkroom.service.errors import CodecError, describe, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Item = TypeVar("Item")
Made = TypeVar("Made")


class PartialResult:
    """Which rows of one request were refused, and why. An index is the place in what the client sent, from 0.

    Attributes:
        count: the number of rows that the client sent.
        errors: the error of each refused row, by index.
        remaining: the index of each other row, ascending.
    """

    def __init__(self) -> None:
        self.count = 0
        self.errors: dict[int, BaseException] = {}
        self.remaining: Sequence[int] = ()
        self._is_counted = False

    def expect(self, count: int) -> None:
        """Sets the number of rows, unless it is known already."""
        if not self._is_counted:
            self.count, self.remaining, self._is_counted = count, range(count), True

    def keep_good(self, items: Sequence[Item], make: Callable[[Item, int], Made]) -> list[Made]:
        """What `make` returns for each remaining row and its index; a row for which it raises CodecError is refused."""
        self.expect(len(items))
        made, remaining = [], []
        for index, item in zip(self.remaining, items, strict=True):
            try:
                made.append(make(item, index))
                remaining.append(index)
            except CodecError as err:
                self.errors[index] = err
        self.remaining = remaining
        return made

    def refuse(self, errors: Mapping[int, BaseException], field: str) -> None:
        """Refuses rows for which the model failed; the keys of `errors` are places in `remaining`."""
        for row, error in errors.items():
            index = self.remaining[row]
            self.errors[index] = CodecError(f"{field}[{index}]: {describe(error)}")

    def answer(self, columns: Mapping[str, object]) -> dict[str, object]:
        """`columns`, one value for each answered row, with null at the refused rows, and the key `errors`."""
        return {name: self.fill(values) for name, values in columns.items()} | {"errors": self.error_list()}

    def fill(self, values: object) -> list[object]:
        """`values`, a list or array with one for each answered row, moved to their indices; None at the refused rows."""
        answered = iter(cast("Iterable[object]", values))
        return [None if index in self.errors else next(answered) for index in range(self.count)]

    def error_list(self) -> list[dict[str, object]]:
        """`[{"index", "error"}, …]` of the refused rows, ascending; the value of `errors` in an answer."""
        return [{"index": index, "error": describe(error)} for index, error in sorted(self.errors.items())]


def wants_per_image(value: object) -> bool:
    """Whether `on_error` asks for an answer for each image; `fail`, the default, refuses the whole request.

    Raises:
        CodecError: neither word.
    """
    if value is None or value == "fail":
        return False
    if value == "per_image":
        return True
    raise CodecError(f'on_error: expected "fail" or "per_image", got {quote(value)}')
