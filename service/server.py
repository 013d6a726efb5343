"""The process around the app: binds the port, prints how to ask, and stops in order."""

from __future__ import annotations

import asyncio
import ssl
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from sanic.application.state import ApplicationServerInfo
from sanic.http.constants import HTTP

from darkroom.service.app import create_app
from darkroom.service.http.connection import Connection
from darkroom.service.http.fast_lane import FastLane
from darkroom.service.workers.listener import BACKLOG, listen, url_of
from darkroom.service.workers.peers import Member

if TYPE_CHECKING:
    import socket

    from sanic.server.async_server import AsyncioServer

    from darkroom.models.loaded import LoadedModel
    from darkroom.service.config.settings import Settings
    from darkroom.service.http.middleware import App
    from darkroom.service.parts import Darkroom
    from darkroom.service.workers.peers import WorkerHandles


class Server:
    """One HTTP server on the running loop; `models` are served instead of those that the settings name.

    With a `place` it is one of several workers: it binds nothing, and its supervisor speaks for it.
    """

    def __init__(self, settings: Settings, *models: LoadedModel, place: WorkerHandles | None = None) -> None:
        self._settings = settings
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.app: App = create_app(settings, *models)
        self.darkroom: Darkroom = self.app.ctx.darkroom
        self._is_announced = False  # the supervisor knows what to print
        self._member: Member | None = None
        if place is not None:
            self.darkroom.peers = self._member = Member(place, self.darkroom.peers)
        self.url = ""
        self.is_listening = asyncio.Event()  # `url` is known

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def failure(self) -> Exception | None:
        """Why no model could be loaded."""
        return self.darkroom.lifecycle.failure

    def stop(self) -> None:
        """Begins the ordered stop; `run` returns when it is done."""
        self._stopping.set()

    async def run(self) -> None:
        """Serves until `stop`, or until the first load turns out a failure.

        Raises:
            OSError: the port can't be bound.
        """
        server = await self._bind()
        try:
            await self._announce()
            await self._stopping.wait()
        finally:
            await self._close(server)

    async def _bind(self) -> AsyncioServer:
        """Listens first, so that health and metrics answer while the models load."""
        settings, member = self._settings, self._member
        listener = listen(settings.host, settings.port) if member is None else member.listener
        server = await self.app.create_server(
            sock=listener,
            ssl=_ssl_context(settings),
            protocol=FastLane if settings.fast_lane else Connection,
            backlog=BACKLOG,
            asyncio_server_kwargs={"start_serving": False},
        )
        # Without it Sanic sends an empty alt-svc header: it thinks of HTTP/3 unless told otherwise.
        self.app.state.server_info.append(ApplicationServerInfo({"version": HTTP.VERSION_1}))
        if server is None:
            raise OSError("Sanic made no server")
        await server.startup()
        await server.before_start()
        if member is None:
            await server.start_serving()
        else:
            await self._receive(member, server)
        await server.after_start()
        self.url = url_of(listener, is_tls=settings.enable_ssl)
        self.is_listening.set()
        return server

    async def _receive(self, member: Member, server: AsyncioServer) -> None:
        """Serves the connections that the supervisor hands over, as Sanic serves those that it accepts itself."""
        protocol = FastLane if self._settings.fast_lane else Connection
        factory = partial(protocol, loop=self.loop, app=self.app, connections=server.connections)
        tls = _ssl_context(self._settings)
        opening: set[asyncio.Task[Any]] = set()
        lifecycle = self.darkroom.lifecycle

        def take(connection: socket.socket) -> None:
            connection.setblocking(False)
            task = self.loop.create_task(_open(connection, factory, tls))
            opening.add(task)
            task.add_done_callback(opening.discard)

        def report() -> dict[str, Any]:
            is_ready = self._is_announced and lifecycle.takes_requests
            return {"is_ready": is_ready, "connections": len(server.connections) + len(opening)}

        def known() -> None:
            lifecycle.is_expected = True

        lifecycle.is_expected = False
        await member.open(take=take, report=report, known=known, leave=self.stop)

    async def _announce(self) -> None:
        """Says where it listens at once, and what to type as soon as it can be answered; a worker tells only that."""
        member = self._member
        if member is None:
            print(f"darkroom: listening on {self.url}, loading models …", file=sys.stderr, flush=True)
        settled = asyncio.create_task(self.darkroom.lifecycle.settled.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({settled, stopping}, return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        stopping.cancel()
        if self.failure is not None:
            if member is not None:
                member.tell({"ask": "failure", "text": str(self.failure)})
            self._stopping.set()
        elif not self.is_stopping:
            hint = _how_to_ask(self.url, self.darkroom)
            if member is None:
                print(hint, file=sys.stderr, flush=True)
            else:
                member.tell({"ask": "hint", "text": hint})
                self._is_announced = True

    async def _close(self, server: AsyncioServer) -> None:
        """Drains, closes the port and idle connections, gives the busy ones their time, then frees the engines."""
        if self._member is not None:
            self._member.tell({"ask": "stand", "is_ready": False})
        await server.before_stop()
        if self._member is not None:
            self._member.refuse()
        await server.close()
        for connection in list(server.connections):
            connection.close_if_idle()
        for _ in range(40):  # 2 s, a guess: the answers are made, this is for slow readers
            if not server.connections:
                break
            await asyncio.sleep(0.05)
        for connection in list(server.connections):
            connection.abort()
        await server.after_stop()
        if self._member is not None:
            self._member.close()


async def _open(connection: socket.socket, factory: Any, tls: ssl.SSLContext | None) -> None:
    """Makes a connection of a socket; one that is gone, or doesn't speak TLS, is let go."""
    with suppress(OSError):
        await asyncio.get_running_loop().connect_accepted_socket(factory, connection, ssl=tls)


def _ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS from --secret_pem and --secret_key where --enable_ssl asks for it."""
    if not settings.enable_ssl:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.secret_pem, settings.secret_key)
    return context


def _how_to_ask(url: str, darkroom: Darkroom) -> str:
    """What is served, and a command that asks it."""
    lines = [f"darkroom: ready, {url}/image_inference is the page, {url}/metrics the metrics"]
    for name in darkroom.registry.models():
        versions = ", ".join(map(str, darkroom.registry.versions(name)))
        lines.append(f"  {name}, version {versions}")
    target = next((t for t in darkroom.registry.targets() if t.spec.image_input), None)
    if target is not None:
        picture = "tests/images/chelsea.jpg"
        lines.append(f"  try: curl -H 'Content-Type: image/jpeg' --data-binary @{picture} '{url}/?top_k=3'")
    return "\n".join(lines)
