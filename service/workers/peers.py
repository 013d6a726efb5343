"""What a server does in all processes of its address at once: `Alone` for a single process, `Member` for a worker."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from darkroom.models.errors import LoadFailed, ModelError
from darkroom.service.config.model_config import ModelEntry
from darkroom.service.config.traffic import TrafficRule
from darkroom.service.errors import NotReady
from darkroom.service.telemetry.statistics import describe_statistics, merge_statistics
from darkroom.service.workers.channel import Channel, ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from darkroom.service.serving.manager import ModelManager
    from darkroom.service.telemetry.metrics import Metrics
    from darkroom.service.telemetry.recent import Recent, Second
    from darkroom.service.telemetry.tasks import Tasks

REPORT_S = 0.1  # guess: how old the supervisor's count of a worker's connections may be
CONNECTIONS_A_TURN = 64  # guess: connections that are taken before the event loop runs something else


class Peers(Protocol):
    """Reaches every process of the address, whichever of them got the request."""

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """The merged exposition of all processes in the format of an Accept header, and its content type.

        Raises:
            NotReady: the supervisor is gone.
        """

    async def recent(self, second: int) -> list[Second]:
        """The last seconds of all processes, added up, from `second` on.

        Raises:
            NotReady: the supervisor is gone.
        """

    async def statistics(self) -> list[dict[str, Any]]:
        """The statistics of every version, summed over all processes; see `describe_statistics`.

        Raises:
            NotReady: the supervisor is gone.
        """

    async def load(self, name: str) -> None:
        """`ModelManager.load` in every process."""

    async def unload(self, name: str) -> None:
        """`ModelManager.unload` in every process."""

    async def label(self, name: str, labels: Mapping[str, int]) -> None:
        """`ModelManager.label` in every process."""

    async def direct(self, name: str, rule: TrafficRule | None) -> None:
        """`ModelManager.direct` in every process."""

    async def apply(self, entries: Sequence[ModelEntry]) -> None:
        """`ModelManager.apply` in every process."""


class Alone:
    """The peers of a server with one process: only itself."""

    def __init__(self, metrics: Metrics, manager: ModelManager, recent: Recent) -> None:
        self._metrics = metrics
        self._manager = manager
        self._recent = recent

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition in the format of an Accept header, and its content type."""
        return self._metrics.render(accept)

    async def recent(self, second: int) -> list[Second]:
        """The last seconds of this process."""
        return self._recent.since(second)

    async def statistics(self) -> list[dict[str, Any]]:
        """The statistics of every version."""
        return [describe_statistics(model) for model in self._metrics.models()]

    async def load(self, name: str) -> None:
        """`ModelManager.load`."""
        await self._manager.load(name)

    async def unload(self, name: str) -> None:
        """`ModelManager.unload`."""
        await self._manager.unload(name)

    async def label(self, name: str, labels: Mapping[str, int]) -> None:
        """`ModelManager.label`."""
        self._manager.label(name, labels)

    async def direct(self, name: str, rule: TrafficRule | None) -> None:
        """`ModelManager.direct`."""
        self._manager.direct(name, rule)

    async def apply(self, entries: Sequence[ModelEntry]) -> None:
        """`ModelManager.apply`."""
        await self._manager.apply(entries)


