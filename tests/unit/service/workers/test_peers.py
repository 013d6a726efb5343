"""A worker among several: what it reports to its supervisor, and when it knows that the report has arrived."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from darkroom.service.telemetry.metrics import Metrics
from darkroom.service.telemetry.recent import Recent
from darkroom.service.telemetry.tasks import Tasks
from darkroom.service.workers.channel import Channel
from darkroom.service.workers.peers import Alone, Member, WorkerHandles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@asynccontextmanager
async def _member(handle: Callable[[dict[str, Any]], Awaitable[Any]], tasks: Tasks) -> AsyncIterator[Member]:
    """A member without a model, whose supervisor answers its messages by `handle`."""
    end, end_of_worker = socket.socketpair()
    passing, receiving = socket.socketpair()
    supervisor = Channel(handle)
    await supervisor.open(end)
    hearing = asyncio.create_task(supervisor.run())
    handles = WorkerHandles(1, socket.socket().detach(), receiving.detach(), end_of_worker.detach())
    member = Member(handles, Alone(Metrics(version="1", tensorflow="2"), None, Recent(list)))  # type: ignore[arg-type]  # nothing is loaded
    yield member
    member.refuse()
    tasks.close()
    member.close()
    await hearing
    passing.close()
    member.listener.close()


async def _supervised(heard: asyncio.Event, let_go: asyncio.Event, known: asyncio.Event) -> None:
    """A member that is ready, and a supervisor that answers its report once it is let go."""

    async def handle(message: dict[str, Any]) -> None:
        if message["is_ready"]:
            heard.set()
            await let_go.wait()

    tasks = Tasks(Counter())
    async with _member(handle, tasks) as member:
        await member.open(
            tasks,
            on_connection=lambda _: None,
            status=lambda: {"is_ready": True, "connections": 0},
            on_known_ready=known.set,
            on_let_go=lambda _: None,
            on_supervisor_gone=lambda: None,
        )
        async with asyncio.timeout(10):
            await heard.wait()
            assert not known.is_set()
            let_go.set()
            await known.wait()


def test_a_worker_knows_that_it_is_known_only_when_the_supervisor_has_answered() -> None:
    known = asyncio.Event()
    asyncio.run(_supervised(asyncio.Event(), asyncio.Event(), known))
    assert known.is_set()


def test_what_a_worker_runs_in_the_background_is_started_again_and_told_when_it_fails() -> None:
    """A plant in the report to the supervisor: the next report arrives all the same."""

    async def main() -> None:
        heard = asyncio.Event()

        async def handle(_: dict[str, Any]) -> str:
            heard.set()
            return ""

        plants = iter([ValueError("planted")])

        def status() -> dict[str, Any]:
            for plant in plants:
                raise plant
            return {"is_ready": True, "connections": 0}

        failures: Counter[str] = Counter()
        tasks = Tasks(failures)
        nothing = lambda *_: None  # noqa: E731 - four callbacks that no one waits for
        async with _member(handle, tasks) as member:
            await member.open(
                tasks,
                on_connection=nothing,
                status=status,
                on_known_ready=nothing,
                on_let_go=nothing,
                on_supervisor_gone=nothing,
            )
            async with asyncio.timeout(10):
                await heard.wait()
            assert failures == {"supervisor-channel": 0, "report-to-supervisor": 1}

    asyncio.run(main())
