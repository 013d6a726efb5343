"""Reads large JSON bodies, and writes large arrays, in pieces: no call holds the interpreter lock for long, and few numbers are objects at a time.

orjson and numpy hold the lock for a whole call: 380 ms and 120 ms for 24 MB of numbers. Here lists of numbers become
arrays, 64 KB of text at a time, and long texts are copied out; orjson reads what is left. Not compiled: compiled loops
do not let other threads run.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from darkroom.models.spec import Numbers
from darkroom.service.errors import CodecError, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_BYTES = 1 << 16  # measured: 0.3 to 1 ms for a piece; 16 KB and 256 KB are no quicker in all
MIN_LIST_BYTES = 1 << 10
MIN_TEXT_BYTES = 1 << 16
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
_FLAT = bytes.maketrans(b"[]", b"  ")
_KINDS = bytes.maketrans(_NUMERIC[:-4], b"0" * (len(_NUMERIC) - 4))
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
    for start, stop, value in _large_values(body):
        kept += (body[begin:start], b'{"%b":%d}' % (_PLACE.encode(), len(values)))
        values.append(value)
        begin = stop
    text = b"".join([*kept, body[begin:]]) if values else body
    if len(text) > MAX_REST_BYTES:
        raise TooLarge(
            f"the JSON has more than {MAX_REST_BYTES} bytes besides long texts and rectangular lists of numbers"
        )
    if _count_values(text) > MAX_VALUES:
        raise TooLarge(
            f"the JSON has more than {MAX_VALUES} values that are not in rectangular lists of numbers; "
            "send fewer in one request"
        )
    return _put_back(_loads(text, is_whole=not values), values)


def write_rows(array: np.ndarray[Any, Any]) -> Any:
    """The rows of an array as JSON, each for orjson to copy; the array itself where its rows are small."""
    if array.ndim < 2 or array[0].nbytes < MIN_LIST_BYTES:
        return array
    return [orjson.Fragment(write(row)) for row in array]


def write(array: np.ndarray[Any, Any]) -> bytes:
    """An array as JSON, made in pieces."""
    if array.nbytes <= PIECE_BYTES:
        return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    if array.ndim < 2:
        step = PIECE_BYTES // array.itemsize
        pieces = [write(array[at : at + step])[1:-1] for at in range(0, len(array), step)]
    else:
        pieces = [write(part) for part in array]
    return b"[%b]" % b",".join(pieces)


def _loads(text: bytes, *, is_whole: bool) -> Any:
    """As `codec.parse_json`. Where values were taken out, a message has no place, because it would be another's."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as err:
        if b"NaN" not in text and b"Infinity" not in text:
            raise CodecError(f"Invalid json data: {err if is_whole else err.msg}") from err
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise CodecError("Invalid json data: expected JSON, NaN and Infinity included") from err


def _put_back(fields: object, values: list[object]) -> Any:
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


def _large_values(body: bytes) -> Iterator[tuple[int, int, object]]:
    """Start, end and value of each long text and each long list of numbers, in their order."""
    quote, bracket = body.find(b'"'), body.find(b"[")
    value: object
    for _ in range(MAX_LOOKS):
        if bracket >= 0 and (bracket < quote or quote < 0):
            start = bracket
            stop, value = _list_at(body, start)
        elif quote >= 0:
            start = quote
            stop, value = _text_at(body, start)
        else:
            return
        if value is not None:
            yield start, stop, value
        if 0 <= quote < stop:
            quote = body.find(b'"', stop)
        if 0 <= bracket < stop:
            bracket = body.find(b"[", stop)


def _text_at(body: bytes, start: int) -> tuple[int, str | None]:
    """The end of the text whose quote is at `start`, and the text if it is long."""
    end = start
    for _ in range(MAX_LOOKS):
        end = body.find(b'"', end + 1)
        if end < 0:
            break
        back = end
        while body[back - 1] == 0x5C:
            back -= 1
        if (end - back) % 2 == 0:
            return end + 1, _text(body, start + 1, end) if end - start > MIN_TEXT_BYTES else None
    return len(body), None


def _text(body: bytes, start: int, end: int) -> str | None:
    """The text between two quotes; None for orjson to read: it is a key, nearly all of it is escaped, or it is no JSON."""
    raw = np.frombuffer(body, np.uint8, end - start, start)
    if raw.min() < 0x20 or _COLON.match(body, end + 1, end + 65):
        return None
    if raw.max() < 0x80 and body.find(b"\\", start, end) < 0:
        return str(memoryview(body)[start:end], "ascii")
    pieces: list[str] = []
    while start < end:
        cut = _CUT.search(body, start + PIECE_BYTES, min(start + 2 * PIECE_BYTES, end))
        stop = cut.end() if cut else end
        if stop - start > 2 * PIECE_BYTES:
            return None
        try:
            pieces.append(orjson.loads(b'"%b"' % body[start:stop]))
        except orjson.JSONDecodeError:
            return None
        start = stop
    return "".join(pieces)


