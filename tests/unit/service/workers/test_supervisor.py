"""The supervisor with workers that are no processes, on a virtual clock."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from darkroom.service.config.settings import Settings
from darkroom.service.workers.supervisor import (
    ACCEPT_PAUSE_S,
    EXIT_S,
    FIRST_BACKOFF_S,
    MISSED_PINGS,
    STEADY_S,
    Supervisor,
    backoff_s,
)
from tests import vclock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from darkroom.service.workers.worker import Worker

COUNTS = "# TYPE darkroom_{0}_total counter\ndarkroom_{0}_total {1}\n"


class FakeWorker:
    """A worker without a process. It ends when a test says so, or by a signal, unless it is `deaf` to SIGTERM."""

    def __init__(self, number: int, handle: Callable[[Worker, dict[str, Any]], Awaitable[Any]]) -> None:
        self.number, self.pid = number, 100 + number
        self.made_s = asyncio.get_running_loop().time()
        self.is_ready = self.was_ready = False
        self.exposition = ""
        self.connections = 0
        self.command: Sequence[str] = ()
        self.released: list[int] = []
        self.is_full = self.is_deaf = self.hangs = False
        self.next_exposition = ""
        self.taken: list[int] = []  # the ports of the clients whose connections it got
        self.changes: list[dict[str, Any]] = []
        self.signals: list[signal.Signals] = []
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._handle = handle

    async def tells(self, message: dict[str, Any]) -> Any:
        """Sends a message to the supervisor."""
        return await self._handle(cast("Worker", self), message)

    async def finds_that_there_should_be(self, workers: int) -> None:
        await self.tells({"type": "choice", "workers": workers, "reason": "it pays", "fields": {"cores": 8}})

    async def becomes_ready_and_finds_that_there_should_be(self, workers: int) -> None:
        await self.finds_that_there_should_be(workers)
        await self.tells({"type": "hint", "text": "try: curl"})
        await self.becomes_ready()

    async def becomes_ready(self) -> None:
        await self.tells({"type": "readiness", "is_ready": True})

    async def run(self, command: Sequence[str], listener: socket.socket) -> int:
        self.command = command
        assert listener.fileno() >= 0
        return await self.ended

    def end(self, status: int) -> None:
        if not self.ended.done():
            self.is_ready = False
            self.ended.set_result(status)

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)
        if number == signal.SIGKILL or not self.is_deaf:
            self.end(0 if number == signal.SIGTERM else -number)

    def hand_over(self, connection: socket.socket) -> bool:
        if not self.is_full:
            self.connections += 1
            self.taken.append(connection.getpeername()[1])
        return not self.is_full

    async def refresh(self) -> None:
        self.exposition = self.next_exposition or self.exposition

    def let_go(self, count: int) -> None:
        self.released.append(count)

    async def replies(self, within_s: float) -> bool:
        await asyncio.sleep(within_s if self.hangs else 0)
        return not self.hangs

    async def change(self, change: dict[str, Any]) -> str:
        self.changes.append(change)
        return ""


class Rig:
    """A running supervisor, and every worker that it made."""

    def __init__(self, **settings: Any) -> None:
        self.made: list[FakeWorker] = []
        known = {"host": "127.0.0.1", "port": 0, "workers": 2} | settings
        self.supervisor = Supervisor(Settings(**known), ["serve"], make_worker=self._make)

    def _make(self, number: int, handle: Callable[[Worker, dict[str, Any]], Awaitable[Any]]) -> Worker:
        self.made.append(FakeWorker(number, handle))
        return cast("Worker", self.made[-1])

    def metric(self, name: str, **labels: str) -> float:
        """A value of the supervisor's own metrics."""
        samples = [sample for family in self.supervisor.collect() for sample in family.samples]
        (value,) = [sample.value for sample in samples if (sample.name, sample.labels) == (name, labels)]
        return value


