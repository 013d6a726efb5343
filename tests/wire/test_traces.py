"""Traces, as a collector gets them from a server, in both lanes."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from darkroom.models.engines.fakes import EchoEngine, FailingEngine, fake_model
from tests.collector import Collector, attributes, collecting
from tests.held import Held, wait_for
from tests.pictures import picture
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.models.engine import LoadedModel

GUILTY = picture(9)
PNG = {"Content-Type": "image/png"}
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
RESULTS = ("sent", "dropped", "failed")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@contextmanager
def traced(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], *models: LoadedModel) -> Iterator[str]:
    """The address of a server with these variables in its environment."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    models = models or (fake_model(FailingEngine(EchoEngine(), lambda data: data == GUILTY), name="default"),)
    with running(*models) as server:
        yield server.url


def ask(url: str, data: bytes = b"", /, **headers: str) -> httpx.Response:
    return httpx.post(url, content=data or picture(1), headers=PNG | headers, timeout=60)


def results(url: str) -> list[int]:
    """How many traced requests were sent, dropped and failed."""
    return [int(metric(url, "darkroom_traces_total", result=result)) for result in RESULTS]


def of_trace(collector: Collector, trace_id: str) -> list[Any]:
    return [span for span in collector.spans if span.trace_id.hex() == trace_id]


