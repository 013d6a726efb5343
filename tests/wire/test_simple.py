"""STS's dialect over a real socket, in front of an engine whose answer tells whose picture it was."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import httpx
import numpy as np
import pytest

from darkroom.models.engines.fakes import ECHO, EchoEngine, FailingEngine, fake_model
from darkroom.models.rows import Rows
from darkroom.models.spec import TensorSpec
from tests.pictures import photograph, picture, standard, url_safe
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Iterator


NO_FILE = b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\nabc\r\n--x--\r\n"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(fake_model(name="default"), fake_model(name="other", version=7), max_body_bytes=1_000_000) as server:
        yield server.url


def _echo(*pictures: bytes) -> dict[str, list[int]]:
    return {"digest": [crc32(data) for data in pictures], "length": [len(data) for data in pictures]}


def _post(url: str, value: Any, **headers: str) -> httpx.Response:
    body = value if isinstance(value, (bytes, str)) else json.dumps(value)
    return httpx.post(url + "/", content=body, headers={"Content-Type": "application/json"} | headers)


def test_json_answers_every_output_by_name_with_sorted_keys_and_a_newline(url: str) -> None:
    data = photograph("chelsea")
    answer = _post(url, {"data": {"images": [url_safe(data)]}})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == json.dumps(_echo(data), separators=(",", ":")) + "\n"


def test_a_picture_comes_the_same_by_every_way_to_write_it(url: str) -> None:
    data = picture(5)
    ways: list[Any] = [
        url_safe(data),
        url_safe(data, padded=False),
        standard(data),
        standard(data).rstrip("="),
        "data:image/png;base64," + standard(data),
        {"b64": standard(data)},
        {"b64": standard(url_safe(data).encode())},
    ]
    answer = _post(url, {"data": {"images": ways}})
    assert answer.json() == _echo(*[data] * len(ways))
    form = httpx.post(url + "/", files={"image": ("a.png", data, "image/png")})
    assert form.json() == _echo(data)
    for kind in ("image/png", "application/octet-stream", "Image/PNG; q=1"):
        assert httpx.post(url + "/", content=data, headers={"Content-Type": kind}).json() == _echo(data)


def test_a_form_s_first_image_comes_before_its_images_in_their_order(url: str) -> None:
    first, second, third = (picture(seed) for seed in (1, 2, 3))
    files = [("images", ("b", second)), ("image", ("a", first)), ("images", ("c", third)), ("image", ("x", second))]
    assert httpx.post(url + "/", files=files).json() == _echo(first, second, third)


def test_a_form_names_its_model_and_version(url: str) -> None:
    files = {"image": ("a", picture())}
    good = httpx.post(url + "/", files=files, data={"model_name": "other", "model_version": "7"})
    assert good.status_code == 200
    bad = httpx.post(url + "/", files=files, data={"model_version": "7"})
    assert bad.status_code == 400
    assert "no version 7" in bad.json()["error"]


def test_no_picture_at_all_is_answered_with_empty_outputs(url: str) -> None:
    assert _post(url, {"data": {"images": []}}).json() == {"digest": [], "length": []}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "Invalid json data"),
        ("{", "Invalid json data"),
        ("[1]", "expected an object"),
        ("{}", "Inference with empty data"),
        ({"data": {}}, "Inference with empty data"),
        ({"data": [1]}, "Input op name 'images' does not exist"),
        ({"data": {"image": ["x"]}}, "Input op name 'images' does not exist"),
        ({"data": {"images": "x"}}, "images: expected a list"),
        ({"data": {"images": [1]}}, "images[0]: expected base64 text"),
        ({"data": {"images": [["x"]]}}, "images[0]: expected base64 text"),
        ({"data": {"images": [standard(picture()), "%"]}}, "images[1]: is not base64"),
        ({"data": {"images": [standard(picture()), standard(b"junk, not a picture")]}}, "images[1]: "),
        ({"model_name": "nosuch", "data": {"images": []}}, "Invalid model name: nosuch, available models: ['default'"),
        ({"model_name": None, "data": {"images": []}}, "Invalid model name: None"),
        ({"model_name": ["default"], "data": {"images": []}}, "Invalid model name"),
        ({"model_version": 9, "data": {"images": []}}, "there are: 1"),
        ({"model_version": True, "data": {"images": []}}, "model_version: expected a whole number"),
        ({"model_version": "latest", "data": {"images": []}}, "model_version: expected a whole number"),
        ({"model_version": -(10**400), "data": {"images": []}}, "Invalid json data"),
        ({"signature_name": "x", "data": {"images": []}}, "Fail to request the signature name: 'x'"),
        ({"signature_name": None, "data": {"images": []}}, "Fail to request the signature name: None"),
        ({"preprocess": True, "data": {"images": []}}, "preprocess: "),
        ({"top_k": 0, "data": {"images": []}}, "top_k: "),
    ],
)
def test_a_request_that_can_not_be_served_gets_400_and_the_reason(url: str, body: object, words: str) -> None:
    answer = _post(url, body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_content_type_is_refused_in_sts_words(url: str, kind: str) -> None:
    answer = httpx.post(url + "/", content=b"{}", headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("Error, unsupported content type")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"abc"),
        ("multipart/form-data; boundary=x", b"abc"),
        ("multipart/form-data; boundary=x", b"--x\r\nfoo\r\n\r\nbar\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            NO_FILE,
        ),
        ("multipart/form-data; boundary=x", b"--x\r\n\xff\xfe: y\r\n\r\nbar\r\n--x--\r\n"),
    ],
)
def test_a_form_that_is_none_or_holds_no_file_is_a_400(url: str, kind: str, body: bytes) -> None:
    answer = httpx.post(url + "/", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_body_over_the_limit_is_refused_with_413(url: str) -> None:
    answer = httpx.post(url + "/", content=b"x" * 1_000_001, headers={"Content-Type": "image/png"})
    assert answer.status_code == 413
    assert "error" in answer.json()


def test_every_answer_says_where_the_time_went_and_bears_an_id(url: str) -> None:
    answer = _post(url, {"data": {"images": [standard(picture())]}}, **{"X-Request-Id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    names = [part.split(";")[0].strip() for part in answer.headers["server-timing"].split(",")]
    assert names == [
        "parse", "decode", "inspect", "queue", "collate", "execute", "split", "serialize", "total", "batch", "reason",
    ]  # fmt: skip
    for path in ("/health", "/nowhere", "/v1/models/nosuch"):
        other = httpx.get(url + path, headers={"X-Request-Id": "bad\x7f"})
        assert other.headers["x-request-id"] not in {"", "bad\x7f"}
        assert "total;dur=" in other.headers["server-timing"]


def test_a_deadline_in_the_past_or_no_number_is_answered_as_such(url: str) -> None:
    good = {"data": {"images": [standard(picture())]}}
    for text in ("0", "-1", "soon", "nan", "inf"):
        answer = _post(url, good, **{"X-Darkroom-Deadline-Ms": text})
        assert answer.status_code == 400
        assert "X-Darkroom-Deadline-Ms" in answer.json()["error"]
    assert _post(url, good, **{"X-Darkroom-Deadline-Ms": "30000"}).status_code == 200


def test_a_guilty_row_is_named_by_its_index_and_counted() -> None:
    guilty = picture(9)
    engine = FailingEngine(EchoEngine(), lambda data: data == guilty)
    with running(fake_model(engine, name="default")) as server:
        bad = [standard(picture(1)), standard(guilty), standard(picture(2))]
        answer = _post(server.url, {"data": {"images": bad}})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("images[1]: ")
        assert metric(server.url, "darkroom_poison_images_total", reason="graph") == 1
        assert metric(server.url, "darkroom_requests_total", outcome="invalid_input") == 1


def test_a_signature_with_another_input_name_takes_a_form_s_picture() -> None:
    spec = type(ECHO)(
        name=ECHO.name,
        inputs=(type(ECHO.inputs[0])("photo", "string", (None,)),),
        outputs=ECHO.outputs,
        wire=ECHO.wire,
        image_input="photo",
        formats=ECHO.formats,
    )
    with running(fake_model(EchoEngine(spec), name="default")) as server:
        data = picture(3)
        assert httpx.post(server.url, files={"image": ("a", data)}).json() == _echo(data)
        bad = httpx.post(server.url, files={"image": ("a", b"junk")})
        assert bad.json()["error"].startswith("photo[0]: ")


def test_a_picture_beside_another_input_is_read_and_judged_as_any_other() -> None:
    spec = replace(ECHO, inputs=(*ECHO.inputs, TensorSpec("keys", "int32", (None, 1))))
    with running(fake_model(EchoEngine(spec), name="default")) as server:
        first, second = picture(1), picture(2)
        answer = _post(
            server.url, {"data": {"images": [url_safe(first), {"b64": standard(second)}], "keys": [[1], [2]]}}
        )
        assert answer.json() == _echo(first, second)
        bad = _post(server.url, {"data": {"images": [url_safe(first), standard(b"junk")], "keys": [[1], [2]]}})
        assert bad.status_code == 400
        assert bad.json()["error"].startswith("images[1]: ")


class PairsEngine(EchoEngine):
    """Answers for the two pictures of each row, one behind the other."""

    def run(self, rows: Rows) -> Rows:
        joined = [b"".join(pair) for pair in np.array(rows.columns["images"]).tolist()]
        return super().run(Rows({"images": joined}, asked=rows.asked))


def test_several_pictures_in_one_input_come_in_lists() -> None:
    spec = replace(ECHO, inputs=(TensorSpec("images", "string", (None, 2)),))
    with running(fake_model(PairsEngine(spec), name="default")) as server:
        first, second = picture(1), picture(2)
        pairs = [[url_safe(first), standard(second)], [{"b64": standard(second)}, standard(second)]]
        answer = _post(server.url, {"data": {"images": pairs}})
        assert answer.json() == _echo(first + second, second + second)
        flat = _post(server.url, {"data": {"images": pairs[0]}})
        assert flat.json()["error"] == "input 'images' has shape (2,), the signature wants (-1, 2)"
        bad = _post(server.url, {"data": {"images": [[standard(first), standard(b"junk")]]}})
        assert bad.json()["error"].startswith("images[0][1]: ")
