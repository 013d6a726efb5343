"""A queue that is full says no before it has read what it refuses, and to nobody whom it doesn't concern."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from zlib import crc32

import httpx

from darkroom.models.engines.fakes import EchoEngine, SlowEngine, fake_model
from tests.pictures import picture, standard
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.models.engine import LoadedModel
    from darkroom.service.server import Server

JSON = {"Content-Type": "application/json"}


@contextmanager
def full(*others: LoadedModel) -> Iterator[Server]:
    """A server whose model `default` runs one picture and has one waiting, which is all that it may have."""
    go_on = threading.Event()
    engine = SlowEngine(EchoEngine(), float, sleep=lambda _: go_on.wait(60))
    limits = {"max_inflight_batches": 1, "max_batch_images": 1, "max_queue_images": 1}
    with running(fake_model(engine, name="default"), *others, **limits) as server:
        callers = [threading.Thread(target=_post, args=(server.url, _body(picture(seed)))) for seed in range(2)]
        callers[0].start()
        while metric(server.url, "darkroom_batches_total") < 1:
            pass
        callers[1].start()
        while metric(server.url, "darkroom_queue_images") < 1:
            pass
        try:
            yield server
        finally:
            go_on.set()
            for caller in callers:
                caller.join()


def _body(data: bytes, **fields: object) -> bytes:
    return json.dumps({"data": {"images": [standard(data)]}, **fields}).encode()


def _post(url: str, body: bytes) -> httpx.Response:
    return httpx.post(url, content=body, headers=JSON, timeout=60)


def test_the_only_model_refuses_before_a_byte_of_the_body_is_read() -> None:
    with full() as server:
        for body in (_body(picture(2)), b"{"):
            answer = _post(server.url, body)
            assert answer.status_code == 429
            assert "max_queue_images=1" in answer.json()["error"]
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["server-timing"].startswith("total;dur=")
        assert metric(server.url, "darkroom_requests_total", outcome="queue_full") == 2
        assert metric(server.url, "darkroom_images_total", outcome="queue_full") == 2


def test_beside_another_model_a_queue_refuses_once_it_knows_that_it_is_meant_and_before_decoding() -> None:
    with full(fake_model(name="other")) as server:
        assert _post(server.url, b"{").status_code == 400
        assert _post(server.url, b'{"data": {"images": ["%"]}}').status_code == 429
        assert _post(server.url, b'{"data": {"images": []}}').json() == {"digest": [], "length": []}
        answer = _post(server.url, _body(picture(3), model_name="other"))
        assert answer.json()["digest"] == [crc32(picture(3))]
        assert metric(server.url, "darkroom_requests_total", model="other", outcome="ok") == 1
        assert metric(server.url, "darkroom_requests_total", outcome="queue_full") == 1
