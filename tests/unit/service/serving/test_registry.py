from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from darkroom.batching.batcher import Batcher
from darkroom.batching.limits import Limits
from darkroom.models.engines.fakes import ECHO, EchoEngine, fake_model
from darkroom.models.engines.runner import Runner
from darkroom.models.errors import UnknownModel, UnknownSignature, UnknownVersion
from darkroom.service.config.traffic import TrafficRule
from darkroom.service.errors import NotReady
from darkroom.service.serving.registry import Registry
from darkroom.service.serving.servable import Target
from darkroom.service.telemetry.metrics import ModelMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.batching.backend import Backend
    from darkroom.models.spec import SignatureSpec


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


def _model(version: int, spec: SignatureSpec = ECHO) -> dict[str, Target]:
    """The targets of a version, before a batcher that has nothing to do."""
    model = fake_model(EchoEngine(spec), name="m", version=version)
    batcher = Batcher(cast("Backend", None), Limits(), is_client_fault=lambda _: False)
    return {"serving_default": Target(model.spec, spec, batcher, ModelMetrics("m", version), [])}


def test_a_rule_shares_out_what_names_no_version_and_says_once_who_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    registry = Registry()
    registry.direct("m", TrafficRule.of({"split": {"1": 1, "stable": 1}, "shadow": {"version": 3}}))
    assert registry.routes("m") is None
    for version in (1, 2):
        registry.add("m", version, _model(version))
    registry.label("m", {"stable": 2})
    registry.label("m", {"stable": 2})
    assert {registry.find("m", headers={}).model.version for _ in range(40)} == {1, 2}
    assert registry.find("m", headers={}).split is not None
    assert registry.find("m").model.version == 2  # of equal shares the newest
    assert registry.find("m", 1, headers={}).split is None
    assert registry.shares() == [("m", "2", 0.5), ("m", "1", 0.5)]
    registry.add("m", 3, _model(3))
    assert registry.find("m", headers={}).shadow is not None
    registry.remove("m", 1)
    assert registry.shares() == [("m", "2", 1.0), ("m", "1", 0.0)]
    told = [(each.levelname, cast("Any", each).fields) for each in caplog.records]
    assert told == [
        ("WARNING", {"model": "m", "shares": {"1": 1.0}, "missing": ["stable"], "trouble": "version 3 is not served"}),
        ("WARNING", {"model": "m", "shares": {"2": 0.5, "1": 0.5}, "trouble": "version 3 is not served"}),
        ("INFO", {"model": "m", "shares": {"2": 0.5, "1": 0.5}}),
        ("WARNING", {"model": "m", "shares": {"2": 1.0}, "missing": ["1"]}),
    ]
    registry.direct("m", None)
    assert (registry.find("m", headers={}).model.version, registry.shares()) == (3, [])


def test_a_version_is_on_trial_while_it_only_runs_beside_another() -> None:
    registry = Registry()
    versions = {version: _model(version) for version in (1, 2)}
    for version, targets in versions.items():
        registry.add("m", version, targets)
    old, new = (versions[version]["serving_default"] for version in (1, 2))
    registry.direct("m", TrafficRule.of({"shadow": {"version": 2}}))
    assert [registry.is_on_trial(each) for each in (old, new)] == [False, True]
    assert registry.find("m", headers={}).model.version == 1
    registry.direct("m", TrafficRule.of({"split": {"2": 1}, "shadow": {"version": 2}}))
    assert [registry.is_on_trial(each) for each in (old, new)] == [False, False]
    assert registry.find("m", headers={}).shadow is None
    registry.forget_model("m")
    assert registry.rule("m") is None


def test_a_version_that_takes_other_inputs_is_no_shadow() -> None:
    registry = Registry()
    registry.add("m", 1, _model(1))
    registry.add("m", 2, _model(2, replace(ECHO, image_input=None)))
    registry.direct("m", TrafficRule.of({"shadow": {"version": 2}}))
    routes = registry.routes("m")
    assert routes is not None
    assert routes.describe()["trouble"] == "version 2 takes other inputs than version 1"
    assert registry.find("m", headers={}).shadow is None


def test_the_default_model_has_no_usual_target_while_a_rule_chooses() -> None:
    registry = Registry()
    registry.add("default", 1, _model(1))
    found = [registry.usual]
    for rule in (TrafficRule.of({"split": {"1": 1}}), None):
        registry.direct("default", rule)
        found.append(registry.usual)
    assert [each is None for each in found] == [False, True, False]
