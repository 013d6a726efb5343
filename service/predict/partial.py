"""Gaps: the rows of a request that are refused while the others are answered, for `on_error: "per_image"`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from darkroom.service.errors import CodecError, describe, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Item = TypeVar("Item")
Made = TypeVar("Made")


class PartialResult:
    """Which rows of one request were refused and why; indices are the client's, from 0.

    Attributes:
        count: the rows that the client sent.
        errors: the refused ones, by index.
        left: the index of each of the others, rising.
    """

    def __init__(self) -> None:
        self.count = 0
        self.errors: dict[int, BaseException] = {}
        self.left: Sequence[int] = ()
        self._is_counted = False

    def expect(self, count: int) -> None:
        """Notes that there are `count` rows, where nobody has sifted them yet."""
        if not self._is_counted:
            self.count, self.left, self._is_counted = count, range(count), True

    def sift(self, items: Sequence[Item], make: Callable[[Item, int], Made]) -> list[Made]:
        """What `make` gives for each row that is left and its index; one for which it raises CodecError is refused."""
        self.expect(len(items))
        made, left = [], []
        for index, item in zip(self.left, items, strict=True):
            try:
                made.append(make(item, index))
                left.append(index)
            except CodecError as err:
                self.errors[index] = err
        self.left = left
        return made

    def condemn(self, errors: Mapping[int, BaseException], field: str) -> None:
        """Refuses rows that the model did not take, by their place among those that were left."""
        for row, error in errors.items():
            index = self.left[row]
            self.errors[index] = CodecError(f"{field}[{index}]: {describe(error)}")

    def answer(self, columns: Mapping[str, object]) -> dict[str, object]:
        """`columns`, each a value for each row that was answered, with null at the refused ones, and `errors`."""
        return {name: self.spread(values) for name, values in columns.items()} | {"errors": self.listing()}

    def spread(self, values: object) -> list[object]:
        """`values`, a list or array of one for each row that was answered, at their indices; None at the others."""
        answered = iter(cast("Iterable[object]", values))
        return [None if index in self.errors else next(answered) for index in range(self.count)]

    def listing(self) -> list[dict[str, object]]:
        """`[{"index", "error"}, …]` of the refused rows, rising; the key `errors` of an answer."""
        return [{"index": index, "error": describe(error)} for index, error in sorted(self.errors.items())]


def wants_per_image(value: object) -> bool:
    """Whether a request's `on_error` asks for an answer a picture; `fail`, the default, refuses the whole request.

    Raises:
        CodecError: neither word.
    """
    if value is None or value == "fail":
        return False
    if value == "per_image":
        return True
    raise CodecError(f'on_error: expected "fail" or "per_image", got {quote(value)}')
