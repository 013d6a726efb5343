"""The states of a server, STARTING, READY, DRAINING and STOPPED, which it passes in this order only."""

from __future__ import annotations

import asyncio
import logging
from enum import IntEnum
from typing import TYPE_CHECKING

from darkroom.models.runtime.memory import freeze
from darkroom.service.errors import NotReady
from darkroom.service.serving.watchdog import Watchdog
from darkroom.service.telemetry.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from darkroom.models.engine import LoadedModel
    from darkroom.service.config.settings import Settings
    from darkroom.service.serving.manager import ModelManager
    from darkroom.service.telemetry.metrics import Metrics

_log = logging.getLogger("darkroom.service")
LAG_PERIOD_S = 0.5  # guess: often enough to see a stall as long as a batch, rare enough to cost nothing


class ServerState(IntEnum):
    """The states of a server, in their order."""

    STARTING = 0
    READY = 1
    DRAINING = 2
    STOPPED = 3


UNREADY = {
    ServerState.STARTING: "the models are still loading",
    ServerState.DRAINING: "the server is draining; ask another one",
    ServerState.STOPPED: "the server has stopped",
}


class Lifecycle:
    """Starts and stops the parts of a server in order. On the event loop.

    Attributes:
        state: the present state; only `_move` changes it.
        is_serving: whether predict requests are taken: from the first served version on, until `refuse`.
        is_draining: whether the state is DRAINING or STOPPED; connections are then closed after their answer.
        drain_s: how long `drain` may take.
        unanswered: accepted requests that `drain` could not answer in time.
        watchdog: watches the engine calls and the event loop.
        is_known_ready: False only for a worker whose supervisor has not yet learned that it is ready.
        settled: set when the first load has ended, with or without success.
        failure: why the first load failed; None if it did not.
        tasks: the background tasks; one that keeps failing makes the server not ready.
    """

    def __init__(self, settings: Settings, manager: ModelManager, metrics: Metrics) -> None:
        self._settings = settings
        self._manager = manager
        self._metrics = metrics
        self.state = ServerState.STARTING
        self.is_serving = self.is_draining = False
        self.is_known_ready = True
        self.tasks = Tasks(metrics.task_failures)
        manager.on_served = self._note_served
        self._loading: asyncio.Task[None] | None = None
        self.drain_s = settings.drain_timeout_ms / 1000
        self.unanswered = 0
        self.watchdog = Watchdog(settings, lambda: manager.targets, is_on_trial=manager.is_on_trial)
        self.failure: Exception | None = None
        self.settled = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether the next connection is served: this process takes requests, and its supervisor knows that."""
        return self.is_known_ready and self.takes_requests

    @property
    def takes_requests(self) -> bool:
        """Whether this process takes predict requests: READY, a model is served, every batcher and task is alive."""
        return self.state is ServerState.READY and self._manager.are_healthy and not self.tasks.trouble

    @property
    def trouble(self) -> str:
        """Why the server is not ready, for people; empty if it is."""
        if self.is_ready:
            return ""
        if self.state is not ServerState.READY:
            return self._unready
        if not self.is_known_ready:
            return "the supervisor has not yet learned that this worker is ready"
        return self.tasks.trouble or self.watchdog.reason or self._manager.trouble

    @property
    def _unready(self) -> str:
        if self.state is ServerState.STARTING and self._manager.awaits_models:
            return "the folder of --model_repository has no model yet"
        return UNREADY[self.state]

    def check_ready(self) -> None:
        """Returns if predict requests are taken. An unhealthy batcher raises its own error at submit.

        Raises:
            NotReady: the server is starting or stopping; says which.
        """
        if not self.is_serving:
            raise NotReady(self._unready)

    async def start(self, models: Sequence[LoadedModel]) -> None:
        """Serves `models`; if there are none, starts to load those of the settings in a task."""
        freeze()
        self.tasks.start("event-loop-lag", self._watch_loop)
        self.tasks.start("watchdog", self.watchdog.run)
        if self._settings.unload_idle_ms:
            self.tasks.start("unload-idle", self._manager.lazy_models.run)
        if models:
            self._manager.give(models)
            await self._manager.load_all()
            self._become_ready()
        else:
            self._loading = asyncio.create_task(self._load(), name="load-models")

    def leave(self) -> None:
        """The first step of a stop: not ready, but requests are still answered, each with `Connection: close`."""
        if self.state < ServerState.DRAINING:
            was_serving = self.is_serving
            self._move(ServerState.DRAINING)
            self.is_serving = was_serving

    def refuse(self) -> None:
        """Refuses new requests from now on."""
        self.leave()
        self.is_serving = False

    async def drain(self) -> None:
        """The second step: refuses new requests and answers the accepted ones, for at most `drain_s`."""
        self.refuse()
        _log.info("draining: new requests get 503, accepted ones are answered")
        self.unanswered = await self._manager.drain(self.drain_s)

    def stop(self) -> None:
        """Frees the engines; idempotent."""
        self._move(ServerState.STOPPED)
        self.tasks.close()
        self._manager.close()

    async def _load(self) -> None:
        """Loads every model of the settings; the server is READY if at least one could be loaded."""
        try:
            await self._manager.load_all()
            self._become_ready()
            if self._settings.reload_models:
                self.tasks.start("watch-models", self._manager.watch)
            if self._settings.model_config_file is not None and self._settings.model_config_poll_ms:
                self.tasks.start("watch-model-config", self._manager.watch_config)
        except Exception as err:  # noqa: BLE001 - any error must end the process with its message
            if self.state is ServerState.STARTING:  # else the stop has cancelled the load
                self.failure = err
            self.settled.set()

    def _note_served(self) -> None:
        """Takes requests from the first served version on; with `--ready_when=any` the server is READY then."""
        if self.state is ServerState.STARTING:
            self.is_serving = True
            if self._settings.ready_when == "any":
                self._become_ready()

    def _move(self, state: ServerState) -> None:
        """Sets the state, and the two flags that every request reads."""
        self.state = state
        self.is_serving = state is ServerState.READY
        self.is_draining = state >= ServerState.DRAINING

    def _become_ready(self) -> None:
        if self.state is ServerState.STARTING:
            self._move(ServerState.READY)
        self.settled.set()

    async def _watch_loop(self) -> None:
        """Measures how late the event loop runs a timer; every request waits at least that long."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            self._metrics.loop_lag.observe(max(0.0, loop.time() - due_s))
            self._metrics.fold()
