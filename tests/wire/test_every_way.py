"""One picture by all fourteen ways, eleven over HTTP and three over gRPC: one batch, and in it one answer to the bit."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from darkroom.service.api.grpc.tensor_proto import read_tensor
from tests.grpc.calls import INFER, PREDICT, ask, channel, infer, predict
from tests.held import Held
from tests.pictures import photograph, picture, standard, url_safe
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.models.engine import LoadedModel
    from darkroom.service.server import Server

BUILT = Path(__file__).parents[2] / "model"
LENGTH = "Inference-Header-Content-Length"
TYPES = {"INT64": "int64", "INT32": "int32", "FP32": "float32"}
Answer = dict[str, bytes]  # the bits of each output's one row


def _post(url: str, **request: Any) -> httpx.Response:
    answer = httpx.post(url, timeout=60, **request)
    assert answer.status_code == 200, answer.text
    return answer


def _simple(url: str, types: dict[str, str], **request: Any) -> Answer:
    """Simple TensorFlow Serving: every output by its name, a row each."""
    return _bits({name: rows[0] for name, rows in _post(url, **request).json().items()}, types)


def _rows(url: str, types: dict[str, str], picture: object) -> Answer:
    """TensorFlow Serving, row form."""
    answer = _post(f"{url}/v1/models/default:predict", json={"instances": [picture]})
    return _bits(answer.json()["predictions"][0], types)


def _columns(url: str, types: dict[str, str], picture: object) -> Answer:
    """TensorFlow Serving, columnar form."""
    answer = _post(f"{url}/v1/models/default:predict", json={"inputs": {"images": [picture]}})
    return _bits({name: rows[0] for name, rows in answer.json()["outputs"].items()}, types)


def _infer_json(url: str, types: dict[str, str], text: str) -> Answer:
    """The Open Inference Protocol in JSON."""
    sent = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [text]}
    answer = _post(f"{url}/v2/models/default/infer", json={"inputs": [sent]})
    return _bits({output["name"]: output["data"] for output in answer.json()["outputs"]}, types)


def _infer_binary(url: str, types: dict[str, str], data: bytes) -> Answer:
    """The Open Inference Protocol with binary tensors both ways."""
    tail = len(data).to_bytes(4, "little") + data
    sent = {"name": "images", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    head = json.dumps({"inputs": [sent], "parameters": {"binary_data_output": True}}).encode()
    answer = _post(f"{url}/v2/models/default/infer", content=head + tail, headers={LENGTH: str(len(head))})
    size = int(answer.headers[LENGTH])
    bits, at = {}, size
    for output in json.loads(answer.content[:size])["outputs"]:
        count = output["parameters"]["binary_data_size"]
        assert TYPES[output["datatype"]] == types[output["name"]]
        bits[output["name"]] = answer.content[at : at + count]
        at += count
    return bits


def _bits(row: dict[str, Any], types: dict[str, str]) -> Answer:
    return {name: np.array(value, types[name]).tobytes() for name, value in row.items()}


def _predict_grpc(address: str, types: dict[str, str], data: bytes) -> Answer:
    """TensorFlow Serving over gRPC."""
    with channel(address) as made:
        answer = ask(made, PREDICT, predict(data))
    return {
        name: np.asarray(read_tensor(tensor, name, 1 << 20), types[name]).tobytes()
        for name, tensor in answer.outputs.items()
    }


def _infer_grpc(address: str, types: dict[str, str], data: bytes, *, is_raw: bool) -> Answer:
    """The Open Inference Protocol over gRPC, in raw contents or in typed ones."""
    with channel(address) as made:
        answer = ask(made, INFER, infer(data, is_raw=is_raw))
    if is_raw:
        return {output.name: raw for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)}
    contents = {"int64": "int64_contents", "int32": "int_contents", "float32": "fp32_contents"}
    row = {output.name: list(getattr(output.contents, contents[types[output.name]])) for output in answer.outputs}
    return _bits(row, types)


def _ways(server: Server, types: dict[str, str], data: bytes) -> dict[str, Callable[[], Answer]]:
    """The fourteen ways to ask about one picture."""
    url, address = server.url, server.grpc_address

    def simple(text: str) -> Callable[[], Answer]:
        return partial(_simple, url, types, json={"data": {"images": [text]}})

    raw = {"content": data, "headers": {"Content-Type": "application/octet-stream"}}
    return {
        "STS url-safe": simple(url_safe(data)),
        "STS standard": simple(standard(data)),
        "STS unpadded": simple(url_safe(data, padded=False)),
        "STS data URI": simple("data:image/png;base64," + standard(data)),
        "STS form": partial(_simple, url, types, files={"image": ("a", data)}),
        "STS raw": partial(_simple, url, types, **raw),
        "TFS row": partial(_rows, url, types, url_safe(data)),
        "TFS columnar": partial(_columns, url, types, url_safe(data)),
        "TFS b64": partial(_rows, url, types, {"b64": standard(data)}),
        "V2 JSON": partial(_infer_json, url, types, standard(data)),
        "V2 binary": partial(_infer_binary, url, types, data),
        "TFS gRPC": partial(_predict_grpc, address, types, data),
        "V2 gRPC raw": partial(_infer_grpc, address, types, data, is_raw=True),
        "V2 gRPC typed": partial(_infer_grpc, address, types, data, is_raw=False),
    }


def _types(model: LoadedModel) -> dict[str, str]:
    return {tensor.name: tensor.dtype for tensor in model.spec.signatures["serving_default"].outputs}


def test_fourteen_connections_ride_in_one_batch_and_get_the_same_answer() -> None:
    held = Held()
    with running(held.model, max_inflight_batches=1, grpc_port=0) as server:
        ways = _ways(server, _types(held.model), photograph("chelsea"))
        plug = _ways(server, _types(held.model), picture())["STS raw"]
        answers = held.ride(server.url, plug, list(ways.values()))
        assert answers == [answers[0]] * 14
        assert answers[0] != plug()
        assert metric(server.url, "darkroom_batches_total", reason="idle") >= 1
        assert metric(server.url, "darkroom_batch_images_sum") == 1 + 14 + 1
        assert metric(server.url, "darkroom_batch_images_count") == 3


@pytest.mark.slow
def test_a_real_model_answers_the_same_to_the_bit_in_one_batch_and_to_rounding_apart() -> None:
    from darkroom.models.engines.open import load_model  # noqa: PLC0415 - TensorFlow takes seconds to import

    data = (Path(__file__).parents[2] / "loadtest" / "traffic" / "payloads" / "digits" / "digit_7.jpg").read_bytes()
    held = Held(load_model(BUILT / "digits" / "1", name="default", version=1))
    with running(held.model, max_inflight_batches=1, grpc_port=0) as server:
        ways = _ways(server, _types(held.model), data)
        plug = _ways(server, _types(held.model), picture())["STS raw"]
        together = held.ride(server.url, plug, list(ways.values()))
        apart = {name: ask() for name, ask in ways.items()}
        assert metric(server.url, "darkroom_batch_images_count") == 2 + 14
    assert together == [together[0]] * 14
    probability = np.frombuffer(together[0]["probability"], np.float32)
    for answer in apart.values():  # the same call twice may differ in the last bits: threads add up in another order
        assert answer["predict"] == together[0]["predict"]
        np.testing.assert_allclose(np.frombuffer(answer["probability"], np.float32), probability, rtol=1e-4)
    assert np.frombuffer(together[0]["predict"], np.int64) == probability.argmax()
