"""One worker as its supervisor sees it: a process, what is handed to it, and what it says."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from darkroom.service.workers.channel import Channel, HungUp
from darkroom.service.workers.peers import WorkerHandles

if TYPE_CHECKING:
    import signal
    from collections.abc import Awaitable, Callable, Sequence

SCRAPE_S = 2.0  # guess: Prometheus waits 10 s; a worker that imports TensorFlow may be silent for a second or two


class Worker:
    """A process from its start to its end.

    Attributes:
        number: from 1 on; whoever takes its place has the same.
        is_ready: whether it takes predict requests, when it last reported.
        exposition: its metrics as it last told them.
    """

    def __init__(self, number: int, answer: Callable[[Worker, dict[str, Any]], Awaitable[Any]]) -> None:
        self.number = number
        self.is_ready = False
        self.exposition = ""
        self._answer = answer
        self._talk = Channel(self._hear)
        self._outbox, self._inbox = socket.socketpair()
        self._outbox.setblocking(False)
        self._process: asyncio.subprocess.Process | None = None
        self._connections = self._taken = self._handed = 0
        self._was_signalled: signal.Signals | None = None

    @property
    def pid(self) -> int:
        """The process's id; 0 before its start."""
        return self._process.pid if self._process is not None else 0

    @property
    def connections(self) -> int:
        """Those it has, when it last reported, and those handed to it since."""
        return self._connections + self._handed - self._taken

    async def run(self, command: Sequence[str], listener: socket.socket) -> int:
        """Starts the process, hears it until it ends, and returns its exit status (negative: the signal)."""
        line, its_line = socket.socketpair()
        with self._outbox, self._inbox, its_line:
            place = WorkerHandles(self.number, listener.fileno(), self._inbox.fileno(), its_line.fileno())
            self._process = await asyncio.create_subprocess_exec(
                *command,
                f"--worker={place}",
                pass_fds=place[1:],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the supervisor's to hear
            )
            if self._was_signalled is not None:  # while it was being started
                self.signal(self._was_signalled)
            its_line.close()
            self._inbox.close()
            await self._talk.open(line)
            await self._talk.run()
            self.is_ready = False
            return await self._process.wait()

    def hand(self, connection: socket.socket) -> bool:
        """Gives it a connection; False where it can't take one now."""
        try:
            socket.send_fds(self._outbox, [b"c"], [connection.fileno()])
        except OSError:  # it has not looked for long, or is gone
            return False
        self._handed += 1
        return True

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, as soon as it is there, unless it has ended."""
        self._was_signalled = number
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def refresh(self) -> None:
        """Has it tell its metrics; where it doesn't in time, those stay that it told last."""
        with suppress(HungUp, TimeoutError):
            self.exposition = await self._talk.ask({"ask": "metrics"}, SCRAPE_S)

    async def is_awake(self, within_s: float) -> bool:
        """Whether its event loop turns: it answers in time, or has ended."""
        try:
            with suppress(HungUp):
                await self._talk.ask({"ask": "pulse"}, within_s)
        except TimeoutError:
            return False
        return True

    async def change(self, change: dict[str, Any]) -> str:
        """Has it load, unload or label a model; returns why it could not, or nothing."""
        try:
            failure: str = await self._talk.ask(change)
        except HungUp:
            return ""  # whoever takes its place is told
        return failure and f"worker {self.number}: {failure}"

    async def _hear(self, message: dict[str, Any]) -> Any:
        if (report := message.get("report")) is None:
            return await self._answer(self, message)
        self._connections, self._taken = report["connections"], report["taken"]
        if report["is_ready"] != self.is_ready:
            await self._answer(self, {"ask": "stand", "is_ready": report["is_ready"]})
        return None
