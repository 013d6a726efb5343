"""Recorded requests: parsed from a TFRecord file, and used as warm-up rows where the signature takes them."""

from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from darkroom.models.engines.open import load_model
from darkroom.models.rows import Rows
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.warmup_requests import FILE, MAX_ROWS, recorded_rows
from darkroom.models.spec import SignatureSpec, TensorSpec, Wire
from tests import savedmodels
from tests.pictures import photograph

NUMBERS = SignatureSpec("serving_default", (TensorSpec("x", "float32", (None, 4)),), ())
PICTURES = SignatureSpec(
    "serving_default", (TensorSpec("images", "string", (None,)),), (), wire=Wire.BASE64, image_input="images"
)


def _messages() -> Any:
    """PredictionLog as TensorFlow Serving's .proto files have it, what matters of it, by protobuf's own machinery."""
    file = descriptor_pb2.FileDescriptorProto(name="log.proto", package="t", syntax="proto3")
    integer, string, nested, once, repeated = 3, 9, 11, 1, 3
    many = {"inputs", "filter"}

    def message(called: str, /, **fields: tuple[int, int, str] | tuple[int, int]) -> None:
        made = file.message_type.add(name=called)
        for field, (number, kind, *of) in fields.items():
            type_name = {"type_name": f".t.{of[0]}"} if of else {}
            made.field.add(name=field, number=number, type=kind, label=repeated if field in many else once, **type_name)

    message("Version", value=(1, integer))
    message("ModelSpec", name=(1, string), version=(2, nested, "Version"), signature=(3, string))
    message("Tensor")
    message("Input", key=(1, string), value=(2, nested, "Tensor"))
    message("Request", model_spec=(1, nested, "ModelSpec"), inputs=(2, nested, "Input"), filter=(3, string))
    message("PredictLog", request=(1, nested, "Request"))
    message("Log", classify=(2, nested, "PredictLog"), predict=(6, nested, "PredictLog"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Log"))


Log = _messages()


def x_of(rows: Rows) -> Any:
    return np.asarray(rows.columns["x"]).tolist()


def log(signature: str = "serving_default", **inputs: Any) -> bytes:
    record = Log()
    request = record.predict.request
    request.model_spec.name = "m"
    request.model_spec.version.value = 300
    request.model_spec.signature = signature
    request.filter.append("y")
    for name, values in inputs.items():
        entry = request.inputs.add(key=name)
        entry.value.ParseFromString(tf.make_tensor_proto(values).SerializeToString())
    return bytes(record.SerializeToString())


def write(folder: Path, *records: bytes) -> Path:
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / FILE)) as file:
        for record in records:
            file.write(record)
    return folder


def test_rows_are_read_one_by_one_up_to_the_bound(tmp_path: Path) -> None:
    first = np.arange(8, dtype=np.float32).reshape(2, 4)
    write(tmp_path, log(x=first), log("", x=first[:1]), log(x=np.zeros((100, 4), np.float32)))
    rows = recorded_rows(tmp_path, {"serving_default": NUMBERS})["serving_default"]
    assert len(rows) == MAX_ROWS
    assert [x_of(each) for each in rows[:3]] == [
        [first[0].tolist()],
        [first[1].tolist()],
        [first[0].tolist()],
    ]


def test_pictures_come_as_they_are_in_their_files(tmp_path: Path) -> None:
    picture = photograph("coffee")
    write(tmp_path, log(images=[urlsafe_b64encode(picture).rstrip(b"="), urlsafe_b64encode(b"x")]))
    rows = recorded_rows(tmp_path, {"serving_default": PICTURES})["serving_default"]
    assert [each.columns["images"] for each in rows] == [[picture], [b"x"]]


def test_what_the_signature_does_not_take_is_left_out(tmp_path: Path) -> None:
    good = np.ones((1, 4), np.float32)
    classify = Log()
    classify.classify.request.model_spec.name = "m"
    write(
        tmp_path,
        log("other", x=good),
        log(z=good),
        log(x=np.ones((1, 5), np.float32)),
        classify.SerializeToString(),
        b"\xff\xff junk",
        log(x=good)[:-3],
        b"",
        log(x=good),
    )
    found = recorded_rows(tmp_path, {"serving_default": NUMBERS})
    assert [x_of(rows) for rows in found["serving_default"]] == [good.tolist()]
    assert set(found) == {"serving_default"}


@pytest.mark.parametrize(
    "record",
    [
        b"\x0b",  # a group that never ends
        b"\x0f",  # wire type 7
        b"\x80" * 20,  # a number that never ends
        b"\x32" + b"\xff" * 9 + b"\x01rest",  # predict_log of 2**64 - 1 bytes
        b"\x32\x7fshort",  # predict_log that is cut off
        b"\x32\x02\x08\x01",  # predict_log without a request
        b"\x30\x01",  # predict_log as a number
        b"\x0b" * 100_000,  # groups in groups
    ],
)
def test_a_hostile_record_is_left_out_with_a_warning(
    record: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = np.ones((1, 4), np.float32)
    write(tmp_path, record, log(x=good))
    found = recorded_rows(tmp_path, {"serving_default": NUMBERS})
    assert [x_of(rows) for rows in found["serving_default"]] == [good.tolist()]
    (line,) = caplog.messages
    assert line.startswith("a recorded warm-up request is left out: ")
    assert len(line) < 300


def test_a_damaged_file_gives_what_comes_before_the_damage(tmp_path: Path) -> None:
    good = np.ones((1, 4), np.float32)
    write(tmp_path, log(x=good), log(x=good))
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-5])
    assert len(recorded_rows(tmp_path, {"serving_default": NUMBERS})["serving_default"]) == 1
    assert recorded_rows(tmp_path / "nowhere", {}) == {}


def test_a_model_that_no_generated_row_fits_is_proven_by_its_recorded_ones(
    built: Callable[[Callable[[Path], Path]], Path], tmp_path: Path
) -> None:
    """Only rows that begin with 7 pass its assertion, and no generated one does."""

    def only_sevens(folder: Path) -> Path:
        def checked(x: Any) -> Any:
            with tf.control_dependencies([tf.debugging.assert_equal(x[:, 0], 7.0)]):
                return x * 2

        return savedmodels.numbers(folder, checked)

    plain = built(only_sevens)
    bare = load_model(plain, name="m", version=1)
    assert bare.samples["serving_default"] == ()
    assert not bare.spec.signatures["serving_default"].batched
    bare.close()
    path = copytree(plain, tmp_path / "1")
    write(path, log(x=np.ones((1, 4), np.float32)), log(x=[[7.0, 1, 2, 3], [7.0, 4, 5, 6], [7.0, 0, 0, 1]]))
    loaded = load_model(path, name="m", version=1)
    assert [x_of(rows)[0][1] for rows in loaded.samples["serving_default"]] == [1.0, 4.0, 0.0]
    assert loaded.spec.signatures["serving_default"].batched
    assert loaded.engines["serving_default"].passes[0].applied
    loaded.close()
