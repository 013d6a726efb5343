"""A worker among several: what it reports to its supervisor, and when it knows that the report has arrived."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from darkroom.service.telemetry.metrics import Metrics
from darkroom.service.workers.channel import Channel
from darkroom.service.workers.peers import Alone, Member, WorkerHandles


async def _supervised(heard: asyncio.Event, let_go: asyncio.Event, known: asyncio.Event) -> None:
    """A member that is ready, and a supervisor that answers its report once it is let go."""

    async def handle(message: dict[str, Any]) -> None:
        if message["is_ready"]:
            heard.set()
            await let_go.wait()

    end, end_of_worker = socket.socketpair()
    passing, receiving = socket.socketpair()
    supervisor = Channel(handle)
    await supervisor.open(end)
    hearing = asyncio.create_task(supervisor.run())
    handles = WorkerHandles(1, socket.socket().detach(), receiving.detach(), end_of_worker.detach())
    member = Member(handles, Alone(Metrics(version="1", tensorflow="2"), None))  # type: ignore[arg-type]  # nothing is loaded
    await member.open(
        on_connection=lambda _: None,
        status=lambda: {"is_ready": True, "connections": 0},
        on_known_ready=known.set,
        on_supervisor_gone=lambda: None,
    )
    async with asyncio.timeout(10):
        await heard.wait()
        assert not known.is_set()
        let_go.set()
        await known.wait()
    member.refuse()
    member.close()
    await hearing
    passing.close()
    member.listener.close()


def test_a_worker_knows_that_it_is_known_only_when_the_supervisor_has_answered() -> None:
    known = asyncio.Event()
    asyncio.run(_supervised(asyncio.Event(), asyncio.Event(), known))
    assert known.is_set()
