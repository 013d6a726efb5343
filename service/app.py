"""The composition root: `create_app` builds everything out of settings and wires it; nothing is made at import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sanic import Sanic
from sanic.config import Config

from darkroom.service.api import admin, docs, health
from darkroom.service.api.open_inference import routes as open_inference
from darkroom.service.api.simple import routes as simple
from darkroom.service.api.tensorflow_serving import routes as tensorflow_serving
from darkroom.service.api.tensorflow_serving import status
from darkroom.service.http.auth import auth_of
from darkroom.service.http.connection import Receiving
from darkroom.service.http.middleware import Middleware
from darkroom.service.http.request_head import MAX_HEAD_BYTES, HeadReader
from darkroom.service.http.request_log import RequestLog
from darkroom.service.predict.compression import Compression
from darkroom.service.predict.image_guard import ImageGuard
from darkroom.service.predict.predictor import Predictor
from darkroom.service.serving.lifecycle import Lifecycle
from darkroom.service.serving.manager import ModelManager
from darkroom.service.serving.registry import Registry
from darkroom.service.telemetry.metrics import Metrics
from darkroom.service.version import version_of
from darkroom.service.web import generate
from darkroom.service.web import pages as web
from darkroom.service.workers.peers import Alone

if TYPE_CHECKING:
    from darkroom.models.engine import LoadedModel
    from darkroom.service.config.settings import Settings
    from darkroom.service.http.middleware import App
    from darkroom.service.workers.peers import Peers


class Darkroom:
    """One server's parts, by name; handlers and tests find them at `app.ctx.darkroom`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = Registry()
        self.version = version_of("darkroom")
        self.metrics = Metrics(version=self.version, tensorflow=version_of("tensorflow-cpu", "tensorflow"))
        self.image_guard = ImageGuard(settings.max_images, settings.max_image_bytes, settings.max_image_pixels)
        self.manager = ModelManager(settings, self.registry, self.metrics)
        self.lifecycle = Lifecycle(settings, self.manager, self.metrics)
        self.peers: Peers = Alone(self.metrics, self.manager)
        compression = Compression(settings.max_body_bytes, packs_answers=settings.compress_answers)
        self.predictor = Predictor(self.lifecycle, compression, timeout_s=settings.request_timeout_ms / 1000)
        self.receiving = Receiving(settings.max_receiving_bytes)
        self.heads = HeadReader(self.predictor.match, max_body_bytes=settings.max_body_bytes)
        self.auth = auth_of(settings)
        self.request_log = RequestLog(self.metrics, access_log=settings.access_log, cors=settings.enable_cors)
        self.middleware = Middleware(settings, self.request_log, self.lifecycle, self.auth)


def create_app(settings: Settings, *models: LoadedModel) -> App:
    """A Sanic app that serves `models` at once or, where none are given, loads those that the settings name.

    It opens and closes with Sanic's own listeners, so it runs under `darkroom serve`, Sanic's runner or a test.
    """
    darkroom = Darkroom(settings)
    app = Sanic(f"darkroom-{id(darkroom):x}", config=_sanic_config(settings), configure_logging=False)
    app.ctx.darkroom = darkroom
    darkroom.middleware.install(app)
    admin.install(app, darkroom)
    health.install(app, darkroom)
    simple.install(app, darkroom)
    open_inference.install(app, darkroom)
    status.install(app, darkroom)
    docs.install(app, darkroom)
    generate.install(app, darkroom)
    tensorflow_serving.install(app, darkroom)
    web.install(app, darkroom)

    @app.listener("before_server_start")
    async def start(_: App) -> None:
        await darkroom.lifecycle.start(models)

    @app.listener("before_server_stop")
    async def drain(_: App) -> None:
        await darkroom.lifecycle.drain()

    @app.listener("after_server_stop")
    async def stop(_: App) -> None:
        darkroom.lifecycle.stop()
        Sanic.unregister_app(app)

    return app


def _sanic_config(settings: Settings) -> Config:
    """Sanic's own settings; it reads none from the environment, so that ours are the only ones."""
    return Config(
        {
            "REQUEST_MAX_SIZE": settings.max_body_bytes,
            "REQUEST_TIMEOUT": settings.read_timeout_ms / 1000,
            "REQUEST_MAX_HEADER_SIZE": MAX_HEAD_BYTES,
            "MAX_CONNECTIONS": settings.max_connections,
            "RESPONSE_TIMEOUT": settings.request_timeout_ms / 1000 + 5,  # ours comes first and says why
            "KEEP_ALIVE_TIMEOUT": 75,  # precedent: longer than the 60 s of the balancers in front
            "GRACEFUL_SHUTDOWN_TIMEOUT": settings.drain_timeout_ms / 1000,
            "ACCESS_LOG": False,  # ours is one JSON line, when asked for
            "FALLBACK_ERROR_FORMAT": "json",
            "MOTD": False,
            # Sanic rewrites its own methods when an app starts; a second app of the process would fail on them.
            "TOUCHUP": not getattr(Sanic, "__touched__", False),
        },
        env_prefix="",
    )
