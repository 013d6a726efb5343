"""Background tasks on a virtual clock: named, told when they fail, started again, and a reason not to be ready if they keep on."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.models.versions.folder import GivenSource
from darkroom.models.versions.policy import Policy
from darkroom.service.config.settings import Settings
from darkroom.service.serving.lifecycle import LAG_PERIOD_S, Lifecycle
from darkroom.service.serving.manager import ModelManager
from darkroom.service.serving.registry import Registry
from darkroom.service.telemetry.metrics import Metrics
from darkroom.service.telemetry.tasks import FIRST_RETRY_S, MAX_RETRY_S, REPEATED, STEADY_S, Tasks
from tests import vclock

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.models.engine import LoadedModel


class Plant:
    """A task that raises at its first `times` runs, and then runs for ever."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.runs = 0

    async def __call__(self) -> None:
        self.runs += 1
        if self.left:
            self.left -= 1
            raise ValueError("planted")
        await asyncio.get_running_loop().create_future()


def test_a_task_that_fails_is_told_counted_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    failures: Counter[str] = Counter()

    async def main() -> None:
        tasks, plant = Tasks(failures), Plant(1)
        task = tasks.start("sweep", plant)
        await asyncio.sleep(FIRST_RETRY_S * 2)
        assert (plant.runs, task.get_name(), tasks.trouble) == (2, "sweep", "")
        tasks.close()

    vclock.run(main())
    assert failures == {"sweep": 1}
    (told,) = caplog.records
    assert vars(told)["fields"] == {"task": "sweep", "in_a_row": 1, "next_in_s": FIRST_RETRY_S}
    assert told.exc_info is not None


def test_a_task_that_keeps_failing_is_named_until_it_has_run_steadily() -> None:
    async def main() -> None:
        tasks, plant = Tasks(Counter()), Plant(REPEATED)
        tasks.start("sweep", plant)
        await asyncio.sleep(FIRST_RETRY_S * (2**REPEATED - 1) + 1)
        assert plant.runs == REPEATED + 1
        assert tasks.trouble == "task sweep keeps failing (ValueError)"
        await asyncio.sleep(STEADY_S)
        assert tasks.trouble == ""
        tasks.close()

    vclock.run(main())


def test_the_waits_double_up_to_a_bound_and_a_steady_run_starts_them_again() -> None:
    times: list[float] = []

    async def fail_at_once() -> None:
        times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(STEADY_S if len(times) == 9 else 0)
        raise ValueError

    async def main() -> None:
        tasks = Tasks(Counter())
        tasks.start("sweep", fail_at_once)
        await asyncio.sleep(400)
        tasks.close()

    vclock.run(main())
    waits = [after - before for before, after in pairwise(times)]
    assert waits[:10] == pytest.approx([0.5, 1, 2, 4, 8, 16, MAX_RETRY_S, MAX_RETRY_S, STEADY_S + 0.5, 1])


def test_a_task_that_returns_is_over() -> None:
    async def main() -> None:
        tasks = Tasks(Counter())
        await tasks.start("once", lambda: asyncio.sleep(0))
        assert tasks.trouble == ""

    vclock.run(main())


class Rig:
    """The lifecycle of a server with one fake model, without HTTP; what would block is over at once."""

    def __init__(self, ready_when: str = "all") -> None:
        self.metrics = Metrics(version="", tensorflow="")
        settings = Settings(reload_interval_ms=1000 * LAG_PERIOD_S, ready_when=ready_when)
        clock = asyncio.get_running_loop().time
        self.manager = ModelManager(settings, Registry(), self.metrics, clock=clock, in_thread=self._at_once)
        self.manager.know("m", GivenSource({1: fake_model}), Policy())
        self.lifecycle = Lifecycle(settings, self.manager, self.metrics)

    @staticmethod
    async def _at_once(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    def break_lag(self) -> None:
        self.metrics.fold = self._raise  # type: ignore[method-assign]

    def break_watch(self) -> None:
        self.manager._follow = self._raise  # type: ignore[assignment, method-assign]  # a bug outside of what is contained

    @staticmethod
    def _raise(*_: Any) -> Any:
        raise LookupError("planted")


@pytest.mark.parametrize(("name", "plant"), [("event-loop-lag", Rig.break_lag), ("watch-models", Rig.break_watch)])
def test_a_plant_in_each_task_of_a_server_is_told_and_only_its_repetition_fails_readiness(
    name: str, plant: Callable[[Rig], None]
) -> None:
    async def main() -> None:
        rig = Rig()
        lifecycle = rig.lifecycle
        await lifecycle.start([])
        await lifecycle.settled.wait()
        assert lifecycle.is_ready
        plant(rig)
        await asyncio.sleep(1.1 * LAG_PERIOD_S)
        assert rig.metrics.task_failures[name] == 1
        assert (lifecycle.is_ready, lifecycle.trouble) == (True, "")
        await asyncio.sleep(60)
        assert (bool(lifecycle.trouble), lifecycle.is_serving) == (True, True)
        assert lifecycle.trouble == f"task {name} keeps failing (LookupError)"
        lifecycle.stop()

    vclock.run(main())


@pytest.mark.parametrize("ready_when", ["all", "any"])
def test_requests_are_taken_from_the_first_model_on_and_readiness_follows_the_setting(ready_when: str) -> None:
    async def main() -> None:
        rig = Rig(ready_when)
        seen: list[tuple[bool, bool, bool, str]] = []
        lifecycle = rig.lifecycle

        def load() -> LoadedModel:
            seen.append((lifecycle.is_serving, lifecycle.is_ready, lifecycle.settled.is_set(), lifecycle.trouble))
            return fake_model()

        rig.manager.know("slow", GivenSource({1: load}), Policy())
        await lifecycle.start([])
        await lifecycle.settled.wait()
        await asyncio.sleep(1)
        is_any = ready_when == "any"
        assert seen == [(True, is_any, is_any, "" if is_any else "the models are still loading")]
        assert lifecycle.is_ready
        lifecycle.stop()

    vclock.run(main())
