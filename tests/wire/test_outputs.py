"""Outputs in the forms that a request asks for, in every dialect over HTTP; without the request nothing changes."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from darkroom.models.engine import LoadedModel, PassReport
from darkroom.models.engines.fakes import ECHO
from darkroom.models.rows import Rows
from darkroom.models.spec import ModelSpec, PictureFit, SignatureSpec, TensorSpec
from tests.pictures import picture, standard, url_safe
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator

LABELS = ("background", "cat", "dog")
PREDICT, INFER = "/v1/models/default:predict", "/v2/models/default/infer"
RAW = {"Content-Type": "image/png"}
WIDE = picture(1, size=(40, 20))  # letterboxed into 10x10: 5 lines of it, with 2 above
BOX = [[0.2, 0.5, 0.7, 1.0], [0.0, 0.0, 1.0, 0.25], [0.0, 0.0, 0.0, 0.0]]
IN_PIXELS = [[0.0, 20.0, 20.0, 40.0], [0.0, 0.0, 20.0, 10.0], [0.0, 0.0, 0.0, 0.0]]
PNG = "image/png"


def tensor(name: str, *shape: int | None, dtype: str = "float32", activation: str = "") -> TensorSpec:
    return TensorSpec(name, dtype, (None, *shape), activation=activation)


SPEC = SignatureSpec(
    name="serving_default",
    inputs=ECHO.inputs,
    outputs=(
        tensor("boxes", 3, 4),
        tensor("classes", 3),
        tensor("count"),
        tensor("embedding", 4),
        tensor("file", dtype="string"),
        tensor("light", 2, 2, 1),
        tensor("logits", 3, activation="linear"),
        tensor("mask", 8, 9, 3, activation="linear"),
        tensor("negative", 2, 2, 3, dtype="uint8"),
        tensor("scores", 3),
    ),
    wire=ECHO.wire,
    image_input="images",
    formats=ECHO.formats,
    front=PictureFit((10, 10), "pad"),
)
SAID: dict[str, Any] = {
    "boxes": {"kind": "boxes", "scores": "scores", "classes": "classes", "count": "count"},
    "light": {"kind": "image", "range": [-1, 1]},
}


def floats(values: Any) -> Any:
    return np.array(values, np.float32)


class Seer:
    """Sees the same in every picture."""

    spec = SPEC
    passes: tuple[PassReport, ...] = ()

    def run(self, rows: Rows) -> Rows:
        n = len(rows)
        mask = np.zeros((8, 9, 3), np.float32)
        mask[2:5, 3:6, 2] = 1.0
        values: dict[str, Any] = {
            "boxes": floats(BOX),
            "classes": floats([2, 1, 1]),
            "count": floats(2),
            "embedding": floats([0, 1, 2, 3]),
            "light": floats([[[-1], [0]], [[1], [9]]]),
            "logits": floats([0, 1, -1]),
            "mask": mask,
            "negative": np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
            "scores": floats([0.75, 0.5, 0]),
        }
        columns: dict[str, Any] = {name: np.stack([value] * n) for name, value in values.items()}
        columns["file"] = list(rows.columns["images"])
        return Rows({name: columns[name] for name in rows.asked or sorted(columns)})

    def close(self) -> None: ...


def served(**outputs: Any) -> Any:
    model = LoadedModel(ModelSpec("default", 1, {SPEC.name: SPEC}, labels=LABELS), {SPEC.name: Seer()})
    return running(model, outputs={"default": SAID | outputs})


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with served() as server, httpx.Client(base_url=server.url, timeout=60) as made:
        yield made


def good(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(answer: httpx.Response) -> str:
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"])


def simple(client: httpx.Client, *pictures: bytes, **fields: Any) -> httpx.Response:
    return client.post("/", json={"data": {"images": [url_safe(each) for each in pictures or [WIDE]]}} | fields)


def rows(client: httpx.Client, *pictures: bytes, **fields: Any) -> httpx.Response:
    return client.post(PREDICT, json={"instances": [{"b64": standard(each)} for each in pictures or [WIDE]]} | fields)


def infer(client: httpx.Client, outputs: Any = None, **parameters: Any) -> httpx.Response:
    images = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [standard(WIDE)]}
    body = {"inputs": [images], "parameters": parameters} | ({"outputs": outputs} if outputs else {})
    return client.post(INFER, json=body)


def pixels(value: Any) -> Any:
    """The pixels of a PNG that an answer holds."""
    data = value if isinstance(value, bytes) else base64.b64decode(value["b64"] if isinstance(value, dict) else value)
    return np.asarray(Image.open(io.BytesIO(data)))


def test_what_is_asked_for_one_output_changes_nothing_else(client: httpx.Client) -> None:
    plain = good(simple(client))
    assert set(plain) == {each.name for each in SPEC.outputs}
    shaped = good(simple(client, **{"as": {"mask": "png", "logits": "numbers"}}))
    assert {name: value for name, value in shaped.items() if name != "mask"} == {
        name: value for name, value in plain.items() if name != "mask"
    }
    assert simple(client, **{"as": "numbers"}).content == simple(client).content
    assert rows(client, **{"as": {}}).content == rows(client).content


def test_a_detection_is_asked_for_as_objects_in_every_way_to_send_a_picture(client: httpx.Client) -> None:
    square = {"left": 20.0, "top": 0.0, "right": 40.0, "bottom": 20.0, "score": 0.75, "class": 2, "label": "dog"}
    other = {"left": 0.0, "top": 0.0, "right": 10.0, "bottom": 20.0, "score": 0.5, "class": 1, "label": "cat"}
    every = good(simple(client, **{"as": "objects"}))
    assert every["boxes"] == [[square, other]]
    assert every.keys().isdisjoint({"scores", "classes", "count"})
    named = {"boxes": "objects", "scores": "numbers"}
    answers = [
        good(simple(client, **{"as": named, "threshold": 0.75}))["boxes"][0],
        good(client.post("/?as=objects&threshold=0.6", content=WIDE, headers=RAW))["boxes"][0],
        good(client.post("/", data={"as": json.dumps(named), "threshold": "0.6"}, files={"image": WIDE}))["boxes"][0],
        good(rows(client, **{"as": "objects", "threshold": 0.6}))["predictions"][0]["boxes"],
        good(rows(client, **{"as": "objects", "threshold": 0.6, "output_filter": ["boxes"]}))["predictions"][0],
        good(client.post(f"{PREDICT}?as=objects&threshold=0.6", content=WIDE, headers=RAW))["predictions"][0]["boxes"],
        json.loads(good(infer(client, [{"name": "boxes"}], **{"as": "objects", "threshold": "0.6"}))["outputs"][0]["data"][0]),
    ]  # fmt: skip
    assert answers == [[square]] * len(answers)
    by_form = client.post("/", data={"as": json.dumps(named)}, files={"image": WIDE})
    for answer in (simple(client, **{"as": named}), by_form):
        assert good(answer)["scores"] == [[0.75, 0.5, 0.0]]


def test_boxes_in_pixels_are_a_tensor_in_every_dialect(client: httpx.Client) -> None:
    assert good(simple(client, **{"as": "pixels"}))["boxes"] == [IN_PIXELS]
    assert good(rows(client, **{"as": {"boxes": "pixels"}}))["predictions"][0]["boxes"] == IN_PIXELS
    (output,) = good(infer(client, [{"name": "boxes", "parameters": {"as": "pixels"}}]))["outputs"]
    assert (output["datatype"], output["shape"]) == ("FP32", [1, 3, 4])
    assert output["data"] == np.ravel(IN_PIXELS).tolist()


def test_each_picture_of_a_request_has_its_own_pixels_also_beside_a_bad_one(client: httpx.Client) -> None:
    tall = picture(2, size=(20, 40))
    images = [url_safe(WIDE), "%", url_safe(tall)]
    answer = good(
        client.post("/", json={"data": {"images": images}, "as": {"boxes": "pixels"}, "on_error": "per_image"})
    )
    assert answer["boxes"] == [IN_PIXELS, None, [[8.0, 12.0, 28.0, 20.0], [0.0, 0.0, 40.0, 2.0], [0.0, 0.0, 0.0, 0.0]]]
    assert [error["index"] for error in answer["errors"]] == [1]


def test_a_mask_is_a_grey_png_of_class_numbers_or_one_in_colours(client: httpx.Client) -> None:
    expected = np.zeros((8, 9), np.uint8)
    expected[2:5, 3:6] = 2
    answers = [
        good(simple(client, **{"as": {"mask": "png"}}))["mask"][0],
        good(rows(client, **{"as": {"mask": "png"}, "output_filter": ["mask"]}))["predictions"][0],
        good(infer(client, [{"name": "mask", "parameters": {"as": "png"}}]))["outputs"][0]["data"][0],
        client.post("/?as=%7B%22mask%22:%22png%22%7D", content=WIDE, headers=RAW | {"Accept": PNG}).content,
    ]
    for answer in answers:
        np.testing.assert_array_equal(pixels(answer), expected)
    coloured = pixels(good(simple(client, **{"as": "colours"}))["mask"][0])
    assert [coloured[0, 0].tolist(), coloured[3, 4].tolist()] == [[0, 0, 0], [0, 128, 0]]


def test_images_are_pngs_in_the_range_that_is_known_or_said(client: httpx.Client) -> None:
    answer = good(simple(client, **{"as": "png"}))
    np.testing.assert_array_equal(pixels(answer["negative"][0]), np.arange(12).reshape(2, 2, 3))
    np.testing.assert_array_equal(pixels(answer["light"][0]), [[0, 128], [255, 255]])


def test_accept_answers_with_the_file_itself(client: httpx.Client) -> None:
    accept = RAW | {"Accept": "image/png"}
    for path in ("/", PREDICT):
        answer = client.post(f'{path}?as={{"negative":"png"}}', content=WIDE, headers=accept)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        np.testing.assert_array_equal(pixels(answer.content), np.arange(12).reshape(2, 2, 3))
    only = client.post(f"{PREDICT}?output_filter=light", content=WIDE, headers=accept)
    np.testing.assert_array_equal(pixels(only.content), [[0, 128], [255, 255]])
    assert "several outputs could be the answer" in refusal(client.post("/", content=WIDE, headers=accept))
    none = client.post(f"{PREDICT}?output_filter=logits", content=WIDE, headers=accept)
    assert "no output can be the answer" in refusal(none)
    body = {"data": {"images": [url_safe(WIDE)] * 2}, "as": {"mask": "png"}}
    assert "is for one picture, without on_error; there are 2" in refusal(
        client.post("/", json=body, headers={"Accept": "image/png"})
    )


def test_base64_is_the_bytes_of_each_row(client: httpx.Client) -> None:
    expected = floats([0, 1, 2, 3]).tobytes()
    told = good(simple(client, WIDE, WIDE, **{"as": {"embedding": "base64", "file": "base64"}}))
    assert told["embedding"] == [{"b64": standard(expected)}] * 2
    assert told["file"] == [{"b64": standard(WIDE)}] * 2
    assert good(rows(client, **{"as": "base64"}))["predictions"][0]["embedding"] == {"b64": standard(expected)}
    (output,) = good(infer(client, [{"name": "embedding", "parameters": {"as": "base64"}}]))["outputs"]
    assert (output["datatype"], output["shape"], output["data"]) == ("BYTES", [1], [standard(expected)])
    assert output["parameters"] == {"content_type": "base64"}
    binary = infer(client, [{"name": "embedding", "parameters": {"as": "base64", "binary_data": True}}])
    assert binary.content.endswith(b"\x10\0\0\0" + expected)


def test_logits_become_a_softmax_and_its_largest_with_their_labels(client: httpx.Client) -> None:
    powers = np.exp(floats([0, 1, -1]))
    told = good(simple(client, **{"as": "softmax", "top_k": 2}))
    assert [each["label"] for each in told["logits"][0]] == ["cat", "background"]
    np.testing.assert_allclose([each["value"] for each in told["logits"][0]], powers[[1, 0]] / powers.sum(), rtol=1e-6)
    assert told["embedding"] == [[0, 1, 2, 3]], "no scores"
    assert told["scores"] == [[0.75, 0.5, 0]], "as many boxes as labels"
    (output,) = good(infer(client, [{"name": "logits", "parameters": {"as": "softmax"}}]))["outputs"]
    np.testing.assert_allclose(output["data"], powers / powers.sum(), rtol=1e-6)
    plain = good(simple(client, top_k=1))["logits"][0]
    assert plain == [{"index": 1, "label": "cat", "value": 1.0}]


def test_a_file_in_a_string_can_be_had_back_without_asking(client: httpx.Client) -> None:
    assert good(simple(client))["file"] == [{"b64": standard(WIDE)}]
    assert good(rows(client))["predictions"][0]["file"] == {"b64": standard(WIDE)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"as": "jpeg"}, "as: expected one of numbers, base64, softmax, pixels, objects, png, colours"),
        ({"as": 7}, "as: expected one of "),
        ({"as": "{"}, "as: Invalid json data"),
        ({"as": {"mosk": "png"}}, "as: 'mosk' is no output; there are: boxes, classes, "),
        ({"as": {"mask": "objects"}}, "as: output 'mask' (mask) has numbers, base64, png, colours, not 'objects'"),
        ({"as": {"embedding": ["png"]}}, "as: output 'embedding' (embedding) has numbers, base64, not "),
        ({"as": "objects", "threshold": "high"}, "threshold: expected a number, got 'high'"),
        ({"as": "objects", "threshold": True}, "threshold: expected a number"),
        ({"as": "png", "threshold": 0.5}, "threshold: is for boxes with scores that are asked for as 'objects'"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_can(client: httpx.Client, fields: dict[str, Any], words: str) -> None:
    assert words in refusal(simple(client, **fields))
    assert words in refusal(rows(client, **fields))
    assert words.replace("as: expected", "parameters.as: expected") in refusal(infer(client, **fields))


def test_an_output_of_the_open_inference_protocol_is_named_by_its_place(client: httpx.Client) -> None:
    asked = [{"name": "mask"}, {"name": "logits", "parameters": {"as": "png"}}]
    assert "outputs[1].parameters.as: output 'logits' (scores) has numbers, base64, softmax" in refusal(
        infer(client, asked)
    )


def test_what_the_operator_says_is_the_answer_where_nothing_is_asked() -> None:
    more = {"boxes": SAID["boxes"] | {"as": "objects"}, "mask": {"as": "png"}}
    with served(**more) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        answer = good(simple(client))
        assert [each["label"] for each in answer["boxes"][0]] == ["dog", "cat"]
        assert pixels(good(rows(client))["predictions"][0]["mask"]).shape == (8, 9)
        assert good(simple(client, **{"as": {"mask": "numbers"}}))["mask"][0][0][0] == [0, 0, 0]
        accept = RAW | {"Accept": PNG}
        assert pixels(client.post("/", content=WIDE, headers=accept).content).shape == (8, 9)
        light = client.post("/?as=%7B%22light%22:%22png%22%7D", content=WIDE, headers=accept)
        assert pixels(light.content).shape == (2, 2)
        outputs = {each["name"]: each["datatype"] for each in good(infer(client))["outputs"]}
        assert outputs["mask"] == outputs["boxes"] == "FP32", "as the metadata says"
        kinds = good(client.get("/v1/models/default"))["signatures"]["serving_default"]
        assert kinds["kinds"]["mask"] == {
            "kind": "mask", "as": ["numbers", "base64", "png", "colours"], "default": "png", "classes": 3, "labels": True,
        }  # fmt: skip
        assert kinds["front"] == {"size": [10, 10], "fit": "pad", "orient": False}
