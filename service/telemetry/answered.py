"""What is known of one answered request: the value that a line of the access log and the spans of a trace are made of."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from darkroom.batching.entry import EngineCall

MAX_BATCHES = 16  # guess: batches that a line names; a request of 1,024 images may have had more
# The first words of a route's template, and the dialect of the predict requests that it takes.
_DIALECTS = {
    "/v1/": "tensorflow_serving",
    "/tensorflow.serving.": "tensorflow_serving",
    "/v2/": "open_inference",
    "/inference.": "open_inference",
    "/": "simple",
}
# W3C Trace Context: version, trace, the caller's span, flags. Later versions may go on after a dash.
_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Parent(NamedTuple):
    """What a caller says of its trace, in `traceparent`."""

    trace_id: str
    span_id: str
    is_sampled: bool


class Answered(NamedTuple):
    """One answered request. All times are on the monotonic clock; empty text: not known, or there is none.

    Attributes:
        route: the template of its path; method: GET, POST, … or gRPC.
        code: its HTTP status, also for gRPC; 499: the client left.
        error: the error code of the answer.
        started_s, ended_s: from the complete request to its answer.
        received, sent: bytes of the two bodies.
        client: its address.
        request_id: as the answer says it.
        traceresponse: the header of the answer; empty: it is not traced.
        traceparent, tracestate: the headers of the request.
        outcome: of a predict request, as metrics name it; so are all below.
        model, version, signature: which one it meant.
        images: its rows, as far as they were read; pixels: of its pictures together, decoded.
        stages: seconds of the stages that the server measured, in their order.
        answered_s: when the batcher answered; 0.0: it did not.
        queue_s: what it waited in the queue.
        calls: the engine calls that carried it.
        retries: those of them that searched for a guilty row.
    """

    route: str
    method: str
    code: int
    error: str
    started_s: float
    ended_s: float
    received: int
    sent: int
    client: str
    request_id: str
    traceresponse: str
    traceparent: str
    tracestate: str
    outcome: str = ""
    model: str = ""
    version: int = 0
    signature: str = ""
    images: int = 0
    pixels: int = 0
    stages: tuple[tuple[str, float], ...] = ()
    answered_s: float = 0.0
    calls: tuple[EngineCall, ...] = ()
    retries: int = 0

    @property
    def duration_s(self) -> float:
        """From the complete request to its answer."""
        return self.ended_s - self.started_s

    @property
    def first_call(self) -> EngineCall:
        """The engine call that began first; there must be one."""
        return min(self.calls, key=lambda call: call.started_s)

    @property
    def dialect(self) -> str:
        """The dialect of a predict request; empty for any other."""
        if not self.outcome:
            return ""
        return next(name for start, name in _DIALECTS.items() if self.route.startswith(start))

    def fields(self) -> dict[str, Any]:
        """The fields of its line in the log; those that are empty are left out."""
        parent = parent_of(self.traceparent)
        _, trace_id, span_id, *_ = self.traceresponse.split("-") if self.traceresponse else ("", parent.trace_id, "")
        found = {
            "request_id": self.request_id,
            "trace_id": trace_id,
            "span_id": span_id,
            "route": self.route,
            "method": self.method,
            "dialect": self.dialect,
            "code": self.code,
            "error": self.error,
            "outcome": self.outcome,
            "duration_ms": _ms(self.duration_s),
            "model": self.model,
            "version": self.version or "",
            "signature": self.signature,
            "images": self.images or "",
            "pixels": self.pixels or "",
            "request_bytes": self.received,
            "response_bytes": self.sent,
        }
        for stage, seconds in self.stages:
            found[f"{stage}_ms"] = _ms(seconds)
            if stage == "queue" and self.calls:
                found |= self._batch_fields()
        found["client"] = self.client
        return {name: value for name, value in found.items() if value != ""}

    def _batch_fields(self) -> dict[str, Any]:
        """What its engine calls were: one in nearly all cases; of several the sums, the largest size, the first reason."""
        calls, first = self.calls, self.first_call
        found: dict[str, Any] = {
            "collate_ms": _ms(sum(call.collate_s for call in calls)),
            "execute_ms": _ms(sum(call.execute_s for call in calls)),
            "split_ms": _ms(sum(call.split_s for call in calls)),
            "batch": first.serial if len(calls) == 1 else [call.serial for call in calls[:MAX_BATCHES]],
            "batch_images": max(call.images for call in calls),
            "reason": first.reason.value,
        }
        return found | ({"retries": self.retries} if self.retries else {})


NO_PARENT = Parent("", "", is_sampled=False)


def parent_of(traceparent: str) -> Parent:
    """What a `traceparent` says; `NO_PARENT` if it is none."""
    found = _PARENT.fullmatch(traceparent) if traceparent else None
    if found is None or (found[1] == "00" and found[5]):
        return NO_PARENT
    return Parent(found[2], found[3], is_sampled=int(found[4], 16) & 1 == 1)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
