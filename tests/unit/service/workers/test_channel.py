from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.service.workers.channel import Channel, HungUp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FOREVER_S = 3600.0


async def _echo(question: dict[str, Any]) -> Any:
    if "wait" in question:
        await asyncio.sleep(FOREVER_S)
    return question


@asynccontextmanager
async def _line() -> AsyncIterator[tuple[Channel, Channel]]:
    """Both ends of a line, at which echoes sit."""
    ends = Channel(_echo), Channel(_echo)
    for talk, end in zip(ends, socket.socketpair(), strict=True):
        await talk.open(end)
    tasks = [asyncio.create_task(talk.run()) for talk in ends]
    try:
        yield ends
    finally:
        ends[0].close()
        await asyncio.gather(*tasks)


def test_both_ends_ask_at_once_and_each_hears_its_own_answers() -> None:
    async def run() -> None:
        async with _line() as (one, other):
            asked = [(talk, {"number": number}) for number in range(20) for talk in (one, other)]
            answers = await asyncio.gather(*(talk.ask(question) for talk, question in asked))
            assert answers == [question for _, question in asked]

    asyncio.run(run())


def test_a_long_answer_comes_whole() -> None:
    async def run() -> None:
        async with _line() as (one, _):
            assert await one.ask({"text": "line\n" * 300_000}) == {"text": "line\n" * 300_000}

    asyncio.run(run())


def test_who_waits_hears_that_the_other_end_is_gone_and_so_does_who_asks_later() -> None:
    async def run() -> None:
        async with _line() as (one, other):
            waiting = asyncio.create_task(one.ask({"wait": 1}))
            await one.ask({})  # the question before is on its way
            other.close()
            with pytest.raises(HungUp):
                await waiting
            with pytest.raises(HungUp):
                await one.ask({})
            one.tell({})

    asyncio.run(run())


def test_an_answer_that_comes_too_late_is_nobody_s() -> None:
    async def run() -> None:
        async with _line() as (one, _):
            with pytest.raises(TimeoutError):
                await one.ask({"wait": 1}, timeout_s=0)
            assert await one.ask({"next": 1}) == {"next": 1}

    asyncio.run(run())


def test_a_message_that_was_cut_off_is_no_message() -> None:
    async def run() -> None:
        here, there = socket.socketpair()
        there.send(b'[1,false,{"ask"')
        there.close()
        talk = Channel(_echo)
        await talk.open(here)
        await talk.run()

    asyncio.run(run())