@asynccontextmanager
async def _supervised(**settings: Any) -> AsyncIterator[Rig]:
    """A supervisor whose two workers, or the first one, are started; it is stopped afterwards."""
    rig = Rig(**settings)
    running = asyncio.create_task(rig.supervisor.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [worker.number for worker in rig.made] == ([1] if settings.get("workers") == "auto" else [1, 2])
    yield rig
    rig.supervisor.stop()
    await running


def test_the_wait_before_a_replacement_doubles_with_each_short_life_and_is_nothing_after_a_long_one() -> None:
    assert [backoff_s(short_lives) for short_lives in range(6)] == [0, 0.5, 1, 2, 4, 8]
    assert backoff_s(7) == backoff_s(70) == 30


def test_a_start_prints_the_address_first_and_the_hint_once_when_all_are_ready(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def run() -> None:
        async with _supervised() as rig:
            assert "darkroom: listening on http://127.0.0.1:" in capsys.readouterr().err
            for worker in rig.made:
                await worker.tells({"type": "hint", "text": "try: curl"})
            await rig.made[0].becomes_ready()
            assert capsys.readouterr().err == ""
            assert rig.metric("darkroom_workers", state="ready") == 1
            await rig.made[1].becomes_ready()
            assert capsys.readouterr().err == "try: curl\n"
            assert rig.metric("darkroom_workers", state="absent") == 0

    vclock.run(run())


def test_a_worker_that_ends_is_replaced_later_each_time_unless_it_lived_long(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        time_s = asyncio.get_running_loop().time
        async with _supervised() as rig:
            waits = []
            dying = rig.made[0]
            for status in (1, -signal.SIGSEGV, 1):
                ended_s = time_s()
                dying.end(status)
                await asyncio.sleep(STEADY_S / 2)
                dying = rig.made[-1]
                waits.append(dying.made_s - ended_s)
            assert waits == pytest.approx([FIRST_BACKOFF_S, 2 * FIRST_BACKOFF_S, 4 * FIRST_BACKOFF_S])
            await asyncio.sleep(STEADY_S + 1)
            rig.made[-1].end(0)
            await asyncio.sleep(0.01)
            assert [worker.number for worker in rig.made] == [1, 2, 1, 1, 1, 1]
            assert rig.metric("darkroom_worker_restarts_total") == 4

    vclock.run(run())
    ended_with = [record.__dict__["fields"]["ended_with"] for record in caplog.records if "ended" in record.message]
    assert ended_with == ["status 1", "SIGSEGV", "status 1", "status 0"]


def test_a_worker_that_can_not_be_started_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with _supervised() as rig:
            rig.made[0].ended.set_exception(OSError(12, "Cannot allocate memory"))
            await asyncio.sleep(FIRST_BACKOFF_S + 0.1)
            assert [worker.number for worker in rig.made] == [1, 2, 1]

    vclock.run(run())
    assert caplog.records[0].__dict__["fields"]["ended_with"] == "its start: Cannot allocate memory"


def test_a_worker_that_never_gets_ready_gets_no_connection_while_another_is_ready_and_is_not_killed() -> None:
    async def run() -> None:
        async with _supervised(worker_timeout_ms=300) as rig:
            slow, ready = rig.made
            slow.hangs = True  # it is still importing TensorFlow
            await ready.becomes_ready()
            with ExitStack() as stack:
                _connect(rig, stack, 3)
            assert (len(slow.taken), len(ready.taken)) == (0, 3)
            await asyncio.sleep(60)
            assert (slow.signals, len(rig.made)) == ([], 2)

    vclock.run(run())


def test_a_first_load_that_fails_ends_the_server_with_1_and_its_reason_once(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> int:
        rig = Rig()
        running = asyncio.create_task(rig.supervisor.run())
        await asyncio.sleep(0.1)
        for worker in rig.made:
            await worker.tells({"type": "failure", "text": "m: version 1 is END"})
        return await running

    assert vclock.run(run()) == 1
    assert capsys.readouterr().err.endswith("darkroom: no model could be loaded:\n  m: version 1 is END\n")


def test_a_later_load_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with _supervised() as rig:
            for worker in rig.made:
                await worker.becomes_ready()
            await rig.made[0].tells({"type": "failure", "text": "the disk is gone"})
            assert not rig.supervisor.is_stopping

    vclock.run(run())
    assert caplog.records[-1].__dict__["fields"] == {"worker": 1, "reason": "the disk is gone"}


def test_a_ready_worker_that_does_not_reply_to_pings_is_killed_and_replaced() -> None:
    async def run() -> None:
        async with _supervised(worker_timeout_ms=3000) as rig:
            hanging, well = rig.made
            for worker in rig.made:
                await worker.becomes_ready()
            await asyncio.sleep(30)
            assert hanging.signals == []
            hanging.hangs = True
            await asyncio.sleep(3 + 3 / MISSED_PINGS + FIRST_BACKOFF_S + 0.1)
            assert (hanging.signals, well.signals) == ([signal.SIGKILL], [])
            assert [worker.number for worker in rig.made] == [1, 2, 1]

    vclock.run(run())


def _connect(rig: Rig, stack: ExitStack, clients: int) -> None:
    """Connects so many clients by a listener of its own, and has the supervisor accept them all."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.setblocking(False)
    for _ in range(clients):
        stack.enter_context(socket.create_connection(listener.getsockname()))
    rig.supervisor._accept(listener)


def test_a_connection_goes_to_the_ready_worker_with_the_fewest() -> None:
    async def run() -> None:
        async with _supervised(workers=2) as rig:
            for worker in rig.made:
                await worker.becomes_ready()
            rig.made[0].connections = 4
            with ExitStack() as stack:
                _connect(rig, stack, 6)
                assert [len(worker.taken) for worker in rig.made] == [1, 5]
                assert [worker.connections for worker in rig.made] == [5, 5]

    vclock.run(run())


def test_while_none_is_ready_a_connection_goes_to_any_and_one_that_is_full_is_passed_over() -> None:
    async def run() -> None:
        async with _supervised() as rig:
            rig.made[0].is_full = True
            with ExitStack() as stack:
                _connect(rig, stack, 2)
                assert [len(worker.taken) for worker in rig.made] == [0, 2]

    vclock.run(run())


def test_a_connection_that_nobody_can_take_is_held_and_tried_again() -> None:
    async def run() -> None:
        async with _supervised() as rig:
            for worker in rig.made:
                worker.is_full = True
            with ExitStack() as stack:
                _connect(rig, stack, 2)
                assert [worker.taken for worker in rig.made] == [[], []]
                rig.made[1].is_full = False
                await asyncio.sleep(ACCEPT_PAUSE_S * 2)
                assert len(rig.made[1].taken) == 2

    vclock.run(run())


def test_a_scrape_asks_all_workers_and_keeps_the_counts_of_one_that_ended() -> None:
    async def run() -> str:
        async with _supervised() as rig:
            for worker, count in zip(rig.made, (3, 5), strict=True):
                worker.next_exposition = COUNTS.format("requests", count)
            scrape = {"type": "metrics", "accept": ""}
            text, _ = await rig.made[1].tells(scrape)
            assert "darkroom_requests_total 8.0" in text
            assert 'darkroom_workers{state="absent"} 2.0' in text
            rig.made[0].end(1)
            for _ in range(10):  # its keeper notices
                await asyncio.sleep(0)
            rig.made[1].next_exposition = COUNTS.format("requests", 6)
            text, _ = await rig.made[1].tells(scrape)
            assert "darkroom_requests_total 9.0" in text
            return str(text)

    assert "darkroom_worker_restarts_total 1.0" in asyncio.run(run())


def test_a_change_reaches_all_others_and_a_replacement_gets_it_before_it_counts_as_ready() -> None:
    async def run() -> None:
        async with _supervised() as rig:
            change = {"type": "label", "name": "m", "labels": {"stable": 1}}
            assert await rig.made[0].tells(change) == ""
            assert [worker.changes for worker in rig.made] == [[], [change]]
            rig.made[0].end(1)
            await asyncio.sleep(FIRST_BACKOFF_S + 0.1)
            newest = rig.made[-1]
            assert newest.changes == []
            await newest.becomes_ready()
            assert (newest.changes, newest.is_ready) == ([change], True)

    vclock.run(run())


def test_a_replacement_gets_changes_in_their_order_and_a_new_list_of_models_undoes_loads() -> None:
    async def run() -> None:
        async with _supervised() as rig:
            for change in (
                {"type": "unload", "name": "m"},
                {"type": "label", "name": "m", "labels": {"stable": 1}},
                {"type": "apply", "name": "", "models": []},
                {"type": "load", "name": "m"},
                {"type": "label", "name": "m", "labels": {"stable": 2}},
            ):
                assert await rig.made[0].tells(change) == ""
            rig.made[0].end(1)
            await asyncio.sleep(FIRST_BACKOFF_S + 0.1)
            await rig.made[-1].becomes_ready()
            kept = [(change["type"], change.get("labels")) for change in rig.made[-1].changes]
            assert kept == [("apply", None), ("load", None), ("label", {"stable": 2})]

    vclock.run(run())


def test_a_stop_tells_every_worker_once_waits_for_all_and_replaces_none() -> None:
    async def run() -> None:
        rig = Rig()
        running = asyncio.create_task(rig.supervisor.run())
        await asyncio.sleep(0.1)
        for worker in rig.made:
            worker.is_deaf = True  # it is draining
        rig.supervisor.stop()
        await asyncio.sleep(1)
        assert [worker.signals for worker in rig.made] == [[signal.SIGTERM]] * 2
        rig.made[0].end(0)
        await asyncio.sleep(1)
        assert not running.done()
        rig.made[1].end(0)
        assert await running == 0
        assert len(rig.made) == 2

    vclock.run(run())


def test_a_worker_that_does_not_drain_in_time_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        rig = Rig(drain_timeout_ms=2000)
        running = asyncio.create_task(rig.supervisor.run())
        await asyncio.sleep(0.1)
        rig.made[0].is_deaf = True
        stopped_s = asyncio.get_running_loop().time()
        rig.supervisor.stop()
        assert await running == 0
        assert asyncio.get_running_loop().time() - stopped_s == pytest.approx(2 + EXIT_S)
        assert rig.made[0].signals == [signal.SIGTERM, signal.SIGKILL]

    vclock.run(run())
    assert json.dumps(caplog.records[-1].__dict__["fields"]) == '{"workers": 1}'


def test_a_plant_in_the_tasks_of_the_supervisor_is_told_and_the_worker_is_replaced() -> None:
    async def main() -> None:
        async with _supervised(worker_timeout_ms=1000) as rig:
            rig.made[0].ended.set_exception(ValueError("planted"))
            rig.made[1].replies = raise_it  # type: ignore[method-assign]  # the next look at it fails
            await rig.made[1].becomes_ready()
            await asyncio.sleep(2)
            assert [worker.number for worker in rig.made] == [1, 2, 1]
            assert rig.metric("darkroom_task_failures_total", task="keep-worker-1") == 1
            assert rig.metric("darkroom_task_failures_total", task="watch-worker-2") >= 1
            assert not rig.made[1].signals

    async def raise_it(within_s: float) -> bool:
        raise LookupError(within_s)

    vclock.run(main())


def test_auto_serves_with_the_first_worker_at_once_and_tells_that_it_is_ready_when_all_are(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with _supervised(workers="auto") as rig:
            first = rig.made[0]
            await first.becomes_ready_and_finds_that_there_should_be(3)
            await asyncio.sleep(1)
            assert [worker.number for worker in rig.made] == [1, 2, 3]
            assert [list(worker.command) for worker in rig.made] == [["serve"], *[["serve", "--workers=3"]] * 2]
            with ExitStack() as stack:
                _connect(rig, stack, 3)
                assert [len(worker.taken) for worker in rig.made] == [3, 0, 0]
                await rig.made[1].becomes_ready()
                assert rig.metric("darkroom_workers", state="absent") == 1
                assert "try" not in capsys.readouterr().err
                await rig.made[2].becomes_ready()
                assert capsys.readouterr().err == "try: curl\n"
                _connect(rig, stack, 4)
                assert [len(worker.taken) for worker in rig.made] == [3, 2, 2]

    caplog.set_level("INFO")
    vclock.run(run())
    (fields,) = [record.__dict__["fields"] for record in caplog.records if record.message == "--workers=auto"]
    assert fields == {"workers": 3, "reason": "it pays", "cores": 8}


def test_auto_with_one_worker_replaces_it_and_asks_its_replacement_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        async with _supervised(workers="auto") as rig:
            await rig.made[0].becomes_ready_and_finds_that_there_should_be(1)
            assert capsys.readouterr().err.endswith("try: curl\n")
            rig.made[0].end(70)  # its engine hung
            await asyncio.sleep(FIRST_BACKOFF_S + 0.1)
            await rig.made[1].finds_that_there_should_be(5)
            await rig.made[1].becomes_ready()
            await asyncio.sleep(1)
            assert [worker.number for worker in rig.made] == [1, 1]
            assert rig.metric("darkroom_worker_restarts_total") == 1

    vclock.run(run())


@pytest.mark.parametrize("workers", ["auto", 2])
@pytest.mark.parametrize(("status", "told"), [(70, 70), (-signal.SIGSEGV, 139)])
def test_a_server_none_of_whose_workers_was_ever_ready_ends_as_its_last_one_did(
    workers: str | int, status: int, told: int
) -> None:
    async def run() -> int:
        rig = Rig(workers=workers)
        running = asyncio.create_task(rig.supervisor.run())
        await asyncio.sleep(0.1)
        for worker in list(rig.made):
            worker.end(status)
        return await running

    assert vclock.run(run()) == told


def test_auto_does_without_a_further_worker_that_can_not_start_and_replaces_one_that_was_ready(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with _supervised(workers="auto") as rig:
            first = rig.made[0]
            await first.becomes_ready_and_finds_that_there_should_be(3)
            await asyncio.sleep(0.1)
            _, second, third = rig.made
            await third.tells({"type": "failure", "text": "no memory"})
            third.end(1)
            await asyncio.sleep(60)
            assert (len(rig.made), rig.supervisor.is_stopping) == (3, False)
            await second.becomes_ready()
            assert capsys.readouterr().err.endswith("try: curl\n")
            assert rig.metric("darkroom_workers", state="absent") == 0
            second.end(-signal.SIGKILL)
            await asyncio.sleep(FIRST_BACKOFF_S + 0.1)
            assert [worker.number for worker in rig.made] == [1, 2, 3, 2]

    vclock.run(run())
    assert "a further worker could not be started; the server does without" in caplog.text


def test_a_port_of_grpc_that_is_taken_ends_the_start_and_is_named() -> None:
    async def run(port: int) -> None:
        rig = Rig(grpc_port=port)
        with pytest.raises(OSError, match="in use") as refused:
            await rig.supervisor.run()
        assert refused.value.filename == f"127.0.0.1:{port}"
        assert rig.made == []

    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        asyncio.run(run(taken.getsockname()[1]))


def test_a_worker_that_becomes_ready_gets_its_share_of_the_connections_that_there_are() -> None:
    async def run() -> None:
        async with _supervised() as rig:
            first, second = rig.made
            first.connections = 65
            await first.becomes_ready()
            assert first.released == []
            second.connections = 0
            await second.becomes_ready()
            assert (first.released, second.released) == ([32], [])

    vclock.run(run())