def test_a_request_is_a_span_of_its_callers_trace_with_a_child_for_each_stage(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    more = {
        "OTEL_SERVICE_NAME": "cats",
        "OTEL_RESOURCE_ATTRIBUTES": "zone=a",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=x%20y",
    }
    with traced(monkeypatch, collector.variables(**more)) as url:
        answer = ask(url, traceparent=SAMPLED, tracestate="vendor=1", **{"X-Request-Id": "mine"})
        refused = ask(url, GUILTY)
        httpx.get(f"{url}/v2/health/ready")
        wait_for(lambda: results(url) == [2, 0, 0])
    _, trace_id, span_id, flags = answer.headers["traceresponse"].split("-")
    assert (trace_id, flags) == (TRACE, "01")
    root, *children = of_trace(collector, TRACE)
    assert (root.span_id.hex(), root.parent_span_id.hex(), root.name, root.kind) == (span_id, CALLER, "POST /", 2)
    assert (root.trace_state, root.status.code) == ("vendor=1", 0)
    found = attributes(root)
    assert found.items() >= {
        "http.route": "/", "http.response.status_code": 200, "darkroom.request_id": "mine", "darkroom.model": "default",
        "darkroom.version": 1, "darkroom.images": 1, "darkroom.outcome": "ok", "darkroom.dialect": "simple",
    }.items()  # fmt: skip
    assert [child.name for child in children] == ["parse", "inspect", "queue", "batch", "serialize"]
    ends = root.start_time_unix_nano
    for child in children:
        assert child.parent_span_id == root.span_id
        assert ends - 1000 <= child.start_time_unix_nano <= child.end_time_unix_nano <= root.end_time_unix_nano
        ends = child.end_time_unix_nano
    assert len({span.span_id for span in collector.spans}) == len(collector.spans)
    own, *_ = of_trace(collector, refused.headers["traceresponse"].split("-")[1])  # one that began here
    assert (own.parent_span_id, attributes(own)["error.type"], own.status.code) == (b"", "invalid_input", 0)
    resource = attributes(collector.requests[0].resource_spans[0].resource)
    assert (resource["service.name"], resource["zone"]) == ("cats", "a")
    path, headers = collector.posts[0]
    assert (path, headers["api-key"], headers["Content-Type"]) == ("/v1/traces", "x y", "application/json")
    assert not [span for span in collector.spans if "health" in span.name]


def test_a_batch_is_a_span_of_its_own_linked_with_the_requests_that_were_in_it(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    before = len(collector.spans)
    held = Held()
    with traced(monkeypatch, collector.variables(), held.model) as url:
        asks = [lambda seed=seed: ask(url, picture(seed)) for seed in range(2, 5)]
        untraced = lambda: ask(url, picture(6), traceparent=UNSAMPLED)  # noqa: E731 - one of the asks
        answers = held.ride(url, lambda: ask(url), [*asks, untraced])
        wait_for(lambda: results(url) == [4, 0, 0])
    spans = collector.spans[before:]
    (batch,) = [span for span in spans if attributes(span).get("darkroom.batch.images") == 4]
    assert (
        attributes(batch).items()
        >= {"darkroom.batch": 2, "darkroom.batch.parts": 4, "darkroom.model": "default"}.items()
    )
    told = [answer.headers.get("traceresponse", "").split("-") for answer in answers]
    assert {(link.trace_id.hex(), link.span_id.hex()) for link in batch.links} == {
        (each[1], each[2]) for each in told[:3]
    }
    assert told[3] == [""]
    linked = [span for span in spans if [link.span_id for link in span.links] == [batch.span_id]]
    assert {span.name for span in linked} == {"batch"}
    assert {span.trace_id for span in linked} == {link.trace_id for link in batch.links}
    assert {(span.start_time_unix_nano, span.end_time_unix_nano) for span in linked} == {
        (batch.start_time_unix_nano, batch.end_time_unix_nano)
    }
    parts = [span for span in spans if span.parent_span_id == batch.span_id]
    assert [part.name for part in parts] == ["collate", "execute", "split"]
    assert parts[0].start_time_unix_nano == batch.start_time_unix_nano
    assert parts[2].end_time_unix_nano == batch.end_time_unix_nano
    assert all(one.end_time_unix_nano == two.start_time_unix_nano for one, two in pairwise(parts))


def test_what_the_caller_or_the_sampler_leaves_out_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    before = len(collector.spans)
    with traced(monkeypatch, collector.variables(OTEL_TRACES_SAMPLER="parentbased_always_off")) as url:
        assert "traceresponse" not in ask(url, traceparent=UNSAMPLED).headers
        assert "traceresponse" not in ask(url).headers
        answer = ask(url, traceparent=SAMPLED)
        wait_for(lambda: results(url) == [1, 0, 0])
    roots = [span for span in collector.spans[before:] if span.kind == 2]
    assert [root.span_id.hex() for root in roots] == [answer.headers["traceresponse"].split("-")[2]]


def test_a_collector_that_is_away_costs_traces_and_no_answer_and_gets_later_ones(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "darkroom.service")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = Collector(f"http://127.0.0.1:{port}").variables(OTEL_BSP_MAX_QUEUE_SIZE="2")
    with traced(monkeypatch, variables) as url:
        assert ask(url).status_code == 200
        wait_for(lambda: "traces can't be sent" in caplog.text)
        assert [ask(url).status_code for _ in range(5)] == [200] * 5
        assert results(url) == [0, 3, 0]  # one is being sent, two wait
        assert httpx.get(f"{url}/v2/health/ready").status_code == 200
        with collecting(port) as collector:
            collector.statuses = [503]
            wait_for(lambda: results(url) == [3, 3, 0])
            assert len([span for span in collector.spans if span.kind == 2]) == 3
            assert "traces are sent again" in caplog.text
            collector.statuses = [400]  # which is final
            ask(url)
            wait_for(lambda: results(url) == [3, 3, 1])


def test_a_server_that_stops_sends_what_it_has(monkeypatch: pytest.MonkeyPatch, collector: Collector) -> None:
    before = len(collector.spans)
    with traced(monkeypatch, collector.variables(OTEL_BSP_SCHEDULE_DELAY="600000")) as url:
        for _ in range(3):
            ask(url)
        assert results(url) == [0, 0, 0]
    assert Counter(span.name for span in collector.spans[before:])["POST /"] == 3


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "no request is traced: OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc'"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}, "port 4317 is usually that of OTLP/gRPC"),
    ],
)
def test_variables_that_cannot_be_followed_are_told_and_stop_nothing(
    monkeypatch: pytest.MonkeyPatch, collector: Collector, caplog: pytest.LogCaptureFixture, variables: dict[str, str], words: str
) -> None:  # fmt: skip
    with traced(monkeypatch, collector.variables() | variables) as url:
        assert ask(url).status_code == 200
    assert words in caplog.text
