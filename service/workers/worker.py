"""One worker as its supervisor sees it: its process, the connections passed to it, and the channel to it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from darkroom.service.workers.channel import Channel, ChannelClosed, RequestFailed
from darkroom.service.workers.peers import WorkerHandles

if TYPE_CHECKING:
    import signal
    from collections.abc import Awaitable, Callable, Sequence

    from darkroom.service.telemetry.recent import Second

SCRAPE_S = 2.0  # guess: Prometheus waits 10 s; a worker that imports TensorFlow may be silent for a second or two

RECENT_S = 0.5  # guess: a page shows the seconds once a second


class Worker:
    """One worker process, from start to end.

    Attributes:
        number: from 1 on; its replacement gets the same number.
        is_ready: whether it takes predict requests, as it reported last.
        was_ready: whether it ever reported that it does.
        exposition: its metrics, as it sent them last.
    """

    def __init__(self, number: int, handle: Callable[[Worker, dict[str, Any]], Awaitable[Any]]) -> None:
        self.number = number
        self.is_ready = self.was_ready = False
        self.exposition = ""
        self._handle = handle
        self._channel = Channel(self._receive)
        self._passing, self._receiving = socket.socketpair()
        self._passing.setblocking(False)
        self._process: asyncio.subprocess.Process | None = None
        self._reported = self._taken = self._passed = 0
        self._pending_signal: signal.Signals | None = None

    @property
    def pid(self) -> int:
        """The id of its process; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    @property
    def connections(self) -> int:
        """The connections that it reported last, and those that were passed to it since."""
        return self._reported + self._passed - self._taken

    async def run(self, command: Sequence[str], listener: socket.socket) -> int:
        """Starts the process, handles its messages until it ends, and returns its exit status (negative: a signal).

        Raises:
            OSError: the process can't be started.
        """
        end, end_of_worker = socket.socketpair()
        with self._passing, self._receiving, end_of_worker:
            handles = WorkerHandles(self.number, listener.fileno(), self._receiving.fileno(), end_of_worker.fileno())
            self._process = await asyncio.create_subprocess_exec(
                *command,
                f"--worker={handles}",
                pass_fds=handles[1:],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C goes to the supervisor only
            )
            if self._pending_signal is not None:  # it came while the process was being started
                self.signal(self._pending_signal)
            end_of_worker.close()
            self._receiving.close()
            await self._channel.open(end)
            await self._channel.run()
            self.is_ready = False
            return await self._process.wait()

    def hand_over(self, connection: socket.socket) -> bool:
        """Passes it an accepted connection; False if it can't take one now. The caller closes its own copy."""
        with suppress(OSError):  # the worker has not read for long, or is gone
            socket.send_fds(self._passing, [b"c"], [connection.fileno()])
            self._passed += 1
            return True
        return False

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, at the latest when it is started; does nothing if it has ended."""
        self._pending_signal = number
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def refresh(self) -> None:
        """Updates `exposition`; keeps the last one if the worker does not reply in time."""
        with suppress(ChannelClosed, RequestFailed, TimeoutError):
            self.exposition = await self._channel.request({"type": "metrics"}, SCRAPE_S)

    def let_go(self, count: int) -> None:
        """Has it close so many of its connections, each after its next answer, so that their clients connect anew."""
        self._channel.notify({"type": "let_go", "count": count})

    async def recent(self, second: int) -> list[Second]:
        """Its last seconds from `second` on; none if it does not reply in time."""
        with suppress(ChannelClosed, RequestFailed, TimeoutError):
            found: list[Second] = await self._channel.request({"type": "recent", "second": second}, RECENT_S)
            return found
        return []

    async def statistics(self) -> list[dict[str, Any]]:
        """Its statistics of every version; none if it does not reply in time."""
        with suppress(ChannelClosed, RequestFailed, TimeoutError):
            found: list[dict[str, Any]] = await self._channel.request({"type": "statistics"}, SCRAPE_S)
            return found
        return []

    async def replies(self, within_s: float) -> bool:
        """Whether its event loop is running: it replies to a ping in time, or has ended."""
        with suppress(TimeoutError):
            with suppress(ChannelClosed, RequestFailed):
                await self._channel.request({"type": "ping"}, within_s)
            return True
        return False

    async def change(self, change: dict[str, Any]) -> str:
        """Has it load, unload or label a model. Returns why that failed; empty if it did not."""
        try:
            failure: str = await self._channel.request(change)
        except ChannelClosed:
            return ""  # its replacement gets the change
        except RequestFailed as err:
            failure = f"internal error ({err}); its log tells more"
        return failure and f"worker {self.number}: {failure}"

    async def _receive(self, message: dict[str, Any]) -> Any:
        if message["type"] != "report":
            return await self._handle(self, message)
        self._reported, self._taken = message["connections"], message["taken"]
        if message["is_ready"] != self.is_ready:
            await self._handle(self, {"type": "readiness", "is_ready": message["is_ready"]})
        return None
