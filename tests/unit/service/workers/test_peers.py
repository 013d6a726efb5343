"""A worker among several: what it tells its supervisor, and when it is told that this was heard."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from darkroom.service.telemetry.metrics import Metrics
from darkroom.service.workers.channel import Channel
from darkroom.service.workers.peers import Alone, Member, WorkerHandles


async def _supervised(heard: asyncio.Event, let_go: asyncio.Event, known: asyncio.Event) -> None:
    """A member that is ready, and a supervisor that answers its report once it is let go."""

    async def hear(message: dict[str, Any]) -> None:
        if message["report"]["is_ready"]:
            heard.set()
            await let_go.wait()

    line, its_line = socket.socketpair()
    inbox, its_inbox = socket.socketpair()
    supervisor = Channel(hear)
    await supervisor.open(line)
    hearing = asyncio.create_task(supervisor.run())
    place = WorkerHandles(1, socket.socket().detach(), its_inbox.detach(), its_line.detach())
    member = Member(place, Alone(Metrics(version="1", tensorflow="2"), None))  # type: ignore[arg-type]  # nothing is loaded
    await member.open(
        take=lambda _: None,
        report=lambda: {"is_ready": True, "connections": 0},
        known=known.set,
        leave=lambda: None,
    )
    async with asyncio.timeout(10):
        await heard.wait()
        assert not known.is_set()
        let_go.set()
        await known.wait()
    member.refuse()
    member.close()
    await hearing
    inbox.close()
    member.listener.close()


def test_a_worker_knows_that_it_is_known_only_when_the_supervisor_has_answered() -> None:
    known = asyncio.Event()
    asyncio.run(_supervised(asyncio.Event(), asyncio.Event(), known))
    assert known.is_set()
