"""Bytes to rows and rows to bytes: JSON, both base64 alphabets, `data:` URIs, numpy to JSON. Pure functions, no I/O."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pybase64

from darkroom.models.errors import InvalidInput
from darkroom.service.errors import CodecError, quote
from darkroom.service.predict.image_header import sniff

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from darkroom.models.rows import Rows

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE

MAX_DEPTH = 254  # TensorFlow's tensors have no more dimensions

# How JPEG, PNG, GIF, BMP and WebP begin, and how their base64 text does: in either alphabet, bare or in a `data:` URI.
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF")
_TEXT_STARTS = (b"/9j/", b"_9j_", b"iVBORw", b"R0lGOD", b"Qk", b"UklGR", b"data:")


def parse_json(body: bytes) -> Any:
    """The JSON value of a body: orjson, then Python's own reader for the NaN and Infinity that `json.dumps` writes.

    Raises:
        CodecError: the body isn't JSON, is nested too deep, or holds a number that no parser takes.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as err:
        if b"NaN" not in body and b"Infinity" not in body:
            raise CodecError(f"Invalid json data: {err}") from err
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as err:
        raise CodecError(f"Invalid json data: {err}") from err


def decode_base64(text: str) -> bytes:
    """The bytes of base64 text: either alphabet, padded or not, with or without line breaks, bare or in a `data:` URI.

    Raises:
        ValueError: the text isn't base64; the message doesn't quote it.
    """
    if text.startswith("data:"):
        text = text[text.find(",") + 1 :]
    # altchars: 10 us for 48 KB where translating the text first takes 52 (and decoding alone 6).
    alphabet = "-_" if "-" in text or "_" in text else None
    if alphabet and ("+" in text or "/" in text):  # both alphabets in one text, which pybase64 is to refuse one day
        text, alphabet = text.replace("-", "+").replace("_", "/"), None
    try:
        data: bytes = pybase64.b64decode(text + "=" * (-len(text) % 4), altchars=alphabet, validate=True)
    except ValueError:
        # base64(1) wraps its lines at 76; MIME does too. Only a text that failed pays for the second look.
        packed = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
        data = pybase64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    return data


def decode_picture(value: object, field: str, index: int) -> bytes:
    """One picture as raw bytes, whichever way the client wrote it: base64 text, a `data:` URI or `{"b64": text}`.

    `{"b64"}` around base64 text (how TensorFlow Serving's clients reach a graph that decodes base64 itself) is
    unwrapped twice: the decoded bytes tell, since no picture's header is base64 text.

    Raises:
        CodecError: not a string, empty, or not base64; names `field[index]`.
    """
    text = value.get("b64") if isinstance(value, dict) and len(value) == 1 else value
    if not isinstance(text, str):
        raise CodecError(f'{field}[{index}]: expected base64 text or {{"b64": text}}, got {type(text).__name__}')
    try:
        data = decode_base64(text)
        if text is not value:
            data = unwrap_picture(data)
    except ValueError as err:
        raise CodecError(f"{field}[{index}]: is not base64: {err}") from err
    if not data:
        raise CodecError(f"{field}[{index}]: is empty")
    return data


def begins_as_picture(data: bytes) -> bool:
    """Whether the first bytes are those of a picture; no JSON begins so."""
    return data.startswith(_PICTURE_STARTS)


def unwrap_picture(data: bytes) -> bytes:
    """The picture inside base64 text of one; any other data unchanged, for the door to judge."""
    return _unwrap(data) if data.startswith(_TEXT_STARTS) else data


def _unwrap(data: bytes) -> bytes:
    """The picture inside base64 text, or the data unchanged where it isn't base64 text of a picture."""
    try:
        inner = decode_base64(data.decode("ascii"))
    except ValueError:
        return data
    return inner if _is_picture(inner) else data


def _is_picture(data: bytes) -> bool:
    """Whether the header is that of a picture."""
    try:
        sniff(data)
    except InvalidInput:
        return False
    return True


