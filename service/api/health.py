"""Health and metrics: what a load balancer, Kubernetes and Prometheus ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sanic.response import HTTPResponse

from service.edge import json_response, text_response
from service.lifecycle import State
from service.tokens import Scope

if TYPE_CHECKING:
    from sanic.request import Request

    from service.app import Darkroom
    from service.edge import App


def install(app: App, darkroom: Darkroom) -> None:
    """Adds `/health` (STS), `/v2/health/live|ready` (Open Inference Protocol) and the metrics under both names."""
    lifecycle, edge = darkroom.lifecycle, darkroom.edge

    async def healthy(_: Request) -> HTTPResponse:
        """STS's word for ready; while it isn't, 503 and the reason."""
        if lifecycle.is_ready:
            return text_response("healthy")
        return text_response(lifecycle.state.name.lower() if lifecycle.state is not State.READY else "unhealthy", 503)

    async def live(_: Request) -> HTTPResponse:
        """The process answers; only that."""
        return json_response({"live": True})

    async def ready(_: Request) -> HTTPResponse:
        """Whether to send requests here."""
        return json_response({"ready": lifecycle.is_ready}, 200 if lifecycle.is_ready else 503)

    async def metrics(_: Request) -> HTTPResponse:
        """Prometheus' text format."""
        body, content_type = darkroom.metrics.render()
        return HTTPResponse(body, 200, {}, content_type)

    edge.route(app, "GET", "/health", healthy, scope=None)
    edge.route(app, "GET", "/v2/health/live", live, scope=None)
    edge.route(app, "GET", "/v2/health/ready", ready, scope=None)
    edge.route(app, "GET", "/metrics", metrics, scope=Scope.METRICS)
    edge.route(app, "GET", "/monitoring/prometheus/metrics", metrics, scope=Scope.METRICS)
