"""Traces: which requests are traced, and a background task that posts their spans to an OpenTelemetry collector.

Nothing is made for a request before its answer but the header that names its trace. Its spans are made after it, of what
was measured anyway. A collector that is slow or away costs traces, which are counted, and no answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from contextlib import suppress
from random import getrandbits
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from darkroom.service.config.access_log import PROBES
from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.otel import GRPC_PORT, read_trace_settings
from darkroom.service.telemetry.answered import parent_of
from darkroom.service.telemetry.otlp import SpanWriter, joined, payload

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from darkroom.service.config.otel import TraceSettings
    from darkroom.service.telemetry.answered import Answered

_log = logging.getLogger("darkroom.service")
MANY = 256  # guess: requests after which a post does not wait for its time
MAX_POST = 1024  # guess: requests whose spans are posted together, about 2 MB
RETRIED = frozenset({429, 502, 503, 504})  # precedent: OTLP's list of statuses after which a client tries again
TRIES = 5  # guess: of one post, with waits of 1, 2, 4 and 8 s
FINISH_S = 1.0  # guess: how long the stop of a server may wait for its collector
MAX_LINE_BYTES = 1024


class Tracer:
    """Decides for each request whether it is traced, and posts the spans of those that are. On the event loop.

    Args:
        settings: where to, how many.
        counts: `sent`, `dropped` (too many waited) and `failed` (the collector refused them or was away) requests.
        version: of this server.
    """

    def __init__(self, settings: TraceSettings, counts: Counter[str], *, version: str) -> None:
        self._settings = settings
        self._counts = counts
        self._version = version
        self._bound = int(settings.share * (1 << 64))
        self._resource: dict[str, Any] = {
            "service.version": version,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            "process.pid": os.getpid(),
            "telemetry.sdk.name": "darkroom",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.version": version,
        } | settings.resource
        self._waiting: deque[bytes] = deque()  # the spans of each request
        self._is_much = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_finishing = self._is_away = False
        self._writer = SpanWriter(os.urandom(16))

    def begin(self, route: str, asked: Mapping[str, str]) -> str:
        """The `traceresponse` of a request to `route` with the headers `asked`; empty: it is not traced."""
        traceparent = asked.get("traceparent")
        if traceparent is None:
            low = getrandbits(64)
            if low >= self._bound or route in PROBES:
                return ""
            return f"00-{getrandbits(64):016x}{low or 1:016x}-{getrandbits(64) or 1:016x}-01"
        parent = parent_of(traceparent)
        if not parent.trace_id:  # as if there were none
            return self.begin(route, {})
        is_drawn = int(parent.trace_id[16:], 16) < self._bound
        is_traced = parent.is_sampled if self._settings.follows_parent else is_drawn
        return f"00-{parent.trace_id}-{getrandbits(64) or 1:016x}-01" if is_traced else ""

    def note(self, answered: Answered) -> None:
        """Makes the spans of a request that was answered; drops it if too many wait."""
        if len(self._waiting) >= self._settings.max_waiting:
            self._counts["dropped"] += 1
            return
        self._waiting.append(joined(self._writer.request(answered)))
        if len(self._waiting) == MANY:
            self._is_much.set()

    async def run(self) -> None:
        """Posts what waits, soon after much of it has come or at last after the delay, until it is cancelled."""
        while True:
            if not self._waiting:
                self._is_idle.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_much.wait(), self._settings.delay_s)
            self._is_much.clear()
            self._is_idle.clear()
            while self._waiting:
                await self._post()

    async def finish(self) -> None:
        """Posts what waits, for a second at most; for the end of the server."""
        self._is_finishing = True
        self._is_idle.clear()
        self._is_much.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_idle.wait(), FINISH_S)

    async def _post(self) -> None:
        """Posts the spans of `MAX_POST` requests, and those of the engine calls that carried them.

        The requests of one call are answered in one turn of the loop. One whose large answer was written in a thread may
        come later: it has a link to the call, and the call none to it.
        """
        count = min(len(self._waiting), MAX_POST)
        pieces = [self._waiting.popleft() for _ in range(count)]
        if calls := self._writer.flush_calls():
            pieces.append(joined(calls))
        is_sent = await self._deliver(payload(pieces, self._resource, self._version))
        self._counts["sent" if is_sent else "failed"] += count

    async def _deliver(self, body: bytes) -> bool:
        """Posts a body, again and again if the collector is away; returns whether it was taken."""
        wait_s = 1.0
        for tries_left in reversed(range(TRIES)):
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    status = await self._exchange(body)
                trouble = "" if 200 <= status < 300 else f"status {status}"
            except (OSError, ValueError) as err:  # TimeoutError is one
                status, trouble = 503, str(err) or type(err).__name__
            self._tell(trouble)
            if not trouble:
                return True
            if status not in RETRIED or self._is_finishing or not tries_left:
                break
            await asyncio.sleep(wait_s)
            wait_s *= 2
        return False

    def _tell(self, trouble: str) -> None:
        """Logs that the collector does not take traces, or does again; once each."""
        is_away = bool(trouble)
        if is_away == self._is_away:
            return
        self._is_away = is_away
        fields = {"endpoint": self._settings.shown}
        if trouble:
            _log.warning(
                "traces can't be sent; requests are served all the same", extra={"fields": fields | {"reason": trouble}}
            )
        else:
            _log.info("traces are sent again", extra={"fields": fields})

    async def _exchange(self, body: bytes) -> int:
        """Posts a body on a connection of its own; returns the status of the answer.

        Raises:
            OSError: the collector can't be reached, or closes the connection.
            ValueError: what it answers is not HTTP/1.1.
        """
        address, tls = urlsplit(self._settings.endpoint), self._settings.tls
        host = address.hostname or ""
        port = address.port or (443 if tls else 80)
        reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=MAX_LINE_BYTES)
        headers = {
            "Host": address.netloc.rpartition("@")[2],
            "Content-Type": "application/json",
            "User-Agent": f"darkroom/{self._version}",
            "Connection": "close",
        } | self._settings.headers
        target = (address.path or "/") + (f"?{address.query}" if address.query else "")
        lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        try:
            writer.write(head.encode("latin-1", "replace") + body)
            await writer.drain()
            line = await reader.readline()
        finally:
            writer.close()
        version, _, rest = line.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise ValueError(
                "it does not answer in HTTP/1.1: is it the port of OTLP/gRPC? That of OTLP/HTTP is usually 4318"
            )
        return int(rest[:3])


def tracer_of(environment: Mapping[str, str], counts: Counter[str], *, version: str) -> Tracer | None:
    """The tracer that the `OTEL_*` variables ask for; None without an endpoint, and where they can't be followed.

    They may be meant for all programs of a cluster, so a wrong one is a line of the log and stops no start.
    """
    try:
        settings = read_trace_settings(environment)
    except BadSettingsError as err:
        for problem in err.problems:
            _log.warning(f"no request is traced: {problem}")
        return None
    if settings is None:
        return None
    fields = {"endpoint": settings.shown, "share": settings.share, "follows_parent": settings.follows_parent}
    _log.info("requests are traced", extra={"fields": fields})
    if urlsplit(settings.endpoint).port == GRPC_PORT:
        _log.warning(f"traces: port {GRPC_PORT} is usually that of OTLP/gRPC, and traces go by OTLP/HTTP: usually 4318")
    return Tracer(settings, counts, version=version)
