"""The life of a server: STARTING, READY, DRAINING, STOPPED; it moves one way, in the order that stands here."""

from __future__ import annotations

import asyncio
import logging
from enum import IntEnum
from typing import TYPE_CHECKING

from darkroom.models.runtime.memory import freeze
from darkroom.service.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Sequence

    from darkroom.models.engine import LoadedModel
    from darkroom.service.config.settings import Settings
    from darkroom.service.serving.manager import ModelManager
    from darkroom.service.telemetry.metrics import Metrics

_log = logging.getLogger("darkroom.service")
LAG_PERIOD_S = 0.5  # guess: often enough to see a stall of a batch's length, rare enough to cost nothing


class ServerState(IntEnum):
    """Where the server stands."""

    STARTING = 0
    READY = 1
    DRAINING = 2
    STOPPED = 3


class Lifecycle:
    """Starts and stops the parts in order.

    Attributes:
        failure: why a start failed.
        settled: the first load came to its end, well or not.
        state: where the server stands; changed by `_move` alone.
        is_serving: whether it is READY.
        is_draining: whether connections should be given up.
    """

    def __init__(self, settings: Settings, repository: ModelManager, metrics: Metrics) -> None:
        self._settings = settings
        self._repository = repository
        self._metrics = metrics
        self.state = ServerState.STARTING
        self.is_serving = self.is_draining = False
        self.is_expected = True  # of several workers, the supervisor knows that this one is ready
        self._tasks: list[asyncio.Task[None]] = []  # none of them ends while the server is well
        self._loading: asyncio.Task[None] | None = None
        self.failure: Exception | None = None
        self.settled = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether whoever connects is served: this process takes requests, and who hands connections over knows it."""
        return self.is_expected and self.takes_requests

    @property
    def takes_requests(self) -> bool:
        """Whether a predict request would be taken: models are loaded, every batcher is alive, nothing is stopping."""
        return self.is_serving and self._repository.are_healthy and all(not t.done() for t in self._tasks)

    def check_ready(self) -> None:
        """Lets a predict request pass once the first load is over; an unhealthy batcher speaks for itself.

        Raises:
            NotReady: the server is starting or stopping; says which.
        """
        if not self.is_serving:
            words = {
                ServerState.STARTING: "the models are still loading",
                ServerState.STOPPED: "the server has stopped",
            }
            raise NotReady(words.get(self.state, "the server is draining; ask another one"))

    async def start(self, models: Sequence[LoadedModel]) -> None:
        """Serves `models`, or begins to load those of the settings while health and metrics already answer."""
        freeze()
        self._tasks.append(asyncio.create_task(self._watch_loop(), name="event-loop-lag"))
        if models:
            self._repository.give(models)
            await self._repository.load_all()
            self._become_ready()
        else:
            self._loading = asyncio.create_task(self._load(), name="load-models")

    async def drain(self) -> None:
        """Refuses what is new, answers what was accepted, waits `--drain_timeout_ms` at most."""
        if self.state < ServerState.DRAINING:
            self._move(ServerState.DRAINING)
            _log.info("draining: new requests get 503, accepted ones are answered")
            await self._repository.drain(self._settings.drain_timeout_ms / 1000)

    def stop(self) -> None:
        """Frees the engines; idempotent."""
        self._move(ServerState.STOPPED)
        for task in self._tasks:
            task.cancel()
        self._repository.close()

    async def _load(self) -> None:
        """Loads every model of the settings; the server is ready when at least one of them is."""
        try:
            await self._repository.load_all()
            self._become_ready()
            if self._settings.reload_models:
                self._tasks.append(asyncio.create_task(self._repository.watch(), name="watch-models"))
        except Exception as err:  # noqa: BLE001 - whatever it was, the process must hear of it and end with its words
            if self.state is ServerState.STARTING:  # one that is stopping has ended the load itself
                self.failure = err
            self.settled.set()

    def _move(self, state: ServerState) -> None:
        """Goes on to `state`, and notes what every request asks, so that it need not compare states."""
        self.state = state
        self.is_serving = state is ServerState.READY
        self.is_draining = state >= ServerState.DRAINING

    def _become_ready(self) -> None:
        if self.state is ServerState.STARTING:
            self._move(ServerState.READY)
        self.settled.set()

    async def _watch_loop(self) -> None:
        """Measures how late the event loop wakes a timer: what every request in it waits at least."""
        loop = asyncio.get_running_loop()
        while True:
            asked_s = loop.time() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            self._metrics.loop_lag.observe(max(0.0, loop.time() - asked_s))
            self._metrics.fold()
