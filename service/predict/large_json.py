"""Reads large JSON bodies, and writes large arrays, in pieces: no call holds the interpreter lock for long, and few numbers are objects at a time.

orjson and numpy hold the lock for a whole call: 380 ms and 120 ms for 24 MB of numbers. Here lists of numbers become
arrays, 64 KB of text at a time, and long texts are copied out; orjson reads what is left. Not compiled: compiled loops
do not let other threads run.
"""

from __future__ import annotations

import json
import re
import secrets
import struct
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from darkroom.models.spec import Numbers
from darkroom.service.errors import CodecError, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PIECE_BYTES = 1 << 16  # measured: 0.3 to 1 ms for a piece; 16 KB and 256 KB are no quicker in all
MIN_LIST_BYTES = 1 << 10
MIN_TEXT_BYTES = 1 << 16
ROWS_AT_ONCE = 256  # guess: of an answer of several outputs; an object each
MAX_LOOKS = 100_000  # texts and lists that are looked at, about 5 us each; orjson reads all after them
MAX_RANK = 32  # precedent: numpy's own bound until 2.0
# Values that orjson reads in one call, which holds the lock: 30 ms and 60 MB at most.
MAX_VALUES = 1 << 18
MAX_REST_BYTES = 16 << 20  # of what orjson reads in one call, as above: 20 ms

_PLACE = secrets.token_hex(8)  # the key of what stands for a value that was taken out; no client knows it
_NUMERIC = b"+-.0123456789EINaefinty \t\n\r"  # of numbers, NaN and Infinity, and between them
_FOREIGN = re.compile(rb"[^+\-.0-9EINaefinty \t\n\r\[\],]")
_OPENING = re.compile(rb"[\[ \t\n\r]*")
_COLON = re.compile(rb"[ \t\n\r]*:")
_CUT = re.compile(rb"[^\\]{12}(?=[^\x80-\xbf])")  # no escape goes on here, and no character of several bytes
_KINDS = bytes.maketrans(_NUMERIC[:-4], b"0" * (len(_NUMERIC) - 4))
_FIRST = tuple(b"%c" % byte for byte in b"-0123456789NI")
_SPACES = b" \t\n\r"
_INTEGERS: tuple[Any, ...] = (np.int8, np.int16, np.int32, np.int64)


def parse(body: bytes) -> Any:
    """The JSON value of a body, with each rectangular list of numbers of at least 1 KB as `Numbers`.

    Raises:
        CodecError: the body is not JSON, or contains a number that neither parser takes.
        TooLarge: it has more than `MAX_VALUES` values or `MAX_REST_BYTES` besides such lists and long texts.
    """
    values: list[object] = []
    kept: list[bytes] = []
    begin = 0
    for start, stop, value in LargeBody(body).values():
        kept += (body[begin:start], b'{"%b":%d}' % (_PLACE.encode(), len(values)))
        values.append(value)
        begin = stop
    text = b"".join([*kept, body[begin:]]) if values else body
    if len(text) > MAX_REST_BYTES:
        raise TooLarge(
            f"the JSON has more than {MAX_REST_BYTES} bytes besides long texts and rectangular lists of numbers"
        )
    # Commas and opening brackets, at most as many as values; those in texts are told apart only if there are many.
    if count_marks(text, is_in_text=False) > MAX_VALUES and count_marks(text, is_in_text=True) > MAX_VALUES:
        raise TooLarge(
            f"the JSON has more than {MAX_VALUES} values that are not in rectangular lists of numbers; "
            "send fewer in one request"
        )
    try:
        fields = _loads(text)
    except ValueError as err:
        # Where values were taken out, a message has no place, because it would be another's.
        why = err if not values else getattr(err, "msg", "malformed")
        raise CodecError(f"Invalid json data: {why}") from err
    return put_back(fields, values)


class Large:
    """An array in a value for `dump`, which writes it in pieces; a sequence of its rows."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, row: int) -> Any:
        """A row: `Large` too, unless it is small."""
        part = self.array[row]
        return Large(part) if part.nbytes > MIN_LIST_BYTES else part

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Its JSON."""
        return _pieces(self.array)


