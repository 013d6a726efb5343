"""Lazy models: loaded by the first request, unloaded when others need their place, on a virtual clock."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import TYPE_CHECKING

import pytest

from darkroom.batching.entry import Entry
from darkroom.batching.errors import DeadlineExceeded
from darkroom.models.engine import LoadedModel
from darkroom.models.engines.fakes import SlowEngine
from darkroom.models.errors import LoadFailed, UnknownVersion
from darkroom.models.rows import Rows
from darkroom.models.versions.policy import FIRST_RETRY_S, Policy
from darkroom.service.config.settings import Settings
from darkroom.service.errors import NotLoaded, NotReady
from darkroom.service.serving.manager import ModelManager
from darkroom.service.serving.registry import NOT_LOADED, Registry
from darkroom.service.telemetry.metrics import Metrics
from tests import vclock
from tests.unit.service.serving.test_manager import Disk

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from darkroom.models.engine import Engine

LOAD_S = 1.0
TIMEOUT_S = 30.0


async def slowly(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What blocks is over at once, but a load takes its time."""
    if getattr(function, "__name__", "") == "load":
        await asyncio.sleep(LOAD_S)
    return function(*arguments, **named)


class HeldDisk(Disk):
    """A source whose engines stand still while `go` is not set."""

    go = threading.Event()
    go.set()

    def load(self, version: int) -> LoadedModel:
        loaded = super().load(version)
        engines: dict[str, Engine] = {
            name: SlowEngine(each, lambda _: 60.0, sleep=self.go.wait) for name, each in loaded.engines.items()
        }
        return LoadedModel(loaded.spec, engines, loaded.samples, free=loaded.free)


class Fleet:
    """A manager with lazy models `a`, `b` and `c`, each on a disk of its own."""

    def __init__(self, **settings: Any) -> None:
        self.disks = {"a": HeldDisk(1), "b": Disk(1), "c": Disk(1)}
        self.registry = Registry()
        self.metrics = Metrics(version="", tensorflow="")
        self.now_s = asyncio.get_running_loop().time
        said = Settings(reload_interval_ms=1000, request_timeout_ms=TIMEOUT_S * 1000, **settings)
        self.manager = ModelManager(said, self.registry, self.metrics, clock=self.now_s, in_thread=slowly)
        self.answers: list[tuple[str, str]] = []
        for name, disk in self.disks.items():
            self.manager.know(name, disk, Policy(), is_lazy=True)

    def ask(self, name: str, *, size: int = 1, timeout_s: float = TIMEOUT_S) -> Callable[[], None]:
        """A request for a model that is not in memory; how it went on is noted."""

        def then(error: BaseException | None) -> None:
            self.answers.append((name, type(error).__name__ if error else "served"))

        return self.manager.lazy_models.wait(name, size, self.now_s() + timeout_s, then)

    def loaded(self) -> str:
        return "".join(name for name in self.disks if self.registry.versions(name))

    def loads(self) -> str:
        return "".join(name * len(disk.loads) for name, disk in self.disks.items())

    def unloads(self) -> dict[tuple[str, str], int]:
        return dict(self.manager.lazy_models.unloads)

    def value(self, metric: str) -> float:
        families = {family.name: family for family in self.metrics.collect()}
        return float(sum(sample.value for sample in families[metric].samples))


