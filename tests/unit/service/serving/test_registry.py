from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from darkroom.batching.batcher import Batcher
from darkroom.batching.limits import Limits
from darkroom.models.engines.fakes import EchoEngine, fake_model
from darkroom.models.engines.runner import Runner
from darkroom.models.errors import UnknownModel, UnknownSignature, UnknownVersion
from darkroom.service.errors import NotReady
from darkroom.service.serving.registry import Registry
from darkroom.service.serving.servable import Target
from darkroom.service.telemetry.metrics import ModelMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def target() -> Iterator[Target]:
    runner = Runner(EchoEngine())
    batcher = Batcher(runner, Limits(), is_client_fault=lambda _: False)
    model = fake_model()
    yield Target(model.spec, model.engines["serving_default"].spec, batcher, ModelMetrics("m", 1), [])
    runner.close()


def test_the_latest_version_is_the_numeric_maximum_whatever_came_last(target: Target) -> None:
    registry = Registry()
    old = Target(target.model, target.spec, target.batcher, target.metrics, [])
    registry.add("m", 10, {"serving_default": target})
    registry.add("m", 9, {"serving_default": old})
    assert registry.find("m") is target
    assert registry.find("m", 9) is old
    assert list(registry.versions("m")) == [9, 10]


def test_who_is_not_there_is_told_with_what_is(target: Target) -> None:
    registry = Registry()
    registry.add("m", 1, {"serving_default": target})
    with pytest.raises(UnknownModel, match="there are: m"):
        registry.find("n")
    with pytest.raises(UnknownVersion, match="there are: 1"):
        registry.find("m", 2)
    with pytest.raises(UnknownSignature, match="there are: serving_default"):
        registry.find("m", 1, "other")


def test_a_version_that_was_removed_is_not_found_and_comes_back_to_its_owner(target: Target) -> None:
    registry = Registry()
    registry.add("m", 1, {"serving_default": target})
    assert registry.remove("m", 1) == {"serving_default": target}
    assert registry.targets() == []
    with pytest.raises(NotReady, match="'m' is not served"):
        registry.find("m")


def test_a_known_model_that_can_not_be_asked_says_what_became_of_its_versions() -> None:
    registry = Registry()
    registry.record("m", 3).note("END", "saved_model.pb is damaged")
    registry.record("m", 4).note("LOADING")
    assert registry.models() == ("m",)
    assert registry.versions("m") == {}
    with pytest.raises(NotReady, match=r"version 4 is LOADING; version 3 is END: saved_model\.pb is damaged"):
        registry.find("m")
