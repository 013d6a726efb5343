"""One server process: listens, prints how to send a request, and stops in order."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from sanic.application.state import ApplicationServerInfo
from sanic.http.constants import HTTP

from darkroom.models.runtime.memory import free_bytes, own_bytes
from darkroom.service.app import create_app
from darkroom.service.config.machine import backlog_within, usable_cores
from darkroom.service.config.tls import context_of, grpc_context_of
from darkroom.service.http.connection import Connection
from darkroom.service.http.fast_lane import FastLane
from darkroom.service.serving.watchdog import EXIT_STUCK
from darkroom.service.telemetry.version import is_compiled
from darkroom.service.workers.choice import Resources, choose_for
from darkroom.service.workers.listener import BACKLOG, listen, url_of
from darkroom.service.workers.peers import Member

if TYPE_CHECKING:
    import socket
    import ssl

    from sanic.server.async_server import AsyncioServer

    from darkroom.models.engine import LoadedModel
    from darkroom.service.api.grpc.front import GrpcFront
    from darkroom.service.config.settings import Settings
    from darkroom.service.http.middleware import App
    from darkroom.service.parts import Darkroom
    from darkroom.service.workers.peers import WorkerHandles

_log = logging.getLogger("darkroom.service")
EXIT_UNANSWERED = 75  # of a stop that could not answer all that was accepted (precedent: sysexits, try again)
RECEIVE_SHARE = 0.75  # guess: of --drain_timeout_ms, for requests that are still arriving
POLL_S = 0.02  # guess


class Server:
    """One HTTP server on the running event loop.

    Args:
        settings: of the server.
        models: served instead of the models that the settings name.
        handles: makes it one of several workers: its supervisor listens, and prints for all of them.

    Attributes:
        url: under which this machine reaches the server; empty until `is_listening` is set.
        grpc_address: the same for gRPC; empty without it.
    """

    def __init__(self, settings: Settings, *models: LoadedModel, handles: WorkerHandles | None = None) -> None:
        self._settings = settings
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.app: App = create_app(settings, *models)
        self.darkroom: Darkroom = self.app.ctx.darkroom
        self._is_announced = False  # the supervisor has the hint to print
        self._member: Member | None = None
        if handles is not None:
            self.darkroom.peers = self._member = Member(handles, self.darkroom.peers)
        self._is_stuck = False
        self.darkroom.lifecycle.watchdog.on_kill = self._end_stuck
        self.url = self.grpc_address = ""
        self._grpc: GrpcFront | None = None
        self.is_listening = asyncio.Event()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def failure(self) -> Exception | None:
        """Why no model could be loaded; None if that did not happen."""
        return self.darkroom.lifecycle.failure

    @property
    def exit_status(self) -> int:
        """The exit status of the process after `run`; docs/operations.md lists them."""
        if self.failure is not None:
            return 1
        if self._is_stuck:
            return EXIT_STUCK
        return EXIT_UNANSWERED if self.darkroom.lifecycle.unanswered else 0

    def stop(self) -> None:
        """Starts the ordered stop; `run` returns when it is done."""
        self._stopping.set()

    def _end_stuck(self) -> None:
        """Stops because an engine call does not return. What other engines have accepted is answered first."""
        self._is_stuck = True
        self.stop()

    async def run(self) -> None:
        """Serves until `stop`, or until the first load fails.

        Raises:
            OSError: the address can't be bound.
        """
        server = await self._bind()
        try:
            await self._announce()
            await self._stopping.wait()
        finally:
            await self._close(server)

    async def _bind(self) -> AsyncioServer:
        """Listens before the models load, so that health and metrics answer meanwhile."""
        settings, member = self._settings, self._member
        listener = listen(settings.host, settings.port) if member is None else member.listener
        server = await self.app.create_server(
            sock=listener,
            ssl=_ssl_context(settings),
            protocol=FastLane if settings.fast_lane else Connection,
            backlog=backlog_within(BACKLOG, settings.max_connections),
            asyncio_server_kwargs={"start_serving": False},
        )
        # Without this Sanic assumes HTTP/3 and sends an empty alt-svc header.
        self.app.state.server_info.append(ApplicationServerInfo({"version": HTTP.VERSION_1}))
        if server is None:
            raise OSError("Sanic made no server")
        await server.startup()
        await server.before_start()
        if member is None:
            await server.start_serving()
        else:
            await self._join(member, server)
        if member is None or settings.workers == "auto":
            await self._open_grpc()
        await server.after_start()
        self.url = url_of(listener, is_tls=settings.enable_ssl)
        self.is_listening.set()
        return server

    async def _join(self, member: Member, server: AsyncioServer) -> None:
        """Serves the connections that the supervisor passes, as Sanic serves those that it accepts itself."""
        protocol = FastLane if self._settings.fast_lane else Connection
        factory = partial(protocol, loop=self.loop, app=self.app, connections=server.connections)
        tls = _ssl_context(self._settings)
        opening: set[asyncio.Task[Any]] = set()
        lifecycle = self.darkroom.lifecycle

        async def open_connection(connection: socket.socket) -> None:
            with suppress(OSError):  # the client is gone, or does not speak TLS
                await self.loop.connect_accepted_socket(factory, connection, ssl=tls)

        def on_connection(connection: socket.socket) -> None:
            connection.setblocking(False)
            task = self.loop.create_task(open_connection(connection), name="open-connection")
            opening.add(task)
            task.add_done_callback(opening.discard)

        def status() -> dict[str, Any]:
            is_ready = self._is_announced and lifecycle.takes_requests
            return {"is_ready": is_ready, "connections": len(server.connections) + len(opening)}

        def on_known_ready() -> None:
            lifecycle.is_known_ready = True

        def let_go(count: int) -> None:
            staying = (each for each in server.connections if isinstance(each, FastLane) and not each.is_leaving)
            for connection in islice(staying, count):
                connection.is_leaving = True

        lifecycle.is_known_ready = False
        await member.open(
            lifecycle.tasks,
            on_connection=on_connection,
            status=status,
            on_known_ready=on_known_ready,
            on_let_go=let_go,
            on_supervisor_gone=self.stop,
        )

    async def _open_grpc(self) -> None:
        """Listens for gRPC, if the settings ask for it. Nothing of it is imported before."""
        settings = self._settings
        if settings.grpc_port is None:
            return
        from darkroom.service.api.grpc.front import GrpcFront  # noqa: PLC0415 - only with --grpc_port

        listener = listen(settings.host, settings.grpc_port, is_shared=self._member is not None)
        tls = grpc_context_of(path) if (path := settings.grpc_ssl_config_file) else _ssl_context(settings)
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
        self._grpc = GrpcFront(self.darkroom)
        await self._grpc.open(listener, tls, backlog=backlog_within(BACKLOG, settings.max_connections))
        self.grpc_address = url_of(listener, is_tls=False).removeprefix("http://")

    async def _announce(self) -> None:
        """Prints the address at once, and the hint when the models are loaded. A worker sends the hint to its supervisor."""
        member = self._member
        if member is None:
            print(f"darkroom: listening on {self.url}, loading models …", file=sys.stderr, flush=True)
            if self.grpc_address:
                print(f"darkroom: gRPC on {self.grpc_address}", file=sys.stderr, flush=True)
        settled = asyncio.create_task(self.darkroom.lifecycle.settled.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({settled, stopping}, return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        stopping.cancel()
        if self.failure is not None:
            if member is not None:
                member.notify({"type": "failure", "text": str(self.failure)})
            self._stopping.set()
        elif not self.is_stopping:
            hint = _hint(self.url, self.darkroom)
            if member is None:
                print(hint, file=sys.stderr, flush=True)
            else:
                await self._introduce(member, hint)

    async def _introduce(self, member: Member, hint: str) -> None:
        """Tells the supervisor that this worker is ready, and what it found out."""
        if self._grpc is None:
            await self._open_grpc()  # the kernel spreads connections over the workers that listen, so only now
        if self._settings.workers == "auto":
            resources = Resources(usable_cores(), own_bytes(), free_bytes(), is_compiled())
            choice = choose_for(self.darkroom.registry, resources)
            member.notify({"type": "choice"} | choice._asdict())
        member.notify({"type": "hint", "text": hint})
        self._is_announced = True

    async def _close(self, server: AsyncioServer) -> None:
        """Drains, closes the listener and the idle connections, waits for the busy ones, then frees the engines."""
        is_serving = self.darkroom.lifecycle.is_serving
        self.darkroom.lifecycle.leave()
        if self._member is not None:
            self._member.notify({"type": "readiness", "is_ready": False})
        if is_serving:
            await self._wind_down(server)
        self.darkroom.lifecycle.refuse()
        if self._grpc is not None:
            self._grpc.refuse()
        await server.before_stop()
        if self._member is not None:
            self._member.refuse()
        await server.close()
        await self._close_connections(server)
        await server.after_stop()
        if self._member is not None:
            self._member.close()

    async def _close_connections(self, server: AsyncioServer) -> None:
        """Closes the idle connections, and the others once their answers are read or soon after."""
        for connection in self._connections(server):
            connection.close_if_idle()
        for _ in range(40):  # 2 s (guess): the answers are ready, only slow clients still read them
            if not self._connections(server):
                break
            await asyncio.sleep(0.05)
        for connection in self._connections(server):
            connection.abort()

    def _connections(self, server: AsyncioServer) -> list[Any]:
        """Those of HTTP and of gRPC."""
        return [*server.connections, *(self._grpc.connections if self._grpc is not None else ())]

    async def _wind_down(self, server: AsyncioServer) -> None:
        """Answers new requests for `--drain_delay_ms`, then until what has begun to arrive is complete.

        Requests that arrive slowly get a share of the time of the drain, so that those that wait keep the rest.
        """
        lifecycle, loop = self.darkroom.lifecycle, self.loop
        delay_s = self._settings.drain_delay_ms / 1000
        if delay_s and not self._is_stuck:
            _log.info("not ready any more; still answering", extra={"fields": {"drain_delay_s": delay_s}})
            await asyncio.sleep(delay_s)
        started_s = loop.time()
        receiving = [connection for connection in self._connections(server) if connection.is_receiving()]
        while receiving and loop.time() - started_s < RECEIVE_SHARE * lifecycle.drain_s:
            await asyncio.sleep(POLL_S)
            receiving = [connection for connection in receiving if connection.is_receiving()]
        lifecycle.drain_s -= loop.time() - started_s


def _ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context of --secret_pem and --secret_key; None without --enable_ssl."""
    if not settings.enable_ssl:
        return None
    return context_of(settings.secret_pem, settings.secret_key)


def _hint(url: str, darkroom: Darkroom) -> str:
    """The names of the served models, and a command that sends a request."""
    lines = [f"darkroom: ready, {url}/image_inference is the page, {url}/metrics the metrics"]
    for name in darkroom.registry.models():
        versions = ", ".join(map(str, darkroom.registry.versions(name)))
        unserved = "loaded at its first request" if darkroom.registry.is_unloaded(name) else "not served now"
        lines.append(f"  {name}, version {versions}" if versions else f"  {name}, {unserved}")
    target = next((t for t in darkroom.registry.targets() if t.spec.image_input and len(t.spec.inputs) == 1), None)
    if target is not None:
        picture = "tests/images/chelsea.jpg"
        lines.append(f"  try: curl -H 'Content-Type: image/jpeg' --data-binary @{picture} '{url}/?top_k=3'")
    return "\n".join(lines)
