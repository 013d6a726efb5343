"""The line between a worker and its supervisor: either end asks, the other answers; JSON, one message a line."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

MAX_MESSAGE_BYTES = 64 << 20  # guess: an exposition of two versions has 100 KB
NOBODY = 0  # waits for the answer to a question of this number


class HungUp(Exception):
    """The other end is not there any more."""


class Channel:
    """One end of the line; `answer` is asked what the other end asks, and gives what JSON can say.

    `answer` must not raise: who is asked for something that can fail says so in its answer.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
        self._answer = answer
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = count(NOBODY + 1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self, end: socket.socket) -> None:
        """Takes `end` over; from now on the other end is told and asked, and hears it once it is open too."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=end, limit=MAX_MESSAGE_BYTES)

    async def run(self) -> None:
        """Answers and hears answers until the other end is closed."""
        assert self._reader is not None  # noqa: S101 - it is open
        try:
            while (line := await self._reader.readline()).endswith(b"\n"):
                self._hear(*orjson.loads(line))
        except ConnectionError:
            pass  # it ended without a word
        finally:
            self.close()

    def close(self) -> None:
        """Hangs up: who waits for an answer hears HungUp; idempotent."""
        for task in self._answering:
            task.cancel()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(HungUp)
        if self._writer is not None:
            self._writer.close()

    def tell(self, message: dict[str, Any]) -> None:
        """Says what needs no answer; where nobody listens, nothing happens."""
        self._send(NOBODY, message, is_answer=False)

    async def ask(self, question: dict[str, Any], timeout_s: float | None = None) -> Any:
        """The answer.

        Raises:
            HungUp: the other end is gone, or went before it answered.
            TimeoutError: it did not answer in time.
        """
        if self._writer is None or self._writer.is_closing():
            raise HungUp
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send(number, question, is_answer=False)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._waiting[number]
        finally:
            del self._waiting[number]

    def _hear(self, number: int, is_answer: bool, content: Any) -> None:  # noqa: FBT001 - a message's three parts
        if not is_answer:
            task = asyncio.create_task(self._reply(number, content))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif number in self._waiting and not self._waiting[number].done():
            self._waiting[number].set_result(content)

    async def _reply(self, number: int, question: dict[str, Any]) -> None:
        answer = await self._answer(question)
        if number != NOBODY:
            self._send(number, answer, is_answer=True)

    def _send(self, number: int, content: Any, *, is_answer: bool) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(orjson.dumps((number, is_answer, content)) + b"\n")