class LargeRows:
    """Rows of several outputs in a value for `dump`: an object for each row. They are made a few at a time."""

    __slots__ = ("_columns", "_count")

    def __init__(self, columns: Mapping[str, Any], count: int) -> None:
        self._columns = columns
        self._count = count

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Its JSON."""
        columns, begin = self._columns, b"["
        for at in range(0, self._count, ROWS_AT_ONCE):
            rows = range(at, min(at + ROWS_AT_ONCE, self._count))
            first, *others = dump([{name: column[row] for name, column in columns.items()} for row in rows], 0)
            yield begin + bytes(first[1:] if others else first[1:-1])
            yield from others[:-1]
            yield from [piece[:-1] for piece in others[-1:]]
            begin = b","
        yield b"]"


def dump(value: object, option: int) -> list[bytes | memoryview]:
    """A value with `Large` arrays and `LargeRows` as JSON, in pieces. No call holds the lock for long.

    orjson writes a NUL, which no JSON has, where one stands.

    Raises:
        orjson.JSONEncodeError: something else in the value has no form in JSON.
    """
    found: list[Large | LargeRows] = []

    def place(item: object) -> orjson.Fragment:
        if not isinstance(item, (Large, LargeRows)):
            raise TypeError(f"{type(item).__name__} has no form in JSON")
        found.append(item)
        return orjson.Fragment(b"\0")

    texts = orjson.dumps(value, place, option | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_SORT_KEYS).split(b"\0")
    made: list[bytes | memoryview] = [texts[0]]
    for large, text in zip(found, texts[1:], strict=True):
        made += large.pieces()
        made.append(text)
    return made


def _pieces(array: np.ndarray[Any, Any]) -> Iterator[bytes | memoryview]:
    """An array of one dimension or more as JSON, in pieces of about `PIECE_BYTES` of the array."""
    row_bytes = array[:1].nbytes
    step = max(1, PIECE_BYTES // max(1, row_bytes))
    begin = b"["
    for at in range(0, len(array), step):
        if array.ndim > 1 and row_bytes > PIECE_BYTES:
            yield begin
            yield from _pieces(array[at])
        else:
            part = np.ascontiguousarray(array[at : at + step])
            yield begin + orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        begin = b","
    yield b"]"


def _loads(text: bytes) -> Any:
    """The value of a JSON text. Python's own parser takes NaN and Infinity, and makes an infinity of 1e999."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if b"NaN" not in text and b"Infinity" not in text:
            raise
    try:
        return json.loads(text)
    except RecursionError as err:
        raise ValueError("nested too deep") from err


def put_back(fields: object, values: list[object]) -> Any:
    """`fields` with the values in their places."""
    root = [fields]
    nodes: list[Any] = [root] if values else []
    while nodes:
        node = nodes.pop()
        for key, item in list(node.items()) if isinstance(node, dict) else enumerate(node):
            if isinstance(item, dict) and _PLACE in item:
                node[key] = values[item[_PLACE]]
            elif isinstance(item, (dict, list)):
                nodes.append(item)
    return root[0]


