"""`/live/events`: the last minutes, second by second, as JSON or as server-sent events for the page `/live`.

One task of each process asks all workers once a second while a stream is open, and every stream sends the same text. So
the cost does not depend on the number of streams, and that is bounded.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from sanic.response import HTTPResponse, ResponseStream

from darkroom.service.config.machine import usable_cores
from darkroom.service.config.tokens import Scope
from darkroom.service.errors import NotReady
from darkroom.service.http.middleware import json_response
from darkroom.service.predict import codec
from darkroom.service.telemetry.recent import KEPT_S

if TYPE_CHECKING:
    from sanic.request import Request

    from darkroom.service.http.middleware import App
    from darkroom.service.parts import Darkroom
    from darkroom.service.telemetry.recent import Second

MAX_STREAMS = 32  # guess: of one process; each is a connection
OVERLAP_S = 3  # each event repeats the seconds before it, for a worker that was late to report one
AFTER_S = 0.2  # guess: after the end of a second every worker has counted it
_NOT_KEPT = {"Cache-Control": "no-store"}


class EventStream(ResponseStream):
    """A stream as the middleware sees it: an answer whose body is not known yet."""

    @property
    def body(self) -> bytes:
        """Nothing, when the answer is counted."""
        return b""


class Feed:
    """The events of all streams of one process. On the event loop."""

    def __init__(self, darkroom: Darkroom) -> None:
        self._darkroom = darkroom
        self._streams = 0
        self._pump: asyncio.Task[None] | None = None
        self._next: asyncio.Future[str] | None = None

    def check_room(self) -> None:
        """Returns if one more stream may be opened.

        Raises:
            NotReady: the server is stopping, or too many are open.
        """
        if self._darkroom.lifecycle.is_draining:
            raise NotReady(self._darkroom.lifecycle.trouble)
        if self._streams >= MAX_STREAMS:
            raise NotReady(f"{MAX_STREAMS} pages are watching this process already; close one of them")

    async def stream(self, response: EventStream) -> None:
        """Sends the last minutes and then every second, until the client leaves or the server stops."""
        self._streams += 1
        loop = asyncio.get_running_loop()
        try:
            event = _event(await self._darkroom.peers.recent(0))
            while event:  # empty: there are no more
                await response.write(event)
                if self._pump is None or self._pump.done():
                    self._next = loop.create_future()
                    self._pump = loop.create_task(self._run(), name="live-events")
                assert self._next is not None  # noqa: S101 - the task has one
                event = await asyncio.shield(self._next)
        except NotReady:
            pass  # the supervisor is gone, and the server is stopping
        finally:
            self._streams -= 1

    async def _run(self) -> None:
        """Makes an event a second, until no stream is open."""
        loop, darkroom = asyncio.get_running_loop(), self._darkroom
        while self._streams:
            await asyncio.sleep(1.0 - (time.time() - AFTER_S) % 1.0)
            try:
                found = await darkroom.peers.recent(int(time.time()) - OVERLAP_S)
                event = "" if darkroom.lifecycle.is_draining else _event(found)
            except NotReady:
                event = ""
            told, self._next = self._next, loop.create_future()
            if told is not None and not told.done():
                told.set_result(event)


def add_live_routes(app: App, darkroom: Darkroom) -> None:
    """Adds `/live/events`, and starts to note the seconds with the server."""
    feed = Feed(darkroom)
    started_s = time.monotonic()

    async def events(request: Request) -> HTTPResponse | EventStream:
        """The last minutes once, or for a client that accepts `text/event-stream` without an end."""
        if request.method == "GET" and "text/event-stream" in request.headers.get("accept", ""):
            feed.check_room()
            return EventStream(feed.stream, headers=dict(_NOT_KEPT), content_type="text/event-stream")  # type: ignore[arg-type]  # it is given the stream
        server = _describe(darkroom, time.monotonic() - started_s)
        found = await darkroom.peers.recent(0)
        return json_response({"server": server, "kept_s": KEPT_S, "seconds": found}, headers=_NOT_KEPT)

    @app.listener("after_server_start")
    async def start(_: App) -> None:
        darkroom.lifecycle.tasks.start("recent-seconds", darkroom.recent.run)

    darkroom.middleware.route(app, "GET", "/live/events", events, scope=Scope.METRICS)


def _describe(darkroom: Darkroom, uptime_s: float) -> dict[str, Any]:
    """What the first page tells of the server."""
    version, tensorflow, python = darkroom.metrics.build
    series = darkroom.metrics.models()
    devices = sorted({device for metrics in series for device in metrics.device_batches})
    return {
        "version": version,
        "tensorflow": tensorflow,
        "python": python,
        "uptime_s": round(uptime_s, 1),
        "cores": usable_cores(),
        "workers": darkroom.settings.workers,
        "devices": devices,
        "trouble": darkroom.lifecycle.trouble,
    }


def _event(seconds: list[Second]) -> str:
    """A server-sent event with these seconds; one line, since JSON has no line breaks."""
    return f"data: {codec.dump_json(seconds).decode()}\n"
