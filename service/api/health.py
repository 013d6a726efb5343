"""Health and metrics, for load balancers, Kubernetes and Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sanic.response import HTTPResponse

from darkroom.service.config.tokens import Scope
from darkroom.service.http.middleware import text_response
from darkroom.service.serving.lifecycle import ServerState

if TYPE_CHECKING:
    from sanic.request import Request

    from darkroom.service.http.middleware import App
    from darkroom.service.parts import Darkroom

TENSORFLOW_SERVING_METRICS = "/monitoring/prometheus/metrics"


def add_health_routes(app: App, darkroom: Darkroom) -> None:
    """Adds `/health` (STS) and the metrics under two names, and under --metrics_path."""
    lifecycle, middleware = darkroom.lifecycle, darkroom.middleware

    async def healthy(_: Request) -> HTTPResponse:
        """STS's word for ready; a server that is not ready answers 503 and the reason."""
        if lifecycle.is_ready:
            return text_response("healthy")
        is_moving = lifecycle.state is not ServerState.READY
        return text_response(lifecycle.state.name.lower() if is_moving else f"unhealthy: {lifecycle.trouble}", 503)

    async def metrics(request: Request) -> HTTPResponse:
        """Prometheus' text format, or OpenMetrics for who accepts it."""
        body, content_type = await darkroom.peers.render(request.headers.get("accept", ""))
        return HTTPResponse(body, 200, {}, content_type)

    middleware.route(app, "GET", "/health", healthy, scope=None)
    middleware.route(app, "GET", "/metrics", metrics, scope=Scope.METRICS)
    middleware.route(app, "GET", TENSORFLOW_SERVING_METRICS, metrics, scope=Scope.METRICS)
    own = darkroom.settings.metrics_path
    if own not in {"", "/metrics", TENSORFLOW_SERVING_METRICS}:
        middleware.route(app, "GET", own, metrics, scope=Scope.METRICS)
