"""The gRPC server beside HTTP: its port, its connections, its methods."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from darkroom.service.api.grpc.call import CallParts
from darkroom.service.api.grpc.connection import GrpcConnection
from darkroom.service.api.grpc.health import HealthService
from darkroom.service.api.grpc.inference import InferenceService
from darkroom.service.api.grpc.reflection import reflection_methods
from darkroom.service.api.grpc.tensorflow_serving import PredictionService

if TYPE_CHECKING:
    import socket
    import ssl

    from darkroom.service.parts import Darkroom

CHECK_S = 2.0  # guess: how often connections are looked at for what takes too long


class GrpcFront:
    """Serves gRPC with the parts of one server, on its event loop, until `close`.

    Attributes:
        connections: the open ones.
    """

    def __init__(self, darkroom: Darkroom) -> None:
        settings = darkroom.settings
        methods = PredictionService(darkroom).methods() | InferenceService(darkroom).methods()
        methods |= HealthService(darkroom).methods() | reflection_methods()
        parts = CallParts(
            methods,
            darkroom.predictor,
            darkroom.request_log,
            darkroom.receiving,
            darkroom.auth,
            max_message_bytes=settings.max_body_bytes,
            max_unread_bytes=settings.max_sending_bytes,
        )
        self.connections: set[GrpcConnection] = set()
        self._connect = partial(
            GrpcConnection,
            parts,
            self.connections,
            darkroom.sending,
            max_connections=settings.max_connections,
            read_timeout_s=settings.read_timeout_ms / 1000,
        )
        self._tasks = darkroom.lifecycle.tasks
        self._server: asyncio.Server | None = None

    async def open(self, listener: socket.socket, tls: ssl.SSLContext | None, *, backlog: int) -> None:
        """Takes connections from now on; `backlog` of them may wait to be taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, sock=listener, ssl=tls, backlog=backlog)
        self._tasks.start("grpc-connections", self._check)

    def refuse(self) -> None:
        """Takes no more connections and calls; those that have come are answered."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.refuse_new()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            now = time.monotonic()
            for connection in list(self.connections):
                connection.check(now)
