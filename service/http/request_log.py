"""Request accounting: assigns request ids, counts requests and writes the access log."""

from __future__ import annotations

import logging
import secrets
import time
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from darkroom.service.telemetry.metrics import Metrics

_access = logging.getLogger("darkroom.access")
MAX_REQUEST_ID_CHARS = 128
CLIENT_LEFT = 499  # before it was answered; nginx logs the same status


class RequestLog:
    """Counts requests when they are complete and when they are answered, and writes the access log if asked to.

    Args:
        metrics: counts the requests.
        access_log: whether each answered request is a line of the log.
        cors: whether pages from other origins may read the answers.

    Attributes:
        has_access_log: whether the `client` of `leave` is used.
    """

    def __init__(self, metrics: Metrics, *, access_log: bool, cors: bool) -> None:
        self._metrics = metrics
        self.has_access_log = access_log
        self._cors = {"Access-Control-Allow-Origin": "*"} if cors else {}
        self._prefix = secrets.token_hex(4)
        self._numbers = count(1)

    def enter(self, *, is_fast: bool = False) -> float:
        """Counts a request as in flight: it has been received completely, by the fast lane if `is_fast`.

        Returns:
            When that was, on the monotonic clock; to be given to `leave`.
        """
        self._metrics.http_in_flight += 1
        if is_fast:
            self._metrics.fast_lane_requests += 1
        return time.monotonic()

    def leave(
        self, route: str, method: str, code: int, started_s: float, *, received: int, sent: int, client: str
    ) -> None:
        """Counts a request that entered as answered, or its client as gone (`CLIENT_LEFT`).

        Args:
            route: the template of its path, never the raw path.
            method: GET, POST, …
            code: the status of the answer.
            started_s: what `enter` returned.
            received: bytes of its body.
            sent: bytes of the answer's body.
            client: its address; only the access log uses it.
        """
        self._metrics.http_in_flight -= 1
        self.note(route, method, code, started_s, received=received, sent=sent, client=client)

    def note(
        self, route: str, method: str, code: int, started_s: float, *, received: int, sent: int, client: str
    ) -> None:
        """As `leave`, for a request that did not enter because no route took it."""
        duration_s = time.monotonic() - started_s
        self._metrics.http_ended(
            route, method, code, duration_s=duration_s, request_bytes=received, response_bytes=sent
        )
        if self.has_access_log:
            fields = {"route": route, "method": method, "code": code, "duration_ms": round(duration_s * 1000, 3)}
            fields |= {"request_bytes": received, "response_bytes": sent, "client": client}
            _access.info("request", extra={"fields": fields})

    def sign(self, headers: MutableMapping[str, str], given_id: str | None) -> None:
        """Adds the headers of every answer: `X-Request-Id`, and that of CORS if it is on.

        The id is `given_id`, the client's own, if it is short printable ASCII. Otherwise it is eight hexadecimal digits
        of this process and a number.
        """
        if given_id and len(given_id) <= MAX_REQUEST_ID_CHARS and given_id.isascii() and given_id.isprintable():
            headers["X-Request-Id"] = given_id
        else:
            headers["X-Request-Id"] = f"{self._prefix}-{next(self._numbers):x}"
        if self._cors:
            headers.update(self._cors)
