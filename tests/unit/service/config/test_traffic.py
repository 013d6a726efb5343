from __future__ import annotations

import random
from collections import Counter
from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.settings import Settings, read_settings
from darkroom.service.config.traffic import Split, TrafficRule

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

KEYS = [f"user-{number}" for number in range(2000)]


def _split(
    said: Mapping[str, Any], served: Collection[int] = (1, 2, 3), labels: Mapping[str, int] | None = None, seed: int = 1
) -> Split:
    return Split("m", TrafficRule.of(said), served, labels or {}, chance=random.Random(seed).random)  # noqa: S311 - a seed for tests


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([], "expected an object such as"),
        ({}, "expected an object such as"),
        ({"splits": {}}, "there is no key 'splits'; there are: split, sticky, shadow"),
        ({"split": ["1"]}, "split: expected weights by version or label"),
        ({"split": {str(number): 1 for number in range(65)}}, "for 64 versions at most"),
        ({"split": {"": 1}}, "got the name ''"),
        ({"split": {"1": "many"}}, "'1': the weight must be a number from 0 to 1e9, got 'many'"),
        ({"split": {"1": True}}, "got True"),
        ({"split": {"1": -1}}, "got -1"),
        ({"split": {"1": nan}}, "got nan"),
        ({"split": {"1": inf}}, "got inf"),
        ({"split": {"1": 0, "2": 0.0}}, "the weights add up to 0; give one version at least a weight above 0"),
        ({"sticky": "two words"}, "sticky: expected the name of a header, or \"picture\", got 'two words'"),
        ({"sticky": 1}, "got 1"),
        ({"shadow": 3}, 'shadow: expected an object such as {"version": 3, "share": 0.5}, got 3'),
        ({"shadow": {"share": 1}}, "shadow: expected"),
        ({"shadow": {"version": 1, "weight": 1}}, "shadow: expected"),
        ({"shadow": {"version": 1.5}}, "shadow.version: expected the number or the label of a version, got 1.5"),
        ({"shadow": {"version": 1, "share": 0}}, "shadow.share: expected a number above 0 and at most 1, got 0"),
        ({"shadow": {"version": 1, "share": 50}}, "got 50"),
        ({"shadow": {"version": 1, "busy": 0}}, "shadow.busy: expected a number above 0 and at most 1, got 0"),
    ],
)
def test_a_rule_that_can_not_be_meant_is_refused_with_its_key_and_value(said: Any, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        TrafficRule.of(said)
    assert words in str(refused.value)
    with pytest.raises(BadSettingsError) as stopped:
        read_settings({}, {"DARKROOM_TRAFFIC": '{"default": {"split": {"1": "x"}}}'})
    assert "traffic.default" in stopped.value.problems[0]


def test_a_rule_is_told_as_it_can_be_given_again() -> None:
    rule = TrafficRule.of({"split": {"1": 95, "new": 5}, "sticky": "X-User", "shadow": {"version": 3}})
    assert rule.describe() == {
        "split": {"1": 95.0, "new": 5.0},
        "sticky": "X-User",
        "shadow": {"version": "3", "share": 1.0, "busy": 0.005},
    }
    assert TrafficRule.of(rule.describe()) == rule


def test_the_setting_reaches_the_model_that_it_names_and_wins_over_the_config_file() -> None:
    rule = {"split": {"1": 1}}
    (entry,) = Settings(traffic={"default": rule}).models
    assert entry.traffic == rule
    with pytest.raises(BadSettingsError, match="traffic: no model is called 'other', only 'default'"):
        _ = Settings(traffic={"other": rule}).models


def test_requests_are_shared_out_by_weight() -> None:
    split = _split({"split": {"1": 95, "2": 5}})
    found = Counter(split.choose({}) for _ in range(10_000))
    assert sum(found.values()) == found[1] + found[2]
    assert 433 <= found[2] <= 567  # a seed's draw; 99.8 % of all binomial ones
    assert split.shares == {2: 0.05, 1: 0.95}
    assert split.main == 1


def test_a_key_is_always_of_one_version_and_keys_are_shared_out_by_weight() -> None:
    one, other = (_split({"split": {"1": 95, "2": 5}, "sticky": "X-User"}, seed=seed) for seed in (1, 2))
    chosen = {key: one.choose({"x-user": key}) for key in KEYS}
    assert chosen == {key: other.choose({"x-user": key}) for key in KEYS}
    assert 70 <= Counter(chosen.values())[2] <= 130  # 100 of 2000: four deviations of a fair draw
    assert len({one.choose({"x-darkroom-sticky": "me"}) for _ in range(400)}) == 2  # not the header of this rule


def test_no_more_keys_move_than_a_change_of_the_rule_or_of_the_versions_makes_necessary() -> None:
    few, more = ({"split": {"1": 95, "2": 5, "3": 50}}, {"split": {"1": 95, "2": 15, "3": 50}})
    before = {key: _split(few).pick(key) for key in KEYS}
    after = {key: _split(more).pick(key) for key in KEYS}
    assert {after[key] for key in KEYS if after[key] != before[key]} == {2}
    without = {key: _split(few, served=(1, 2)).pick(key) for key in KEYS}
    assert all(without[key] == version for key, version in before.items() if version != 3)
    stable = {"split": {"stable": 50, "canary": 50}}
    moved = [_split(stable, labels={"stable": 1, "canary": canary}) for canary in (2, 3)]
    assert {moved[1].pick(key) for key in KEYS if moved[0].pick(key) == 2} == {3}


@pytest.mark.parametrize(
    ("said", "served", "shares", "missing", "shadow"),
    [
        ({"split": {"1": 95, "2": 5}}, (1, 3), {1: 1.0}, ("2",), None),
        ({"split": {"1": 1, "2": 1, "9": 2}}, (1, 2), {2: 0.5, 1: 0.5}, ("9",), None),
        ({"split": {"8": 1, "gone": 1}}, (1, 2), {2: 1.0}, ("8", "gone"), None),
        ({"split": {"8": 1}, "shadow": {"version": 2}}, (1, 2), {1: 1.0}, ("8",), 2),
        ({"split": {"old": 1, "1": 1, "2": 0}}, (1, 2), {1: 1.0}, (), None),
        ({"shadow": {"version": 3}}, (1, 2, 3), {2: 1.0}, (), 3),
        ({"shadow": {"version": 3}}, (3,), {3: 1.0}, (), 3),
        ({"shadow": {"version": "old"}}, (1, 2, 3), {3: 1.0}, (), 1),
        ({"shadow": {"version": 9}}, (1, 2), {2: 1.0}, (), None),
        ({"sticky": "picture"}, (1, 2), {2: 1.0}, (), None),
    ],
)
def test_what_is_not_served_gets_nothing_and_the_newest_that_is_no_shadow_answers_where_nothing_else_does(
    said: dict[str, Any],
    served: tuple[int, ...],
    shares: dict[int, float],
    missing: tuple[str, ...],
    shadow: int | None,
) -> None:
    split = _split(said, served, {"old": 1})
    assert (split.shares, split.missing, split.shadow) == (shares, missing, shadow)
    assert split.choose({}) in shares


@given(
    st.dictionaries(st.integers(1, 9), st.floats(0, 100), min_size=1), st.sets(st.integers(1, 9), min_size=1), st.text()
)
def test_whatever_the_rule_a_version_that_is_served_is_chosen(
    weights: dict[int, float], served: set[int], key: str
) -> None:
    said = (
        {"split": {str(version): weight for version, weight in weights.items()}}
        if sum(weights.values())
        else {"sticky": "x"}
    )
    split = _split(said, served)
    wanted = {version for version, weight in weights.items() if weight} & served
    for chosen in (split.choose({}), split.pick(key), split.main):
        assert chosen in (wanted or {max(served)})
    assert sum(split.shares.values()) == pytest.approx(1)
