"""Several pictures a row, in two inputs or in one: judged at the door and decoded from base64 in every dialect."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias
from zlib import crc32

import grpc
import httpx
import numpy as np
import pytest

from darkroom.models.engines.fakes import FORMATS, EchoEngine, fake_model
from darkroom.models.rows import Rows
from darkroom.models.spec import SignatureSpec, TensorSpec, Wire
from darkroom.service.api.grpc.protos import message
from darkroom.service.api.grpc.tensor_proto import write_tensor
from tests import hostile
from tests.grpc.calls import INFER, PREDICT, ask, channel
from tests.pictures import picture, standard, url_safe
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from darkroom.service.server import Server

Inputs: TypeAlias = "dict[str, list[Any]]"
GREYS = [picture(seed, kind="PNG", mode="L", size=(9 + seed, 7)) for seed in (10, 200, 30, 90)]
DIGESTS = [crc32(data) for data in GREYS]
MODELS: dict[str, Inputs] = {
    "pair": {"left": GREYS[:2], "right": GREYS[2:]},
    "texts": {"left": GREYS[:2], "right": GREYS[2:]},
    "views": {"views": [GREYS[:2], GREYS[2:]]},
}


class PicturesEcho(EchoEngine):
    """Answers the checksum of each picture, those of a row together."""

    def run(self, rows: Rows) -> Rows:
        columns = [np.array(rows.columns[tensor.name], object) for tensor in self.spec.inputs]
        pictures = np.concatenate([column.reshape(len(rows), -1) for column in columns], axis=1)
        return Rows({"digest": np.array([[crc32(each) for each in row] for row in pictures.tolist()])})


def spec_of(name: str) -> SignatureSpec:
    names, inner = (["views"], (None, 2)) if name == "views" else (["left", "right"], (None,))
    return SignatureSpec(
        "serving_default",
        tuple(TensorSpec(each, "string", inner) for each in names),
        (TensorSpec("digest", "int64", (None, 2)),),
        wire=Wire.BASE64 if name == "texts" else Wire.BYTES,
        image_input=names[0],
        other_pictures=frozenset(names[1:]),
        encoded_pictures=frozenset(names[1:]) if name == "texts" else frozenset(),
        formats=FORMATS,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(*(fake_model(PicturesEcho(spec_of(name)), name=name) for name in MODELS), grpc_port=0) as made:
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
    return post(server, "/", {"model_name": model, "data": data})


def in_columns(server: Server, model: str, inputs: Inputs) -> str:
    columns = {name: texts(values, lambda data: {"b64": standard(data)}) for name, values in inputs.items()}
    return post(server, f"/v1/models/{model}:predict", {"inputs": columns})


def in_rows(server: Server, model: str, inputs: Inputs) -> str:
    columns = {name: texts(values, lambda data: {"b64": standard(data)}) for name, values in inputs.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return post(server, f"/v1/models/{model}:predict", {"instances": rows})


def tensors(inputs: Inputs) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": "BYTES", "shape": [len(values), 2] if isinstance(values[0], list) else [len(values)]}
        for name, values in inputs.items()
    ]


def packed(inputs: Inputs) -> list[bytes]:
    return [b"".join(len(d).to_bytes(4, "little") + d for d in flat(values)) for values in inputs.values()]


def v2(server: Server, model: str, inputs: Inputs) -> str:
    sent = [tensor | {"data": texts(flat(inputs[tensor["name"]]), standard)} for tensor in tensors(inputs)]
    return post(server, f"/v2/models/{model}/infer", {"inputs": sent})


def v2_nested(server: Server, model: str, inputs: Inputs) -> str:
    sent = [tensor | {"data": texts(inputs[tensor["name"]], standard)} for tensor in tensors(inputs)]
    return post(server, f"/v2/models/{model}/infer", {"inputs": sent})


def v2_binary(server: Server, model: str, inputs: Inputs) -> str:
    sent = [
        tensor | {"parameters": {"binary_data_size": len(data)}}
        for tensor, data in zip(tensors(inputs), packed(inputs), strict=True)
    ]
    head = json.dumps({"inputs": sent}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    return post(server, f"/v2/models/{model}/infer", head + b"".join(packed(inputs)), **length)


def call(server: Server, path: str, asked: Any) -> str:
    with channel(server.grpc_address) as made:
        try:
            return str(ask(made, path, asked))
        except grpc.RpcError as err:
            return err.details() or ""


def tensorflow_grpc(server: Server, model: str, inputs: Inputs) -> str:
    asked = message("tensorflow.serving.PredictRequest")(model_spec={"name": model})
    for tensor in tensors(inputs):
        values = flat(inputs[tensor["name"]])
        column = np.empty(len(values), object)
        column[:] = values
        write_tensor(column.reshape(tensor["shape"]), asked.inputs[tensor["name"]])
    return call(server, PREDICT, asked)


def v2_grpc(server: Server, model: str, inputs: Inputs) -> str:
    asked = message("inference.ModelInferRequest")(model_name=model)
    for tensor in tensors(inputs):
        values = flat(inputs[tensor["name"]])
        asked.inputs.add(**tensor).contents.bytes_contents.extend(values)
    return call(server, INFER, asked)


DIALECTS = [simple, in_rows, in_columns, v2, v2_nested, v2_binary, tensorflow_grpc, v2_grpc]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("send", DIALECTS)
def test_all_pictures_of_a_row_arrive(server: Server, send: Send, model: str) -> None:
    answer = send(server, model, MODELS[model])
    assert all(str(digest) in answer for digest in DIGESTS), answer
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


@pytest.mark.parametrize("path", ["/", "/v1/models/{}:predict", "/v2/models/{}/infer"])
@pytest.mark.parametrize(("model", "place"), [("pair", "right[1]"), ("texts", "right[1]"), ("views", "views[1][1]")])
def test_what_is_not_base64_is_refused_with_its_place(server: Server, path: str, model: str, place: str) -> None:
    columns = {name: texts(values, standard) for name, values in MODELS[model].items()}
    last = list(columns.values())[-1]
    (last[1] if isinstance(last[1], list) else last)[1] = "not base64!"
    sent = [tensor | {"data": columns[tensor["name"]]} for tensor in tensors(MODELS[model])]
    bodies: dict[str, dict[str, Any]] = {
        "/": {"model_name": model, "data": columns},
        "/v2/models/{}/infer": {"inputs": sent},
    }
    assert f"{place}: is not base64" in post(server, path.format(model), bodies.get(path, {"inputs": columns}))


@pytest.mark.parametrize("bad", [b"bad", hostile.wide_png(), GREYS[0][:20]])
def test_the_good_rows_are_answered_beside_one_with_a_bad_picture(server: Server, bad: bytes) -> None:
    rows = [[standard(GREYS[0]), standard(bad)], [standard(GREYS[2]), standard(GREYS[3])]]
    sent = {"instances": [{"views": row} for row in rows], "on_error": "per_image"}
    answer = json.loads(post(server, "/v1/models/views:predict", sent))
    assert answer["predictions"] == [None, DIGESTS[2:]]
    assert answer["errors"][0]["error"].startswith("views[0][1]: ")


@pytest.mark.parametrize("model", ["pair", "texts"])
def test_a_bad_picture_in_one_of_two_inputs_costs_its_row_alone(server: Server, model: str) -> None:
    sent = {"left": [standard(b"bad"), standard(GREYS[1])], "right": texts(GREYS[2:], standard)}
    answer = json.loads(post(server, "/", {"model_name": model, "data": sent, "on_error": "per_image"}))
    assert answer["digest"] == [None, [DIGESTS[1], DIGESTS[3]]]
    assert answer["errors"][0]["error"].startswith("left[0]: ")