class LargeBody:
    """A body of JSON, in which long texts and long lists of numbers are found."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def values(self) -> Iterator[tuple[int, int, object]]:
        """Start, end and value of each long text and each long list of numbers, in their order."""
        find = self._body.find
        quote, bracket = find(b'"'), find(b"[")
        for _ in range(MAX_LOOKS):
            start = bracket if bracket >= 0 and (bracket < quote or quote < 0) else quote
            if start < 0:
                return
            stop, value = self.list_at(start) if start == bracket else self.text_at(start)
            if value is not None:
                yield start, stop, value
            if 0 <= quote < stop:
                quote = find(b'"', stop)
            if 0 <= bracket < stop:
                bracket = find(b"[", stop)

    def text_at(self, start: int) -> tuple[int, object]:
        """The end of the text whose quote is at `start`, and the text if it is long."""
        body, end = self._body, start
        for _ in range(MAX_LOOKS):
            end = body.find(b'"', end + 1)
            if end < 0:
                break
            if not self.is_escaped(end):
                return end + 1, self.text(start + 1, end) if end - start > MIN_TEXT_BYTES else None
        return len(body), None

    def is_escaped(self, at: int) -> bool:
        """Whether an odd number of backslashes stands before a place."""
        back = at
        while self._body[back - 1] == 0x5C:
            back -= 1
        return (at - back) % 2 == 1

    def text(self, start: int, end: int) -> str | None:
        """The text between two quotes; None for orjson to read: it is a key, nearly all escaped, or no JSON."""
        body = self._body
        raw = np.frombuffer(body, np.uint8, end - start, start)
        if raw.min() < 0x20 or _COLON.match(body, end + 1, end + 65):
            return None
        if raw.max() < 0x80 and body.find(b"\\", start, end) < 0:
            return str(memoryview(body)[start:end], "ascii")
        try:
            return "".join([orjson.loads(b'"%b"' % piece) for piece in self.cut(start, end)])
        except orjson.JSONDecodeError:
            return None

    def cut(self, start: int, end: int) -> Iterator[bytes]:
        """The pieces of a text; one that is far too long is ended as no JSON is, so that it is left to orjson."""
        while start < end:
            found = _CUT.search(self._body, start + PIECE_BYTES, min(start + 2 * PIECE_BYTES, end))
            stop = found.end() if found else end
            yield self._body[start:stop] if stop - start <= 2 * PIECE_BYTES else b"\\"
            start = stop

    def list_at(self, start: int) -> tuple[int, object]:
        """Where to go on after the list that begins at `start`, and the list if it is long and a rectangle of numbers."""
        opening = _OPENING.match(self._body, start, start + 256)
        assert opening is not None  # noqa: S101 - there is a bracket
        first = opening.end()
        if self._body[first : first + 1] not in _FIRST:
            return first, None
        if near := _FOREIGN.search(self._body, first, start + MIN_LIST_BYTES):
            return near.start(), None
        stop, end, marks = self.extent(start)
        if not stop:
            return end, None  # what begins later in this run ends nowhere either
        shape = Marks(marks).shape() if stop - start >= MIN_LIST_BYTES else ()
        del marks  # they may be as long as the body
        return max(stop, first), self.numbers(start, stop, shape) if shape else None

    def extent(self, start: int) -> tuple[int, int, bytes]:
        """The run of numbers, commas and brackets at `start`: the end of its last bracket, 0 if there is none; its end; all but its numbers."""
        body, kept = self._body, BytesIO()  # its value is given out without a copy
        end = len(body)
        for at in range(start, len(body), PIECE_BYTES):
            piece = body[at : at + PIECE_BYTES]
            marks = piece.translate(None, _NUMERIC)
            # The search is slow: only where there is something to find.
            if marks.translate(None, b"[],") and (foreign := _FOREIGN.search(piece)):
                end = at + foreign.start()
                kept.write(piece[: foreign.start()].translate(None, _NUMERIC))
                break
            kept.write(marks)
        return body.rfind(b"]", start, end) + 1, end, kept.getvalue().rstrip(b",")

    def numbers(self, start: int, stop: int, shape: tuple[int, ...]) -> Numbers | None:
        """The numbers between two places; None if that is not JSON, or one needs more than 64 bits."""
        array = np.empty(int(np.prod(shape)), np.int8)
        at, first_float = 0, -1
        while start < stop:
            end = self._body.find(b",", start + PIECE_BYTES, stop)
            end = stop if end < 0 else end
            values = self.piece(start, end)
            piece = as_array(values)
            if not values or piece.dtype.kind not in "if" or at + len(values) > len(array):
                return None
            if piece.dtype.kind == "f" and first_float < 0:
                first_float = at + next(index for index, value in enumerate(values) if type(value) is float)
            if (dtype := smallest(piece)) != array.dtype:
                array = array.astype(np.promote_types(dtype, array.dtype), copy=False)
            array[at : at + len(values)] = piece
            at, start = at + len(values), end + 1
        return Numbers(array.reshape(shape), first_float) if at == len(array) else None

    def piece(self, start: int, end: int) -> list[Any]:
        """The numbers between two commas; none if that is not JSON: only commas and brackets are next to brackets."""
        text = self._body[start:end]
        if b"[" in text or b"]" in text:
            text = flatten(text)
        try:
            return _loads(b"[%b]" % text)  # type: ignore[no-any-return] # it begins with a bracket
        except ValueError:
            return []


class Marks:
    """The commas and brackets of nested lists, without what is between them."""

    def __init__(self, marks: bytes) -> None:
        self._marks = marks

    def shape(self) -> tuple[int, ...]:
        """The shape of the lists; () if they are no rectangle."""
        marks = self._marks
        rank = len(marks[: MAX_RANK + 1]) - len(marks[: MAX_RANK + 1].lstrip(b"["))
        if not 0 < rank <= MAX_RANK or not marks.endswith(b"]" * rank):
            return ()
        sizes: list[int] = []
        child = 0  # the marks of a list of the level below; the innermost lists have one comma after each value
        for level in range(1, rank + 1):
            # The first list of this level ends where as many brackets close for the first time.
            begin = rank - level + 1
            end = self.find(b"]" * level) + level - 1
            size, rest = divmod(end - begin + 1, child + 1)
            if rest or marks[begin + child : begin + child + 1] not in (b"," if size > 1 else b"]"):
                return ()
            if not self.repeats(begin, end, child + 1):
                return ()
            child = end - begin + 2
            sizes.insert(0, size)
        return tuple(sizes) if child == len(marks) else ()

    def find(self, closing: bytes) -> int:
        """As `bytes.find`, which holds the lock; `closing` is there."""
        at = 0
        while (found := self._marks.find(closing, at, at + PIECE_BYTES + len(closing))) < 0:
            at += PIECE_BYTES
        return found

    def repeats(self, begin: int, end: int, period: int) -> bool:
        """Whether the marks between two places repeat; numpy compares without the lock."""
        array, step = np.frombuffer(self._marks, np.uint8), PIECE_BYTES << 4
        for at in range(begin + period, end, step):
            stop = min(at + step, end)
            if not np.array_equal(array[at:stop], array[at - period : stop - period]):
                return False
        return True


def flatten(text: bytes) -> bytes:
    """The text, which is between two commas, with tabs for brackets; a comma, which is no JSON, if a bracket has a number outside."""
    chars = np.frombuffer(text, np.uint8)
    comma, opening, closing = chars == 0x2C, chars == 0x5B, chars == 0x5D
    before = comma | opening
    before[1:] |= before[:-1] & (chars[1:] == 0x20)  # as `json.dumps` writes it
    if (opening[1:] & ~before[:-1]).any() or (closing[:-1] & ~(comma | closing)[1:]).any():
        kinds = text.translate(_KINDS, _SPACES)  # several times as slow
        if b"]0" in kinds or b"0[" in kinds:
            return b","
    # Both brackets & 9 are 9, a tab. `bytes.translate` takes five times as long.
    flat: bytes = (chars & ~((opening | closing).view(np.uint8) * np.uint8(0xF6))).tobytes()
    return flat


def as_array(values: list[Any]) -> np.ndarray[Any, Any]:
    """As `np.array(values)` of floats and integers of at most 64 bits; pixels and floats in a third of its time."""
    with suppress(TypeError, ValueError):
        return np.frombuffer(bytes(values), np.uint8).astype(np.int16)
    if float in map(type, values):
        with suppress(struct.error, OverflowError):
            return np.frombuffer(struct.pack(f"{len(values)}d", *values))
    return np.array(values)


def smallest(piece: np.ndarray[Any, Any]) -> Any:
    """The smallest type of signed integers that holds all of them; float64 where there are floats."""
    if piece.dtype.kind == "f":
        return piece.dtype
    low, high = piece.min(), piece.max()
    return next(kind for kind in _INTEGERS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)


def count_marks(text: bytes, *, is_in_text: bool) -> int:
    """The commas and opening brackets; with `is_in_text`, without those in strings."""
    count = at = parity = 0
    while at < len(text):
        end = min(at + (PIECE_BYTES << 4), len(text))
        while text[end - 1] == 0x5C and end < len(text):  # an escape stays whole
            end += 1
        piece = text[at:end].replace(b"\\\\", b"").replace(b'\\"', b"") if is_in_text else text[at:end]
        chunk = np.frombuffer(piece, np.uint8)
        marks = (chunk == 0x2C) | (chunk == 0x7B) | (chunk == 0x5B)
        if is_in_text:
            quotes = np.cumsum(chunk == 0x22, dtype=np.uint32) + parity
            marks &= quotes & 1 == 0
            parity = int(quotes[-1]) & 1 if len(quotes) else parity
        count += int(np.count_nonzero(marks))
        at = end
    return count
