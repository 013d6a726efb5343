"""The Open Inference Protocol over a real socket, in front of engines whose answers tell whose row it was."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any
from zlib import crc32

import httpx
import numpy as np
import pytest

from darkroom.models.engines.fakes import ECHO, EchoEngine, FailingEngine, fake_model
from tests.echo import TensorEcho
from tests.pictures import photograph, picture, standard, url_safe
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Iterator

GUILTY = picture(99)
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    models = (
        fake_model(FailingEngine(EchoEngine(), lambda data: data == GUILTY), name="default"),
        fake_model(name="default", version=10),
        fake_model(TensorEcho(), name="a b"),
    )
    with running(*models, max_images=20, max_rows=20) as server:
        yield server.url


def _images(*texts: object, **fields: Any) -> dict[str, Any]:
    return {"name": "images", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)} | fields


def _infer(url: str, *inputs: dict[str, Any], path: str = "models/default", **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/v2/{path}/infer", json={"inputs": list(inputs)} | fields)


def _binary(url: str, fields: object, tail: bytes, *, path: str = "models/default", **headers: str) -> httpx.Response:
    head = json.dumps(fields).encode()
    return httpx.post(f"{url}/v2/{path}/infer", content=head + tail, headers={LENGTH: str(len(head))} | headers)


def _elements(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def _outputs(answer: httpx.Response) -> dict[str, list[Any]]:
    """The outputs by name, whether they came as JSON or behind it."""
    assert answer.status_code == 200, answer.text
    size = int(answer.headers.get(LENGTH, len(answer.content)))
    described = json.loads(answer.content[:size])["outputs"]
    values, at = {}, size
    for output in described:
        count = output.get("parameters", {}).get("binary_data_size")
        if count is None:
            values[output["name"]] = output["data"]
        else:
            kind = {"INT64": np.int64, "FP32": np.float32}[output["datatype"]]
            values[output["name"]] = np.frombuffer(answer.content[at : at + count], kind).tolist()
            at += count
    assert at == len(answer.content)
    return values


def _echo(*pictures: bytes) -> dict[str, list[int]]:
    return {"digest": [crc32(data) for data in pictures], "length": [len(data) for data in pictures]}


def test_the_server_and_its_models_describe_themselves(url: str) -> None:
    server = httpx.get(f"{url}/v2").json()
    assert server["name"] == "darkroom"
    assert "binary_tensor_data" in server["extensions"]
    model = {
        "name": "default",
        "versions": ["1", "10"],
        "platform": "tensorflow_savedmodel",
        "inputs": [{"name": "images", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "digest", "datatype": "INT64", "shape": [-1]},
            {"name": "length", "datatype": "INT64", "shape": [-1]},
        ],
    }
    assert httpx.get(f"{url}/v2/models/default").json() == model
    assert httpx.get(f"{url}/v2/models/default/versions/1").json() == model
    assert httpx.get(f"{url}/v2/models/a%20b").json()["name"] == "a b"


def test_health_and_readiness_are_told_in_json(url: str) -> None:
    for path, told in (
        ("health/live", {"live": True}),
        ("health/ready", {"ready": True}),
        ("models/default/ready", {"name": "default", "ready": True}),
        ("models/default/versions/10/ready", {"name": "default", "ready": True}),
    ):
        answer = httpx.get(f"{url}/v2/{path}")
        assert answer.json() == told
        assert answer.headers["content-type"] == "application/json"


def test_json_is_answered_with_flat_tensors_and_the_id(url: str) -> None:
    data = photograph("chelsea")
    answer = _infer(url, _images(url_safe(data)), id="a-1", model_name="ignored", parameters={"unknown": [1]})
    assert answer.json() == {
        "id": "a-1",
        "model_name": "default",
        "model_version": "10",
        "outputs": [
            {"name": "digest", "datatype": "INT64", "shape": [1], "data": [crc32(data)]},
            {"name": "length", "datatype": "INT64", "shape": [1], "data": [len(data)]},
        ],
    }
    assert answer.headers["content-type"] == "application/json"
    assert LENGTH not in answer.headers
    assert _infer(url, _images(url_safe(data)), id=7).json()["id"] == "7"


@pytest.mark.parametrize(
    "sent",
    [
        "请求-1",
        "заказ №5",
        "a b",
        " a ",
        "a\nb\t",
        "\u0000\u001f\u007f",
        "e\u0301\u200d\u202e",
        "👩‍👩‍👧",
        '"\\/',
        "0",
        "x" * 4096,
        "请" * 1365,
        "\ufeffx",
    ],
)
def test_an_id_is_echoed_exactly_whatever_its_letters(url: str, sent: str) -> None:
    for escaped in (True, False):
        body = json.dumps(_image() | {"id": sent}, ensure_ascii=escaped).encode()
        answer = httpx.post(f"{url}/v2/models/default/infer", content=body)
        assert (answer.status_code, answer.json()["id"]) == (200, sent)


@pytest.mark.parametrize("path", ["/v2/models/default/infer", "/v1/models/default:predict", "/"])
def test_a_byte_order_mark_before_json_is_skipped_in_every_dialect(url: str, path: str) -> None:
    text = url_safe(picture())
    bodies = {"/": {"data": {"images": [text]}}, "/v1/models/default:predict": {"instances": [text]}}
    content = json.dumps(bodies.get(path, _image()))
    sent = [
        httpx.post(url + path, content=mark + content.encode(), headers={"Content-Type": "application/json"})
        for mark in (b"", b"\xef\xbb\xbf")
    ]
    assert sent[0].status_code == sent[1].status_code == 200
    assert sent[0].content == sent[1].content
    half = httpx.post(url + path, content=b"\xef\xbb" + content.encode(), headers={"Content-Type": "application/json"})
    assert half.status_code == 400


def test_a_picture_comes_the_same_by_every_way_to_write_it(url: str) -> None:
    data = picture(5)
    text = standard(data)
    ways = [url_safe(data, padded=False), text, "data:image/png;base64," + text, standard(text.encode())]
    assert _outputs(_infer(url, _images(*ways))) == _echo(*[data] * 4)
    nested = _images(*ways, parameters={"content_type": "base64"})
    assert _outputs(_infer(url, nested | {"data": [[way] for way in ways]})) == _echo(*[data] * 4)
    sizes = _elements(data, text.encode(), url_safe(data).encode())
    sent = _images() | {"shape": [3], "parameters": {"binary_data_size": len(sizes)}}
    assert _outputs(_binary(url, {"inputs": [sent]}, sizes)) == _echo(*[data] * 3)
    raw = httpx.post(f"{url}/v2/models/default/infer", content=data, headers={LENGTH: "0"})
    assert raw.headers["content-type"] == "application/octet-stream"
    assert _outputs(raw) == _echo(data)


def test_a_version_is_named_by_its_number_or_its_label(url: str) -> None:
    httpx.put(f"{url}/admin/models/default/labels", json={"stable": 1}).raise_for_status()
    for version, number in (("1", "1"), ("010", "10"), ("stable", "1")):
        answer = _infer(url, _images(standard(picture())), path=f"models/default/versions/{version}")
        assert answer.json()["model_version"] == number


def test_only_the_outputs_that_are_asked_for_come_back_in_that_order(url: str) -> None:
    sent = _images(standard(picture(1)), standard(picture(2)))
    one = _infer(url, sent, outputs=[{"name": "length"}])
    assert list(_outputs(one)) == ["length"]
    both = _infer(url, sent, outputs=[{"name": "length"}, {"name": "digest"}])
    assert list(_outputs(both)) == ["length", "digest"]


def test_an_output_s_own_wish_for_binary_wins_over_the_request_s(url: str) -> None:
    sent = _images(standard(picture(1)))
    for asked, wishes in ((True, (None, False)), (False, (True, None)), (True, (None, None))):
        outputs = [
            {"name": name} | ({} if wish is None else {"parameters": {"binary_data": wish}})
            for name, wish in zip(("digest", "length"), wishes, strict=True)
        ]
        answer = _infer(url, sent, outputs=outputs, parameters={"binary_data_output": asked})
        assert _outputs(answer) == _echo(picture(1))
        head = json.loads(answer.content[: int(answer.headers[LENGTH])])
        is_binary = ["data" not in output for output in head["outputs"]]
        assert is_binary == [asked if wish is None else wish for wish in wishes]


def test_no_row_at_all_is_answered_with_empty_outputs(url: str) -> None:
    assert _outputs(_infer(url, _images())) == {"digest": [], "length": []}
    asked = _infer(url, _images(), outputs=[{"name": "length", "parameters": {"binary_data": True}}])
    assert _outputs(asked) == {"length": []}


def test_numbers_and_text_come_as_they_were_sent_in_json_and_in_binary(url: str) -> None:
    values = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)
    in_json = [
        {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": values.tolist()},
        {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["aGk=", "ü"]},
    ]
    answer = _infer(url, *in_json, path="models/a%20b")
    assert _outputs(answer) == {"x": values.ravel().tolist(), "text": ["aGk=", "ü"]}
    tail = _elements(b"aGk=", b"\xff\x00") + values.tobytes()
    in_binary = [
        {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 14}},
        {"name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}},
    ]
    answer = _binary(url, {"inputs": in_binary}, tail, path="models/a%20b")
    assert _outputs(answer) == {"x": values.ravel().tolist(), "text": ["YUdrPQ==", "/wA="]}
    assert answer.json()["outputs"][1]["parameters"] == {"content_type": "base64"}


def test_base64_that_is_announced_is_decoded_for_a_model_that_takes_no_pictures(url: str) -> None:
    number = {"name": "x", "shape": [1, 2], "datatype": "FP16", "data": [1, 2]}
    text = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["aGk="]}
    marked = text | {"parameters": {"content_type": "base64"}}
    assert _outputs(_infer(url, number, marked, path="models/a%20b"))["text"] == ["hi"]
    common = _infer(url, number, text, path="models/a%20b", parameters={"content_type": "base64"})
    assert _outputs(common)["text"] == ["hi"]
    wrong = _infer(url, number, marked | {"data": ["%"]}, path="models/a%20b")
    assert wrong.json()["error"].startswith("text[0]: is not base64")


def test_classification_names_the_largest_values_of_each_row(url: str) -> None:
    number = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [0.5, 2, -1, 1, 1, 7]}
    text = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["", ""]}
    asked = [{"name": "x", "parameters": {"classification": 2}}]
    output = _infer(url, number, text, path="models/a%20b", outputs=asked).json()["outputs"][0]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == ["2.000000:1", "0.500000:0", "7.000000:2", "1.000000:0"]
    refused = _infer(url, number, text, path="models/a%20b", outputs=[asked[0] | {"name": "text"}])
    assert refused.status_code == 400
    assert "'text' holds no vector" in refused.json()["error"]


def test_a_guilty_row_is_named_or_left_out_as_the_request_wants(url: str) -> None:
    sent = _images(*[standard(data) for data in (picture(1), GUILTY, b"junk", picture(2))])
    assert _infer(url, sent).json()["error"].startswith("images[2]: ")
    per_image = _infer(url, sent, path="models/default/versions/1", parameters={"on_error": "per_image"})
    assert _outputs(per_image) == _echo(picture(1), picture(2))
    errors = per_image.json()["parameters"]["errors"]
    assert [error["index"] for error in errors] == [1, 2]


def _image(**fields: Any) -> dict[str, Any]:
    return {"inputs": [_images(standard(picture())) | fields]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "Invalid json data"),
        ("[]", "expected an object"),
        ("[" * 100_000, "Invalid json data"),
        ({}, "inputs: expected a list"),
        ({"inputs": []}, "inputs: 'images' is missing"),
        ({"inputs": [1]}, "inputs[0]: expected an object"),
        ({"inputs": [{}]}, "inputs[0].name"),
        (_image(name="x" * 1000), "is no input"),
        ({"inputs": [_images(), _images()]}, "inputs[1]: 'images' is no input, or came before"),
        (_image(datatype="INT8"), "images: datatype is BYTES, not INT8"),
        (_image(datatype="STRING"), "inputs[0].datatype: expected one of BOOL"),
        (_image(datatype=None), "inputs[0].datatype"),
        (_image(shape=None), "inputs[0].shape"),
        (_image(shape=[-1]), "inputs[0].shape"),
        (_image(shape=[True]), "inputs[0].shape"),
        (_image(shape=[1 << 62, 1 << 62]), "inputs[0].shape"),
        (_image(shape=[1 << 30, 0]), "rows without a value"),
        (_image(shape=[1, 1]), "the signature wants [-1]"),
        (_image(shape=[2]), "images: 1 values were sent for shape [2]"),
        (_image(shape=[1 << 30]), "images: 1 values were sent"),
        (_image(shape=[1 << 31]), "inputs[0].shape: [2147483648] has more than 2147483647 values"),
        (_image(data=None), "images: expected a string"),
        (_image(data=[{"b64": ""}]), "images[0]: expected a string"),
        (_image(data=["%"]), "images[0]: is not base64"),
        (_image(data=[""]), "images[0]: is empty"),
        (_image(shape=[2], data=[["a"], "b"]), "ragged"),
        (_image(parameters=[]), "inputs[0].parameters: expected an object"),
        (_image(parameters={"binary_data_size": 3}), "binary data needs the header"),
        (_image(parameters={"shared_memory_region": "x"}), "shared memory"),
        (_image() | {"outputs": {}} | {"id": []}, "id: "),
        (_image() | {"outputs": 3}, "outputs: expected a list"),
        (_image() | {"outputs": [{"name": "nosuch"}]}, "unknown output 'nosuch'"),
        (_image() | {"outputs": [{"name": "length"}] * 2}, "outputs[1]: 'length' is asked for twice"),
        (_image() | {"outputs": [{"name": "length", "parameters": {"binary_data": 1}}]}, "outputs[0].parameters"),
        (_image() | {"outputs": [{"name": "length", "parameters": {"classification": -1}}]}, "classification"),
        (_image() | {"parameters": 3}, "parameters: expected an object"),
        (_image() | {"parameters": {"timeout": -1}}, "parameters.timeout"),
        (_image() | {"parameters": {"timeout": "1"}}, "parameters.timeout"),
        (_image() | {"parameters": {"priority": 1.5}}, "parameters.priority"),
        (_image() | {"parameters": {"binary_data_output": "yes"}}, "parameters.binary_data_output"),
        (_image() | {"parameters": {"signature_name": "x" * 1000}}, "unknown signature"),
        (_image() | {"parameters": {"signature_name": 1}}, "parameters.signature_name"),
        (_image() | {"id": "x" * 4097}, "id: "),
        (_image() | {"id": "请" * 1366}, "id: "),
        ('{"inputs": NaN, "id": "\\ud800"}', "id: "),
    ],
)
def test_a_request_that_can_not_be_served_gets_400_and_the_reason(url: str, body: object, words: str) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    answer = httpx.post(f"{url}/v2/models/default/infer", content=content)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert words in error
    assert len(error) < 700


def _sized(size: object) -> dict[str, Any]:
    return {"inputs": [_images() | {"shape": [1], "parameters": {"binary_data_size": size}}]}


@pytest.mark.parametrize(
    ("fields", "tail", "words"),
    [
        (_sized(-1), b"", "binary_data_size: expected a number"),
        (_sized(1.0), b"", "binary_data_size: expected a number"),
        (_sized(5), b"1234", "binary_data_size: is 5, and 4 bytes are left"),
        (_sized(10**18), b"1234", "4 bytes are left"),
        (_sized(3), b"123", "images[0]: 3 bytes are left where its length takes 4"),
        (_sized(5), struct.pack("<I", 1 << 31) + b"x", "images[0]: says that it has 2147483648 bytes, 1 are left"),
        (_sized(8), _elements(b"", b""), "images: 2 values were sent for shape [1]"),
        (_sized(4), _elements(b""), "images[0]: the picture is empty"),
        (_sized(8), _elements(b"junk"), "images[0]: not a JPEG"),
        (_sized(0), b"", "images: 0 values were sent"),
        (_sized(4), _elements(b"") + b"more", "the body ends in 4 bytes"),
        (_image(), b"more", "the body ends in 4 bytes"),
    ],
)
def test_binary_data_that_is_not_what_its_sizes_say_gets_400(url: str, fields: object, tail: bytes, words: str) -> None:
    answer = _binary(url, fields, tail)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "1.0", "99999999", "9" * 1000, "", "²"])
def test_a_header_that_is_no_length_within_the_body_gets_400(url: str, length: str) -> None:
    headers = {LENGTH.encode(): length.encode()}
    answer = httpx.post(f"{url}/v2/models/default/infer", content=json.dumps(_image()), headers=headers)
    assert answer.status_code == 400
    assert LENGTH in answer.json()["error"]


def test_a_raw_body_is_for_signatures_with_one_input(url: str) -> None:
    answer = httpx.post(f"{url}/v2/models/a%20b/infer", content=b"x", headers={LENGTH: "0"})
    assert answer.status_code == 400
    assert "has the inputs x, text" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "code", "words"),
    [
        ("POST", "models/nosuch/infer", 404, "unknown model 'nosuch'"),
        ("POST", "models/default/versions/7/infer", 404, "no version 7"),
        ("POST", "models/default/versions/x%20y/infer", 404, "no version x y"),
        ("POST", f"models/default/versions/{'9' * 30}/infer", 404, "no version 999"),
        ("GET", "models/nosuch", 404, "unknown model"),
        ("GET", "models/nosuch/ready", 404, "unknown model"),
        ("POST", "repository/models/nosuch/load", 404, "unknown model"),
        ("POST", "repository/models/nosuch/unload", 404, "unknown model"),
        ("GET", "models/default/infer", 405, ""),
        ("GET", "nowhere", 404, ""),
    ],
)
def test_what_is_not_there_is_a_json_error(url: str, method: str, path: str, code: int, words: str) -> None:
    answer = httpx.request(method, f"{url}/v2/{path}", content=json.dumps(_image()) if "infer" in path else b"")
    assert answer.status_code == code
    assert words in answer.json()["error"]


def test_a_request_over_the_limit_of_rows_is_refused_by_its_flag(url: str) -> None:
    pictures = _infer(url, _images(*[""] * 21))
    numbers = _infer(
        url,
        {"name": "x", "shape": [21, 1], "datatype": "FP32", "data": [0] * 21},
        {"name": "text", "shape": [21], "datatype": "BYTES", "data": [""] * 21},
        path="models/a%20b",
    )
    for answer, flag in ((pictures, "--max_images=20"), (numbers, "--max_rows=20")):
        assert answer.status_code == 413
        assert flag in answer.json()["error"]


def test_a_timeout_that_can_not_be_met_is_told_as_such(url: str) -> None:
    late = _infer(url, _images(standard(picture())), parameters={"timeout": 1})
    assert late.status_code in {429, 504}
    assert _infer(url, _images(standard(picture())), parameters={"timeout": 30_000_000}).status_code == 200
    assert _infer(url, _images(standard(picture())), parameters={"timeout": 0, "priority": 2}).status_code == 200


def test_the_repository_tells_loads_and_unloads() -> None:
    with running(fake_model(name="default"), fake_model(name="other", version=2)) as server:
        repository = f"{server.url}/v2/repository"
        ready = [{"name": "default", "version": "1", "state": "READY", "reason": ""}]
        ready += [{"name": "other", "version": "2", "state": "READY", "reason": ""}]
        assert httpx.post(f"{repository}/index").json() == ready
        assert httpx.post(f"{repository}/models/other/unload", json={}).json() == {"name": "other", "unload": True}
        assert httpx.post(f"{repository}/index", json={"ready": True}).json() == ready[:1]
        assert httpx.post(f"{repository}/index").json()[1]["state"] == "UNAVAILABLE"
        assert httpx.get(f"{server.url}/v2/models/other/ready").status_code == 503
        assert _infer(server.url, _images(standard(picture())), path="models/other").status_code == 503
        files = {"parameters": {"file:1/saved_model.pb": "AAAA"}}
        assert httpx.post(f"{repository}/models/other/load", json=files).status_code == 400
        assert httpx.post(f"{repository}/models/other/load").json() == {"name": "other", "load": True}
        assert httpx.get(f"{server.url}/v2/models/other/ready").status_code == 200


def test_the_operator_s_part_is_off_for_strangers() -> None:
    with running(
        fake_model(name="default"), host="127.0.0.2"
    ) as server:  # an address the server does not know for loopback
        for verb in ("load", "unload"):
            assert httpx.post(f"{server.url}/v2/repository/models/default/{verb}").status_code == 403
        assert httpx.get(f"{server.url}/v2/models/default/ready").status_code == 200


def test_infer_requests_are_counted_by_their_route(url: str) -> None:
    route = "/v2/models/<name:str>/versions/<version:str>/infer"
    before = metric(url, "darkroom_http_requests_total", route=route, code="200")
    assert _infer(url, _images(standard(picture())), path="models/default/versions/1").status_code == 200
    assert metric(url, "darkroom_http_requests_total", route=route, code="200") == before + 1


def test_a_signature_without_the_default_name_is_asked_all_the_same() -> None:
    spec = type(ECHO)(**{name: getattr(ECHO, name) for name in ECHO.__slots__} | {"name": "classify"})
    with running(fake_model(EchoEngine(spec), name="default")) as server:
        assert _outputs(_infer(server.url, _images(standard(picture())))) == _echo(picture())
        named = _infer(server.url, _images(standard(picture())), parameters={"signature_name": "classify"})
        assert _outputs(named) == _echo(picture())


@pytest.mark.parametrize(("rows", "texts"), [(2, 3), (3, 1), (1, 2)])
def test_inputs_of_independent_rows_must_have_equally_many(url: str, rows: int, texts: int) -> None:
    numbers = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": [1.0] * 2 * rows}
    words = {"name": "text", "shape": [texts], "datatype": "BYTES", "data": ["a"] * texts}
    refused = _infer(url, numbers, words, path="models/a%20b")
    assert refused.status_code == 400
    assert refused.json()["error"] == f"input 'text' has {texts} rows and input 'x' has {rows}: both must have as many"
