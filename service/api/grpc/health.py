"""`grpc.health.v1.Health`: the whole server, each model, and each service by name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from darkroom.service.api.grpc.call import Method, unary
from darkroom.service.api.grpc.protos import SERVICES, message, parse
from darkroom.service.errors import NotFound, quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from darkroom.service.api.grpc.call import Exchange
    from darkroom.service.parts import Darkroom

SERVICE = "/grpc.health.v1.Health/"
TENSORFLOW_SERVING_NAMES = ("PredictionService", "ModelService")  # as it calls them here, without their package
WATCH_S = 0.5  # guess: how often a watched status is looked at
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
_Request = message("grpc.health.v1.HealthCheckRequest")
_Response = message("grpc.health.v1.HealthCheckResponse")


class HealthService:
    """Answers what load balancers ask. The name of a model stands for this model, that of a service for the server."""

    def __init__(self, darkroom: Darkroom) -> None:
        self._lifecycle = darkroom.lifecycle
        self._registry = darkroom.registry

    def methods(self) -> dict[str, Method]:
        """The method of each path; health needs no credentials."""
        handlers = {"Check": unary(self.check), "List": unary(self.list), "Watch": self.watch}
        return {f"{SERVICE}{name}": Method(handler, None) for name, handler in handlers.items()}

    def status(self, name: str) -> int:
        """The status of a model or a service; of the whole server without a name."""
        if name in self._registry:
            if self._registry.is_unloaded(name):  # a request loads it
                return SERVING if self._lifecycle.is_serving else NOT_SERVING
            versions = self._registry.versions(name)
            every = [target for named in versions.values() for target in named.values()]
            targets = [target for target in every if not self._registry.is_on_trial(target)]
            is_served = bool(targets) and all(target.batcher.is_healthy for target in targets)
            return SERVING if is_served and self._lifecycle.is_serving else NOT_SERVING
        if name and name not in SERVICES and name not in TENSORFLOW_SERVING_NAMES:
            return SERVICE_UNKNOWN
        return SERVING if self._lifecycle.is_ready else NOT_SERVING

    async def check(self, body: bytes, _: Mapping[str, str]) -> bytes:
        """The status now."""
        name = parse(_Request, body).service
        status = self.status(name)
        if status == SERVICE_UNKNOWN:
            raise NotFound(f"there is no model or service {quote(name)}")
        return bytes(_Response(status=status).SerializeToString())

    async def list(self, body: bytes, _: Mapping[str, str]) -> bytes:  # noqa: ARG002 - a handler
        """The status of the server and of each model."""
        names = ("", *self._registry.models())
        statuses = {name: _Response(status=self.status(name)) for name in names}
        return bytes(message("grpc.health.v1.HealthListResponse")(statuses=statuses).SerializeToString())

    async def watch(self, exchange: Exchange) -> None:
        """The status, and again whenever it has changed, until the client leaves."""
        name = parse(_Request, await exchange.read_only()).service
        sent = None
        while True:
            status = self.status(name)
            if status != sent:
                exchange.write(_Response(status=status).SerializeToString())
                sent = status
            await asyncio.sleep(WATCH_S)
