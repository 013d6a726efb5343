"""TensorFlow Serving's dialect over a real socket, in front of an engine whose answer tells whose picture it was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from zlib import crc32

import httpx
import pytest

from darkroom.models.engines.fakes import EchoEngine, FailingEngine, fake_model
from tests.pictures import picture, standard, url_safe
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Iterator

PREDICT = "/v1/models/default:predict"
GUILTY = picture(9)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    engine = FailingEngine(EchoEngine(), lambda data: data == GUILTY)
    models = [fake_model(engine, name="default", version=version) for version in (1, 7)]
    with running(*models, fake_model(name="a/b: c"), max_images=64) as server:
        server.darkroom.registry.label("default", {"stable": 1, "ca%na:ry": 7})
        yield server.url


def _post(url: str, value: Any, path: str = PREDICT, **headers: str) -> httpx.Response:
    body = value if isinstance(value, (bytes, str)) else json.dumps(value)
    return httpx.post(url + path, content=body, headers=headers)


def _row(data: bytes) -> dict[str, int]:
    return {"digest": crc32(data), "length": len(data)}


def test_rows_are_answered_by_rows_and_columns_by_columns_at_either_address_of_a_picture(url: str) -> None:
    first, second = picture(1), picture(2)
    rows = {"predictions": [_row(first), _row(second)]}
    for instances in (
        [{"b64": standard(first)}, {"b64": standard(second)}],
        [standard(first), {"b64": standard(second)}],
        [{"images": {"b64": standard(first)}}, {"images": url_safe(second, padded=False)}],
    ):
        answer = _post(url, {"instances": instances})
        assert (answer.status_code, answer.json()) == (200, rows)
        assert answer.headers["content-type"] == "application/json"
    columns = {"outputs": {"digest": [crc32(first), crc32(second)], "length": [len(first), len(second)]}}
    for inputs in (
        [{"b64": standard(first)}, standard(second)],
        {"images": [standard(first), {"b64": standard(second)}], "unknown": 1},
    ):
        assert _post(url, {"inputs": inputs, "unknown": [1]}).json() == columns


def test_a_picture_comes_the_same_by_every_way_to_write_it(url: str) -> None:
    data = picture(5)
    ways = [
        url_safe(data),
        url_safe(data, padded=False),
        standard(data),
        standard(data).rstrip("="),
        "data:image/png;base64," + standard(data),
        {"b64": standard(data)},
        {"b64": url_safe(data)},
        {"b64": standard(standard(data).encode())},
        {"b64": standard(url_safe(data, padded=False).encode())},
    ]
    answer = {"predictions": [_row(data)] * len(ways)}
    assert _post(url, {"instances": ways}).json() == answer
    assert _post(url, {"instances": [{"images": way} for way in ways]}).json() == answer


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_base64_of_base64_text_is_told_from_base64_of_a_picture_in_every_format(url: str, kind: str) -> None:
    data = picture(3, kind=kind)
    twice = [
        {"b64": standard(text.encode())} for text in (standard(data), url_safe(data), "data:;base64," + standard(data))
    ]
    assert _post(url, {"instances": [{"b64": standard(data)}, *twice]}).json() == {"predictions": [_row(data)] * 4}


def test_a_body_that_is_a_picture_is_one_under_any_content_type(url: str) -> None:
    data = picture(4)
    for headers in (
        {"Content-Type": "image/png"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {},
    ):
        assert _post(url, data, **headers).json() == {"predictions": [_row(data)]}
    answer = _post(url, data, PREDICT + "?output_filter=length&signature_name=serving_default&top_k=2")
    assert answer.json() == {"predictions": [len(data)]}
    bad = _post(url, b"junk", **{"Content-Type": "image/png"})
    assert bad.status_code == 400
    assert bad.json()["error"].startswith("images[0]: not a JPEG")


def test_a_form_carries_several_pictures_and_its_fields(url: str) -> None:
    first, second = picture(1), picture(2)
    files = [("images", ("b", second)), ("image", ("a", first))]
    answer = httpx.post(url + PREDICT, files=files, data={"output_filter": "length"})
    assert answer.json() == {"predictions": [len(first), len(second)]}
    none = httpx.post(url + PREDICT, files={"picture": ("a", first)})
    assert none.status_code == 400
    assert none.json() == {"error": "form-data: no file called 'image' or 'images'"}


@pytest.mark.parametrize(
    "kind", ["application/json", "application/x-www-form-urlencoded", "text/plain", "", "image/png"]
)
def test_json_is_read_under_any_content_type(url: str, kind: str) -> None:
    data = picture(1)
    answer = _post(url, {"instances": [standard(data)]}, **{"Content-Type": kind})
    assert answer.json() == {"predictions": [_row(data)]}


def test_json_may_begin_with_a_byte_order_mark_or_white_space(url: str) -> None:
    data = picture(1)
    body = json.dumps({"instances": [standard(data)]}).encode()
    for start in (b"\xef\xbb\xbf", b" \r\n\t"):
        assert _post(url, start + body).json() == {"predictions": [_row(data)]}


def test_the_words_of_a_path_may_be_in_any_case_and_its_names_encoded(url: str) -> None:
    data = picture(1)
    body = {"instances": [standard(data)]}
    for path in (
        "/V1/Models/default:predict",
        "/v1/models/default/versions/7:predict",
        "/v1/models/default/Versions/0000000000000000000000001:predict",
        "/v1/models/default/labels/stable:predict",
        "/v1/models/default/LABELS/ca%25na%3Ary:predict",
        "/v1/models/%64efault:predict",
        "/v1/models/a%2Fb%3A%20c:predict",
    ):
        answer = _post(url, body, path)
        assert (path, answer.status_code, answer.json()) == (path, 200, {"predictions": [_row(data)]})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/foo"),
        ("POST", "/v1/foo"),
        ("POST", "/v1/models"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/debug/model_name"),
        ("GET", "/v1/models/default:predict"),
        ("GET", "/v1/models/default/version/50:predict"),
        ("POST", "/v1/models/default/version/50:regress"),
        ("POST", "/v1/models/default/versions/HELLO:regress"),
        ("POST", "/v1/models/default/metadata"),
        ("POST", "/v1/models/default/label/some_label:regress"),
        ("POST", "/v1/models/default/versions/50/labels/some_label:regress"),
        ("POST", "/v1/models/default:PREDICT"),
        ("POST", "/v1/models/default:explain"),
        ("POST", "/v1/models/default"),
        ("PUT", "/v1/models/default:predict"),
        ("PATCH", "/v1/models/default"),
        ("DELETE", "/v1/models/default"),
        ("POST", "/v1/models/default/versions/٣:predict"),
    ],
)
def test_what_tensorflow_serving_does_not_know_is_malformed(url: str, method: str, path: str) -> None:
    answer = httpx.request(method, url + path)
    asked = httpx.URL(url + path).raw_path.decode()
    assert (answer.status_code, answer.json()) == (400, {"error": f"Malformed request: {method} {asked}"})


def test_a_path_is_echoed_up_to_256_bytes(url: str) -> None:
    answer = httpx.get(url + "/v1/" + "x" * 4000)
    assert answer.status_code == 400
    assert len(answer.json()["error"]) < 300
    assert metric(url, "darkroom_http_requests_total", route="/v1/") >= 1


BIG = str(2**63)


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/v1/models/nosuch:predict", 404, "Servable not found for request: Latest(nosuch)"),
        ("/v1/models/nosuch/versions/50:predict", 404, "Servable not found for request: Specific(nosuch, 50)"),
        ("/v1/models/default/versions/99:predict", 404, "Servable not found for request: Specific(default, 99)"),
        ("/v1/models/nosuch:classify", 404, "Servable not found for request: Latest(nosuch)"),
        ("/v1/models/default/labels/x:predict", 400, "Unrecognized servable version label: x"),
        ("/v1/models/nosuch/labels/x:predict", 400, "Unrecognized servable version label: x"),
        (f"/v1/models/default/versions/{BIG}:predict", 400, f"Failed to convert version: {BIG} to numeric."),
        (
            f"/v1/models/default/versions/{2**63 - 1}:predict",
            404,
            f"Servable not found for request: Specific(default, {2**63 - 1})",
        ),
    ],
)
def test_what_is_not_served_is_told_in_tensorflow_serving_s_words(url: str, path: str, code: int, words: str) -> None:
    answer = _post(url, {"instances": [1], "examples": [{}]}, path)
    assert (answer.status_code, answer.json()) == (code, {"error": words})


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/v1/models/nosuch", 404, "Could not find any versions of model nosuch"),
        ("/v1/models/nosuch/versions/1", 404, "Could not find version 1 of model nosuch"),
        ("/v1/models/default/versions/99", 404, "Could not find version 99 of model default"),
        ("/v1/models/default/labels/x", 400, "Unrecognized servable version label: x"),
        ("/v1/models/nosuch/metadata", 404, "Servable not found for request: Latest(nosuch)"),
        ("/v1/models/default/versions/99/metadata", 404, "Servable not found for request: Specific(default, 99)"),
        ("/v1/models/nosuch/labels", 404, "Could not find any versions of model nosuch"),
        (f"/v1/models/default/versions/{BIG}", 400, f"Failed to convert version: {BIG} to numeric."),
    ],
)
def test_what_is_not_there_to_look_at_is_told_likewise(url: str, path: str, code: int, words: str) -> None:
    answer = httpx.get(url + path)
    assert (answer.status_code, answer.json()) == (code, {"error": words})


def test_the_state_of_a_version_is_told_by_number_and_by_label(url: str) -> None:
    def status(version: str) -> dict[str, Any]:
        return {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}

    assert httpx.get(url + "/v1/models/default").json()["model_version_status"] == [status("7"), status("1")]
    assert httpx.get(url + "/v1/models/default/versions/7").json() == {"model_version_status": [status("7")]}
    assert httpx.get(url + "/v1/models/default/labels/stable").json() == {"model_version_status": [status("1")]}


def test_metadata_is_laid_out_as_tensorflow_serving_lays_it_out(url: str) -> None:
    answer = httpx.get(url + "/v1/models/default/versions/1/metadata")
    assert answer.headers["content-type"] == "application/json"
    assert answer.text.startswith(
        '{\n"model_spec":{\n "name": "default",\n "signature_name": "",\n "version": "1"\n}\n,\n'
        '"metadata": {"signature_def": {\n "signature_def": {\n  "serving_default": {\n   "inputs": {\n'
        '    "images": {\n     "dtype": "DT_STRING",\n     "tensor_shape": {\n      "dim": [\n       {\n'
        '        "size": "-1",\n        "name": ""\n       }\n      ],\n      "unknown_rank": false\n     },\n'
        '     "name": ""\n    }\n   },\n   "outputs": {\n'
    )
    assert answer.text.endswith(
        '   "method_name": "tensorflow/serving/predict",\n   "defaults": {}\n  }\n }\n}\n}\n}\n'
    )
    assert answer.json()["metadata"]["signature_def"]["signature_def"].keys() == {"serving_default"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("instances = [1, 2]", "JSON Parse error: "),
        ("{", "JSON Parse error: "),
        ('{"instances": ["\\ud800"]}', "JSON Parse error: "),
        ('{"instances": [NaN, "\\ud800"]}', "images[0]: expected base64 text"),
        ('{"instances": ["\\ud800", NaN]}', "images[0]: is not base64"),
        ('{"signature_name": "\\ud800", "instances": [NaN]}', 'Serving signature name: " " not found'),
        ('{"instances": ' + "[" * 100_000, "JSON Parse error: "),
        ('{"instances": ' + "[" * 900 + "]" * 900 + "}", "images[0]: expected base64 text"),
        ('{"instances": [' + "9" * 5000 + "]}", ""),
        ("[1]", "JSON Value: Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ({"instances": [1], "inputs": [1]}, "expecting only one of 'inputs' or 'instances' keys"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": {"images": []}}, "Excepting 'instances' to be an list/array"),
        ({"instances": [{"image": "x"}]}, "Failed to process element: 0 key: image of 'instances' list."),
        (
            {"instances": [{}]},
            "element: 0 of 'instances' list. JSON object: keys must be equal to: images",
        ),
        ({"instances": ["x", {"images": "x"}]}, "Expecting value/list but got object at item 1 of input list"),
        ({"instances": [{"images": "x"}, "x"]}, "Expecting object but got list at item 1 of input list"),
        ({"instances": [{"b64": 1}]}, "key: b64 of 'instances' list"),
        ({"instances": [None]}, "images[0]: expected base64 text"),
        ({"instances": [standard(picture()), {"b64": "%"}]}, "images[1]: is not base64"),
        ({"instances": [standard(picture()), standard(b"junk, not a picture")]}, "images[1]: "),
        ({"inputs": {}}, "Missing named input: images in 'inputs' object."),
        ({"inputs": "x"}, "images: expected a list"),
        ({"inputs": {"b64": "x"}}, "images: expected a list"),
        ({"inputs": {"images": None}}, "images: expected a list"),
        ({"signature_name": 100, "instances": [1]}, "'signature_name' key must be a string value."),
        ({"signature_name": "x", "instances": [1]}, 'Serving signature name: "x" not found in signature def'),
        ({"instances": ["x"], "output_filter": ["x"]}, "images[0]: is not base64"),
        ({"instances": [standard(picture())], "output_filter": ["x"]}, "output tensor alias not found in signature: x"),
        (
            {"instances": [standard(picture())], "output_filter": ["length"] * 2},
            "duplicate output tensor alias: length",
        ),
        ({"instances": [standard(picture())], "output_filter": "length"}, "output_filter: expected a list"),
        ({"instances": ["x"], "top_k": 0}, "top_k: "),
        ({"instances": ["x"], "on_error": "x"}, "on_error: "),
    ],
)
def test_a_request_that_can_not_be_served_gets_400_and_the_reason(url: str, body: object, words: str) -> None:
    answer = _post(url, body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert len(answer.json()["error"]) < 600


def test_an_output_alone_loses_its_name_and_the_filter_names_it(url: str) -> None:
    data = picture(1)
    wanted = {"output_filter": ["length"]}
    assert _post(url, {"instances": [standard(data)]} | wanted).json() == {"predictions": [len(data)]}
    assert _post(url, {"inputs": [standard(data)]} | wanted).json() == {"outputs": [len(data)]}
    assert _post(url, {"inputs": []} | wanted).json() == {"outputs": []}
    everything = _post(url, {"instances": [standard(data)], "output_filter": []})
    assert everything.json() == {"predictions": [_row(data)]}


def test_a_guilty_row_is_named_and_with_on_error_the_others_are_answered(url: str) -> None:
    good = picture(1)
    sent = [standard(good), standard(GUILTY), "%", standard(good)]
    refused = _post(url, {"instances": [standard(good), standard(GUILTY)]})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("images[1]: ")
    for key, told, value in (
        ("instances", "predictions", [_row(good), None, None, _row(good)]),
        ("inputs", "outputs", {name: [number, None, None, number] for name, number in _row(good).items()}),
    ):
        answer = _post(url, {key: sent, "on_error": "per_image"})
        assert answer.status_code == 200
        assert answer.json()[told] == value
        assert [error["index"] for error in answer.json()["errors"]] == [1, 2]


def test_classify_and_regress_are_refused_where_the_signature_has_not_their_keys(url: str) -> None:
    for act in ("classify", "regress"):
        answer = _post(url, {"examples": [{"x": 1.0}]}, f"/v1/models/default:{act}")
        assert answer.status_code == 400
        assert "signature: the input 'inputs' of strings" in answer.json()["error"]
        missing = _post(url, {"examples": [{"x": 1.0}], "signature_name": "x"}, f"/v1/models/default:{act}")
        assert missing.json() == {"error": "No signature was found with the name: x"}


def test_too_many_pictures_are_refused_with_the_limit_s_name(url: str) -> None:
    answer = _post(url, {"instances": ["x"] * 65})
    assert answer.status_code == 413
    assert answer.json() == {"error": "images: 65 images are over --max_images=64"}


def test_requests_are_counted_under_the_template_of_their_address(url: str) -> None:
    labels = {"route": "/v1/models/NAME/versions/VERSION:predict", "method": "POST", "code": "200"}
    before = metric(url, "darkroom_http_requests_total", **labels)
    _post(url, {"instances": [standard(picture())]}, "/v1/models/default/versions/1:predict")
    assert metric(url, "darkroom_http_requests_total", **labels) == before + 1
