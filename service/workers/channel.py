"""The channel between a worker and its supervisor: requests and replies both ways, as JSON, one message per line."""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

_log = logging.getLogger("darkroom.service")
MAX_MESSAGE_BYTES = 64 << 20  # guess: the metrics of two versions take 100 KB
NO_REPLY = 0  # the number of a message that expects no reply


class ChannelClosed(Exception):
    """The other end of the channel is closed."""


class RequestFailed(Exception):
    """The other end failed while it handled a request: a bug of ours, which its log tells."""


class Channel:
    """One end of a channel. A message is a line `[number, is_reply, content]`; `is_reply` is null for a failed request.

    Args:
        handle: receives each request of the other end and returns the reply, which must be JSON. A request that can fail
            says so in its reply. What `handle` raises is logged here, and the other end gets RequestFailed.
    """

    def __init__(self, handle: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
        self._handle = handle
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = count(NO_REPLY + 1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._handling: set[asyncio.Task[None]] = set()

    async def open(self, end: socket.socket) -> None:
        """Takes `end` over. Messages can be sent from now on; the other end reads them once it is open too."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=end, limit=MAX_MESSAGE_BYTES)

    async def run(self) -> None:
        """Reads messages until the other end is closed. An incomplete last line is dropped."""
        assert self._reader is not None  # noqa: S101 - it is open
        try:
            while (line := await self._reader.readline()).endswith(b"\n"):
                try:
                    self._receive(*orjson.loads(line))
                except Exception as err:  # noqa: BLE001 - a bug of ours; the next message may be well
                    _log.error("a message can't be read", exc_info=err)
        except ConnectionError:
            pass  # the other process ended
        finally:
            self.close()

    def close(self) -> None:
        """Closes this end; pending requests fail with ChannelClosed. Idempotent."""
        for task in self._handling:
            task.cancel()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ChannelClosed)
        if self._writer is not None:
            self._writer.close()

    def notify(self, message: dict[str, Any]) -> None:
        """Sends a message that expects no reply; does nothing if the channel is closed."""
        self._send(NO_REPLY, message, is_reply=False)

    async def request(self, message: dict[str, Any], timeout_s: float | None = None) -> Any:
        """Sends a message and returns the reply.

        Raises:
            ChannelClosed: the channel was closed before the reply came.
            RequestFailed: the other end raised an exception instead of a reply.
            TimeoutError: no reply within `timeout_s`.
        """
        if self._writer is None or self._writer.is_closing():
            raise ChannelClosed
        number = next(self._numbers)
        self._pending[number] = asyncio.get_running_loop().create_future()
        self._send(number, message, is_reply=False)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._pending[number]
        finally:
            del self._pending[number]

    def _receive(self, number: int, is_reply: bool | None, content: Any) -> None:  # noqa: FBT001 - a message's three parts
        if is_reply is False:
            task = asyncio.create_task(self._reply(number, content), name="channel-reply")
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)
        elif number in self._pending and not self._pending[number].done():
            if is_reply:
                self._pending[number].set_result(content)
            else:
                self._pending[number].set_exception(RequestFailed(content))

    async def _reply(self, number: int, message: dict[str, Any]) -> None:
        is_reply: bool | None = True
        try:
            reply = await self._handle(message)
        except Exception as err:  # noqa: BLE001 - a bug of ours; without a reply the other end would wait for ever
            _log.error("a message failed", extra={"fields": {"type": message.get("type")}}, exc_info=err)
            reply, is_reply = type(err).__name__, None
        if number != NO_REPLY:
            self._send(number, reply, is_reply=is_reply)

    def _send(self, number: int, content: Any, *, is_reply: bool | None) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(orjson.dumps((number, is_reply, content)) + b"\n")
