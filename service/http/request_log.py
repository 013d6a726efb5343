"""Visits: HTTP requests from where they are there, whole, to their answers: ids, counts, the access log."""

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
CLIENT_LEFT = 499  # before it was answered, as nginx writes it


class RequestLog:
    """Counts requests in and out, and writes the access log where one is asked for.

    Args:
        metrics: where they are counted.
        access_log: whether each answered request is a line of the log.
        cors: whether pages of elsewhere may read the answers.

    Attributes:
        has_access_log: whether `client` is asked for.
    """

    def __init__(self, metrics: Metrics, *, access_log: bool, cors: bool) -> None:
        self._metrics = metrics
        self.has_access_log = access_log
        self._cors = {"Access-Control-Allow-Origin": "*"} if cors else {}
        self._prefix = secrets.token_hex(4)
        self._numbers = count(1)

    def enter(self) -> float:
        """A request is there, whole: returns when, for `leave`."""
        self._metrics.http_in_flight += 1
        return time.monotonic()

    def leave(
        self, route: str, method: str, code: int, started_s: float, *, received: int, sent: int, client: str
    ) -> None:
        """A request that entered is answered, or its caller has left (`CLIENT_LEFT`).

        Args:
            route: the template of its address, never the raw path.
            method: GET, POST, …
            code: the status of the answer.
            started_s: what `enter` returned.
            received: bytes of its body.
            sent: bytes of the answer's.
            client: its address, for the access log alone.
        """
        self._metrics.http_in_flight -= 1
        self.note(route, method, code, started_s, received=received, sent=sent, client=client)

    def note(
        self, route: str, method: str, code: int, started_s: float, *, received: int, sent: int, client: str
    ) -> None:
        """As `leave`, of a request that did not enter: nothing of ours took it."""
        duration_s = time.monotonic() - started_s
        self._metrics.http_ended(
            route, method, code, duration_s=duration_s, request_bytes=received, response_bytes=sent
        )
        if self.has_access_log:
            fields = {"route": route, "method": method, "code": code, "duration_ms": round(duration_s * 1000, 3)}
            fields |= {"request_bytes": received, "response_bytes": sent, "client": client}
            _access.info("request", extra={"fields": fields})

    def sign(self, headers: MutableMapping[str, str], given_id: str | None) -> None:
        """Adds what every answer carries besides its times; `given_id` is the client's `X-Request-Id`."""
        headers["X-Request-Id"] = self.id_of(given_id)
        if self._cors:
            headers.update(self._cors)

    def id_of(self, given: str | None) -> str:
        """The client's own id where it is short printable ASCII; else eight digits of this process, and a number."""
        if given and len(given) <= MAX_REQUEST_ID_CHARS and given.isascii() and given.isprintable():
            return given
        return f"{self._prefix}-{next(self._numbers):x}"