def check(test: Callable[[Fleet], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Starts a fleet, and runs `test` while the manager watches."""

    async def main() -> None:
        fleet = Fleet(**settings)
        await fleet.manager.load_all()
        assert fleet.loads() == ""
        assert fleet.manager.are_healthy
        tasks = [asyncio.create_task(fleet.manager.watch())]
        tasks += [asyncio.create_task(fleet.manager.lazy_models.run())] if settings.get("unload_idle_ms") else []
        await test(fleet)
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        fleet.manager.close()

    vclock.run(main())


def test_the_first_request_loads_a_model_and_others_wait_for_the_same_load() -> None:
    async def test(fleet: Fleet) -> None:
        assert [(each.state, each.message) for each in fleet.registry.states("a")] == [("AVAILABLE", NOT_LOADED)]
        with pytest.raises(NotLoaded):
            fleet.registry.version("a")
        assert fleet.registry.sole is None
        fleet.ask("a")
        await asyncio.sleep(LOAD_S / 2)
        fleet.ask("a")
        assert (fleet.answers, fleet.value("darkroom_load_waiting_requests")) == ([], 2)
        await asyncio.sleep(LOAD_S)
        assert fleet.answers == [("a", "served")] * 2
        assert (fleet.loads(), fleet.value("darkroom_models_loaded")) == ("a", 1)
        assert [(each.state, each.message) for each in fleet.registry.states("a")] == [("AVAILABLE", "")]
        assert fleet.registry.sole is None  # a request may mean another model
        await fleet.manager.lazy_models.ensure("a")
        await fleet.manager.lazy_models.ensure("b")
        await fleet.manager.lazy_models.ensure("unknown")
        assert fleet.loads() == "ab"

    check(test)


def test_the_least_recently_used_model_makes_room_but_never_one_with_a_request() -> None:
    async def test(fleet: Fleet) -> None:
        for name in "ab":
            await fleet.manager.lazy_models.ensure(name)
        batcher = fleet.registry.find("a").batcher
        answers: list[object] = []
        HeldDisk.go.clear()
        try:
            rows = Rows({"images": [b"x"]})
            batcher.submit(Entry(rows, 1, row_bytes=[1], row_pixels=[1], deadline=math.inf), answers.append)
            fleet.ask("c")
            await asyncio.sleep(LOAD_S * 2)
            assert (fleet.answers, answers) == ([("c", "served")], [])
            assert fleet.loaded() == "ac"  # b was used after a, but a had a request
            assert fleet.unloads() == {("b", "limit"): 1}
        finally:
            HeldDisk.go.set()
        for _ in range(6000):
            if answers:
                break
            time.sleep(0.01)  # noqa: ASYNC251 - the engine's thread is in real time
            await asyncio.sleep(0)
        await fleet.manager.lazy_models.ensure("b")
        assert fleet.loaded() == "bc"
        assert fleet.disks["a"].freed == [1]

    check(test, max_loaded_models=2)


def test_while_every_model_has_requests_a_load_waits_and_then_says_why() -> None:
    async def test(fleet: Fleet) -> None:
        await fleet.manager.lazy_models.ensure("a")
        async with fleet.manager._models["a"].change:  # it is being changed, so it can't go
            with pytest.raises(NotLoaded, match="all 1 that may be loaded"):
                await fleet.manager.load("b")
            assert fleet.now_s() > TIMEOUT_S
        await fleet.manager.load("b")
        assert fleet.loaded() == "b"

    check(test, max_loaded_models=1)


def test_a_request_waits_no_longer_than_its_deadline_and_the_load_goes_on() -> None:
    async def test(fleet: Fleet) -> None:
        fleet.ask("a", timeout_s=LOAD_S / 2)
        leave = fleet.ask("a")
        leave()
        await asyncio.sleep(LOAD_S * 2)
        assert fleet.answers == [("a", DeadlineExceeded.__name__)]
        assert fleet.loaded() == "a"

    check(test)


@pytest.mark.parametrize(("size", "flag"), [(1, "max_queue_images"), (400, "max_queue_bytes")])
def test_requests_that_wait_are_bounded(size: int, flag: str) -> None:
    async def test(fleet: Fleet) -> None:
        await fleet.manager.lazy_models.ensure("b")
        most = 32 if size == 1 else 2
        for _ in range(most):
            fleet.ask("a", size=size)
        with pytest.raises(NotLoaded, match=f"{most} requests wait for it already .--{flag}") as caught:
            fleet.ask("a", size=size)
        assert caught.value.retry_after_s == LOAD_S  # as the last load took
        fleet.ask("c", size=size)
        await asyncio.sleep(LOAD_S * 3)
        assert len(fleet.answers) == most + 1

    check(test, max_queue_images=32, max_batch_images=32, max_queue_bytes=1000, max_batch_bytes=1000)


def test_a_model_that_fails_says_why_and_is_tried_again_by_a_request_after_the_back_off() -> None:
    async def test(fleet: Fleet) -> None:
        disk = fleet.disks["a"]
        disk.broken.add(1)
        await fleet.manager.lazy_models.ensure("a")
        with pytest.raises(NotReady, match="version 1 is END: 1 is damaged") as caught:
            fleet.registry.version("a")
        assert type(caught.value) is NotReady  # so that nobody waits
        assert not fleet.registry.is_available("a")
        await asyncio.sleep(FIRST_RETRY_S + 2)
        assert disk.loads == [1]
        assert fleet.registry.is_available("a")
        assert [each.state for each in fleet.registry.states("a")] == ["END"]
        disk.broken.clear()
        await fleet.manager.lazy_models.ensure("a")
        assert (disk.loads, fleet.loaded()) == ([1, 1], "a")

    check(test)


def test_a_model_that_nobody_asks_is_unloaded_and_its_counts_stay() -> None:
    async def test(fleet: Fleet) -> None:
        await fleet.manager.lazy_models.ensure("a")
        await asyncio.sleep(4)
        await fleet.manager.lazy_models.ensure("b")
        await asyncio.sleep(3)
        assert fleet.loaded() == "b"
        await asyncio.sleep(10)
        assert fleet.loaded() == ""
        assert fleet.unloads() == {("a", "idle"): 1, ("b", "idle"): 1}
        assert fleet.manager.are_healthy
        assert len(fleet.metrics.models()) == 2
        fleet.disks["a"].stamps = {2: 0}
        await asyncio.sleep(2)
        assert [model.labels for model in fleet.metrics.models()] == [("b", "1")]
        with pytest.raises(UnknownVersion):
            fleet.registry.version("a", 1)

    check(test, unload_idle_ms=6000)


def test_what_the_operator_unloads_stays_unloaded() -> None:
    async def test(fleet: Fleet) -> None:
        await fleet.manager.load("a")
        assert fleet.loaded() == "a"
        for name in "ab":
            await fleet.manager.unload(name)
            with pytest.raises(NotReady, match="it was unloaded on request") as caught:
                fleet.registry.version(name)
            assert type(caught.value) is NotReady
        assert fleet.unloads() == {("a", "request"): 1, ("b", "request"): 0}
        await asyncio.sleep(5)
        assert not fleet.registry.is_available("a")
        fleet.disks["b"].broken.add(1)
        with pytest.raises(LoadFailed):
            await fleet.manager.load("b")
        await fleet.manager.load("a")
        assert fleet.loaded() == "a"

    check(test)


def test_models_that_went_meanwhile_are_not_unloaded() -> None:
    async def test(fleet: Fleet) -> None:
        assert not await fleet.manager._put_to_sleep("a", "idle")
        assert not await fleet.manager._put_to_sleep("unknown", "idle")
        assert fleet.unloads() == {}

    check(test)


def test_those_that_wait_are_refused_when_the_server_drains() -> None:
    async def test(fleet: Fleet) -> None:
        fleet.ask("a")
        assert await fleet.manager.drain(1.0) == 0
        assert fleet.answers == [("a", NotReady.__name__)]
        with pytest.raises(NotReady, match="draining"):
            fleet.ask("b")

    check(test)


def test_a_label_of_a_model_that_is_not_loaded_leads_to_it() -> None:
    async def test(fleet: Fleet) -> None:
        fleet.registry.label("a", {"stable": 1, "next": 2})
        number = fleet.registry.labelled("a", "stable")
        with pytest.raises(NotLoaded):
            fleet.registry.version("a", number)
        await fleet.manager.lazy_models.ensure("a")
        assert fleet.registry.labels("a") == {"stable": 1}

    check(test)
