"""The composition root: `create_app` builds the app from settings and adds every route; importing it makes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sanic import Sanic
from sanic.config import Config

from darkroom.service.api.admin import add_admin_routes
from darkroom.service.api.health import add_health_routes
from darkroom.service.api.open_inference.routes import add_open_inference_routes
from darkroom.service.api.openapi import add_openapi_routes
from darkroom.service.api.simple.routes import add_simple_routes
from darkroom.service.api.tensorflow_serving.routes import add_tensorflow_serving_routes
from darkroom.service.api.tensorflow_serving.status import add_status_routes
from darkroom.service.api.web.generate import add_client_routes
from darkroom.service.api.web.live import add_live_routes
from darkroom.service.api.web.pages import add_page_routes
from darkroom.service.http.request_head import MAX_HEAD_BYTES
from darkroom.service.parts import Darkroom

if TYPE_CHECKING:
    from darkroom.models.engine import LoadedModel
    from darkroom.service.config.settings import Settings
    from darkroom.service.http.middleware import App


def create_app(settings: Settings, *models: LoadedModel) -> App:
    """A Sanic app that serves `models` at once; without any, it loads those that the settings name.

    It starts and stops by Sanic's listeners, so it runs under `darkroom serve`, under Sanic's own runner and in tests.
    """
    darkroom = Darkroom(settings)
    app = Sanic(f"darkroom-{id(darkroom):x}", config=_sanic_config(settings), configure_logging=False)
    app.ctx.darkroom = darkroom
    darkroom.middleware.install(app)
    add_admin_routes(app, darkroom)
    add_health_routes(app, darkroom)
    add_simple_routes(app, darkroom)
    add_open_inference_routes(app, darkroom)
    add_status_routes(app, darkroom)
    add_openapi_routes(app, darkroom)
    add_client_routes(app, darkroom)
    add_tensorflow_serving_routes(app, darkroom)
    add_page_routes(app, darkroom)
    add_live_routes(app, darkroom)

    @app.listener("before_server_start")
    async def start(_: App) -> None:
        await darkroom.lifecycle.start(models)
        if darkroom.tracer is not None:
            darkroom.lifecycle.tasks.start("traces", darkroom.tracer.run)

    @app.listener("before_server_stop")
    async def drain(_: App) -> None:
        await darkroom.lifecycle.drain()

    @app.listener("after_server_stop")
    async def stop(_: App) -> None:
        if darkroom.tracer is not None:
            await darkroom.tracer.finish()
        darkroom.lifecycle.stop()
        Sanic.unregister_app(app)

    return app


def _sanic_config(settings: Settings) -> Config:
    """Sanic's own settings; they are not read from the environment, so only ours count."""
    return Config(
        {
            "REQUEST_MAX_SIZE": settings.max_body_bytes,
            "REQUEST_TIMEOUT": settings.read_timeout_ms / 1000,
            "REQUEST_MAX_HEADER_SIZE": MAX_HEAD_BYTES,
            "MAX_CONNECTIONS": settings.max_connections,
            "RESPONSE_TIMEOUT": settings.request_timeout_ms / 1000
            + 5,  # our own limit comes first, and its answer says why
            "KEEP_ALIVE_TIMEOUT": 75,  # precedent: longer than the 60 s of load balancers
            "GRACEFUL_SHUTDOWN_TIMEOUT": settings.drain_timeout_ms / 1000,
            "ACCESS_LOG": False,  # ours writes one JSON line, if it is on
            "FALLBACK_ERROR_FORMAT": "json",
            "MOTD": False,
            # Sanic rewrites its own methods when an app starts. A second app in the same process would fail on them.
            "TOUCHUP": not getattr(Sanic, "__touched__", False),
        },
        env_prefix="",
    )
