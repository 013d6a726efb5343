"""`/live/events`: the last minutes as JSON and as a stream, how many may listen, and that a stop does not wait for them."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.service.api.web.live import MAX_STREAMS
from tests.pictures import picture
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(fake_model(name="default")) as server:
        yield server.url


def _answered(seconds: list[dict[str, Any]]) -> int:
    return sum(model["requests"].get("ok", 0) for second in seconds for model in second["models"])


def _events(response: httpx.Response) -> Iterator[list[dict[str, Any]]]:
    return (json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line)


def test_it_tells_the_server_and_the_seconds_in_which_something_happened(url: str) -> None:
    for _ in range(3):
        httpx.post(url, files={"image": ("a", picture())})
    before = time.monotonic()
    while _answered((found := httpx.get(f"{url}/live/events").json())["seconds"]) < 3:
        assert time.monotonic() - before < 60
    assert found["kept_s"] == 300
    assert found["server"]["workers"] == 1
    assert found["server"]["cores"] >= 1
    assert found["server"]["uptime_s"] > 0
    assert found["server"]["devices"] == ["cpu:0"]
    (model,) = next(second for second in found["seconds"] if second["models"])["models"]
    assert (model["model"], model["version"]) == ("default", "1")
    assert sum(model["batches"].values()) >= 1


def test_a_stream_begins_with_the_last_minutes_and_goes_on_with_what_happens(url: str) -> None:
    with httpx.stream("GET", f"{url}/live/events", headers=STREAM, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "x-request-id" in response.headers
        events = _events(response)
        seen = {second["second"]: second for second in next(events)}
        before = metric(url, "darkroom_requests_total", outcome="ok")
        httpx.post(url, files={"image": ("a", picture())})
        while _answered(list(seen.values())) <= before:
            seen |= {second["second"]: second for second in next(events)}
    assert metric(url, "darkroom_http_requests_in_flight") == 1  # a stream is no request in progress; the one that asks
    assert httpx.head(f"{url}/live/events", headers=STREAM).status_code == 200


def test_only_so_many_may_listen_and_one_that_leaves_makes_room(url: str) -> None:
    client = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None))
    with client, ExitStack() as streams:
        for _ in range(MAX_STREAMS):
            next(_events(streams.enter_context(client.stream("GET", f"{url}/live/events", headers=STREAM))))
        refused = client.get(f"{url}/live/events", headers=STREAM)
        assert refused.status_code == 503
        assert f"{MAX_STREAMS} pages are watching" in refused.json()["error"]
        assert client.get(f"{url}/live/events").status_code == 200
        streams.close()
        while (
            client.send(client.build_request("GET", f"{url}/live/events", headers=STREAM), stream=True).status_code
            != 200
        ):
            pass


def test_a_server_that_stops_ends_its_streams_and_opens_no_more() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(running(fake_model(name="default"), drain_delay_ms=3000))
        stream = httpx.stream("GET", f"{server.url}/live/events", headers=STREAM, timeout=60)
        events = _events(stack.enter_context(stream))
        next(events)
        server.loop.call_soon_threadsafe(server.stop)
        for _ in events:  # they end
            pass
        assert httpx.get(f"{server.url}/live/events", headers=STREAM).status_code == 503


def test_it_is_for_those_who_may_read_metrics() -> None:
    with running(fake_model(), enable_auth=True, auth_username="u", auth_password="p") as server:
        assert httpx.get(f"{server.url}/live/events").status_code == 401
        assert httpx.get(f"{server.url}/live/events", auth=("u", "p")).status_code == 200
