"""The Open Inference Protocol over gRPC, by grpcio's client."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pytest
from grpc import StatusCode

from darkroom.models.engines.fakes import fake_model
from darkroom.service.api.grpc.protos import message
from tests.grpc.calls import INFER, ask, infer, refusal, served, stub
from tests.grpc.conftest import GUILTY
from tests.pictures import picture, standard

if TYPE_CHECKING:
    from darkroom.service.server import Server

SERVICE = "inference.GRPCInferenceService/"


def call(made: Any, kind: str, **fields: Any) -> Any:
    return ask(made, SERVICE + kind, message(f"inference.{kind}Request")(**fields))


def tensors(x: np.ndarray[Any, Any], text: list[bytes]) -> Any:
    sent = message("inference.ModelInferRequest")(model_name="tensors", id="ü7")
    sent.inputs.add(name="x", datatype="FP32", shape=x.shape).contents.fp32_contents.extend(x.ravel().tolist())
    sent.inputs.add(name="text", datatype="BYTES", shape=[len(text)]).contents.bytes_contents.extend(text)
    return sent


@pytest.mark.parametrize("is_raw", [True, False])
def test_pictures_are_answered_in_the_form_in_which_they_came(made: Any, is_raw: bool) -> None:
    one, two = picture(1), picture(2)
    answer = ask(made, INFER, infer(one, standard(two).encode(), is_raw=is_raw, id="7"))
    assert (answer.model_name, answer.model_version, answer.id) == ("default", "1", "7")
    at = [output.name for output in answer.outputs].index("digest")
    assert (answer.outputs[at].datatype, list(answer.outputs[at].shape)) == ("INT64", [2])
    raw = answer.raw_output_contents
    values = np.frombuffer(raw[at], np.int64) if is_raw else answer.outputs[at].contents.int64_contents
    assert list(values) == [crc32(one), crc32(two)]
    assert len(raw) == (2 if is_raw else 0)


def test_typed_numbers_and_texts_come_back_to_the_bit(made: Any) -> None:
    x = np.array([[0.1, -0.0, 3e38], [1e-45, np.pi, np.nan]], np.float32)
    answer = ask(made, INFER, tensors(x, [b"plain", b"\xff\0"]))
    outputs = {output.name: output.contents for output in answer.outputs}
    assert np.array(outputs["x"].fp32_contents, np.float32).tobytes() == x.tobytes()
    assert list(outputs["text"].bytes_contents) == [b"plain", b"\xff\0"]
    assert answer.id == "ü7"


def test_outputs_classes_priority_timeout_and_partial_answers_are_asked_for_as_over_http(made: Any) -> None:
    sent = infer(picture(1), GUILTY)
    sent.parameters["on_error"].string_param = "per_image"
    sent.parameters["priority"].uint64_param = 2
    sent.parameters["timeout"].int64_param = 60_000_000
    sent.outputs.add(name="length")
    answer = ask(made, INFER, sent)
    assert [output.name for output in answer.outputs] == ["length"]
    (refused,) = json.loads(answer.parameters["errors"].string_param)
    assert refused["index"] == 1
    sent.outputs[0].parameters["classification"].int64_param = 2
    assert "no vector of numbers" in refusal(made, INFER, sent)[1]
    sent.parameters["timeout"].string_param = "soon"
    assert "parameters.timeout" in refusal(made, INFER, sent)[1]


def test_a_bad_call_is_refused_in_words(made: Any) -> None:
    def check(sent: Any, words: str, code: StatusCode = StatusCode.INVALID_ARGUMENT) -> None:
        found, text = refusal(made, INFER, sent)
        assert (found, words in text) == (code, True), text

    check(infer(picture(), model="nosuch"), "unknown model 'nosuch'", StatusCode.NOT_FOUND)
    check(infer(picture(), model_version="9"), "has no version 9", StatusCode.NOT_FOUND)
    check(infer(picture(), GUILTY), "images[1]")
    sent = infer(picture())
    sent.raw_input_contents.append(b"x")
    check(sent, "2 were sent for 1 inputs")
    sent = infer(picture())
    sent.inputs[0].contents.bytes_contents.append(b"x")
    check(sent, "has contents, and raw_input_contents too")
    sent = infer(picture())
    sent.raw_input_contents[0] = b"\xff\xff\xff\x7f" + b"x"
    check(sent, "images[0]: says that it has 2147483647 bytes, 1 are left")
    sent = infer(picture(), is_raw=False)
    sent.inputs[0].datatype = "FP16"
    check(sent, "FP16 has no typed contents")
    sent.inputs[0].datatype = "X"
    check(sent, "inputs[0].datatype")
    sent = infer(picture(), is_raw=False)
    sent.inputs[0].shape[0] = -1
    check(sent, "1 values were sent for shape [-1]")
    sent.inputs[0].shape[0] = 1 << 62
    check(sent, "inputs[0]")
    sent = tensors(np.zeros((1, 1), np.float32), [b""])
    sent.inputs[0].datatype, sent.inputs[0].contents.int_contents[:] = "INT8", [300]
    check(sent, "out of range for int8")


@pytest.mark.parametrize("is_raw", [True, False])
def test_an_output_is_answered_in_the_form_that_its_parameters_ask_for(made: Any, is_raw: bool) -> None:
    sent = infer(picture(1), is_raw=is_raw)
    sent.outputs.add(name="digest").parameters["as"].string_param = "base64"
    answer = ask(made, INFER, sent)
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BYTES", [1])
    value = answer.raw_output_contents[0][4:] if is_raw else answer.outputs[0].contents.bytes_contents[0]
    assert value == crc32(picture(1)).to_bytes(8, "little")
    sent.outputs[0].parameters["as"].string_param = "png"
    status, words = refusal(made, INFER, sent)
    assert status is StatusCode.INVALID_ARGUMENT
    assert "outputs[0].parameters.as: output 'digest' (numbers) has numbers, base64, not 'png'" in words


def test_the_server_and_its_models_are_described(server: Server, made: Any) -> None:
    assert call(made, "ServerLive").live
    assert call(made, "ServerReady").ready
    assert call(made, "ModelReady", name="default", version="1").ready
    assert refusal(made, f"{SERVICE}ModelReady", message("inference.ModelReadyRequest")(name="nosuch"))[0] is (
        StatusCode.NOT_FOUND
    )
    about = call(made, "ServerMetadata")
    assert (about.name, about.version) == ("darkroom", server.darkroom.version)
    model = call(made, "ModelMetadata", name="tensors")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in model.inputs] == [
        ("x", "FP32", [-1, -1]),
        ("text", "BYTES", [-1]),
    ]
    assert [(each.name, each.version, each.state) for each in call(made, "RepositoryIndex", ready=True).models] == [
        ("default", "1", "READY"),
        ("tensors", "1", "READY"),
    ]


def test_models_are_loaded_and_unloaded() -> None:
    with served(fake_model(name="default")) as (_, made):
        call(made, "RepositoryModelUnload", model_name="default")
        assert not call(made, "ModelReady", name="default").ready
        assert refusal(made, INFER, infer(picture()))[0] is StatusCode.UNAVAILABLE
        load = message("inference.RepositoryModelLoadRequest")(model_name="default")
        load.parameters["config"].string_param = "{}"
        assert "no file or configuration is taken" in refusal(made, f"{SERVICE}RepositoryModelLoad", load)[1]
        nosuch = message("inference.RepositoryModelLoadRequest")(model_name="nosuch")
        assert refusal(made, f"{SERVICE}RepositoryModelLoad", nosuch)[0] is StatusCode.NOT_FOUND


def test_streams_are_refused_in_words(made: Any) -> None:
    stream = stub(made, f"{SERVICE}ModelStreamInfer", kind="stream_stream")(iter([infer(picture())]), timeout=60)
    with pytest.raises(Exception, match="Send ModelInfer") as refused:
        next(stream)
    assert refused.value.code() is StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined] # grpc's error
