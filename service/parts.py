"""The parts of one server, by name: what `create_app` builds and what the routes, the workers and the tests use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from darkroom.service.config.access_log import parse_access_log
from darkroom.service.config.machine import backlog_within
from darkroom.service.http.auth import auth_of
from darkroom.service.http.connection import Receiving, Room, Sending
from darkroom.service.http.fast_lane import LaneParts
from darkroom.service.http.middleware import Middleware
from darkroom.service.http.request_head import HeadReader
from darkroom.service.http.request_log import RequestLog
from darkroom.service.predict.compression import Compression
from darkroom.service.predict.image_guard import guard_of
from darkroom.service.predict.off_loop import OffLoop
from darkroom.service.predict.request import Predictor
from darkroom.service.serving.lifecycle import Lifecycle
from darkroom.service.serving.manager import ModelManager
from darkroom.service.serving.registry import Registry
from darkroom.service.telemetry.metrics import Metrics
from darkroom.service.telemetry.recent import Recent
from darkroom.service.telemetry.traces import tracer_of
from darkroom.service.telemetry.version import version_of
from darkroom.service.workers.listener import BACKLOG
from darkroom.service.workers.peers import Alone

if TYPE_CHECKING:
    from darkroom.service.config.settings import Settings
    from darkroom.service.workers.peers import Peers


class Darkroom:
    """One server's parts, built from its settings; routes and tests find them at `app.ctx.darkroom`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = Registry()
        self.version = version_of("darkroom")
        self.metrics = Metrics(version=self.version, tensorflow=version_of("tensorflow-cpu", "tensorflow"))
        self.image_guard = guard_of(settings)
        self.manager = ModelManager(settings, self.registry, self.metrics)
        self.lifecycle = Lifecycle(settings, self.manager, self.metrics)
        self.recent = Recent(self.metrics.models)
        self.peers: Peers = Alone(self.metrics, self.manager, self.recent)
        compression = Compression(settings.max_body_bytes, packs_answers=settings.compress_answers)
        self.predictor = Predictor(
            self.lifecycle,
            self.registry,
            self.manager.lazy_models,
            compression,
            OffLoop(settings.max_receiving_bytes),
            timeout_s=settings.request_timeout_ms / 1000,
        )
        self.room = Room(max(1, backlog_within(BACKLOG, settings.max_connections) // 2))
        self.receiving = Receiving(settings.max_receiving_bytes)
        self.sending = Sending(settings.max_sending_bytes)
        self.auth = auth_of(settings)
        self.tracer = tracer_of(os.environ, self.metrics.traces, version=self.version)
        policy = parse_access_log(settings.access_log)
        self.request_log = RequestLog(self.metrics, policy, self.tracer, cors=settings.enable_cors)
        self.middleware = Middleware(settings, self.request_log, self.lifecycle, self.auth)
        self.lane = LaneParts(
            heads=HeadReader(self.predictor.match, max_body_bytes=settings.max_body_bytes),
            predictor=self.predictor,
            request_log=self.request_log,
            lifecycle=self.lifecycle,
            auth=self.auth,
        )
