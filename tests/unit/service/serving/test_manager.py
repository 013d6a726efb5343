"""Versions that come, go and fail, on a virtual clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.models.engines.fakes import BrokenEngine, EchoEngine, fake_model
from darkroom.models.errors import LoadFailed, OutOfMemory, UnknownModel, UnknownVersion
from darkroom.models.rows import Rows
from darkroom.models.versions.folder import Found
from darkroom.models.versions.policy import FIRST_RETRY_S, Policy
from darkroom.service.config.settings import Settings
from darkroom.service.errors import NotReady
from darkroom.service.serving.load_turns import LoadTurns
from darkroom.service.serving.manager import ModelManager
from darkroom.service.serving.registry import Registry
from darkroom.service.telemetry.metrics import Metrics
from tests import vclock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from darkroom.models.engine import Engine, LoadedModel
    from darkroom.service.serving.registry import VersionRecord


class UnclosableEngine(BrokenEngine):
    """Raises `error` when it is closed."""

    run = EchoEngine.run  # it has the spec that EchoEngine reads

    def close(self) -> None:
        raise self._error


class Disk:
    """A source whose versions a test adds, breaks and removes; it notes each load and each version that was freed."""

    def __init__(self, *versions: int) -> None:
        self.stamps = dict.fromkeys(versions, 0)
        self.broken: set[int] = set()
        self.unsettled: set[int] = set()
        self.untried: set[int] = set()  # versions that load, and fail at their first call
        self.is_gone = False
        self.plants: dict[str, Exception] = {}  # step of a version's life → what it raises there
        self.loads: list[int] = []
        self.freed: list[int] = []

    def scan(self) -> Mapping[int, Found]:
        if self.is_gone:
            raise LoadFailed("the disk is gone")
        if "scan" in self.plants:
            raise self.plants["scan"]
        return {version: Found(stamp, version not in self.unsettled) for version, stamp in self.stamps.items()}

    def load(self, version: int) -> LoadedModel:
        self.loads.append(version)
        if version in self.broken:
            raise LoadFailed(f"{version} is damaged")
        if "load" in self.plants:
            raise self.plants["load"]
        engine: Engine = EchoEngine()
        if version in self.untried:
            engine = BrokenEngine(engine, self.plants.get("warm-up", OutOfMemory("no memory")))
        if "close" in self.plants:
            engine = UnclosableEngine(engine, self.plants["close"])
        loaded = fake_model(engine, name="m", version=version)
        loaded.samples["serving_default"] = (Rows({"images": [b"x"]}),)
        loaded.free = lambda: self.freed.append(version)
        return loaded


async def at_once(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """A thread is real time; here what blocks is over at once."""
    return function(*arguments, **named)


class Rig:
    """A model manager with one model on a disk, on a virtual clock."""

    def __init__(self, disk: Disk, policy: str = "all") -> None:
        self.registry = Registry()
        self.metrics = Metrics(version="", tensorflow="")
        clock = asyncio.get_running_loop().time
        settings = Settings(reload_interval_ms=1000)
        self.manager = ModelManager(settings, self.registry, self.metrics, clock=clock, in_thread=at_once)
        self.manager.know("m", disk, Policy.parse(policy))

    def served(self) -> list[int]:
        return list(self.registry.versions("m"))

    def exported(self) -> set[tuple[str, str]]:
        """Version and state of each version that `/metrics` shows."""
        families = {family.name: family for family in self.metrics.collect()}
        samples = [s for s in families["darkroom_model_state"].samples if s.value]
        return {(sample.labels["version"], sample.labels["state"]) for sample in samples}

    def states(self) -> dict[int, tuple[str, str]]:
        return {state.version: (state.state, state.message) for state in self.manager.index()}


def check(disk: Disk, test: Callable[[Rig], Coroutine[Any, Any, None]], policy: str = "all") -> None:
    """Loads all, then runs `test` while the manager watches."""

    async def main() -> None:
        rig = Rig(disk, policy)
        await rig.manager.load_all()
        watching = asyncio.create_task(rig.manager.watch())
        await test(rig)
        assert not watching.done()
        watching.cancel()
        rig.manager.close()

    vclock.run(main())


def test_a_new_version_is_served_beside_the_old_one_and_a_removed_one_goes_with_all_that_is_its() -> None:
    disk = Disk(1)

    async def test(rig: Rig) -> None:
        disk.stamps[2] = 0
        await asyncio.sleep(1.5)
        assert rig.served() == [1, 2]
        del disk.stamps[1]
        await asyncio.sleep(1.0)
        assert rig.served() == [2]
        assert rig.states() == {2: ("AVAILABLE", "")}
        assert rig.exported() == {("2", "AVAILABLE")}
        assert disk.freed == [1]
        assert rig.manager.are_healthy

    check(disk, test)
    assert disk.freed == [1, 2]


def test_the_latest_takes_the_place_of_the_version_before_it() -> None:
    disk = Disk(1)

    async def test(rig: Rig) -> None:
        disk.stamps[2] = 0
        await asyncio.sleep(1.5)
        assert rig.served() == [2]
        assert disk.freed == [1]

    check(disk, test, "latest")


def test_a_disk_that_goes_or_is_emptied_changes_nothing_of_what_is_served() -> None:
    disk = Disk(1)

    async def test(rig: Rig) -> None:
        disk.is_gone = True
        await asyncio.sleep(5)
        disk.is_gone = False
        disk.stamps.clear()
        await asyncio.sleep(5)
        assert rig.states() == {1: ("AVAILABLE", "")}
        assert disk.loads == [1]

    check(disk, test)


def test_a_folder_that_does_not_answer_holds_up_its_own_model_only_and_is_not_asked_again_meanwhile() -> None:
    good, hanging, scans = Disk(1), Disk(1), []

    async def main() -> None:
        rig = Rig(good)
        answers = asyncio.Event()

        async def in_thread(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
            if function == hanging.scan:
                scans.append(function)
                await answers.wait()
            return function(*arguments, **named)

        rig.manager._in_thread = in_thread
        rig.manager.know("other", hanging, Policy())
        await rig.manager.load_all()
        watching = asyncio.create_task(rig.manager.watch())
        assert rig.served() == [1]
        good.stamps[2] = 0
        await asyncio.sleep(1.5)
        assert 2 in rig.served()
        assert (len(scans), rig.registry.story("other")) == (1, "the model's folder does not answer within 10 s")
        answers.set()
        await asyncio.sleep(1.5)
        assert list(rig.registry.versions("other")) == [1]
        watching.cancel()
        rig.manager.close()

    vclock.run(main())


def test_at_the_start_the_model_with_the_smallest_files_is_loaded_first() -> None:
    order: list[str] = []

    class Sized(Disk):
        """Has files of a size, and notes its name when it is loaded."""

        def __init__(self, name: str, size: int) -> None:
            super().__init__(1)
            self.name, self.size = name, size

        def scan(self) -> Mapping[int, Found]:
            return {version: found._replace(size=self.size) for version, found in super().scan().items()}

        def load(self, version: int) -> LoadedModel:
            order.append(self.name)
            return super().load(version)

    async def main() -> None:
        rig = Rig(Sized("m", 500))
        for name, size in (("large", 900), ("small", 1)):
            rig.manager.know(name, Sized(name, size), Policy())
        await rig.manager.load_all()
        rig.manager.close()

    vclock.run(main())
    assert order == ["small", "m", "large"]


def test_a_quick_model_is_available_while_a_slow_one_is_loaded() -> None:
    """A slow load ends only when the test says so."""
    ends = asyncio.Event()

    class Sized(Disk):
        def __init__(self, size: int) -> None:
            super().__init__(1)
            self.size = size

        def scan(self) -> Mapping[int, Found]:
            return {version: found._replace(size=self.size) for version, found in super().scan().items()}

    slow, quick = Sized(1 << 20), Sized(1 << 10)

    async def main() -> None:
        rig = Rig(slow)

        async def in_thread(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
            if function == slow.load:
                await ends.wait()
            return function(*arguments, **named)

        rig.manager._in_thread = in_thread
        rig.manager._turns = LoadTurns(free=lambda: 1 << 60)
        rig.manager.know("quick", quick, Policy())
        ends.set()
        await rig.manager.load_all()
        ends.clear()
        watching = asyncio.create_task(rig.manager.watch())
        slow.stamps[2] = 0
        await asyncio.sleep(1.5)
        quick.stamps[2] = 0
        await asyncio.sleep(1.5)
        assert list(rig.registry.versions("quick")) == [1, 2]
        assert [state.state for state in rig.registry.states("m")] == ["LOADING", "AVAILABLE"]
        ends.set()
        await asyncio.sleep(0)
        await asyncio.sleep(1.5)
        assert rig.served() == [1, 2]
        watching.cancel()
        rig.manager.close()

    vclock.run(main())


def test_a_version_that_fails_leaves_the_old_one_serving_says_why_and_is_tried_again_later_each_time() -> None:
    disk = Disk(1)

    async def test(rig: Rig) -> None:
        disk.broken.add(2)
        disk.stamps[2] = 0
        await asyncio.sleep(1.5)
        assert rig.states() == {2: ("END", "2 is damaged"), 1: ("AVAILABLE", "")}
        assert disk.loads == [1, 2]
        await asyncio.sleep(FIRST_RETRY_S)
        assert disk.loads == [1, 2, 2]
        await asyncio.sleep(FIRST_RETRY_S)
        assert disk.loads == [1, 2, 2]
        await asyncio.sleep(FIRST_RETRY_S)
        assert disk.loads == [1, 2, 2, 2]
        assert rig.served() == [1]
        assert rig.exported() == {("1", "AVAILABLE"), ("2", "END")}

    check(disk, test, "latest")


def test_a_version_that_failed_is_tried_at_once_when_its_files_change() -> None:
    disk = Disk(1)

    async def test(rig: Rig) -> None:
        disk.broken.add(2)
        disk.stamps[2] = 0
        await asyncio.sleep(1.5)
        disk.broken.clear()
        disk.stamps[2] = 1
        await asyncio.sleep(1.0)
        assert rig.states() == {2: ("AVAILABLE", ""), 1: ("AVAILABLE", "")}

    check(disk, test)


def test_a_failed_version_whose_folder_goes_is_forgotten() -> None:
    disk = Disk(1)

    async def test(rig: Rig) -> None:
        disk.broken.add(2)
        disk.stamps[2] = 0
        await asyncio.sleep(1.5)
        del disk.stamps[2]
        await asyncio.sleep(1.0)
        assert rig.states() == {1: ("AVAILABLE", "")}
        assert rig.exported() == {("1", "AVAILABLE")}

    check(disk, test)


def test_a_start_waits_for_a_model_that_is_still_being_written() -> None:
    disk = Disk(1)
    disk.unsettled.add(1)

    async def main() -> None:
        rig = Rig(disk)
        loading = asyncio.create_task(rig.manager.load_all())
        await asyncio.sleep(10)
        assert rig.states() == {1: ("START", "its files are still being written")}
        assert disk.loads == []
        disk.unsettled.clear()
        await loading
        assert rig.served() == [1]
        rig.manager.close()

    vclock.run(main())


def test_a_start_without_any_version_that_loads_says_why_of_each() -> None:
    disk = Disk(1, 2)
    disk.broken |= {1, 2}

    async def main() -> None:
        with pytest.raises(LoadFailed, match="m: version 2 is END: 2 is damaged; version 1 is END: 1 is damaged"):
            await Rig(disk).manager.load_all()

    vclock.run(main())


def test_an_unloaded_model_stays_away_until_it_is_loaded() -> None:
    disk = Disk(1)

    async def test(rig: Rig) -> None:
        await rig.manager.unload("m")
        await asyncio.sleep(5)
        assert rig.states() == {1: ("END", "it was unloaded on request")}
        assert rig.exported() == set()
        with pytest.raises(NotReady, match="it was unloaded on request"):
            rig.registry.find("m")
        assert disk.freed == [1]
        await rig.manager.load("m")
        assert rig.states() == {1: ("AVAILABLE", "")}
        assert disk.loads == [1, 1]

    check(disk, test)


def test_a_load_takes_what_changed_where_it_lies_and_nothing_else() -> None:
    disk = Disk(1, 2)

    async def test(rig: Rig) -> None:
        disk.stamps[1] = 1
        await asyncio.sleep(5)
        assert disk.loads == [2, 1]  # the watcher leaves what is served alone
        before = rig.registry.find("m", 1)
        await rig.manager.load("m")
        assert disk.loads == [2, 1, 1]
        assert rig.registry.find("m", 1) is not before
        assert disk.freed == [1]
        assert len(rig.registry.find("m", 1).metrics.queues) == 1

    check(disk, test)


def test_a_load_that_fails_says_why_and_leaves_what_is_served() -> None:
    disk = Disk(1)

    async def test(rig: Rig) -> None:
        disk.broken.add(1)
        disk.stamps[1] = 1
        with pytest.raises(LoadFailed, match="1 is damaged"):
            await rig.manager.load("m")
        assert rig.served() == [1]
        assert disk.freed == []
        with pytest.raises(UnknownModel, match="there are: m"):
            await rig.manager.load("n")

    check(disk, test)


def test_labels_name_versions_that_are_served() -> None:
    async def test(rig: Rig) -> None:
        rig.manager.label("m", {"stable": 1, "canary": 2})
        assert rig.registry.labelled("m", "canary") == 2
        with pytest.raises(UnknownVersion, match="no version 3; there are: 1, 2"):
            rig.manager.label("m", {"stable": 3})
        assert rig.registry.labels("m") == {"stable": 1, "canary": 2}

    check(Disk(1, 2), test)


def test_a_version_whose_warm_up_fails_is_freed_and_says_why() -> None:
    disk = Disk(1)
    disk.untried.add(2)

    async def test(rig: Rig) -> None:
        disk.stamps[2] = 0
        await asyncio.sleep(1.5)
        assert rig.states() == {2: ("END", "its warm-up failed: no memory"), 1: ("AVAILABLE", "")}
        assert disk.freed == [2]

    check(disk, test)


def test_a_load_whose_caller_leaves_goes_on() -> None:
    async def test(rig: Rig) -> None:
        await rig.manager.unload("m")
        caller = asyncio.create_task(rig.manager.load("m"))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(1)
        assert caller.cancelled()
        assert rig.states() == {1: ("AVAILABLE", "")}

    check(Disk(1), test)


ODD = [IndexError("tuple index out of range"), ValueError("invalid literal for int()"), KeyError("x"), RuntimeError("")]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
@pytest.mark.parametrize("step", ["load", "warm-up"])
def test_whatever_loading_a_version_raises_is_the_failure_of_that_version_alone(
    step: str, odd: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(1)

    async def test(rig: Rig) -> None:
        disk.plants[step] = odd
        disk.untried.add(2)
        disk.stamps[2] = 0
        await asyncio.sleep(1.5)
        (state, reason), good = rig.states()[2], rig.states()[1]
        assert (state, good) == ("END", ("AVAILABLE", ""))
        assert f"{type(odd).__name__}: {odd}" in reason
        (told,) = [each for each in caplog.records if each.message == "model can't be served"]
        assert told.exc_info is not None
        assert told.exc_info[1] is odd
        assert (vars(told)["fields"]["model"], vars(told)["fields"]["version"]) == ("m", 2)
        disk.plants.clear()
        disk.untried.clear()
        await asyncio.sleep(FIRST_RETRY_S)
        assert rig.states()[2] == ("AVAILABLE", "")
        assert {metrics.labels: metrics.load_failures for metrics, _ in rig.registry.exported()} == {
            ("m", "1"): 0,
            ("m", "2"): 1,
        }

    check(disk, test)


def test_a_version_that_cannot_be_closed_is_told_and_its_successor_serves(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk()
    disk.stamps[1] = 0
    disk.plants["close"] = OSError("planted")

    async def test(rig: Rig) -> None:
        disk.stamps[2] = 0
        await asyncio.sleep(1.5)
        assert rig.states() == {2: ("AVAILABLE", "")}
        assert disk.freed == [1]
        assert [each.message for each in caplog.records if each.exc_info] == ["a version could not be freed"]
        del disk.plants["close"]
        disk.stamps[3] = 0
        await asyncio.sleep(1.0)
        assert rig.states() == {3: ("AVAILABLE", "")}

    check(disk, test, "latest")
    assert disk.freed == [1, 2, 3]


def test_what_a_scan_raises_is_told_once_and_the_other_models_are_followed(caplog: pytest.LogCaptureFixture) -> None:
    disk, other = Disk(1), Disk(1)

    async def test(rig: Rig) -> None:
        rig.manager.know("n", other, Policy())
        disk.plants["scan"] = ValueError("invalid literal for int()")
        await asyncio.sleep(3.5)
        assert rig.states() == {1: ("AVAILABLE", "")}
        assert list(rig.registry.versions("n")) == [1]
        assert [each.message for each in caplog.records if each.exc_info] == ["a model's versions can't be looked for"]
        disk.plants.clear()
        disk.stamps[2] = 0
        await asyncio.sleep(1.0)
        assert rig.served() == [1, 2]

    check(disk, test)


def test_a_bug_while_one_model_is_followed_is_that_models_trouble(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, other = Disk(1), Disk(1)

    async def test(rig: Rig) -> None:
        rig.manager.know("n", other, Policy())
        real = rig.registry.record

        def record(model: str, version: int) -> VersionRecord:
            if version == 2:
                raise TypeError("planted")
            return real(model, version)

        monkeypatch.setattr(rig.registry, "record", record)
        disk.stamps[2] = 0
        await asyncio.sleep(3.5)
        assert rig.served() == [1]
        assert list(rig.registry.versions("n")) == [1]
        assert [each.message for each in caplog.records if each.exc_info] == ["a model can't be followed"]

    check(disk, test)


def test_each_model_takes_requests_as_soon_as_it_is_loaded() -> None:
    quick, slow = Disk(1), Disk(1)
    slow.unsettled.add(1)

    async def main() -> None:
        rig = Rig(quick)
        rig.manager.know("n", slow, Policy())
        served: list[tuple[list[int], list[int]]] = []
        rig.manager.on_served = lambda: served.append((rig.served(), list(rig.registry.versions("n"))))
        watching = asyncio.create_task(rig.manager.load_all())
        await asyncio.sleep(0.5)
        slow.unsettled.clear()
        await watching
        await rig.manager.load("n")
        assert served == [([1], []), ([1], [1])]
        rig.manager.close()

    vclock.run(main())


def test_a_version_without_a_signature_that_can_be_served_has_failed() -> None:
    disk = Disk(1)
    real = disk.load

    def load(version: int) -> LoadedModel:
        loaded = real(version)
        if version == 2:
            loaded.engines.clear()
        return loaded

    disk.load = load  # type: ignore[method-assign]  # one version of it is empty

    async def test(rig: Rig) -> None:
        disk.stamps[2] = 0
        await asyncio.sleep(1.5)
        assert rig.states()[2] == ("END", "its warm-up failed: it has no signature that can be served")
        assert disk.loads == [1, 2]

    check(disk, test)