def _list_at(body: bytes, start: int) -> tuple[int, Numbers | None]:
    """Where to go on after the list that begins at `start`, and the list if it is long and a rectangle of numbers."""
    opening = _OPENING.match(body, start, start + 256)
    assert opening is not None  # noqa: S101 - there is a bracket
    stop = opening.end()
    if stop >= len(body) or body[stop] not in b"-0123456789NI":
        return stop, None
    stop, marks = _extent(body, start)
    shape = _shape(marks) if stop - start >= MIN_LIST_BYTES else ()
    return max(stop, opening.end()), _numbers(body, start, stop, shape) if shape else None


def _extent(body: bytes, start: int) -> tuple[int, bytes]:
    """The end of the run of numbers, commas and brackets at `start`, up to its last bracket; and its commas and brackets."""
    marks: list[bytes] = []
    end = len(body)
    for at in range(start, len(body), PIECE_BYTES):
        piece = body[at : at + PIECE_BYTES]
        if foreign := _FOREIGN.search(piece):
            end = at + foreign.start()
            marks.append(piece[: foreign.start()].translate(None, _NUMERIC))
            break
        marks.append(piece.translate(None, _NUMERIC))
    stop = body.rfind(b"]", start, end) + 1
    return stop, b"".join(marks).rstrip(b",")


def _shape(marks: bytes) -> tuple[int, ...]:
    """The shape of the nested lists whose commas and brackets are `marks`; () if it is no rectangle."""
    rank = len(marks[: MAX_RANK + 1]) - len(marks[: MAX_RANK + 1].lstrip(b"["))
    if not 0 < rank <= MAX_RANK or not marks.endswith(b"]" * rank):
        return ()
    sizes: list[int] = []
    child = 0  # the marks of a list of the level below; the innermost lists have one comma after each value
    for level in range(1, rank + 1):
        # The first list of this level ends where as many brackets close for the first time.
        begin = rank - level + 1
        end = _find(marks, b"]" * level) + level - 1
        size, rest = divmod(end - begin + 1, child + 1)
        if rest or marks[begin + child : begin + child + 1] not in (b"," if size > 1 else b"]"):
            return ()
        if not _repeats(marks, begin, end, child + 1):
            return ()
        child = end - begin + 2
        sizes.insert(0, size)
    return tuple(sizes) if child == len(marks) else ()


def _repeats(marks: bytes, begin: int, end: int, period: int) -> bool:
    """Whether the marks between two places repeat; numpy compares without the lock."""
    array = np.frombuffer(marks, np.uint8)
    for at in range(begin + period, end, PIECE_BYTES << 4):
        stop = min(at + (PIECE_BYTES << 4), end)
        if not np.array_equal(array[at:stop], array[at - period : stop - period]):
            return False
    return True


def _find(marks: bytes, closing: bytes) -> int:
    """As `bytes.find`, which holds the lock; `closing` is there."""
    at = 0
    while (found := marks.find(closing, at, at + PIECE_BYTES + len(closing))) < 0:
        at += PIECE_BYTES
    return found


def _numbers(body: bytes, start: int, stop: int, shape: tuple[int, ...]) -> Numbers | None:
    """The numbers between `start` and `stop`; None if that is not JSON, or one needs more than 64 bits."""
    count = int(np.prod(shape))
    array = np.empty(count, np.int8)
    at, first_float = 0, -1
    while start < stop:
        end = body.find(b",", start + PIECE_BYTES, stop)
        end = stop if end < 0 else end
        values = _piece(body, start, end)
        piece = np.array(values)
        if not values or piece.dtype.kind not in "if" or at + len(values) > count:
            return None
        if piece.dtype.kind == "f" and first_float < 0:
            first_float = at + next(index for index, value in enumerate(values) if type(value) is float)
        if (dtype := _dtype_of(piece)) != array.dtype:
            array = array.astype(np.promote_types(dtype, array.dtype), copy=False)
        array[at : at + len(values)] = piece
        at, start = at + len(values), end + 1
    return Numbers(array.reshape(shape), first_float) if at == count else None


def _dtype_of(piece: np.ndarray[Any, Any]) -> Any:
    """The smallest type of signed integers that holds them all; float64 where there are floats."""
    if piece.dtype.kind == "f":
        return piece.dtype
    low, high = piece.min(), piece.max()
    return next(kind for kind in _INTEGERS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)


def _piece(body: bytes, start: int, end: int) -> list[Any]:
    """The numbers between two commas; none if that is not JSON: brackets have only commas and brackets outside of them."""
    kinds = body[max(start - 1, 0) : end + 1].translate(_KINDS, _SPACES)
    if b"]0" in kinds or b"0[" in kinds:
        return []
    flat = b"[%b]" % body[start:end].translate(_FLAT)
    try:
        # json takes NaN and Infinity, and makes an infinity of 1e999, which orjson refuses.
        return json.loads(flat) if b"N" in flat or b"I" in flat else orjson.loads(flat)  # type: ignore[no-any-return] # it begins with a bracket
    except ValueError:
        return []


def _count_values(text: bytes) -> int:
    """About how many values the text has: its commas and opening brackets outside of strings."""
    count = _count_marks(text, is_in_text=False)
    return count if count <= MAX_VALUES or b'"' not in text else _count_marks(text, is_in_text=True)


def _count_marks(text: bytes, *, is_in_text: bool) -> int:
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
