"""--access_log: the forms of the setting, and which requests they pick."""

from __future__ import annotations

import argparse

import pytest

from darkroom.service.api.grpc.health import SERVICE as GRPC_HEALTH
from darkroom.service.api.grpc.inference import SERVICE as GRPC_INFERENCE
from darkroom.service.app import create_app
from darkroom.service.config.access_log import PROBES, AccessPolicy, parse_access_log
from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.settings import Settings, add_flags, read_settings, settings_from_flags

QUICK, SLOW = 0.010, 0.500


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("off", AccessPolicy("off")),
        ("errors", AccessPolicy("errors", logs_errors=True)),
        ("Slow:500", AccessPolicy("slow:500", slow_s=0.5)),
        ("sample:0.01", AccessPolicy("sample:0.01", share=0.01)),
        ("errors, slow:2.5,sample:1", AccessPolicy("errors, slow:2.5,sample:1", logs_errors=True, slow_s=0.0025, share=1.0)),
        ("slow:1,all", AccessPolicy("slow:1,all", logs_all=True, slow_s=0.001)),
        (True, AccessPolicy("all", logs_all=True)),
        ("true", AccessPolicy("all", logs_all=True)),
        ("0", AccessPolicy("off")),
        (False, AccessPolicy("off")),
    ],
)  # fmt: skip
def test_a_policy_is_off_or_some_reasons_to_log_and_a_switch_as_it_was(text: object, policy: AccessPolicy) -> None:
    assert parse_access_log(text) == policy
    assert policy.is_off is (policy.text == "off")
    assert Settings.model_validate({"access_log": text}).access_log == policy.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("eror", "'eror' is unknown: give off, errors, slow:MS, sample:SHARE or all"),
        ("errors,", "'' is unknown"),
        ("errors:1", "'errors:1' is unknown"),
        ("slow", "'slow' is unknown"),
        ("slow:1s", "slow:MS is a number of milliseconds, such as slow:500, not '1s'"),
        ("slow:-1", "slow:MS is a number"),
        ("slow:inf", "slow:MS is a number"),
        ("sample:5", "sample:SHARE is above 0 and at most 1, such as sample:0.01 for 1 %, not '5'"),
        ("sample:0", "sample:SHARE is above 0"),
        ("sample:", "sample:SHARE is above 0"),
        ("errors,errors", "errors is given twice"),
        ("off,errors", "off stands alone"),
    ],
)
def test_any_other_text_is_refused_with_the_forms_that_there_are(text: str, words: str) -> None:
    with pytest.raises(BadSettingsError) as refused:
        read_settings({"access_log": text}, {})
    (problem,) = refused.value.problems
    assert problem.startswith("access_log: ")
    assert words in problem


def test_the_flag_may_stand_without_a_value_as_the_switch_that_it_was() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    for arguments, text in (["--access_log"], "all"), (["--access_log=errors"], "errors"), ([], "off"):
        assert settings_from_flags(parser.parse_args(arguments)).access_log == text


@pytest.mark.parametrize(
    ("text", "code", "duration_s", "is_picked"),
    [
        ("off", 500, SLOW, False),
        ("errors", 200, SLOW, False),
        ("errors", 399, QUICK, False),
        ("errors", 400, QUICK, True),
        ("errors", 499, QUICK, True),
        ("slow:500", 200, SLOW, True),
        ("slow:500", 500, QUICK, False),
        ("errors,slow:500", 200, SLOW, True),
        ("errors,slow:500", 500, QUICK, True),
        ("errors,slow:500", 200, QUICK, False),
        ("sample:1", 200, QUICK, True),
    ],
)
def test_a_request_is_logged_for_any_of_the_reasons_and_a_health_check_only_by_all(
    text: str, code: int, duration_s: float, is_picked: bool
) -> None:
    assert parse_access_log(text).picks("/", code, duration_s) is is_picked
    for probe in PROBES:
        assert not parse_access_log(text).picks(probe, code, duration_s)
        assert parse_access_log(f"{text},all" if text != "off" else "all").picks(probe, code, duration_s)


def test_a_share_is_about_so_many_of_all() -> None:
    policy = parse_access_log("sample:0.25")
    assert 2_000 < sum(policy.picks("/", 200, QUICK) for _ in range(10_000)) < 3_000  # 500 are 11 standard deviations


def test_the_health_checks_are_routes_that_there_are() -> None:
    routes = {f"/{route.path}" for route in create_app(Settings()).router.routes}
    assert {probe for probe in PROBES if not probe.startswith((GRPC_HEALTH, GRPC_INFERENCE))} <= routes
