"""The load test's pictures and bodies."""

import base64
import json
from email.parser import BytesParser
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from loadtest.traffic.answers import READERS
from loadtest.traffic.pictures import (
    KINDS,
    binary_body,
    cycle,
    form_body,
    json_body,
    load,
    raw_body,
    row_body,
    truncated,
)

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_is_a_whole_jpeg_and_no_two_are_the_same(kind: str) -> None:
    pictures = load(kind)
    for picture in pictures:
        Image.open(BytesIO(picture.data)).load()
    assert len({picture.data for picture in pictures}) == len(pictures) == len(KINDS[kind])


def test_the_photographs_are_those_of_the_tests() -> None:
    for picture in load("photos"):
        assert picture.data == (ROOT / "tests/images" / f"{picture.name}.jpg").read_bytes()


def test_a_truncated_picture_keeps_its_header_and_loses_its_pixels() -> None:
    broken = Image.open(BytesIO(truncated(load("photos")[0]).data))
    assert broken.size == (640, 480)
    with pytest.raises(OSError, match="truncated"):
        broken.load()


def test_a_json_body_carries_the_pictures_in_row_order_in_the_url_safe_alphabet() -> None:
    pictures = load("photos")
    body = json_body(pictures, model="m")
    document = json.loads(body.data)
    assert document["model_name"] == "m"
    assert [base64.urlsafe_b64decode(text) for text in document["data"]["images"]] == [p.data for p in pictures]
    assert not set("+/") & set("".join(document["data"]["images"]))
    assert body.names == tuple(picture.name for picture in pictures)


def test_a_form_body_calls_the_first_file_image_and_the_others_images() -> None:
    pictures = load("digits")[:3]
    body = form_body(pictures)
    parsed = BytesParser().parsebytes(f"Content-Type: {body.content_type}\r\n\r\n".encode() + body.data)
    parts = [part for part in parsed.walk() if part.get_filename()]
    assert [part.get_param("name", header="content-disposition") for part in parts] == ["image", "images", "images"]
    assert [part.get_payload(decode=True) for part in parts] == [picture.data for picture in pictures]


def test_a_cycle_goes_round_from_its_start() -> None:
    pictures = load("photos")
    assert cycle(pictures, start=3, rows=6) == (pictures[3], *pictures, pictures[0])


def test_a_row_body_carries_each_picture_in_the_standard_alphabet() -> None:
    body = row_body(load("digits")[:2], model="m")
    assert body.path == "/v1/models/m:predict"
    rows = json.loads(body.data)["instances"]
    assert [base64.b64decode(row["b64"], validate=True) for row in rows] == [p.data for p in load("digits")[:2]]
    assert READERS[body.dialect](b'{"predictions":[{"predict":3,"probability":[0.1]},{"predict":-1}]}') == (3, -1)


def test_a_binary_body_says_where_its_json_ends() -> None:
    pictures = load("digits")[:2]
    body = binary_body(pictures, model="m")
    end = int(body.headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(body.data[:end])["inputs"]
    assert tensor["parameters"]["binary_data_size"] == len(body.data) - end
    assert body.data[end:].endswith(pictures[1].data)
    assert READERS[body.dialect](b'{"outputs":[{"name":"predict","data":[3,4]}]}') == (3, 4)
    assert READERS[body.dialect](b'{"error":"no"}') is None


def test_a_raw_body_is_the_picture() -> None:
    picture = load("digits")[0]
    assert (raw_body(picture).data, raw_body(picture).headers) == (picture.data, {"Content-Type": "image/jpeg"})
