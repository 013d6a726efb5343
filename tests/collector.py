"""A collector of traces for tests: takes OTLP/JSON over HTTP and reads it by OpenTelemetry's own protobuf messages."""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.httpserver import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

IDS = {"traceId", "spanId", "parentSpanId"}


def as_protobuf(value: Any) -> Any:
    """OTLP/JSON as protobuf's own JSON has it: ids are hexadecimal in the one, base64 in the other."""
    if isinstance(value, dict):
        return {
            name: base64.b64encode(bytes.fromhex(each)).decode() if name in IDS else as_protobuf(each)
            for name, each in value.items()
        }
    return [as_protobuf(each) for each in value] if isinstance(value, list) else value


class Collector:
    """What it was sent.

    Attributes:
        url: its address, as OTEL_EXPORTER_OTLP_ENDPOINT takes it.
        statuses: of the next answers; after them 200.
        posts: path and headers of each post.
        requests: the messages of the posts that were answered with 200.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.statuses: list[int] = []
        self.posts: list[tuple[str, dict[str, str]]] = []
        self.requests: list[Any] = []

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """Takes one post; returns the status of the answer."""
        self.posts.append((path, headers))
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            # An unknown field, a wrong type or a number out of range raises: the thread's traceback fails the test.
            self.requests.append(ParseDict(as_protobuf(json.loads(body)), ExportTraceServiceRequest()))
        return status

    @property
    def spans(self) -> list[Any]:
        """All spans, in the order of their arrival."""
        return [
            span
            for request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Any]:
        """The spans of a name."""
        return [span for span in self.spans if span.name == name]

    def variables(self, **more: str) -> dict[str, str]:
        """The environment of a server that sends its traces here, without delay."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "20"} | more


def attributes(holder: Any) -> dict[str, Any]:
    """The attributes of a span or a resource by name."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in holder.attributes}


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """A collector on loopback, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # http.server's name
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(collector.take(self.path, dict(self.headers.items()), body))
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    with in_thread(server):
        yield collector
