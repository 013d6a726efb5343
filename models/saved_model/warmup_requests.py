"""Rows out of recorded requests: `assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLog protos.

TensorFlow Serving's protos are not in TensorFlow. Of each record four fields matter, and they are read off the wire
format (https://protobuf.dev/programming-guides/encoding/):

    PredictionLog { PredictLog predict_log = 6 }             PredictLog { PredictRequest request = 1 }
    PredictRequest { ModelSpec model_spec = 1; map<string, TensorProto> inputs = 2 }    ModelSpec { signature_name = 3 }
"""

import binascii
import logging
from base64 import urlsafe_b64decode
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from darkroom.models.errors import InvalidInput, quote
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import objects
from darkroom.models.runtime.tensorflow import deprecation, tensor_pb2, tf
from darkroom.models.spec import SignatureSpec, Wire

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000  # precedent: TensorFlow Serving's bound
MAX_ROWS = 16  # of a signature: each is run a few times, alone and with the others, to prove what the passes did
_DEFAULT = "serving_default"
_VARINT, _EIGHT_BYTES, _STRING, _FOUR_BYTES = 0, 1, 2, 5  # wire types

_log = logging.getLogger("darkroom.models")


def recorded_rows(path: Path, specs: Mapping[str, SignatureSpec]) -> dict[str, list[Rows]]:
    """Up to MAX_ROWS single rows for each signature (whole requests for one without a batch dimension).

    Empty where the version folder at `path` has no such file. Records that the signature does not take, and those of
    classify, regress and other calls, are left out; a file that is damaged gives what comes before the damage.
    """
    found: dict[str, list[Rows]] = defaultdict(list)
    if not (path / FILE).is_file():
        return found
    for record in _records(path / FILE):
        try:
            name, inputs = _request(record)
            spec = specs.get(name)
            if spec is not None and len(found[name]) < MAX_ROWS:
                found[name] += _split(spec.accept(_raw(inputs, spec)), spec)[: MAX_ROWS - len(found[name])]
        except (InvalidInput, ValueError, IndexError) as err:
            _log.warning("a recorded warm-up request is left out: %s", quote(str(err)))
    return found


def _records(file: Path) -> Iterator[bytes]:
    try:
        with deprecation.silence():
            yield from islice(tf.compat.v1.io.tf_record_iterator(str(file)), MAX_RECORDS)
    except tf.errors.OpError as err:
        _log.warning("%s is damaged: %s", FILE, quote(err.message))


def _request(record: bytes) -> tuple[str, dict[str, Any]]:
    """The signature's name and the inputs of a PredictionLog."""
    request = _fields(_fields(_fields(record)[6][0])[1][0])
    model_spec = _fields(request[1][0]) if request[1] else defaultdict(list)
    name = model_spec[3][0].decode() if model_spec[3] else _DEFAULT
    inputs = {}
    for entry in map(_fields, request[2]):
        try:
            inputs[entry[1][0].decode()] = tf.make_ndarray(tensor_pb2.TensorProto.FromString(entry[2][0]))
        except Exception as err:  # protobuf's DecodeError is not one class across its implementations
            raise ValueError("an input is no tensor") from err
    return name or _DEFAULT, inputs


def _fields(message: bytes) -> "defaultdict[int, list[bytes]]":
    """The strings and messages among a message's fields, by number.

    Raises:
        ValueError: it is no protobuf.
    """
    found: defaultdict[int, list[bytes]] = defaultdict(list)
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _STRING:
            size, at = _varint(message, at)
            found[tag >> 3].append(message[at : at + size])
            at += size
        elif kind in {_EIGHT_BYTES, _FOUR_BYTES}:
            at += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError("it is no PredictionLog")
    if at > len(message):
        raise ValueError("it is cut off")
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _raw(inputs: dict[str, Any], spec: SignatureSpec) -> dict[str, object]:
    """The inputs as `accept` takes them; pictures, which were recorded as the graph takes them, as raw bytes."""
    raw: dict[str, object] = dict(inputs)
    if spec.wire is Wire.BASE64 and spec.image_input in inputs:
        texts = inputs[spec.image_input]
        try:
            pictures = [urlsafe_b64decode(text + b"=" * (-len(text) % 4)) for text in texts.ravel().tolist()]
        except binascii.Error as err:
            raise InvalidInput(f"{spec.image_input} is no base64") from err
        raw[spec.image_input] = objects(pictures).reshape(texts.shape)
    return raw


def _split(rows: Rows, spec: SignatureSpec) -> list[Rows]:
    """Single rows where the signature has a batch dimension, else the request as it is."""
    if not spec.batched:
        return [rows]
    return [rows.cut(at, at + 1) for at in range(len(rows))] if rows.aligned else []
