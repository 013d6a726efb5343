"""The crew, all processes of one address: what a server asks of them all, be it alone or one of several workers."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from darkroom.models.errors import LoadFailed, ModelError
from darkroom.service.errors import NotReady
from darkroom.service.workers.channel import Channel, HungUp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from darkroom.service.serving.manager import ModelManager
    from darkroom.service.telemetry.metrics import Metrics

REPORT_S = 0.1  # guess: how old the supervisor's count of a worker's connections may be
TAKES_A_TURN = 64  # guess: connections that are taken before others get their turn of the event loop


class Peers(Protocol):
    """What reaches every process of the address, whichever of them was asked."""

    async def render(self) -> tuple[bytes, str]:
        """The text exposition of all of them together, and its content type.

        Raises:
            NotReady: the supervisor is gone.
        """

    async def load(self, name: str) -> None:
        """As Repository.load, in all of them."""

    async def unload(self, name: str) -> None:
        """As Repository.unload, in all of them."""

    async def label(self, name: str, labels: Mapping[str, int]) -> None:
        """As Repository.label, in all of them."""


class Alone:
    """The crew of one process."""

    def __init__(self, metrics: Metrics, repository: ModelManager) -> None:
        self._metrics = metrics
        self._repository = repository

    async def render(self) -> tuple[bytes, str]:
        """The text exposition and its content type."""
        return self._metrics.render()

    async def load(self, name: str) -> None:
        """As Repository.load."""
        await self._repository.load(name)

    async def unload(self, name: str) -> None:
        """As Repository.unload."""
        await self._repository.unload(name)

    async def label(self, name: str, labels: Mapping[str, int]) -> None:
        """As Repository.label."""
        self._repository.label(name, labels)


class WorkerHandles(NamedTuple):
    """What a worker is started with: its number, and the descriptors that it inherits.

    `listener` is the address, which it only names; connections come by `inbox`; `line` leads to the supervisor.
    """

    number: int
    listener: int
    inbox: int
    line: int

    def __str__(self) -> str:
        return ":".join(map(str, tuple(self)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The place of `str`."""
        return cls(*map(int, text.split(":")))


class Member:
    """One worker among several: its connections come from the supervisor, and what is asked of all goes to it."""

    def __init__(self, place: WorkerHandles, alone: Peers) -> None:
        self.listener = socket.socket(fileno=place.listener)
        self._inbox = socket.socket(fileno=place.inbox)
        self._inbox.setblocking(False)
        self._line = socket.socket(fileno=place.line)
        self._alone = alone
        self._talk = Channel(self._answer)
        self._tasks: list[asyncio.Task[None]] = []
        self._changes: set[asyncio.Task[None]] = set()
        self._taken = 0

    async def open(
        self,
        *,
        take: Callable[[socket.socket], object],
        report: Callable[[], dict[str, Any]],
        known: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        """Begins to hear the supervisor.

        Args:
            take: called with each connection that it hands over.
            report: what it is to know of this worker; told when it has changed.
            known: called when it has heard that this worker is ready: from then on connections go to those that are.
            leave: called when it is gone.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self._inbox, self._receive, take)
        await self._talk.open(self._line)
        line = loop.create_task(self._talk.run())
        line.add_done_callback(lambda _: leave())
        self._tasks += [line, loop.create_task(self._keep_reporting(report, known))]

    def refuse(self) -> None:
        """Takes no connection any more; idempotent."""
        asyncio.get_running_loop().remove_reader(self._inbox)
        self._inbox.close()

    def close(self) -> None:
        """Hangs up."""
        for task in self._tasks:
            task.cancel()
        self._talk.close()

    def tell(self, message: dict[str, Any]) -> None:
        """Says something to the supervisor."""
        self._talk.tell(message)

    async def render(self) -> tuple[bytes, str]:
        """The exposition of all workers together, and its content type."""
        text: str = await self._ask({"ask": "metrics"})
        return text.encode(), CONTENT_TYPE_LATEST

    async def load(self, name: str) -> None:
        """As Repository.load, here and then in all others."""
        await self._everywhere({"ask": "load", "name": name})

    async def unload(self, name: str) -> None:
        """As Repository.unload, here and then in all others."""
        await self._everywhere({"ask": "unload", "name": name})

    async def label(self, name: str, labels: Mapping[str, int]) -> None:
        """As Repository.label, here and then in all others."""
        await self._everywhere({"ask": "label", "name": name, "labels": dict(labels)})

    async def _everywhere(self, change: dict[str, Any]) -> None:
        """Makes a change that a caller who leaves can't leave half done."""
        task = asyncio.create_task(self._spread(change))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _spread(self, change: dict[str, Any]) -> None:
        """Makes a change here, where it may turn out to be none, and then has the others make it."""
        failure = ""
        try:
            await self._make(change)
        except LoadFailed as err:  # a version of several; the others have to go as far
            failure = str(err)
        failure = await self._ask(change) or failure
        if failure:
            raise LoadFailed(failure)

    async def _ask(self, question: dict[str, Any]) -> Any:
        try:
            return await self._talk.ask(question)
        except HungUp:
            raise NotReady("the server is stopping") from None

    async def _answer(self, question: dict[str, Any]) -> str:
        """What the supervisor asks: the exposition, a pulse, or a change; of a change, why it failed, or nothing."""
        if question["ask"] == "metrics":
            return (await self._alone.render())[0].decode()
        if question["ask"] == "pulse":
            return ""
        try:
            await self._make(question)
        except ModelError as err:
            return str(err)
        return ""

    async def _make(self, change: dict[str, Any]) -> None:
        name = change["name"]
        match change["ask"]:
            case "load":
                await self._alone.load(name)
            case "unload":
                await self._alone.unload(name)
            case _:
                await self._alone.label(name, change["labels"])

    async def _keep_reporting(self, report: Callable[[], dict[str, Any]], known: Callable[[], None]) -> None:
        told: dict[str, Any] = {"is_ready": False}
        while True:
            await asyncio.sleep(REPORT_S)
            news = report() | {"taken": self._taken}
            if news["is_ready"] and not told["is_ready"]:
                with suppress(HungUp):  # then this worker is leaving
                    await self._talk.ask({"report": news})
                    known()
            elif news != told:
                self._talk.tell({"report": news})
            told = news

    def _receive(self, take: Callable[[socket.socket], object]) -> None:
        """Takes what has come; a connection is a byte with a descriptor."""
        with suppress(BlockingIOError):
            for _ in range(TAKES_A_TURN):
                _, descriptors, _, _ = socket.recv_fds(self._inbox, 1, 1)
                if not descriptors:  # the supervisor is gone, or this process has no descriptor left
                    break
                self._taken += 1
                take(socket.socket(fileno=descriptors[0]))
