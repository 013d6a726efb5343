"""Lists of models that are replaced while the manager runs, on a virtual clock."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.models.errors import LoadFailed, UnknownModel
from darkroom.models.versions.folder import Found, GivenSource
from darkroom.models.versions.policy import Policy
from darkroom.service.config.model_config import ModelEntry
from darkroom.service.config.settings import Settings
from darkroom.service.errors import NotReady
from darkroom.service.serving.manager import ModelManager
from darkroom.service.serving.registry import Registry
from darkroom.service.telemetry.metrics import Metrics
from tests import vclock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path


async def at_once(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """A thread is real time; here what blocks is over at once."""
    return function(*arguments, **named)


def entry(name: str, path: str = "fake", **more: Any) -> ModelEntry:
    return ModelEntry.model_validate({"name": name, "base_path": path} | more)


class Rig:
    """A manager of the models that a config file names, on a virtual clock."""

    def __init__(self, **settings: Any) -> None:
        self.registry = Registry()
        clock = asyncio.get_running_loop().time
        self.manager = ModelManager(
            Settings(**settings),
            self.registry,
            Metrics(version="", tensorflow=""),
            clock=clock,
            in_thread=at_once,
        )

    def served(self) -> dict[str, list[int]]:
        return {name: list(self.registry.versions(name)) for name in self.registry.models()}


def check(test: Callable[[Rig], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Loads what the settings name, then runs `test` while the manager follows its sources and its config file."""

    async def main() -> None:
        rig = Rig(**{"model_base_path": "fake", "model_name": "a", "model_config_poll_ms": 1000} | settings)
        await rig.manager.load_all()
        tasks = [asyncio.create_task(rig.manager.watch())]
        if rig.manager._settings.model_config_file:
            tasks.append(asyncio.create_task(rig.manager.watch_config()))
        await test(rig)
        for task in tasks:
            assert not task.done()
            task.cancel()
        rig.manager.close()

    vclock.run(main())


def test_models_come_and_go_and_those_that_stay_are_not_touched() -> None:
    async def test(rig: Rig) -> None:
        before = rig.registry.find("a")
        await rig.manager.apply([entry("b"), entry("a")])
        assert rig.served() == {"a": [1], "b": [1]}
        assert rig.registry.find("a") is before
        assert rig.registry.sole is None
        await rig.manager.apply([entry("b")])
        assert rig.served() == {"b": [1]}
        assert {state.model for state in rig.manager.index()} == {"b"}
        with pytest.raises(UnknownModel):
            await rig.manager.load("a")
        assert rig.manager.folders() == {"b": "fake"}
        await rig.manager.apply([])
        assert rig.served() == {}
        assert not rig.manager.are_healthy

    check(test)


def test_a_model_that_can_not_be_served_is_told_and_the_others_are_as_asked() -> None:
    async def test(rig: Rig) -> None:
        with pytest.raises(LoadFailed, match="c: the model's folder cannot be listed"):
            await rig.manager.apply([entry("b"), entry("c", "/no/such/folder")])
        assert rig.served() == {"b": [1], "c": []}

    check(test)


def test_a_model_of_another_folder_is_loaded_from_there_and_serves_what_it_had_until_then(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        before = rig.registry.find("a")
        with pytest.raises(LoadFailed):
            await rig.manager.apply([entry("a", str(tmp_path)), entry("b", str(tmp_path))])
        assert rig.registry.find("a") is before  # the folder has no version
        await rig.manager.apply([entry("a")])
        assert rig.registry.find("a") is not before

    check(test)


def test_a_version_whose_files_were_just_copied_is_waited_for() -> None:
    async def test(rig: Rig) -> None:
        scans = []

        class Copied(GivenSource):
            def scan(self) -> Mapping[int, Found]:
                scans.append(1)
                return {1: Found("new", is_settled=len(scans) > 2)}

        def source_of(_: ModelEntry) -> Copied:
            return Copied({1: lambda: fake_model(name="a")})

        before = rig.registry.find("a")
        rig.manager._sources.of = source_of  # type: ignore[method-assign,assignment]  # a folder whose copy takes a while
        await rig.manager.apply([entry("a", "elsewhere"), entry("b", "elsewhere")])
        assert rig.registry.find("a") is not before
        assert rig.served() == {"a": [1], "b": [1]}

    check(test)


def test_one_that_was_unloaded_on_request_is_served_again_when_a_list_names_it() -> None:
    async def test(rig: Rig) -> None:
        await rig.manager.unload("a")
        await rig.manager.apply([entry("a")])
        assert rig.served() == {"a": [1]}

    check(test)


def test_before_the_first_load_is_over_no_list_is_taken() -> None:
    async def main() -> None:
        with pytest.raises(NotReady):
            await Rig().manager.apply([])

    vclock.run(main())


def test_of_two_lists_at_once_the_later_one_is_served() -> None:
    async def test(rig: Rig) -> None:
        first = asyncio.create_task(rig.manager.apply([entry("b"), entry("c")]))
        await asyncio.sleep(0)
        await rig.manager.apply([entry("d")])
        await first
        assert rig.served() == {"d": [1]}

    check(test)


def test_policies_and_labels_change_with_the_list() -> None:
    async def main() -> None:
        rig = Rig()
        versions = {number: lambda number=number: fake_model(name="m", version=number) for number in (1, 2, 3)}
        rig.manager.know("m", GivenSource(versions), Policy.parse("latest"))
        await rig.manager.load_all()
        model = rig.manager._models["m"]
        model.entry = entry("m", model_version_policy="latest")
        await rig.manager.apply([entry("m", model_version_policy="specific:1,2", version_labels={"stable": 1})])
        assert rig.served() == {"m": [1, 2]}
        assert rig.registry.labels("m") == {"stable": 1}
        rig.manager.close()

    vclock.run(main())


def test_a_label_stays_where_it_was_until_the_version_that_it_names_is_served() -> None:
    registry = Registry()
    old: Any = {"serving_default": object()}
    registry.add("m", 1, old)
    registry.label("m", {"stable": 1})
    registry.label("m", {"stable": 2, "canary": 2})
    assert registry.labels("m") == {"stable": 1}
    registry.label("m", {"stable": 3})
    assert registry.labels("m") == {"stable": 1}
    registry.add("m", 3, old)
    assert registry.labels("m") == {"stable": 3}
    registry.remove("m", 3)
    assert registry.labels("m") == {}  # it does not go back by itself


def test_the_config_file_is_followed_and_one_that_is_wrong_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "models.config"
    file.write_text("model_config_list { config { name: 'a' base_path: 'fake' } }")

    async def test(rig: Rig) -> None:
        file.write_text(
            "model_config_list { config { name: 'a' base_path: 'fake' } config { name: 'b' base_path: 'fake' } }"
        )
        await asyncio.sleep(2)
        assert rig.served() == {"a": [1], "b": [1]}
        for text in ("model_config_list { config { nme: 'a' } }", ""):
            file.write_text(text)
            await asyncio.sleep(2.5)
            assert rig.served() == {"a": [1], "b": [1]}
        assert [record.message for record in caplog.records].count("--model_config_file can't be followed") == 2
        file.write_text(json.dumps({"model_config_list": [{"name": "b", "base_path": "fake"}]}))
        await asyncio.sleep(2)
        assert rig.served() == {"b": [1]}

    check(test, model_config_file=file)