def check_depth(depth: int) -> None:
    """Lets lists in so many lists pass: compiled functions know no recursion limit, only the end of the stack.

    Raises:
        RecursionError: they are too many.
    """
    if depth > MAX_DEPTH:
        raise RecursionError("the lists are nested too deep")


def decode_binary(value: object, depth: int = 0) -> object:
    """A nested list whose `{"b64": text}` objects became bytes; everything else is left as it is.

    Raises:
        ValueError: a `{"b64"}` that isn't base64.
        RecursionError: the lists are nested deeper than any tensor has dimensions.
    """
    if isinstance(value, list):
        check_depth(depth)
        return [decode_binary(item, depth + 1) for item in value]
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str):
        return decode_base64(value["b64"])
    return value


def decode_base64_strings(value: object, depth: int = 0) -> object:
    """A nested list whose strings, all of them base64, became bytes (STS's `base64_decode: true`).

    Raises:
        ValueError: a string that isn't base64.
        RecursionError: as `decode_binary`.
    """
    if isinstance(value, list):
        check_depth(depth)
        return [decode_base64_strings(item, depth + 1) for item in value]
    return decode_base64(value) if isinstance(value, str) else value


def jsonable(column: np.ndarray[Any, Any] | list[bytes]) -> object:
    """A column as orjson writes it: arrays as they are, bytes as text, bfloat16 as float32."""
    if isinstance(column, list):
        return [_text(item) for item in column]
    kind = column.dtype.kind
    if kind == "O":
        return np.vectorize(_text, otypes=[object])(column).tolist() if column.size else column.tolist()
    if kind == "V":  # bfloat16 and the float8 kinds are numpy extension types that orjson doesn't know
        column = column.astype(np.float32)
    if kind == "c":
        raise CodecError("a complex output has no form in JSON")
    return np.ascontiguousarray(column) if column.ndim else column[()]  # .item() would print a float32 as a double


def _text(item: object) -> object:
    """Bytes as text; what isn't UTF-8 is escaped, so that one odd byte can't break a reply."""
    return item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else item


def dump_columns(columns: Mapping[str, np.ndarray[Any, Any] | list[bytes]]) -> bytes:
    """`{output: nested list}` with sorted keys and a trailing newline; floats in their shortest digits, NaN as null."""
    return orjson.dumps({name: jsonable(column) for name, column in columns.items()}, option=_OPTIONS)


def dump_json(value: object) -> bytes:
    """Any JSON-ready value, keys sorted, with a trailing newline."""
    return orjson.dumps(value, option=_OPTIONS)


def top_k(rows: Rows, k: int, labels: Sequence[str]) -> dict[str, object]:
    """The columns of an answer with each score vector (float, rank 2) replaced by its k largest, largest first.

    Returns:
        `{output: [[{"index": i, "label": text, "value": score}, …] a row]}`; `label` only where the labels fit.
    """
    answer: dict[str, object] = {}
    for name, column in rows.columns.items():
        if isinstance(column, np.ndarray) and column.ndim == 2 and column.dtype.kind == "f":
            answer[name] = [_largest(row, k, labels) for row in column]
        else:
            answer[name] = jsonable(column)
    return answer


def _largest(scores: np.ndarray[Any, Any], k: int, labels: Sequence[str]) -> list[dict[str, object]]:
    """The k largest scores of one row; equal scores in the order of their index."""
    order = np.argsort(-scores, kind="stable")[:k]
    named = len(labels) == len(scores)
    return [{"index": int(i), "value": scores[i]} | ({"label": labels[i]} if named else {}) for i in order]


def parse_k(value: object, field: str = "top_k") -> int:
    """`top_k` as a number of 1 or more; 0 where it isn't asked for.

    Raises:
        CodecError: not a whole number of 1 or more.
    """
    if value is None:
        return 0
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text) >= 1):
        raise CodecError(f"{field}: expected a whole number of 1 or more, got {quote(value)}")
    return int(text)
