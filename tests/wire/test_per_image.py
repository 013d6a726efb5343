"""`on_error: "per_image"`: the good pictures of a request are answered, the bad ones carry an error each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from zlib import crc32

import httpx
import pytest

from darkroom.models.engines.fakes import ECHO, EchoEngine, FailingEngine, fake_model
from tests.pictures import picture, standard
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Iterator

GUILTY = picture(9)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    engine = FailingEngine(EchoEngine(), lambda data: data == GUILTY)
    with running(fake_model(engine, name="default"), max_images=40, max_image_pixels=1_000) as server:
        yield server.url


def _ask(url: str, images: list[Any], **fields: object) -> httpx.Response:
    body = {"data": {"images": images}, "on_error": "per_image"} | fields
    return httpx.post(url + "/", content=json.dumps(body), headers={"Content-Type": "application/json"})


def test_each_kind_of_bad_picture_is_told_by_its_index_and_the_good_ones_are_answered(url: str) -> None:
    good = [picture(seed) for seed in range(4)]
    wide = picture(1, size=(1001, 1))
    images = [
        standard(good[0]), "%", standard(b"junk"), 7, standard(good[1]), standard(GUILTY), standard(wide),
        "", standard(good[2]), {"b64": standard(good[3])},
    ]  # fmt: skip
    answer = _ask(url, images)
    assert answer.status_code == 200
    told = answer.json()
    at = {0: good[0], 4: good[1], 8: good[2], 9: good[3]}
    assert told["length"] == [len(at[i]) if i in at else None for i in range(10)]
    assert told["digest"] == [crc32(at[i]) if i in at else None for i in range(10)]
    assert [error["index"] for error in told["errors"]] == [1, 2, 3, 5, 6, 7]
    assert all(error["error"].startswith(f"images[{error['index']}]: ") for error in told["errors"])
    assert "--max_image_pixels=1000" in told["errors"][4]["error"]


def test_the_keys_are_the_same_when_every_picture_is_good_and_when_none_is(url: str) -> None:
    assert _ask(url, [standard(picture())]).json()["errors"] == []
    none = _ask(url, ["%", standard(b"junk")])
    assert none.status_code == 200
    assert none.json()["length"] == [None, None]
    assert [error["index"] for error in none.json()["errors"]] == [0, 1]
    assert _ask(url, []).json() == {"digest": [], "length": [], "errors": []}


def test_a_form_and_a_raw_picture_may_ask_for_it_too(url: str) -> None:
    files = [("images", ("a", picture(1))), ("images", ("b", b"junk"))]
    form = httpx.post(url + "/", files=files, data={"on_error": "per_image"})
    assert form.json()["length"] == [len(picture(1)), None]
    raw = httpx.post(url + "/?on_error=per_image", content=b"junk", headers={"Content-Type": "image/png"})
    assert raw.status_code == 200
    assert raw.json()["errors"][0]["error"].startswith("images[0]: not a JPEG")


def test_what_is_wrong_with_the_request_itself_still_refuses_it_whole(url: str) -> None:
    assert _ask(url, ["%"] * 41).status_code == 413
    assert _ask(url, [standard(picture())], top_k=0).status_code == 400
    wrong = _ask(url, [standard(picture())], on_error="ignore")
    assert wrong.status_code == 400
    assert wrong.json()["error"] == 'on_error: expected "fail" or "per_image", got \'ignore\''


def test_unasked_for_or_declined_the_first_bad_picture_refuses_all(url: str) -> None:
    images = [standard(picture()), "%", standard(b"junk")]
    for fields in ({"on_error": "fail"}, {"on_error": None}):
        answer = _ask(url, images, **fields)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("images[1]: ")


def test_refused_pictures_are_counted_by_their_reason() -> None:
    engine = FailingEngine(EchoEngine(), lambda data: data == GUILTY)
    with running(fake_model(engine, name="default")) as server:
        _ask(server.url, ["%", "%", standard(b"junk"), standard(GUILTY), standard(picture(2))])
        counted = [metric(server.url, "darkroom_poison_images_total", reason=r) for r in ("base64", "format", "graph")]
        assert counted == [2, 1, 1]
        assert metric(server.url, "darkroom_requests_total", outcome="ok") == 1


def test_a_signature_whose_rows_are_not_independent_refuses_to_leave_any_out() -> None:
    spec = type(ECHO)(
        name=ECHO.name,
        inputs=ECHO.inputs,
        outputs=ECHO.outputs,
        wire=ECHO.wire,
        image_input="images",
        formats=ECHO.formats,
        batched=False,
        unbatched_reason="it counts its calls",
    )
    with running(fake_model(EchoEngine(spec), name="default")) as server:
        answer = _ask(server.url, [standard(picture())])
        assert answer.status_code == 400
        assert answer.json()["error"].endswith("can't be answered apart: it counts its calls")
