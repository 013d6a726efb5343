"""A folder of models: which there are, and a manager that follows it, on a virtual clock."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.models.errors import LoadFailed, UnknownModel
from darkroom.models.versions.loader import Loader
from darkroom.service.config.model_config import ModelEntry
from darkroom.service.config.settings import Settings
from darkroom.service.serving.manager import ModelManager
from darkroom.service.serving.registry import Registry
from darkroom.service.serving.repository import Repository
from darkroom.service.telemetry.metrics import Metrics
from tests import vclock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from darkroom.models.engine import LoadedModel
    from darkroom.models.rewriting.job import Job


def add(root: Path, name: str, version: int = 1, *, config: str | None = None, inner: str = "model.savedmodel") -> Path:
    folder = root / name / str(version) / inner
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"x")
    if config is not None:
        (root / name / "config.pbtxt").write_text(config)
    return root / name


async def at_once(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return function(*arguments, **named)


class Rig:
    """A manager of the models of a folder; what it loads are fakes, whose jobs it notes."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.registry = Registry()
        self.manager = ModelManager(
            Settings(model_repository=root, reload_interval_ms=1000, cache_dir=root.parent / "cache", **settings),
            self.registry,
            Metrics(version="", tensorflow=""),
            clock=asyncio.get_running_loop().time,
            in_thread=at_once,
        )

    def served(self) -> dict[str, list[int]]:
        return {name: list(self.registry.versions(name)) for name in self.registry.models()}

    def reasons(self) -> dict[str, str]:
        return {state.model: state.message for state in self.manager.index()}


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that were loaded, each by a fake model."""
    made: list[Job] = []

    def load(_: Loader, job: Job) -> LoadedModel:
        made.append(job)
        return fake_model(name=job.name, version=job.version)

    monkeypatch.setattr(Loader, "load", load)
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def follow(root: Path, test: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        rig = Rig(root)
        loading = asyncio.create_task(rig.manager.load_all())
        await asyncio.sleep(3.5)
        watching = asyncio.create_task(rig.manager.watch())
        await test(rig)
        assert not watching.done()
        watching.cancel()
        await loading
        rig.manager.close()

    vclock.run(main())


def test_a_model_is_a_folder_with_a_config_or_with_a_version(root: Path) -> None:
    add(root, "cats", config="max_batch_size: 2")
    add(root, "dogs", inner=".")
    (root / "empty").mkdir()
    (root / "onnx").mkdir()
    (root / "onnx" / "config.pbtxt").write_text("platform: 'onnxruntime_onnx'")
    add(root, ".hidden")
    (root / "notes.txt").write_text("x")
    (root / b"\xff".decode("utf-8", "surrogateescape") / "1").mkdir(parents=True)
    found = Repository(
        Settings(pictures={"dogs": {"preprocess": "unit"}}, outputs={"dogs": {"y": {"kind": "scores"}}}), root
    ).scan()
    assert list(found) == ["cats", "dogs", "onnx"]
    assert "no other framework is" in str(found["onnx"])
    dogs = found["dogs"]
    assert isinstance(dogs, ModelEntry)
    assert (dogs.pictures, dogs.outputs) == ({"preprocess": "unit"}, {"y": {"kind": "scores"}})
    with pytest.raises(LoadFailed, match="can't be listed: No such file"):
        Repository(Settings(), root / "nosuch").scan()


def test_models_come_and_go_and_a_bad_one_hurts_no_other(root: Path, jobs: list[Job]) -> None:
    add(root, "cats", 1, config="instance_group [ { kind: KIND_CPU } ]")
    add(root, "cats", 2)
    add(root, "bad", config="sequence_batching { }")

    async def test(rig: Rig) -> None:
        assert rig.served() == {"bad": [], "cats": [2]}
        assert "sequence_batching is refused" in rig.reasons()["bad"]
        assert [(job.name, job.version, job.device, job.path.name) for job in jobs] == [
            ("cats", 2, "cpu", "model.savedmodel")
        ]
        add(root, "dogs", 7, inner=".")
        (root / "bad" / "config.pbtxt").write_text("")
        await asyncio.sleep(4)
        assert rig.served() == {"bad": [1], "cats": [2], "dogs": [7]}
        shutil.rmtree(root / "cats")
        await asyncio.sleep(4)
        assert rig.served() == {"bad": [1], "dogs": [7]}
        with pytest.raises(UnknownModel):
            rig.registry.find("cats")
        with pytest.raises(UnknownModel):
            await rig.manager.load("cats")

    follow(root, test)


def test_a_changed_config_loads_the_model_again_and_a_broken_one_leaves_it_as_it_was(
    root: Path, jobs: list[Job]
) -> None:
    assert jobs == []
    config = add(root, "cats", config="max_batch_size: 2") / "config.pbtxt"

    async def test(rig: Rig) -> None:
        def most() -> int:
            return rig.registry.find("cats").batcher.curve.sizes[-1]

        before = rig.registry.find("cats")
        assert most() == 2
        config.write_text("max_batch_size: 3")
        await asyncio.sleep(2)
        assert most() == 3
        assert rig.registry.find("cats") is not before
        config.write_text("max_batch_size: 'x'")
        await asyncio.sleep(2)
        assert most() == 3
        assert "its new configuration can't be served: config.pbtxt: line 1" in rig.reasons()["cats"]
        config.write_text("max_batch_size: 4")
        await asyncio.sleep(2)
        assert most() == 4
        assert rig.reasons()["cats"] == ""

    follow(root, test)


def test_a_folder_that_lost_all_its_models_unloads_none_and_one_that_is_empty_waits_for_the_first(
    root: Path, jobs: list[Job]
) -> None:
    async def test(rig: Rig) -> None:
        assert rig.served() == {}
        waited = rig.manager.awaits_models
        add(root, "cats")
        await asyncio.sleep(4)
        assert rig.served() == {"cats": [1]}
        assert (waited, rig.manager.awaits_models) == (True, False)
        shutil.rmtree(root / "cats")
        await asyncio.sleep(4)
        assert rig.served() == {"cats": [1]}
        shutil.rmtree(root)
        await asyncio.sleep(4)
        assert rig.served() == {"cats": [1]}

    follow(root, test)
    assert len(jobs) == 1


def test_a_new_folder_can_be_loaded_at_once_by_its_name(root: Path, jobs: list[Job]) -> None:
    add(root, "cats")

    async def test(rig: Rig) -> None:
        add(root, "dogs")
        await rig.manager.load("dogs")
        assert rig.served()["dogs"] == [1]

    follow(root, test)
    assert {job.name for job in jobs} == {"cats", "dogs"}


def test_an_empty_folder_that_nobody_watches_is_a_failure(root: Path) -> None:
    async def main() -> None:
        with pytest.raises(LoadFailed, match="has no model"):
            await Rig(root, reload_models=False).manager.load_all()

    vclock.run(main())
