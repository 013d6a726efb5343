"""Which versions come and go, told what is found, served and failing, and the time."""

import pytest

from darkroom.models.versions.folder import Found
from darkroom.models.versions.policy import FIRST_RETRY_S, MAX_RETRY_S, Failure, Plan, Policy, plan

ALL, LATEST = Policy(), Policy(latest=1)


def found(*versions: int, unsettled: tuple[int, ...] = ()) -> dict[int, Found]:
    return {version: Found("stamp", is_settled=version not in unsettled) for version in (*versions, *unsettled)}


def failed(retry_at_s: float, stamp: str = "stamp") -> Failure:
    return Failure(stamp, 1, retry_at_s)


@pytest.mark.parametrize(
    ("text", "picked"),
    [
        ("all", [10, 9, 3, 1]),
        ("latest", [10]),
        ("latest:2", [10, 9]),
        ("latest:9", [10, 9, 3, 1]),
        ("specific:1,3,7", [3, 1]),
    ],
)
def test_a_policy_picks_newest_first(text: str, picked: list[int]) -> None:
    assert Policy.parse(text).pick([1, 10, 9, 3]) == picked


@pytest.mark.parametrize("text", ["", "newest", "latest:", "latest:0", "latest:x", "specific", "specific:", "all:1"])
def test_a_policy_that_is_none_says_which_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="latest:N or specific:N"):
        Policy.parse(text)


def test_what_is_new_is_loaded_newest_first() -> None:
    assert plan(found(1, 2, 10), {1}, {}, ALL, 0.0) == Plan([10, 2], [], [])


def test_an_old_version_goes_only_once_the_new_one_is_served() -> None:
    assert plan(found(1, 2), {1}, {}, LATEST, 0.0) == Plan([2], [], [])
    assert plan(found(1, 2), {1, 2}, {}, LATEST, 0.0) == Plan([], [1], [])


def test_a_version_whose_folder_is_gone_goes_when_all_others_are_served() -> None:
    assert plan(found(2, 3), {1, 2}, {}, ALL, 0.0) == Plan([3], [], [])
    assert plan(found(2, 3), {1, 2, 3}, {}, ALL, 0.0) == Plan([], [1], [])


def test_the_last_version_stays_whatever_is_found() -> None:
    assert plan({}, {1}, {}, ALL, 0.0) == Plan([], [], [])
    assert plan(found(2), {1}, {}, Policy.parse("specific:7"), 0.0) == Plan([], [], [])


def test_a_version_that_is_still_being_written_is_left_and_another_serves_in_its_place() -> None:
    assert plan(found(1, unsettled=(2,)), set(), {}, LATEST, 0.0) == Plan([1], [], [2])


def test_a_served_version_that_is_written_to_goes_on_being_served() -> None:
    assert plan(found(1, unsettled=(2,)), {2}, {}, LATEST, 0.0) == Plan([], [], [])


def test_a_version_that_failed_waits_for_its_time_and_another_serves_in_its_place() -> None:
    failures = {2: failed(retry_at_s=10.0)}
    assert plan(found(1, 2), {1}, failures, LATEST, 9.999) == Plan([], [], [])
    assert plan(found(1, 2), {1}, failures, LATEST, 10.0) == Plan([2], [], [])
    assert plan(found(1, 2), set(), failures, LATEST, 9.999) == Plan([1], [], [])


def test_a_version_that_failed_is_tried_at_once_when_its_files_change() -> None:
    assert plan(found(2), set(), {2: failed(1e9, stamp="before")}, ALL, 0.0) == Plan([2], [], [])


def test_each_failure_waits_twice_as_long_as_the_last_up_to_a_bound() -> None:
    waits = []
    failure = None
    for _ in range(12):
        failure = Failure.after(failure, "stamp", 100.0)
        waits.append(failure.retry_at_s - 100.0)
    assert waits[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert waits[-1] == MAX_RETRY_S
    assert Failure.after(failure, "other files", 0.0).tries == 1
