"""TensorFlow Serving's services by grpcio's client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

import httpx
import numpy as np
import pytest
from grpc import StatusCode

from darkroom.models.engines.fakes import fake_model
from darkroom.service.api.grpc.protos import message
from darkroom.service.api.grpc.tensor_proto import read_tensor, write_tensor
from tests.grpc.calls import PREDICT, ask, digests, infer, predict, refusal, served, stub, tensor_of
from tests.grpc.conftest import GUILTY
from tests.held import Held
from tests.pictures import picture, standard, url_safe
from tests.serving import metric

if TYPE_CHECKING:
    from darkroom.service.server import Server

STATUS = "tensorflow.serving.ModelService/GetModelStatus"
METADATA = "tensorflow.serving.PredictionService/GetModelMetadata"


def tensors(x: Any, text: Any) -> Any:
    sent = message("tensorflow.serving.PredictRequest")(model_spec={"name": "tensors"})
    for name, value in (("x", x), ("text", text)):
        if isinstance(value, (np.ndarray, list)):
            write_tensor(value, sent.inputs[name])
        else:
            sent.inputs[name].CopyFrom(value)
    return sent


def test_each_picture_gets_its_own_answer_raw_or_as_base64(made: Any) -> None:
    one, two = picture(1), picture(2)
    answer = ask(made, PREDICT, predict(one, standard(two).encode(), url_safe(one).encode()))
    assert digests(answer) == [crc32(one), crc32(two), crc32(one)]
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("default", 1)
    assert answer.model_spec.signature_name == "serving_default"


def test_calls_of_every_way_share_one_batch_and_have_one_answer() -> None:
    held = Held(fake_model(name="default"))
    data = picture(5)
    with served(held.model) as (server, made):

        def http() -> list[int]:
            return list(httpx.post(server.url, content=data, headers={"Content-Type": "image/png"}).json()["digest"])

        def infer_raw() -> list[int]:
            raw = ask(made, "inference.GRPCInferenceService/ModelInfer", infer(data)).raw_output_contents[0]
            return list(map(int, np.frombuffer(raw, np.int64)))

        asks = [http, lambda: digests(ask(made, PREDICT, predict(data))), infer_raw]
        answers = held.ride(server.url, lambda: ask(made, PREDICT, predict(picture(6))), asks)
        assert answers == [[crc32(data)]] * 3
        assert metric(server.url, "darkroom_batch_images_count") == 2  # the plug, and these three


def test_calls_that_arrive_together_on_one_connection_share_batches(server: Server, made: Any) -> None:
    call = stub(made, PREDICT)
    before = metric(server.url, "darkroom_batch_images_count", model="default")
    futures = [call.future(predict(picture(number)), timeout=60) for number in range(100, 300)]
    assert [digests(future.result()) for future in futures] == [[crc32(picture(number))] for number in range(100, 300)]
    assert metric(server.url, "darkroom_batch_images_count", model="default") - before < 200


def test_tensors_come_back_to_the_bit_in_the_fields_that_clients_read(made: Any) -> None:
    x = np.array([[0.1, -0.0, 3e38], [1e-45, np.pi, np.inf]], np.float32)
    answer = ask(made, PREDICT, tensors(x, [b"plain", b"\xff\0"]))
    assert np.array(answer.outputs["x"].float_val, np.float32).tobytes() == x.tobytes()
    assert list(answer.outputs["text"].string_val) == [b"plain", b"\xff\0"]
    content = tensor_of("float32", [2, 3], tensor_content=x.tobytes())
    again = ask(made, PREDICT, tensors(content, tensor_of("string", [2], string_val=[b"one"])))
    column = read_tensor(again.outputs["x"], "x", 1 << 20)
    assert isinstance(column, np.ndarray)
    assert column.tobytes() == x.tobytes()
    assert list(again.outputs["text"].string_val) == [b"one", b"one"]


def test_an_output_filter_version_label_and_signature_are_followed(made: Any) -> None:
    sent = predict(picture(), signature_name="serving_default", version={"value": 1})
    sent.output_filter.append("length")
    assert list(ask(made, PREDICT, sent).outputs) == ["length"]
    assert refusal(made, PREDICT, predict(picture(), version={"value": 7})) == (
        StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(default, 7)",
    )
    assert refusal(made, PREDICT, predict(picture(), version_label="x"))[0] is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        (predict(picture(), model=""), StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"),
        (predict(picture(), model="nosuch"), StatusCode.NOT_FOUND, "Servable not found for request: Latest(nosuch)"),
        (predict(picture(), signature_name="x"), StatusCode.INVALID_ARGUMENT, 'Serving signature name: "x" not found'),
        (predict(picture(), name="other"), StatusCode.INVALID_ARGUMENT, "input tensor alias not found in signature: other"),
        (predict(b"no picture"), StatusCode.INVALID_ARGUMENT, "images[0]"),
        (predict(picture(1), GUILTY), StatusCode.INVALID_ARGUMENT, "images[1]"),
        (predict(picture(), b""), StatusCode.INVALID_ARGUMENT, "images[1]: the picture is empty"),
        (predict(*[picture()] * 1025), StatusCode.INVALID_ARGUMENT, "--max_images=1024"),
        (message("tensorflow.serving.PredictRequest")(model_spec={"name": "default"}), StatusCode.INVALID_ARGUMENT, "'images' is missing"),
        (tensors(tensor_of("float32", [2, -1], float_val=[1]), [b""]), StatusCode.INVALID_ARGUMENT, "x.shape"),
        (tensors(tensor_of("float32", [2, 2], tensor_content=b"123"), [b""]), StatusCode.INVALID_ARGUMENT, "3 bytes were sent"),
        (tensors(tensor_of("float32", [1 << 40], float_val=[1]), [b""]), StatusCode.INVALID_ARGUMENT, "more than"),
        (tensors(tensor_of("int64", [1, 1], int64_val=[1]), [b""]), StatusCode.INVALID_ARGUMENT, "float32, not int64"),
        (tensors(tensor_of("float32", [4], float_val=[1]), [b""]), StatusCode.INVALID_ARGUMENT, "the signature wants"),
    ],
)  # fmt: skip
def test_a_bad_call_is_refused_in_words(made: Any, sent: Any, code: StatusCode, words: str) -> None:
    found, text = refusal(made, PREDICT, sent)
    assert (found, words in text) == (code, True), text


def test_the_status_and_the_metadata_of_a_model(made: Any) -> None:
    sent = message("tensorflow.serving.GetModelStatusRequest")(model_spec={"name": "default"})
    (state,) = ask(made, STATUS, sent).model_version_status
    assert (state.version, state.state, state.status.error_code) == (1, 30, 0)
    sent.model_spec.version.value = 3
    assert refusal(made, STATUS, sent)[0] is StatusCode.NOT_FOUND
    asked = message("tensorflow.serving.GetModelMetadataRequest")(model_spec={"name": "tensors"})
    assert "at least one metadata_field" in refusal(made, METADATA, asked)[1]
    asked.metadata_field.append("signature_def")
    packed = ask(made, METADATA, asked).metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signature = message("tensorflow.serving.SignatureDefMap").FromString(packed.value).signature_def["serving_default"]
    assert [dim.size for dim in signature.inputs["x"].tensor_shape.dim] == [-1, -1]
    assert (signature.inputs["x"].dtype, signature.method_name) == (1, "tensorflow/serving/predict")


def test_what_is_not_served_says_what_is(made: Any) -> None:
    sent = message("tensorflow.serving.MultiInferenceRequest")()
    code, text = refusal(made, "tensorflow.serving.PredictionService/MultiInference", sent)
    assert code is StatusCode.UNIMPLEMENTED
    assert "Classify or Regress" in text
