"""Signatures with several pictures a row, in two inputs or in one: judged, decoded from base64 and batched in every dialect."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import httpx
import numpy as np
import pytest

from darkroom.service.api.grpc.protos import message
from darkroom.service.api.grpc.tensor_proto import write_tensor
from tests import hostile, savedmodels
from tests.grpc.calls import INFER, PREDICT, ask, channel
from tests.pictures import picture, standard, url_safe
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from darkroom.service.server import Server

pytestmark = pytest.mark.slow
Inputs: TypeAlias = "dict[str, list[Any]]"
PREDICT_PATH, INFER_PATH = "/v1/models/default:predict", "/v2/models/default/infer"
GREYS = [picture(seed, kind="PNG", mode="L", size=(9 + seed, 7)) for seed in (10, 200, 30, 90)]
MEANS = [10.0, 200.0, 30.0, 90.0]
SIGNATURES: dict[str, Inputs] = {
    "pair": {"left": GREYS[:2], "right": GREYS[2:]},
    "texts": {"left": GREYS[:2], "right": GREYS[2:]},
    "mixed": {"left": GREYS[:2], "right": GREYS[2:]},
    "views": {"views": [GREYS[:2], GREYS[2:]]},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    savedmodels.several_pictures(folder / "1")
    with running(model_base_path=folder, grpc_port=0) as made:
        for _ in range(1_800):  # three minutes
            if httpx.get(f"{made.url}/v2/health/ready").status_code == 200:
                break
            time.sleep(0.1)
        yield made


def texts(value: Any, write: Any) -> Any:
    return [texts(each, write) for each in value] if isinstance(value, list) else write(value)


def flat(value: Any) -> list[bytes]:
    return [one for each in value for one in flat(each)] if isinstance(value, list) else [value]


def post(server: Server, path: str, sent: Any, **headers: str) -> str:
    body: dict[str, Any] = {"content": sent} if isinstance(sent, bytes) else {"json": sent}
    return httpx.post(server.url + path, **body, headers=headers, timeout=60).text


Send: TypeAlias = "Callable[[Server, str, Inputs], str]"


def simple(server: Server, model: str, inputs: Inputs) -> str:
    data = {name: texts(values, url_safe) for name, values in inputs.items()}
    return post(server, "/", {"signature_name": model, "data": data})


def in_columns(server: Server, model: str, inputs: Inputs) -> str:
    columns = {name: texts(values, lambda data: {"b64": standard(data)}) for name, values in inputs.items()}
    return post(server, PREDICT_PATH, {"signature_name": model, "inputs": columns})


def in_rows(server: Server, model: str, inputs: Inputs) -> str:
    columns = {name: texts(values, lambda data: {"b64": standard(data)}) for name, values in inputs.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return post(server, PREDICT_PATH, {"signature_name": model, "instances": rows})


def tensors(inputs: Inputs) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": "BYTES", "shape": [len(values), 2] if isinstance(values[0], list) else [len(values)]}
        for name, values in inputs.items()
    ]


def packed(inputs: Inputs) -> list[bytes]:
    return [b"".join(len(d).to_bytes(4, "little") + d for d in flat(values)) for values in inputs.values()]


def v2(server: Server, model: str, inputs: Inputs) -> str:
    sent = [tensor | {"data": texts(flat(inputs[tensor["name"]]), standard)} for tensor in tensors(inputs)]
    return post(server, INFER_PATH, {"inputs": sent, "parameters": {"signature_name": model}})


def v2_nested(server: Server, model: str, inputs: Inputs) -> str:
    sent = [tensor | {"data": texts(inputs[tensor["name"]], standard)} for tensor in tensors(inputs)]
    return post(server, INFER_PATH, {"inputs": sent, "parameters": {"signature_name": model}})


def v2_binary(server: Server, model: str, inputs: Inputs) -> str:
    sent = [
        tensor | {"parameters": {"binary_data_size": len(data)}}
        for tensor, data in zip(tensors(inputs), packed(inputs), strict=True)
    ]
    head = json.dumps({"inputs": sent, "parameters": {"signature_name": model}}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    return post(server, INFER_PATH, head + b"".join(packed(inputs)), **length)


def call(server: Server, path: str, asked: Any) -> str:
    with channel(server.grpc_address) as made:
        try:
            return str(ask(made, path, asked))
        except grpc.RpcError as err:
            return err.details() or ""


def tensorflow_grpc(server: Server, model: str, inputs: Inputs) -> str:
    asked = message("tensorflow.serving.PredictRequest")(model_spec={"name": "default", "signature_name": model})
    for tensor in tensors(inputs):
        values = flat(inputs[tensor["name"]])
        column = np.empty(len(values), object)
        column[:] = values
        write_tensor(column.reshape(tensor["shape"]), asked.inputs[tensor["name"]])
    return call(server, PREDICT, asked)


def v2_grpc(server: Server, model: str, inputs: Inputs) -> str:
    asked = message("inference.ModelInferRequest")(model_name="default")
    asked.parameters["signature_name"].string_param = model
    for tensor in tensors(inputs):
        values = flat(inputs[tensor["name"]])
        asked.inputs.add(**tensor).contents.bytes_contents.extend(values)
    return call(server, INFER, asked)


DIALECTS = [simple, in_rows, in_columns, v2, v2_nested, v2_binary, tensorflow_grpc, v2_grpc]


@pytest.mark.parametrize("model", SIGNATURES)
@pytest.mark.parametrize("send", DIALECTS)
def test_all_pictures_of_a_row_arrive(server: Server, send: Send, model: str) -> None:
    answer = send(server, model, SIGNATURES[model])
    assert all(str(int(mean)) in answer for mean in MEANS), answer
    assert "error" not in answer


BAD = {
    "wide": (hostile.wide_png(), r"is 400 MP, over --max_image_pixels"),
    "text": (b"no picture", r"not a JPEG, PNG, GIF, BMP or WebP picture"),
    "empty": (b"", r"is empty"),
    "cut": (GREYS[0][:20], r"is cut off before its size"),
    "many chunks": (hostile.png_with(b"tIME", b"", 2_100), r"more chunks than --max_image_segments"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("send", DIALECTS)
def test_a_bad_picture_is_refused_at_the_door_with_its_place(server: Server, send: Send, kind: str) -> None:
    bad, words = BAD[kind]
    for model, inputs, place in (
        ("pair", {"left": GREYS[:2], "right": [GREYS[2], bad]}, "right[1]"),
        ("texts", {"left": [GREYS[0], bad], "right": GREYS[2:]}, "left[1]"),
        ("texts", {"left": GREYS[:2], "right": [GREYS[2], bad]}, "right[1]"),
        ("views", {"views": [GREYS[:2], [GREYS[2], bad]]}, "views[1][1]"),
        ("views", {"views": [GREYS[:2], [bad, GREYS[2]]]}, "views[1][0]"),
    ):
        answer = send(server, model, inputs)
        assert f"{place}: " in answer, (model, answer)
        assert words in answer, (model, answer)


@pytest.mark.parametrize("path", ["/", PREDICT_PATH, INFER_PATH])
@pytest.mark.parametrize(("model", "place"), [("pair", "right[1]"), ("texts", "right[1]"), ("views", "views[1][1]")])
def test_what_is_not_base64_is_refused_with_its_place(server: Server, path: str, model: str, place: str) -> None:
    columns = {name: texts(values, standard) for name, values in SIGNATURES[model].items()}
    last = list(columns.values())[-1]
    (last[1] if isinstance(last[1], list) else last)[1] = "not base64!"
    named = {"signature_name": model}
    sent = [tensor | {"data": columns[tensor["name"]]} for tensor in tensors(SIGNATURES[model])]
    bodies: dict[str, dict[str, Any]] = {
        "/": named | {"data": columns},
        PREDICT_PATH: named | {"inputs": columns},
        INFER_PATH: {"inputs": sent, "parameters": named},
    }
    assert f"{place}: is not base64" in post(server, path, bodies[path])


def test_the_good_rows_are_answered_beside_one_with_a_bad_picture(server: Server) -> None:
    rows = [[standard(GREYS[0]), standard(b"bad")], [standard(GREYS[2]), standard(GREYS[3])]]
    sent = {"signature_name": "views", "instances": [{"views": row} for row in rows], "on_error": "per_image"}
    answer = json.loads(post(server, PREDICT_PATH, sent))
    assert answer["predictions"] == [None, [30.0, 90.0]]
    assert answer["errors"][0]["error"].startswith("views[0][1]: not a JPEG")


def test_rows_of_several_pictures_share_calls(server: Server) -> None:
    described = httpx.get(f"{server.url}/v1/models/default").json()
    assert [name for name, each in described["signatures"].items() if not each["batched"]] == []
    calls = metric(server.url, "darkroom_batch_images_count")
    for model, inputs in SIGNATURES.items():
        with ThreadPoolExecutor(16) as pool:
            answers = set(pool.map(lambda _, model=model, inputs=inputs: simple(server, model, inputs), range(64)))
        assert len(answers) == 1, answers
    assert metric(server.url, "darkroom_batch_images_count") - calls < 64 * len(SIGNATURES)
