"""The supervisor of the workers: passes each connection to the worker with the fewest, and replaces workers that end.

It imports neither Sanic nor TensorFlow, and no request passes through it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from darkroom.service.telemetry.recent import merge_seconds
from darkroom.service.telemetry.tasks import Tasks, task_failures_family
from darkroom.service.workers.listener import listen, url_of
from darkroom.service.workers.merge_metrics import counts, merge
from darkroom.service.workers.worker import Worker

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.core import Metric

    from darkroom.service.config.settings import Settings
    from darkroom.service.telemetry.recent import Second

_log = logging.getLogger("darkroom.service")
CONNECTIONS_A_TURN = 64  # guess: connections that are passed on before the event loop runs something else
ACCEPT_PAUSE_S = 0.02  # guess: until a connection that no worker could take is tried again; the kernel keeps the others
STEADY_S = 60.0  # guess: a worker that lived this long has no trouble with starting
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0  # guess: before a short-lived worker is replaced; doubled each time
MISSED_PINGS = 3  # in a row, and the worker hangs; one may be missed because the whole machine stood still
SIGNALLED = 128  # precedent: shells and Docker add the signal's number to it, where one ended a process
EXIT_S = 10.0  # guess: the time that a worker may take to end beyond --drain_delay_ms and --drain_timeout_ms


class Supervisor(Collector):
    """Runs `settings.workers` processes behind one address.

    With `auto` the first one serves as soon as it is ready, and says how many there should be; the others are started
    then.

    A worker that ends is replaced, however it ended, with two exceptions. If no worker was ever ready and none is left,
    the server ends as that worker did. A further one of `auto` that ends before it was ready is done without.
    Connections go to the workers that are ready. If none is (at the start), they go to any worker, which answers as a
    starting server does.

    Args:
        settings: of all workers.
        command: starts one worker, with its `WorkerHandles` as one more argument.
        make_worker: makes the supervisor's side of a worker.
    """

    def __init__(
        self, settings: Settings, command: Sequence[str], *, make_worker: Callable[..., Worker] = Worker
    ) -> None:
        self._settings = settings
        self._command = command
        self._make_worker = make_worker
        self._workers: dict[int, Worker] = {}  # by number
        self._keepers: list[asyncio.Task[None]] = []
        self._wanted = settings.first_workers
        self._is_auto = settings.workers == "auto"
        self._is_chosen = not self._is_auto
        self._listener: socket.socket | None = None  # while it serves
        self._stopping = asyncio.Event()
        self._task_failures: Counter[str] = Counter()
        self._tasks = Tasks(self._task_failures)
        self._held: socket.socket | None = None  # an accepted connection that no worker could take yet
        self._ended_counts = ""  # the counters and histograms of the workers that ended
        self._restarts = 0
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(self)
        self._changes: dict[tuple[str, str], dict[str, Any]] = {}  # what operators changed; new workers get it too
        self._was_ready = False  # one worker
        self._were_all_ready = False  # at one time
        self._failure = ""
        self._status = 0  # the largest exit status of the workers at the stop
        self._hint = ""

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Starts the ordered stop: every worker drains; `run` returns when all have ended."""
        self._stopping.set()
        self._signal_all(signal.SIGTERM)

    def kill(self) -> None:
        """Kills every worker."""
        self._signal_all(signal.SIGKILL)

    async def run(self) -> int:
        """Serves until `stop`, or until the first load fails; returns the exit status.

        Raises:
            OSError: the address can't be bound.
        """
        settings = self._settings
        with listen(settings.host, settings.port) as listener:
            listener.setblocking(False)
            self._listener = listener
            url = url_of(listener, is_tls=settings.enable_ssl)
            print(f"darkroom: listening on {url}, loading models …", file=sys.stderr, flush=True)
            if settings.grpc_port:
                with listen(settings.host, settings.grpc_port) as taken:  # the workers share it, with anybody
                    address = url_of(taken, is_tls=False).removeprefix("http://")
                print(f"darkroom: gRPC on {address}", file=sys.stderr, flush=True)
            self._start(range(1, self._wanted + 1), listener)
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)
            await self._stopping.wait()
            drain_s = (settings.drain_delay_ms + settings.drain_timeout_ms) / 1000
            keepers = self._keepers
            _, late = await asyncio.wait(keepers, timeout=drain_s + EXIT_S)
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
        return 1 if self._failure else self._status

    def _start(self, numbers: Iterable[int], listener: socket.socket) -> None:
        """Starts workers, each in a task that keeps it running."""
        for number in numbers:
            self._keepers.append(self._tasks.start(f"keep-worker-{number}", partial(self._keep, number, listener)))

    def _signal_all(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            worker.signal(number)

    async def _keep(self, number: int, listener: socket.socket) -> None:
        """Runs one worker after the other under this number, until the stop."""
        time_s = asyncio.get_running_loop().time
        short_lives, was_ready = 0, False
        while not self._stopping.is_set():
            worker = self._workers[number] = self._make_worker(number, self._handle)
            started_s, status = time_s(), 0
            watch = self._tasks.start(f"watch-worker-{number}", partial(self._watch, worker))
            try:
                status = await worker.run(self._worker_command(), listener)
                ended_with = signal.Signals(-status).name if status < 0 else f"status {status}"
            except OSError as err:
                status = 1
                ended_with = f"its start: {err.strerror}"
            finally:
                watch.cancel()
            was_ready |= worker.was_ready
            del self._workers[number]
            self._ended_counts = counts(self._ended_counts, worker.exposition)
            if self._stopping.is_set():
                self._status = max(self._status, status)
                return
            fields = {"worker": number, "pid": worker.pid, "ended_with": ended_with}
            if not self._was_ready and not self._workers:
                _log.error("the only worker ended before it was ready; the server ends too", extra={"fields": fields})
                self._status = status if status >= 0 else SIGNALLED - status
                self.stop()
                return
            if self._is_auto and number > 1 and not was_ready:
                _log.error("a further worker could not be started; the server does without", extra={"fields": fields})
                self._wanted -= 1
                self._tell_ready()
                return
            short_lives = 0 if time_s() - started_s > STEADY_S else short_lives + 1
            self._restarts += 1
            wait_s = backoff_s(short_lives)
            fields["next_in_s"] = wait_s
            _log.error("a worker ended; another takes its place", extra={"fields": fields})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
                return

    async def _watch(self, worker: Worker) -> None:
        """Kills a ready worker whose event loop stopped running, since its clients would wait forever."""
        timeout_ms = self._settings.worker_timeout_ms
        if not timeout_ms:
            return
        ping_timeout_s, missed = timeout_ms / 1000 / MISSED_PINGS, 0
        while missed < MISSED_PINGS:
            if worker.is_ready and not await worker.replies(ping_timeout_s):
                missed += 1
            else:
                missed = 0
                await asyncio.sleep(ping_timeout_s)
        fields = {"worker": worker.number, "pid": worker.pid, "worker_timeout_ms": timeout_ms}
        _log.error("a worker's event loop stands still; it is killed", extra={"fields": fields})
        worker.signal(signal.SIGKILL)

    def _accept(self, listener: socket.socket) -> None:
        """Accepts the pending connections and passes each to the worker with the fewest."""
        for _ in range(CONNECTIONS_A_TURN):
            try:
                connection = self._held or listener.accept()[0]
            except BlockingIOError:
                return
            except OSError:  # no descriptor is left, or the client is gone already
                self._pause(listener)
                return
            self._held = None
            workers = self._workers.values()
            ready = [worker for worker in workers if worker.is_ready]
            fewest_first = sorted(ready or workers, key=lambda worker: worker.connections)
            if not any(worker.hand_over(connection) for worker in fewest_first):
                self._held = connection
                self._pause(listener)
                return
            connection.close()

    def _pause(self, listener: socket.socket) -> None:
        """Stops accepting for a moment; the kernel keeps the pending connections."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)

        def resume() -> None:
            if listener.fileno() >= 0:
                loop.add_reader(listener, self._accept, listener)
                self._accept(listener)

        loop.call_later(ACCEPT_PAUSE_S, resume)

    async def _handle(self, worker: Worker, message: dict[str, Any]) -> Any:
        """Replies to a worker's message."""
        match message["type"]:
            case "metrics":
                return await self._merged_metrics(message["accept"])
            case "recent":
                return await self._recent(message["second"])
            case "statistics":
                return await asyncio.gather(*(each.statistics() for each in self._workers.values()))
            case "readiness":
                await self._note_readiness(worker, is_ready=message["is_ready"])
            case "hint":
                self._hint = message["text"]
            case "failure":
                self._note_failure(worker, message["text"])
            case "choice":
                self._note_choice(message["workers"], message["reason"], message["fields"])
            case change:
                self._note_change("load" if change == "unload" else change, message)
                others = [other.change(message) for other in self._workers.values() if other is not worker]
                return next(filter(None, await asyncio.gather(*others)), "")
        return None

    def _note_change(self, kind: str, message: dict[str, Any]) -> None:
        """Keeps a change for new workers, in the order of the last of each; a new list of models undoes loads and unloads."""
        if kind == "apply":
            self._changes = {key: change for key, change in self._changes.items() if key[0] != "load"}
        self._changes.pop((kind, message["name"]), None)
        self._changes[kind, message["name"]] = message

    async def _merged_metrics(self, accept: str) -> tuple[str, str]:
        """The exposition of all workers as an Accept header asks for it, and its content type; of a worker that has just ended or does not reply, the last one."""
        await asyncio.gather(*(worker.refresh() for worker in self._workers.values()))
        own = generate_latest(self._registry).decode()
        expositions = [own, *(worker.exposition for worker in self._workers.values())]
        # In a thread: parsing takes 23 ms per worker (measured, two versions), in which no connection is accepted.
        return await asyncio.to_thread(merge, expositions, ended=self._ended_counts, accept=accept)

    async def _recent(self, second: int) -> list[Second]:
        """The last seconds of all workers, added up."""
        return merge_seconds(await asyncio.gather(*(each.recent(second) for each in self._workers.values())))

    def collect(self) -> Iterator[Metric]:
        """The supervisor's own metrics."""
        ready = sum(worker.is_ready for worker in self._workers.values())
        yield from worker_families(ready=ready, absent=self._wanted - ready, restarts=self._restarts)
        yield task_failures_family(self._task_failures)

    async def _note_readiness(self, worker: Worker, *, is_ready: bool) -> None:
        """Handles a worker that became ready, or no longer is. A new one first gets the operators' changes."""
        if is_ready:
            for change in list(self._changes.values()):
                if failure := await worker.change(change):
                    _log.error("a change of the models, made before, failed", extra={"fields": {"reason": failure}})
            _log.info("worker is ready", extra={"fields": {"worker": worker.number, "pid": worker.pid}})
        worker.is_ready = is_ready
        worker.was_ready |= is_ready
        self._was_ready |= is_ready
        if is_ready:  # each lets go of the connections beyond its share, since there is one more
            ready = [each for each in self._workers.values() if each.is_ready]
            share = -(-sum(each.connections for each in ready) // len(ready))
            for each in ready:
                if (surplus := each.connections - share) > 0:
                    each.let_go(surplus)
        self._tell_ready()

    def _tell_ready(self) -> None:
        """Prints the hint once, when as many workers are ready as there are to be."""
        ready = sum(each.is_ready for each in self._workers.values())
        if not self._were_all_ready and ready == self._wanted:
            self._were_all_ready = True
            print(self._hint, file=sys.stderr, flush=True)

    def _note_choice(self, wanted: int, reason: str, fields: dict[str, Any]) -> None:
        """Handles what the first worker of `auto` found out: starts the others. What its replacement says changes nothing."""
        if self._is_chosen or self._listener is None or self.is_stopping:
            return
        self._is_chosen, self._wanted = True, wanted
        _log.info("--workers=auto", extra={"fields": {"workers": wanted, "reason": reason} | fields})
        self._start(range(2, wanted + 1), self._listener)

    def _worker_command(self) -> list[str]:
        """The command of the next worker. Once there are others it need not find out how many."""
        return [*self._command, *([f"--workers={self._wanted}"] if self._is_auto and self._wanted > 1 else [])]

    def _note_failure(self, worker: Worker, reason: str) -> None:
        """Handles a worker that could load no model: at the start the server ends, later the other workers go on."""
        is_start = not (self._was_ready if self._is_auto else self._were_all_ready)
        if is_start and not self._failure:
            self._failure = reason
            self.stop()
        elif not is_start:
            _log.error("no model could be loaded", extra={"fields": {"worker": worker.number, "reason": reason}})


def worker_families(*, ready: int, absent: int, restarts: int) -> Iterator[Metric]:
    """The metrics about the workers themselves."""
    workers = GaugeMetricFamily(
        "darkroom_workers", "Worker processes by state; none with --workers=1 or one core.", labels=("state",)
    )
    workers.add_metric(("ready",), ready)
    workers.add_metric(("absent",), absent)
    yield workers
    ended = CounterMetricFamily("darkroom_worker_restarts", "Workers that ended and were replaced.")
    ended.add_metric((), restarts)
    yield ended


def backoff_s(short_lives: int) -> float:
    """The wait before the next worker after this many short lives in a row; none after a long life."""
    return min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (short_lives - 1)) if short_lives else 0.0
