from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.service.workers.channel import Channel, ChannelClosed, RequestFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FOREVER_S = 3600.0


async def _echo(question: dict[str, Any]) -> Any:
    if "wait" in question:
        await asyncio.sleep(FOREVER_S)
    return question


@asynccontextmanager
async def _channel() -> AsyncIterator[tuple[Channel, Channel]]:
    """Both ends of a channel, each of which replies with the request."""
    ends = Channel(_echo), Channel(_echo)
    for channel, end in zip(ends, socket.socketpair(), strict=True):
        await channel.open(end)
    tasks = [asyncio.create_task(channel.run()) for channel in ends]
    try:
        yield ends
    finally:
        ends[0].close()
        await asyncio.gather(*tasks)


def test_both_ends_ask_at_once_and_each_hears_its_own_answers() -> None:
    async def run() -> None:
        async with _channel() as (one, other):
            asked = [(channel, {"number": number}) for number in range(20) for channel in (one, other)]
            answers = await asyncio.gather(*(channel.request(question) for channel, question in asked))
            assert answers == [question for _, question in asked]

    asyncio.run(run())


def test_a_long_answer_comes_whole() -> None:
    async def run() -> None:
        async with _channel() as (one, _):
            assert await one.request({"text": "line\n" * 300_000}) == {"text": "line\n" * 300_000}

    asyncio.run(run())


def test_who_waits_hears_that_the_other_end_is_gone_and_so_does_who_asks_later() -> None:
    async def run() -> None:
        async with _channel() as (one, other):
            waiting = asyncio.create_task(one.request({"wait": 1}))
            await one.request({})  # the question before is on its way
            other.close()
            with pytest.raises(ChannelClosed):
                await waiting
            with pytest.raises(ChannelClosed):
                await one.request({})
            one.notify({})

    asyncio.run(run())


def test_an_answer_that_comes_too_late_is_nobody_s() -> None:
    async def run() -> None:
        async with _channel() as (one, _):
            with pytest.raises(TimeoutError):
                await one.request({"wait": 1}, timeout_s=0)
            assert await one.request({"next": 1}) == {"next": 1}

    asyncio.run(run())


def test_an_incomplete_last_message_is_dropped_and_the_channel_is_closed() -> None:
    handled: list[dict[str, Any]] = []

    async def handle(message: dict[str, Any]) -> None:
        handled.append(message)

    async def run() -> None:
        here, there = socket.socketpair()
        there.send(b'[1,false,{"half"')
        there.close()
        channel = Channel(handle)
        await channel.open(here)
        await channel.run()
        with pytest.raises(ChannelClosed):
            await channel.request({})

    asyncio.run(run())
    assert handled == []


def test_a_question_whose_handling_raises_is_told_and_the_channel_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(question: dict[str, Any]) -> Any:
        if "fail" in question:
            raise KeyError("planted")
        return question

    async def run() -> None:
        async with _channel() as (one, other):
            other._handle = fail
            with pytest.raises(RequestFailed, match="KeyError"):
                await one.request({"fail": 1})
            one._writer.write(b"[1, 2]\n{}\n[]\nnonsense\n")  # type: ignore[union-attr]  # it is open
            assert await one.request({"well": 1}) == {"well": 1}

    asyncio.run(run())
    assert [each.message for each in caplog.records] == ["a message failed", *["a message can't be read"] * 4]
