"""The process around the app: binds the port, prints how to ask, and stops in order."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from typing import TYPE_CHECKING

from sanic.application.state import ApplicationServerInfo
from sanic.http.constants import HTTP

from service.app import create_app
from service.connection import Connection
from service.fastlane import FastLane

if TYPE_CHECKING:
    from sanic.server.async_server import AsyncioServer

    from models.loaded import LoadedModel
    from service.app import Darkroom
    from service.edge import App
    from service.settings import Settings

BACKLOG = 1024  # precedent: nginx takes 511; a burst of connections must not be refused by the kernel


class Server:
    """One HTTP server on the running loop; `models` are served instead of those that the settings name."""

    def __init__(self, settings: Settings, *models: LoadedModel) -> None:
        self._settings = settings
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.app: App = create_app(settings, *models)
        self.darkroom: Darkroom = self.app.ctx.darkroom
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
        settings = self._settings
        listener = _listen(settings.host, settings.port)
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
        await server.start_serving()
        await server.after_start()
        host, port = listener.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared
        self.url = f"{'https' if settings.enable_ssl else 'http'}://{shown}:{port}"
        self.is_listening.set()
        return server

    async def _announce(self) -> None:
        """Says where it listens at once, and what to type as soon as it can be answered."""
        print(f"darkroom: listening on {self.url}, loading models …", file=sys.stderr, flush=True)
        settled = asyncio.create_task(self.darkroom.lifecycle.settled.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({settled, stopping}, return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        stopping.cancel()
        if self.failure is not None:
            self._stopping.set()
        elif not self.is_stopping:
            print(_how_to_ask(self.url, self.darkroom), file=sys.stderr, flush=True)

    async def _close(self, server: AsyncioServer) -> None:
        """Drains, closes the port and idle connections, gives the busy ones their time, then frees the engines."""
        await server.before_stop()
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


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket; ours and not Sanic's, which takes port 0 for its default.

    Raises:
        OSError: the address can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


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
    for name in darkroom.catalogue.models():
        versions = ", ".join(map(str, darkroom.catalogue.versions(name)))
        lines.append(f"  {name}, version {versions}")
    target = next((t for t in darkroom.catalogue.targets() if t.spec.image_input), None)
    if target is not None:
        picture = "tests/images/chelsea.jpg"
        lines.append(f"  try: curl -H 'Content-Type: image/jpeg' --data-binary @{picture} '{url}/?top_k=3'")
    return "\n".join(lines)
