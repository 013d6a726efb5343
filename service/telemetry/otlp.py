"""Spans in the form of OTLP/JSON, from what is known of answered requests and of the engine calls that carried them.

A request is a span with a child for each stage that was measured. An engine call is a span in a trace of its own, with a
link to each traced request that it carried; the child `batch` of such a request has a link back.
"""

from __future__ import annotations

import time
from hashlib import blake2b
from itertools import accumulate
from random import getrandbits
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import orjson

from darkroom.batching.entry import EngineCall
from darkroom.service.telemetry.answered import parent_of

if TYPE_CHECKING:
    from darkroom.service.telemetry.answered import Answered

Json: TypeAlias = dict[str, Any]
INTERNAL, SERVER = 1, 2  # kinds of spans
ERROR = 2  # the status of a span
MAX_STATE_CHARS = 512  # precedent: W3C, so much at least is passed on
AFTER_QUEUE = "serialize"  # the only stage of a request that follows the engine call


class CallIds(NamedTuple):
    """The ids of an engine call's trace: the same for whoever asks, so that requests can link to it at any time."""

    trace: str
    span: str
    collate: str
    execute: str
    split: str

    @classmethod
    def of(cls, seed: bytes, *name: object) -> CallIds:
        """Those of the call with this name, in a process with this seed."""
        digest = blake2b(repr(name).encode(), key=seed, digest_size=48).hexdigest()
        return cls(digest[:32], digest[32:48], digest[48:64], digest[64:80], digest[80:])


class _TracedCall(NamedTuple):
    call: EngineCall
    ids: CallIds
    signature: tuple[str, int, str]  # model, version, name
    links: list[Json]


class SpanWriter:
    """Writes spans; remembers engine calls until `flush_calls`, since other requests may have been in them.

    Args:
        seed: of the ids of engine calls; another for each process.
    """

    def __init__(self, seed: bytes) -> None:
        self._offset_ns = _offset_ns()
        self._seed = seed
        self._calls: dict[CallIds, _TracedCall] = {}

    def request(self, answered: Answered) -> list[Json]:
        """The spans of one request, its own first."""
        _, trace_id, span_id, _ = answered.traceresponse.split("-")
        root = self._span(trace_id, span_id, _name_of(answered), answered.started_s, answered.ended_s)
        root |= {"kind": SERVER, "attributes": _attributes_of(answered)}
        parent = parent_of(answered.traceparent)
        if parent.trace_id == trace_id:
            root |= {"parentSpanId": parent.span_id, "flags": 0x301}  # sampled; it is known that the parent is remote
            state = answered.tracestate
            if state and state.isascii() and state.isprintable() and len(state) <= MAX_STATE_CHARS:
                root["traceState"] = state
        if answered.code >= 500:
            root["status"] = {"code": ERROR, "message": answered.error}
        spans = [root]

        def add(name: str, started_s: float, seconds: float) -> Json:
            ended_s = min(started_s + seconds, answered.ended_s)
            span = self._span(trace_id, f"{getrandbits(64) or 1:016x}", name, started_s, ended_s)
            span["parentSpanId"] = span_id
            spans.append(span)
            return span

        at_s = answered.started_s
        for stage, seconds in answered.stages:
            if stage == "queue":
                first_s = answered.first_call.started_s if answered.calls else answered.answered_s
                add(stage, max(at_s, first_s - seconds), max(0.0, min(seconds, first_s - at_s)))
                self._add_calls(answered, root, add)
            elif stage == AFTER_QUEUE and answered.answered_s:
                add(stage, answered.answered_s, seconds)
            else:
                add(stage, at_s, seconds)
                at_s += seconds
        return spans

    def flush_calls(self) -> list[Json]:
        """The spans of the engine calls that the requests before were in; forgets them."""
        calls, self._calls = self._calls, {}
        spans = [span for traced in calls.values() for span in self._call(traced)]
        self._offset_ns = _offset_ns()  # the clock of the machine may have been set
        return spans

    def _add_calls(self, answered: Answered, root: Json, add: Any) -> None:
        """A child for each engine call that carried the request, linked with the call in both directions."""
        signature = answered.model, answered.version, answered.signature
        for call in answered.calls:
            # Signatures may share a queue; versions of one number may follow each other.
            ids = CallIds.of(self._seed, answered.model, answered.version, call.serial, call.started_s)
            span = add("batch", call.started_s, call.seconds)
            span["links"] = [{"traceId": ids.trace, "spanId": ids.span, "flags": 1}]
            traced = self._calls.setdefault(ids, _TracedCall(call, ids, signature, []))
            traced.links.append({"traceId": root["traceId"], "spanId": root["spanId"], "flags": 1})

    def _call(self, traced: _TracedCall) -> list[Json]:
        call, ids, (model, version, signature), links = traced
        ends_s = list(accumulate((call.started_s, call.collate_s, call.execute_s, call.split_s)))
        root = self._span(ids.trace, ids.span, f"batch {model}", ends_s[0], ends_s[-1])
        root["links"] = links
        root["attributes"] = _attributes(
            {
                "darkroom.model": model,
                "darkroom.version": version,
                "darkroom.signature": signature,
                "darkroom.batch": call.serial,
                "darkroom.batch.images": call.images,
                "darkroom.batch.padding": call.padding,
                "darkroom.batch.parts": call.parts,
                "darkroom.batch.reason": call.reason.value,
            }
        )
        spans = [root]
        for at, (name, span_id) in enumerate(
            (("collate", ids.collate), ("execute", ids.execute), ("split", ids.split))
        ):
            span = self._span(ids.trace, span_id, name, ends_s[at], ends_s[at + 1])
            spans.append(span | {"parentSpanId": ids.span})
        return spans

    def _span(self, trace_id: str, span_id: str, name: str, started_s: float, ended_s: float) -> Json:
        return {
            "traceId": trace_id,
            "spanId": span_id,
            "name": name,
            "kind": INTERNAL,
            "flags": 0x101,  # sampled; it is known that the parent, if there is one, is not remote
            "startTimeUnixNano": str(int(started_s * 1e9) + self._offset_ns),
            "endTimeUnixNano": str(int(ended_s * 1e9) + self._offset_ns),
        }


