"""Request accounting: assigns request ids, counts requests, writes the access log and has requests traced."""

from __future__ import annotations

import logging
import secrets
import time
from itertools import count
from typing import TYPE_CHECKING

from darkroom.service.errors import ERROR_HEADER
from darkroom.service.telemetry.answered import Answered

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from darkroom.service.config.access_log import AccessPolicy
    from darkroom.service.predict.request import PredictRequest
    from darkroom.service.telemetry.metrics import Metrics
    from darkroom.service.telemetry.traces import Tracer

_log = logging.getLogger("darkroom.service")
_access = logging.getLogger("darkroom.access")
MAX_REQUEST_ID_CHARS = 128
CLIENT_LEFT = 499  # before it was answered; nginx logs the same status
TRACERESPONSE = "traceresponse"  # W3C's name for what an answer says of its trace; `traceparent` is a request's


class RequestLog:
    """Counts requests when they are complete and when they are answered, and tells of those that it was asked for.

    A line of the log and a trace are made after the answer, of what was measured anyway. Until then nothing is made
    for either.

    Args:
        metrics: counts the requests.
        policy: which answered requests are a line of the log.
        tracer: which are traced; None: none is.
        cors: whether pages from other origins may read the answers.
    """

    def __init__(self, metrics: Metrics, policy: AccessPolicy, tracer: Tracer | None, *, cors: bool) -> None:
        self._metrics = metrics
        self._policy = policy
        self._tracer = tracer
        self._is_asked = tracer is not None or not policy.is_off
        self._cors = {"Access-Control-Allow-Origin": "*"} if cors else {}
        self._prefix = secrets.token_hex(4)
        self._numbers = count(1)

    def enter(self, *, is_fast: bool = False) -> float:
        """Counts a request as in flight: it has been received completely, by the fast lane if `is_fast`.

        One that no route took enters too, and leaves at once.

        Returns:
            When that was, on the monotonic clock; to be given to `leave`.
        """
        self._metrics.http_in_flight += 1
        if is_fast:
            self._metrics.fast_lane_requests += 1
        return time.monotonic()

    def leave(
        self,
        route: str,
        method: str,
        code: int,
        started_s: float,
        *,
        asked: Mapping[str, str],
        headers: Mapping[str, str],
        received: int,
        sent: int,
        client: str,
        request: PredictRequest | None,
    ) -> None:
        """Counts a request that entered as answered, or its client as gone (`CLIENT_LEFT`).

        Args:
            route: the template of its path, never the raw path.
            method: GET, POST, …
            code: the status of the answer.
            started_s: what `enter` returned; of one that no route took, when it came.
            asked: the headers of the request.
            headers: those of the answer, signed; empty if there was none.
            received: bytes of its body.
            sent: bytes of the answer's body.
            client: its address; only the log and traces use it.
            request: what the predictor made of it; None if it was none for the predictor.
        """
        self._metrics.http_in_flight -= 1
        ended_s = time.monotonic()
        duration_s = ended_s - started_s
        self._metrics.http_ended(
            route, method, code, duration_s=duration_s, request_bytes=received, response_bytes=sent
        )
        failure = None if request is None else request.failure
        if not self._is_asked and failure is None:
            return
        if not headers:  # nothing was sent
            headers = {}
            self.sign(route, asked, headers)
        is_logged = self._policy.picks(route, code, duration_s)
        traceresponse = headers.get(TRACERESPONSE, "")
        if not (is_logged or traceresponse or failure is not None):
            return
        answered = Answered(
            route,
            method,
            code,
            headers.get(ERROR_HEADER, ""),
            started_s,
            ended_s,
            received,
            sent,
            client,
            headers["X-Request-Id"],
            traceresponse,
            asked.get("traceparent", ""),
            asked.get("tracestate", ""),
        )
        self._tell(answered, request, is_logged=is_logged)

    def _tell(self, answered: Answered, request: PredictRequest | None, *, is_logged: bool) -> None:
        """Hands what is known to the tracer and to the log; our own mistakes are logged with their traceback."""
        if request is not None:
            answered = _explained(answered, request)
        if answered.traceresponse and self._tracer is not None:
            self._tracer.note(answered)
        if is_logged:
            _access.info("request", extra={"fields": answered.fields()})
        if request is not None and request.failure is not None:
            _log.error("a request failed", extra={"fields": answered.fields()}, exc_info=request.failure)

    def sign(self, route: str, asked: Mapping[str, str], headers: MutableMapping[str, str]) -> None:
        """Adds the headers of every answer: `X-Request-Id`, that of CORS if it is on, and `traceresponse` if it is traced.

        The id is the client's own, if it is short printable ASCII. Otherwise it is eight hexadecimal digits of this
        process and a number.

        Args:
            route: the template of its path.
            asked: the headers of the request, by name in lower case.
            headers: those of the answer.
        """
        given_id = asked.get("x-request-id")
        if given_id and len(given_id) <= MAX_REQUEST_ID_CHARS and given_id.isascii() and given_id.isprintable():
            headers["X-Request-Id"] = given_id
        else:
            headers["X-Request-Id"] = f"{self._prefix}-{next(self._numbers):x}"
        if self._cors:
            headers.update(self._cors)
        if self._tracer is not None and (traceresponse := self._tracer.begin(route, asked)):
            headers[TRACERESPONSE] = traceresponse


def _explained(answered: Answered, request: PredictRequest) -> Answered:
    """With what the request measured; it keeps no row of it alive."""
    target, timing, rows = request.target, request.timing, request.rows
    if target is not None:
        answered = answered._replace(model=target.model.name, version=target.model.version, signature=target.spec.name)
    if timing is not None:
        answered = answered._replace(answered_s=request.answered_s, calls=timing.calls, retries=timing.retries)
    return answered._replace(
        outcome=request.outcome or "cancelled",
        images=len(rows) if rows is not None else request.images,
        pixels=sum(request.pixels),
        stages=tuple(request.stages.items()),
    )
