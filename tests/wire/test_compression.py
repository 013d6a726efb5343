"""Compressed bodies and answers over a real socket."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING

import httpx
import pytest

from darkroom.models.engines.fakes import fake_model
from tests.pictures import picture, standard
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PICTURES = [picture(seed) for seed in range(128)]
BODY = json.dumps({"data": {"images": [standard(data) for data in PICTURES]}}).encode()
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(fake_model(name="default"), max_body_bytes=1_000_000, compress_answers=True) as server:
        yield server.url


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_packed_request_is_answered_like_the_plain_one(
    url: str, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    plain = httpx.post(url + "/", content=BODY, headers=JSON)
    packed = httpx.post(url + "/", content=pack(BODY), headers=JSON | {"Content-Encoding": encoding})
    assert packed.status_code == plain.status_code == 200
    assert packed.json() == plain.json()


def test_a_packed_form_and_a_packed_picture_are_read_too(url: str) -> None:
    form = httpx.Request("POST", url, files={"image": ("a.png", PICTURES[1])})
    headers = {"Content-Type": form.headers["content-type"], "Content-Encoding": "gzip"}
    wanted = httpx.post(url + "/", files={"image": ("a.png", PICTURES[1])}).json()
    assert httpx.post(url + "/", content=gzip.compress(form.read()), headers=headers).json() == wanted
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    assert httpx.post(url + "/", content=gzip.compress(PICTURES[1]), headers=headers).json() == wanted


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (gzip.compress(bytes(999_000)) * 2, 413, "--max_body_bytes=1000000"),
        (gzip.compress(BODY)[:-9], 400, "cut off"),
        (b"plain", 400, "not gzip"),
    ],
)
def test_a_packed_body_that_can_not_be_opened_is_refused_in_words(
    url: str, body: bytes, status: int, words: str
) -> None:
    answer = httpx.post(url + "/", content=body, headers=JSON | {"Content-Encoding": "gzip"})
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert httpx.post(url + "/", content=BODY, headers=JSON).status_code == 200


def test_answers_are_packed_for_who_asks_and_refusals_and_metadata_never(url: str) -> None:
    asking = JSON | {"Accept-Encoding": "gzip"}
    packed = httpx.post(url + "/", content=BODY, headers=asking)
    plain = httpx.post(url + "/", content=BODY, headers=JSON | {"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in plain.headers
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])
    assert packed.json() == plain.json()
    refused = httpx.post(url + "/", content=b"{", headers=asking)
    for other in (refused, httpx.get(url + "/v1/models", headers=asking), httpx.get(url + "/metrics", headers=asking)):
        assert "content-encoding" not in other.headers


def test_without_the_setting_no_answer_is_packed() -> None:
    with running(fake_model(name="default")) as server:
        answer = httpx.post(server.url + "/", content=BODY, headers=JSON | {"Accept-Encoding": "gzip"})
        assert answer.status_code == 200
        assert "content-encoding" not in answer.headers
