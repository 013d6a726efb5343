"""Decodes and encodes what requests and answers contain: JSON, base64, `data:` URIs, numpy. Pure functions, no I/O."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pybase64

from darkroom.models.errors import InvalidInput
from darkroom.models.spec import Binary
from darkroom.service.errors import BadImage, CodecError, quote
from darkroom.service.predict import large_json
from darkroom.service.predict.image_guard import Inner, measure, place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from darkroom.models.rows import Rows
    from darkroom.models.saved_model.output_kinds import OutputKind
    from darkroom.service.predict.call import AnswerBody

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE

# Bodies and answers that take longer to read or write on the loop than a wait for a thread: 1 to 4 ms (measured).
LARGE_BYTES = 1 << 18
LARGE_PICTURE_BYTES = 1 << 21  # of a body that is one picture, of which only the header is read; not of a PNG
LARGE_PACKED_BYTES = 1 << 8  # of a compressed body, which may inflate to LARGE_BYTES
LARGE_TO_PACK_BYTES = 1 << 14  # of the rows of an answer that is compressed

MAX_DEPTH = 254  # a tensor of TensorFlow has no more dimensions

# The first bytes of JPEG, PNG, GIF, BMP and WebP, and of their base64 text: in both alphabets, bare or in a `data:` URI.
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF")
_TEXT_STARTS = (b"/9j/", b"_9j_", b"iVBORw", b"R0lGOD", b"Qk", b"UklGR", b"data:")


def is_large(body: bytes, *, is_packed: bool) -> bool:
    """Whether the reading of a body could hold up the loop."""
    size = len(body)
    if size <= LARGE_PACKED_BYTES:
        return False
    if is_packed or size > LARGE_PICTURE_BYTES:
        return True
    return size > LARGE_BYTES and (not begins_as_picture(body) or body.startswith(b"\x89PNG"))


def parse_json(body: bytes) -> Any:
    """The JSON value of a body. Python's own parser reads the NaN and Infinity that `json.dumps` writes and orjson refuses.

    A byte order mark before it is skipped, as Simple TensorFlow Serving and TensorFlow Serving do. In a large body, long
    lists of numbers are `Numbers`.

    Raises:
        CodecError: the body is not JSON, is nested too deep, or contains a number that neither parser takes.
    """
    body = body.removeprefix(BOM_UTF8)  # no copy where there is none
    if len(body) > LARGE_BYTES and body.startswith(b"{"):
        return large_json.parse(body)
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
    """The bytes of base64 text: in either alphabet, padded or not, with or without line breaks, bare or in a `data:` URI.

    Raises:
        ValueError: the text is not base64; the message does not quote it.
    """
    if text.startswith("data:"):
        text = text[text.find(",") + 1 :]
    # altchars: 10 us for 48 KB; translating the text first takes 52, and decoding alone 6.
    alphabet = "-_" if "-" in text or "_" in text else None
    if alphabet and ("+" in text or "/" in text):  # both alphabets in one text; a future pybase64 will refuse it
        text, alphabet = text.replace("-", "+").replace("_", "/"), None
    try:
        data: bytes = pybase64.b64decode(text + "=" * (-len(text) % 4), altchars=alphabet, validate=True)
    except ValueError:
        # base64(1) and MIME break lines at 76 characters. Only a text that failed pays for the second attempt.
        packed = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
        data = pybase64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    return data


def decode_picture(value: object, field: str, index: int, inner: Inner = ()) -> bytes:
    """The bytes of one picture, in whichever form the client wrote it: base64 text, a `data:` URI or `{"b64": text}`.

    `{"b64"}` around base64 text is decoded twice. TensorFlow Serving's clients send it to graphs that decode base64
    themselves. The decoded bytes show it, because no picture begins like base64 text.

    Raises:
        BadImage: not a string, empty, or not base64; names its place.
    """
    text = value.get("b64") if isinstance(value, dict) and len(value) == 1 else value
    if not isinstance(text, str):
        raise BadImage(
            f'{place(field, index, inner)}: expected base64 text or {{"b64": text}}, got {type(text).__name__}'
        )
    try:
        data = decode_base64(text)
        if text is not value:
            data = unwrap_picture(data)
    except ValueError as err:
        raise BadImage(not_base64(place(field, index, inner), err)) from err
    if not data:
        raise BadImage(f"{place(field, index, inner)}: is empty")
    return data


def not_base64(where: str, err: ValueError) -> str:
    """The message for text that is not base64; clients of TensorFlow Serving look for its words."""
    return f"{where}: is not base64: Unable to base64 decode: {err}"


def begins_as_picture(data: bytes) -> bool:
    """Whether the first bytes are those of a picture; no JSON begins like this."""
    return data.startswith(_PICTURE_STARTS)


def unwrap_picture(data: bytes) -> bytes:
    """The picture inside base64 text of a picture; any other data unchanged, for the image guard to judge."""
    if not data.startswith(_TEXT_STARTS):
        return data
    try:
        inner = decode_base64(data.decode("ascii"))
        measure(inner)
    except (ValueError, InvalidInput):
        return data
    return inner


def check_depth(depth: int) -> None:
    """Returns if lists may be nested this deep. Compiled functions have no recursion limit, only the end of the stack.

    Raises:
        RecursionError: they may not.
    """
    if depth > MAX_DEPTH:
        raise RecursionError("the lists are nested too deep")


def decode_binary(value: object, depth: int = 0) -> object:
    """A nested list with its `{"b64": text}` objects decoded to bytes; everything else is unchanged.

    Raises:
        ValueError: a `{"b64"}` is not base64.
        RecursionError: the lists are nested deeper than any tensor has dimensions.
    """
    if isinstance(value, list):
        check_depth(depth)
        return [decode_binary(item, depth + 1) for item in value]
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str):
        return decode_base64(value["b64"])
    return value


def decode_base64_strings(value: object, depth: int = 0) -> object:
    """A nested list with all its strings decoded from base64 to bytes (STS's `base64_decode: true`).

    Raises:
        ValueError: a string is not base64.
        RecursionError: as `decode_binary`.
    """
    if isinstance(value, list):
        check_depth(depth)
        return [decode_base64_strings(item, depth + 1) for item in value]
    return decode_base64(value) if isinstance(value, str) else value


def jsonable(column: np.ndarray[Any, Any] | list[bytes]) -> object:
    """A column as orjson takes it: arrays unchanged, strings as text, bfloat16 as float32.

    Where a string is not UTF-8, such as a picture, every string of the column becomes `{"b64": text}`.

    Raises:
        CodecError: the column is complex.
    """
    if isinstance(column, list):
        try:
            return [_text(item) for item in column]
        except UnicodeDecodeError:
            return [encode_binary(item) for item in column]
    kind = column.dtype.kind
    if kind == "O":
        values = column.tolist()
        try:
            return _texts(values)
        except UnicodeDecodeError:
            return encode_binary(values)
    if kind == "V":  # bfloat16 and float8 are extension types of numpy that orjson does not know
        column = column.astype(np.float32)
    if kind == "c":
        raise CodecError("a complex output has no form in JSON")
    return np.ascontiguousarray(column) if column.ndim else column[()]  # .item() would print a float32 as a double


def _texts(values: object) -> object:
    """Strings in lists of any depth as `_text` writes them."""
    return [_texts(value) for value in values] if isinstance(values, list) else _text(values)


def _text(item: object) -> object:
    """Bytes as text, `Binary` as `{"b64": text}`; anything else unchanged.

    Raises:
        UnicodeDecodeError: bytes that are not UTF-8.
    """
    if not isinstance(item, bytes):
        return item
    return encode_binary(item) if isinstance(item, Binary) else item.decode()


def encode_binary(values: object) -> object:
    """Bytes, in lists of any depth, as `{"b64": text}`, which `decode_binary` reads."""
    if isinstance(values, list):
        return [encode_binary(value) for value in values]
    return {"b64": pybase64.b64encode(values).decode()} if isinstance(values, bytes) else values


def writable(column: np.ndarray[Any, Any] | list[bytes]) -> Any:
    """As `jsonable`; a large array is for `dump_answer` alone."""
    value = jsonable(column)
    return large_json.Large(value) if isinstance(value, np.ndarray) and value.nbytes > LARGE_BYTES else value


def dump_columns(columns: Mapping[str, np.ndarray[Any, Any] | list[bytes]]) -> AnswerBody:
    """`{output: nested list}` with sorted keys and a trailing newline; floats in their shortest digits, NaN as null."""
    return dump_answer({name: writable(column) for name, column in columns.items()})


def dump_answer(value: object) -> AnswerBody:
    """As `dump_json`; in pieces where large arrays are in it (`writable`)."""
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except orjson.JSONEncodeError:  # orjson does not know them
        return large_json.dump(value, orjson.OPT_APPEND_NEWLINE)


def dump_json(value: object) -> bytes:
    """Any JSON-ready value, keys sorted, with a trailing newline."""
    return orjson.dumps(value, option=_OPTIONS)


def top_k(
    rows: Rows, k: int, labels: Sequence[str], kinds: Mapping[str, OutputKind] | None = None
) -> dict[str, object]:
    """The columns of an answer, with each score vector (floats) replaced by its k largest scores, largest first.

    Score vectors are outputs of the kind `scores`, along their last dimension, and `numbers` of rank 2. Without `kinds`
    every output is `numbers`.

    Returns:
        `{output: [[{"index": i, "label": text, "value": score}, …], …]}`, one list for each row. Equal scores are in the
        order of their index. `label` is left out unless there are as many labels as scores.
    """
    answer: dict[str, object] = {}
    for name, column in rows.columns.items():
        kind = kinds[name].kind if kinds else "numbers"
        answer[name] = (
            _largest(column, k, labels if len(labels) == column.shape[-1] else ())
            if isinstance(column, np.ndarray)
            and column.dtype.kind == "f"
            and (column.ndim == 2 if kind == "numbers" else kind == "scores" and column.ndim > 0)
            else writable(column)
        )
    return answer


def _largest(scores: np.ndarray[Any, Any], k: int, labels: Sequence[str]) -> list[Any]:
    """The k largest of a vector of scores; of an array of more dimensions, those of each vector in it."""
    if scores.ndim > 1:
        return [_largest(each, k, labels) for each in scores]
    order = np.argsort(-scores, kind="stable")[:k]
    return [{"index": int(i), "value": scores[i]} | ({"label": labels[i]} if labels else {}) for i in order]


def parse_k(value: object, field: str = "top_k") -> int:
    """`top_k` as a number of 1 or more; 0 if it is None.

    Raises:
        CodecError: not a whole number of 1 or more.
    """
    if value is None:
        return 0
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text) >= 1):
        raise CodecError(f"{field}: expected a whole number of 1 or more, got {quote(value)}")
    return int(text)
