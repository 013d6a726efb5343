"""A real model with outputs of every kind behind a decode front, asked in the forms that docs/models.md shows."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests import savedmodels
from tests.pictures import red_square, standard
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow
SQUARE = (400, 80, 560, 240)  # left, top, right, bottom
PICTURE = red_square(SQUARE)
LABELS = ["background", "picture", "square"]
PREDICT, INFER = "/v1/models/default:predict", "/v2/models/default/infer"
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    base = tmp_path_factory.mktemp("finder")
    extra = savedmodels.finder(base / "1") / "assets.extra"
    extra.mkdir()
    (extra / "labels.txt").write_text("\n".join(LABELS))
    pictures = {"default": {"preprocess": "raw", "fit": "pad", "orient": True}}
    outputs = {"default": {"light": {"kind": "image", "range": [0, 1]}}}
    flags = [f"--model_base_path={base}", f"--pictures={json.dumps(pictures)}", f"--outputs={json.dumps(outputs)}"]
    with serving(*flags) as url, httpx.Client(base_url=url, timeout=60) as made:
        yield made


def ask(client: httpx.Client, form: str, picture: bytes = PICTURE, **query: str) -> Any:
    answer = client.post("/", params={"as": form} | query, content=picture, headers=JPEG)
    assert answer.status_code == 200, answer.text
    return answer.json()


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("oriented", range(9))
def test_the_square_of_a_letterboxed_photograph_is_found_where_a_viewer_shows_it(
    client: httpx.Client, oriented: int
) -> None:
    picture = red_square(SQUARE, orientation=oriented)
    (found,) = ask(client, "objects", picture, threshold="0.5")["detection_boxes"][0]
    assert (found["class"], found["label"]) == (2, "square")
    edges = [found[name] for name in ("left", "top", "right", "bottom")]
    np.testing.assert_allclose(edges, SQUARE, atol=10)  # a pixel of the model's 64
    named = {"instances": [{"b64": standard(picture)}], "as": {"detection_boxes": "pixels"}}
    boxes = client.post(PREDICT, json=named).json()["predictions"][0]["detection_boxes"]
    np.testing.assert_allclose(boxes[0], [edges[1], edges[0], edges[3], edges[2]])
    np.testing.assert_allclose(boxes[1], [0, 0, 480, 640])


def test_masks_images_embeddings_and_files_are_those_of_the_numbers(client: httpx.Client) -> None:
    plain = ask(client, "numbers")
    mask = pixels(base64.b64decode(ask(client, "png")["mask"][0]["b64"]))
    np.testing.assert_array_equal(mask, np.argmax(plain["mask"][0], -1))
    assert set(np.unique(mask)) == {0, 3}
    files = ask(client, "png")
    np.testing.assert_array_equal(pixels(base64.b64decode(files["negative"][0]["b64"])), plain["negative"][0])
    light = np.rint(np.multiply(plain["light"][0], 255))[..., 0]
    np.testing.assert_array_equal(pixels(base64.b64decode(files["light"][0]["b64"])), light)
    one = client.post("/", params={"as": '{"light": "png"}'}, content=PICTURE, headers=JPEG | {"Accept": "image/png"})
    np.testing.assert_array_equal(pixels(one.content), light)
    embedding = base64.b64decode(ask(client, "base64")["embedding"][0]["b64"])
    np.testing.assert_array_equal(np.frombuffer(embedding, "<f4"), np.float32(plain["embedding"][0]))
    for name in ("file", "file_bytes"):
        assert pixels(base64.b64decode(plain[name][0]["b64"])).shape == (64, 64, 3)


def test_the_open_inference_protocol_has_every_form_as_a_tensor(client: httpx.Client) -> None:
    images = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [standard(PICTURE)]}
    forms = {"mask": "png", "logits": "softmax", "embedding": "base64", "detection_boxes": "objects"}
    outputs = [{"name": name, "parameters": {"as": form}} for name, form in forms.items()]
    answer = client.post(INFER, json={"inputs": [images], "outputs": outputs}).json()
    mask, softmax, embedding, objects = answer["outputs"]
    assert pixels(base64.b64decode(mask["data"][0])).shape == (64, 64)
    assert sum(softmax["data"]) == pytest.approx(1)
    assert len(base64.b64decode(embedding["data"][0])) == 4 * 64
    assert [each["label"] for each in json.loads(objects["data"][0])] == ["square", "picture"]


def test_the_metadata_says_what_each_output_is(client: httpx.Client) -> None:
    found = client.get("/v1/models/default").json()["signatures"]["serving_default"]
    assert {name: kind["kind"] for name, kind in found["kinds"].items()} == {
        "detection_boxes": "boxes", "detection_classes": "detection", "detection_scores": "detection",
        "num_detections": "detection", "embedding": "embedding", "file": "text", "file_bytes": "text", "light": "image",
        "logits": "scores", "mask": "mask", "negative": "image",
    }  # fmt: skip
    assert found["kinds"]["logits"]["values"] == "logits"
    assert found["front"] == {"size": [64, 64], "fit": "pad", "orient": True}