class WorkerHandles(NamedTuple):
    """The worker's number and the file descriptors that it inherits.

    Attributes:
        number: from 1 on.
        listener: the listening socket. The worker only reads its address; the supervisor accepts.
        connections: the socket over which the supervisor passes accepted connections.
        channel: the worker's end of its channel to the supervisor.
    """

    number: int
    listener: int
    connections: int
    channel: int

    def __str__(self) -> str:
        return ":".join(map(str, tuple(self)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The handles that `str` wrote."""
        return cls(*map(int, text.split(":")))


class Member:
    """One worker among several. It gets connections from the supervisor, and reaches the other workers through it.

    It takes the sockets of `handles` over.
    """

    def __init__(self, handles: WorkerHandles, alone: Peers) -> None:
        self.listener = socket.socket(fileno=handles.listener)
        self._connections = socket.socket(fileno=handles.connections)
        self._connections.setblocking(False)
        self._channel_end = socket.socket(fileno=handles.channel)
        self._alone = alone
        self._channel = Channel(self._handle)
        self._changes: set[asyncio.Task[None]] = set()
        self._taken = 0
        self._on_let_go: Callable[[int], None] = lambda _: None

    async def open(
        self,
        tasks: Tasks,
        *,
        on_connection: Callable[[socket.socket], object],
        status: Callable[[], dict[str, Any]],
        on_known_ready: Callable[[], None],
        on_let_go: Callable[[int], None],
        on_supervisor_gone: Callable[[], None],
    ) -> None:
        """Starts to receive connections and messages from the supervisor.

        Args:
            tasks: what runs in the background here is one of them, until they are closed.
            on_connection: called with each connection that the supervisor passes.
            status: `is_ready` and the number of `connections`; reported to the supervisor whenever it changes.
            on_known_ready: called when the supervisor has learned that this worker is ready. From then on only ready
                workers get connections.
            on_let_go: called with a number of connections that are to close after their next answer.
            on_supervisor_gone: called when the supervisor's end of the channel is closed.
        """
        self._on_let_go = on_let_go
        loop = asyncio.get_running_loop()
        loop.add_reader(self._connections, self._receive, on_connection)
        await self._channel.open(self._channel_end)
        reading = tasks.start("supervisor-channel", self._channel.run)
        reading.add_done_callback(lambda _: on_supervisor_gone())
        tasks.start("report-to-supervisor", partial(self._keep_reporting, status, on_known_ready))

    def refuse(self) -> None:
        """Takes no more connections; idempotent."""
        asyncio.get_running_loop().remove_reader(self._connections)
        self._connections.close()

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def notify(self, message: dict[str, Any]) -> None:
        """Sends a message to the supervisor."""
        self._channel.notify(message)

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """The merged exposition of all workers in the format of an Accept header, and its content type."""
        text, content_type = await self._request({"type": "metrics", "accept": accept})
        return text.encode(), content_type

    async def recent(self, second: int) -> list[Second]:
        """The last seconds of all workers."""
        found: list[Second] = await self._request({"type": "recent", "second": second})
        return found

    async def statistics(self) -> list[dict[str, Any]]:
        """The statistics of every version, summed over the workers that run now."""
        return merge_statistics(await self._request({"type": "statistics"}))

    async def load(self, name: str) -> None:
        """`ModelManager.load`, here and then in all others."""
        await self._change_all({"type": "load", "name": name})

    async def unload(self, name: str) -> None:
        """`ModelManager.unload`, here and then in all others."""
        await self._change_all({"type": "unload", "name": name})

    async def label(self, name: str, labels: Mapping[str, int]) -> None:
        """`ModelManager.label`, here and then in all others."""
        await self._change_all({"type": "label", "name": name, "labels": dict(labels)})

    async def direct(self, name: str, rule: TrafficRule | None) -> None:
        """`ModelManager.direct`, here and then in all others."""
        await self._change_all({"type": "direct", "name": name, "rule": rule and rule.describe()})

    async def apply(self, entries: Sequence[ModelEntry]) -> None:
        """`ModelManager.apply`, here and then in all others."""
        listed = [entry.model_dump(mode="json") for entry in entries]
        await self._change_all({"type": "apply", "name": "", "models": listed})

    async def _change_all(self, change: dict[str, Any]) -> None:
        """Applies a change here, which may refuse it, and then in the others. Cancelling the caller does not stop it."""

        async def spread() -> None:
            failure = ""
            try:
                await self._apply(change)
            except LoadFailed as err:  # one version of several failed; the others must get the same versions
                failure = str(err)
            failure = await self._request(change) or failure
            if failure:
                raise LoadFailed(failure)

        task = asyncio.create_task(spread(), name="change-all-workers")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _request(self, message: dict[str, Any]) -> Any:
        try:
            return await self._channel.request(message)
        except ChannelClosed:
            raise NotReady("the server is stopping") from None

    async def _handle(self, message: dict[str, Any]) -> Any:
        """Replies to the supervisor: what it asks for, nothing to a ping, or why a change failed (empty: it did not)."""
        match message["type"]:
            case "metrics":
                return (await self._alone.render())[0].decode()
            case "recent":
                return await self._alone.recent(message["second"])
            case "statistics":
                return await self._alone.statistics()
            case "let_go":
                self._on_let_go(message["count"])
            case "ping":
                pass
            case _:
                try:
                    await self._apply(message)
                except ModelError as err:
                    return str(err)
                except NotReady:
                    pass  # it is still loading, and gets the change again when it is ready
        return ""

    async def _apply(self, change: dict[str, Any]) -> None:
        name = change["name"]
        match change["type"]:
            case "load":
                await self._alone.load(name)
            case "unload":
                await self._alone.unload(name)
            case "direct":
                await self._alone.direct(name, TrafficRule.of(change["rule"]) if change["rule"] else None)
            case "apply":
                await self._alone.apply([ModelEntry.model_validate(fields) for fields in change["models"]])
            case _:
                await self._alone.label(name, change["labels"])

    async def _keep_reporting(self, status: Callable[[], dict[str, Any]], on_known_ready: Callable[[], None]) -> None:
        sent: dict[str, Any] = {"is_ready": False}
        while True:
            await asyncio.sleep(REPORT_S)
            report = {"type": "report", "taken": self._taken} | status()
            if report["is_ready"] and not sent["is_ready"]:
                with suppress(ChannelClosed):  # then this worker is stopping
                    await self._channel.request(report)
                    on_known_ready()
            elif report != sent:
                self._channel.notify(report)
            sent = report

    def _receive(self, on_connection: Callable[[socket.socket], object]) -> None:
        """Takes the connections that were passed; each is one byte with a file descriptor."""
        with suppress(BlockingIOError):
            for _ in range(CONNECTIONS_A_TURN):
                _, descriptors, _, _ = socket.recv_fds(self._connections, 1, 1)
                if not descriptors:  # the supervisor is gone, or this process has no descriptor left
                    break
                self._taken += 1
                on_connection(socket.socket(fileno=descriptors[0]))
