"""The line in the log and the span of a gRPC call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.service.api.grpc.protos import message
from tests.collector import attributes, collecting
from tests.grpc.calls import INFER, PREDICT, ask, infer, predict, served, stub
from tests.held import wait_for
from tests.pictures import picture
from tests.serving import metric

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """The fields of the access log's lines so far."""
    caplog.set_level(logging.INFO, "darkroom.access")
    return lambda: [record.fields for record in caplog.records if record.name == "darkroom.access"]  # type: ignore[attr-defined]


def test_a_call_is_told_and_traced_as_a_request_is_and_health_only_by_all(
    monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    with collecting() as collector:
        for name, value in collector.variables().items():
            monkeypatch.setenv(name, value)
        with served(fake_model(name="default"), access_log="slow:0") as (server, made):
            metadata = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("x-request-id", "mine"))
            ask(made, "grpc.health.v1.Health/Check", message("grpc.health.v1.HealthCheckRequest")())
            _, call = stub(made, PREDICT).with_call(predict(picture(1), picture(2)), timeout=60, metadata=metadata)
            with pytest.raises(grpc.RpcError) as refused:
                stub(made, INFER)(infer(b"no picture"), timeout=60)
            wait_for(lambda: metric(server.url, "darkroom_traces_total", result="sent") == 2)
            wait_for(lambda: len(lines()) == 2)
    good, bad = lines()
    trailers = dict(call.trailing_metadata())
    assert trailers["traceresponse"] == f"00-{TRACE}-{good['span_id']}-01"
    assert good.items() >= {
        "request_id": "mine", "trace_id": TRACE, "route": f"/{PREDICT}", "method": "gRPC", "code": 200, "images": 2,
        "dialect": "tensorflow_serving", "outcome": "ok", "batch": 1, "batch_images": 2, "model": "default",
    }.items()  # fmt: skip
    told = dict(refused.value.trailing_metadata())
    assert bad.items() >= {
        "request_id": told["x-request-id"], "code": 400, "error": told["x-darkroom-error"],
        "dialect": "open_inference", "outcome": "invalid_input",
    }.items()  # fmt: skip
    root = collector.named(PREDICT)[0]
    assert (root.parent_span_id.hex(), root.trace_id.hex()) == (CALLER, TRACE)
    service, _, method = PREDICT.rpartition("/")
    assert attributes(root).items() >= {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}.items()
