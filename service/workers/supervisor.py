"""The supervisor of `--workers`: hands each connection to the worker with the fewest, and replaces those that end.

It imports neither Sanic nor TensorFlow, and no request passes through it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from darkroom.service.workers.listener import listen, url_of
from darkroom.service.workers.merge_metrics import counts, merge
from darkroom.service.workers.worker import Worker

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric

    from darkroom.service.config.settings import Settings

_log = logging.getLogger("darkroom.service")
ACCEPTS_A_TURN = 64  # guess: connections that are handed over before others get their turn of the event loop
PAUSE_S = 0.02  # guess: until a connection is tried again that no worker could take; the kernel keeps the others
STEADY_S = 60.0  # guess: a worker that lived so long has no trouble with starting
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # guess: before a worker is replaced that died soon, doubled each time
PULSES = 3  # unanswered in a row, and a worker hangs; one may be lost when the whole machine stood still
LEAVE_S = 10.0  # guess: what a worker may take to end beyond --drain_timeout_ms


class Workers(Collector):
    """`settings.workers` processes behind one address; `command` starts one, with its place as one more argument.

    A worker's place is taken by another when it ends, however it ended. Connections go to workers that are ready, and
    while there is none (at the start) to any, which answers as a starting server does.
    """

    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        self._settings = settings
        self._command = command
        self._crew: dict[int, Worker] = {}
        self._stopping = asyncio.Event()
        self._held: socket.socket | None = None  # a connection that nobody could take yet
        self._past = ""  # the counts of those that are no more
        self._restarts = 0
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(self)
        self._changes: dict[tuple[str, str], dict[str, Any]] = {}  # of models, on request; who comes later is told
        self._were_ready = False  # all at once, once
        self._failure = ""
        self._hint = ""

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Begins the ordered stop: every worker drains; `run` returns when all have ended."""
        self._stopping.set()
        for worker in self._crew.values():
            worker.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends every worker at once."""
        for worker in self._crew.values():
            worker.signal(signal.SIGKILL)

    def reload(self) -> None:
        """Has every worker read the tokens again; one that is still starting reads them anyhow."""
        for worker in self._crew.values():
            if worker.is_ready:
                worker.signal(signal.SIGHUP)

    async def run(self) -> int:
        """Serves until `stop`, or until the first load turns out a failure; returns the exit status.

        Raises:
            OSError: the port can't be bound.
        """
        settings = self._settings
        with listen(settings.host, settings.port) as listener:
            listener.setblocking(False)
            url = url_of(listener, is_tls=settings.enable_ssl)
            print(f"darkroom: listening on {url}, loading models …", file=sys.stderr, flush=True)
            keepers = [asyncio.create_task(self._keep(number, listener)) for number in range(1, settings.workers + 1)]
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({stopping, *keepers}, return_when=asyncio.FIRST_COMPLETED)
            if not self.is_stopping:  # a mistake of ours ended a keeper
                self.stop()
            _, late = await asyncio.wait(keepers, timeout=settings.drain_timeout_ms / 1000 + LEAVE_S)
            if late:
                _log.error("workers that did not end in time are killed", extra={"fields": {"workers": len(late)}})
                self.kill()
                await asyncio.wait(late)
            asyncio.get_running_loop().remove_reader(listener)
            if self._held is not None:
                self._held.close()
            await asyncio.gather(*keepers)
        if self._failure:
            print(f"darkroom: no model could be loaded:\n  {self._failure}", file=sys.stderr)
        return 1 if self._failure else 0

    async def _keep(self, number: int, listener: socket.socket) -> None:
        """Keeps a place taken until the stop."""
        deaths = 0
        while True:
            worker = self._crew[number] = Worker(number, self._answer)
            started_s = time.monotonic()
            watch = asyncio.create_task(self._watch(worker))
            try:
                ended_with = _how(await worker.run(self._command, listener))
            except OSError as err:
                ended_with = f"its start: {err.strerror}"
            finally:
                watch.cancel()
            del self._crew[number]
            self._past = counts(self._past, worker.exposition)
            if self._stopping.is_set():
                return
            deaths = 0 if time.monotonic() - started_s > STEADY_S else deaths + 1
            self._restarts += 1
            fields = {"worker": number, "pid": worker.pid, "ended_with": ended_with, "next_in_s": pause_s(deaths)}
            _log.error("a worker ended; another takes its place", extra={"fields": fields})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s(deaths))
                return

    async def _watch(self, worker: Worker) -> None:
        """Kills a worker that hangs once it was ready: those who are connected to it would wait for ever."""
        timeout_ms = self._settings.worker_timeout_ms
        if not timeout_ms:
            return
        patience_s, missed = timeout_ms / 1000 / PULSES, 0
        while missed < PULSES:
            if worker.is_ready and not await worker.is_awake(patience_s):
                missed += 1
            else:
                missed = 0
                await asyncio.sleep(patience_s)
        fields = {"worker": worker.number, "pid": worker.pid, "worker_timeout_ms": timeout_ms}
        _log.error("a worker's event loop stands still; it is killed", extra={"fields": fields})
        worker.signal(signal.SIGKILL)

    def _accept(self, listener: socket.socket) -> None:
        """Hands over the connections that wait, each to the worker with the fewest."""
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection = self._held or listener.accept()[0]
            except BlockingIOError:
                return
            except OSError:  # no descriptor is left, or the client is gone already
                self._pause(listener)
                return
            self._held = None
            if not any(worker.hand(connection) for worker in self._candidates()):
                self._held = connection
                self._pause(listener)
                return
            connection.close()

    def _candidates(self) -> list[Worker]:
        """Who may get the next connection, the one with the fewest first."""
        crew = self._crew.values()
        ready = [worker for worker in crew if worker.is_ready]
        return sorted(ready or crew, key=lambda worker: worker.connections)

    def _pause(self, listener: socket.socket) -> None:
        """Lets the kernel keep what comes for a moment."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(PAUSE_S, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)
            self._accept(listener)

    async def _answer(self, worker: Worker, question: dict[str, Any]) -> Any:
        """What workers ask and tell."""
        match question["ask"]:
            case "metrics":
                return await self._metrics()
            case "stand":
                await self._stand(worker, is_ready=question["is_ready"])
            case "hint":
                self._hint = question["text"]
            case "failure":
                await self._fail(worker, question["text"])
            case act:
                self._changes["label" if act == "label" else "load", question["name"]] = question
                others = [other.change(question) for other in self._crew.values() if other is not worker]
                return next(filter(None, await asyncio.gather(*others)), "")
        return None

    async def _metrics(self) -> str:
        """The exposition of all workers; one that has just died, or is silent, is told as it last was."""
        await asyncio.gather(*(worker.refresh() for worker in self._crew.values()))
        own = generate_latest(self._registry).decode()
        told = [own, *(worker.exposition for worker in self._crew.values())]
        # Off the loop: reading takes 23 ms a worker (measured, two versions), in which nobody would be let in.
        return await asyncio.to_thread(merge, told, past=self._past)

    def collect(self) -> Iterator[Metric]:
        """The metrics that the supervisor itself has."""
        ready = sum(worker.is_ready for worker in self._crew.values())
        yield from worker_families(ready=ready, absent=self._settings.workers - ready, restarts=self._restarts)

    async def _stand(self, worker: Worker, *, is_ready: bool) -> None:
        """A worker has become ready, or is so no more."""
        if is_ready:
            for change in list(self._changes.values()):
                if failure := await worker.change(change):
                    _log.error("a change of the models, made before, failed", extra={"fields": {"reason": failure}})
            _log.info("worker is ready", extra={"fields": {"worker": worker.number, "pid": worker.pid}})
        worker.is_ready = is_ready
        is_first = not self._were_ready and sum(w.is_ready for w in self._crew.values()) == self._settings.workers
        if is_first:
            self._were_ready = True
            print(self._hint, file=sys.stderr, flush=True)

    async def _fail(self, worker: Worker, reason: str) -> None:
        """A worker has no model: at the start that ends the server, later the others go on."""
        if not self._were_ready and not self._failure:
            self._failure = reason
            self.stop()
        elif self._were_ready:
            _log.error("no model could be loaded", extra={"fields": {"worker": worker.number, "reason": reason}})


def worker_families(*, ready: int, absent: int, restarts: int) -> Iterator[Metric]:
    """What is told of the workers, by their number."""
    workers = GaugeMetricFamily("darkroom_workers", "Processes of --workers; none where that is 1.", labels=("state",))
    workers.add_metric(("ready",), ready)
    workers.add_metric(("absent",), absent)
    yield workers
    ended = CounterMetricFamily("darkroom_worker_restarts", "Workers that ended and were replaced.")
    ended.add_metric((), restarts)
    yield ended


def pause_s(deaths: int) -> float:
    """How long a place stays empty after so many short lives in a row; nothing after a long one."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (deaths - 1)) if deaths else 0.0


def _how(status: int) -> str:
    """An exit status in words."""
    return signal.Signals(-status).name if status < 0 else f"status {status}"