def _offset_ns() -> int:
    """What is added to the monotonic clock to have nanoseconds since the epoch."""
    return time.time_ns() - time.monotonic_ns()


def joined(spans: list[Json]) -> bytes:
    """Spans as JSON, with commas between them."""
    return orjson.dumps(spans)[1:-1]


def payload(pieces: list[bytes], resource: dict[str, Any], version: str) -> bytes:
    """The body of one post: spans of one server, each piece as `joined` makes it."""
    head = {"resource": {"attributes": _attributes(resource)}}
    scope = orjson.dumps({"scope": {"name": "darkroom", "version": version}})
    spans = b",".join(pieces)
    return b'{"resourceSpans":[%b,"scopeSpans":[%b,"spans":[%b]}]}]}' % (orjson.dumps(head)[:-1], scope[:-1], spans)


def _name_of(answered: Answered) -> str:
    """As OpenTelemetry's conventions have it: method and route, or the method of gRPC."""
    return answered.route[1:] if answered.method == "gRPC" else f"{answered.method} {answered.route}"


def _attributes_of(answered: Answered) -> list[Json]:
    found: dict[str, Any] = {}
    if answered.method == "gRPC":
        service, _, method = answered.route[1:].rpartition("/")
        found |= {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    else:
        found |= {"http.request.method": answered.method, "http.route": answered.route}
    found |= {
        "http.response.status_code": answered.code,
        "http.request.body.size": answered.received,
        "http.response.body.size": answered.sent,
        "client.address": answered.client,
        "error.type": answered.error,
        "darkroom.request_id": answered.request_id,
        "darkroom.dialect": answered.dialect,
        "darkroom.outcome": answered.outcome,
        "darkroom.model": answered.model,
        "darkroom.version": answered.version or "",
        "darkroom.signature": answered.signature,
        "darkroom.images": answered.images or "",
        "darkroom.pixels": answered.pixels or "",
        "darkroom.retries": answered.retries or "",
    }
    return _attributes(found)


def _attributes(values: dict[str, Any]) -> list[Json]:
    """Those that are not empty, each with its type; 64-bit integers are text in protobuf's JSON."""
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in values.items()
        if value != ""
    ]
