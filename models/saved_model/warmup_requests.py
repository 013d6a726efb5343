"""Reads warm-up rows from recorded requests: a TFRecord file of PredictionLog messages.

The file is `assets.extra/tf_serving_warmup_requests`, as TensorFlow Serving reads it. TensorFlow does not contain
TensorFlow Serving's message types. Four fields of each record matter, and they are read as unknown fields of an empty
message:

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

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from darkroom.models.errors import InvalidInput, quote
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import objects
from darkroom.models.runtime.tensorflow import deprecation, tensor_pb2, tf
from darkroom.models.spec import SignatureSpec

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000  # precedent: TensorFlow Serving's limit
MAX_ROWS = 16  # for each signature: each row is run several times, alone and in batches, to prove the passes
_DEFAULT = "serving_default"
_LENGTH_DELIMITED = 2  # the wire type of strings and messages: https://protobuf.dev/programming-guides/encoding/

_log = logging.getLogger("darkroom.models")


def recorded_rows(path: Path, specs: Mapping[str, SignatureSpec]) -> dict[str, list[Rows]]:
    """Returns up to MAX_ROWS single rows for each signature, from the recorded requests of the version folder `path`.

    For a signature without a batch dimension each element is one whole request. The result is empty where the folder
    has no such file. Records that the signature does not take are left out with a warning, and so are those of
    classify, regress and other calls. From a damaged file the records before the damage are read.
    """
    found: dict[str, list[Rows]] = defaultdict(list)
    if not (path / FILE).is_file():
        return found
    for record in _records(path / FILE):
        try:
            name, inputs = _parse_request(record)
            spec = specs.get(name)
            if spec is not None and len(found[name]) < MAX_ROWS:
                found[name] += _single_rows(inputs, spec)[: MAX_ROWS - len(found[name])]
        except (InvalidInput, ValueError, IndexError) as err:
            _log.warning("a recorded warm-up request is left out: %s", quote(str(err)))
    return found


def _records(file: Path) -> Iterator[bytes]:
    try:
        with deprecation.silence():
            yield from islice(tf.compat.v1.io.tf_record_iterator(str(file)), MAX_RECORDS)
    except tf.errors.OpError as err:
        _log.warning("%s is damaged: %s", FILE, quote(err.message))


def _parse_request(record: bytes) -> tuple[str, dict[str, Any]]:
    """Returns the signature's name and the inputs of a PredictionLog."""
    request = _fields(_fields(_fields(record)[6][0])[1][0])
    model_spec = _fields(request[1][0]) if request[1] else defaultdict(list)
    name = model_spec[3][0].decode() if model_spec[3] else _DEFAULT
    inputs = {}
    for entry in map(_fields, request[2]):
        try:
            inputs[entry[1][0].decode()] = tf.make_ndarray(tensor_pb2.TensorProto.FromString(entry[2][0]))
        except Exception as err:  # make_ndarray raises several types, and so does protobuf
            raise ValueError("an input is no tensor") from err
    return name or _DEFAULT, inputs


def _fields(message: bytes) -> "defaultdict[int, list[bytes]]":
    """Returns the strings and messages among a message's fields, by field number.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    try:
        unknown = UnknownFieldSet(Empty.FromString(message))
    except DecodeError as err:
        raise ValueError("it is no PredictionLog, or it is cut off") from err
    found: defaultdict[int, list[bytes]] = defaultdict(list)
    for field in unknown:
        if field.wire_type == _LENGTH_DELIMITED:
            found[field.field_number].append(field.data)
    return found


def _single_rows(inputs: dict[str, Any], spec: SignatureSpec) -> list[Rows]:
    """Returns the request's rows one by one, or the whole request where the signature has no batch dimension.

    Pictures were recorded in the form that the graph takes; `accept` takes their raw bytes.
    """
    raw: dict[str, object] = dict(inputs)
    for name, texts in inputs.items():
        if not spec.encodes(name):
            continue
        try:
            pictures = [urlsafe_b64decode(text + b"=" * (-len(text) % 4)) for text in texts.ravel().tolist()]
        except binascii.Error as err:
            raise InvalidInput(f"{name} is no base64") from err
        raw[name] = objects(pictures).reshape(texts.shape)
    rows = spec.accept(raw)
    if not spec.batched:
        return [rows]
    return [rows.cut(at, at + 1) for at in range(len(rows))] if rows.aligned else []
