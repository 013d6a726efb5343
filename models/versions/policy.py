"""Which versions to load and which to take away: a pure function of what is found, served and failing; no clock."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from darkroom.models.versions.source import Found

# TensorFlow Serving's five words for the state of a version.
START, LOADING, AVAILABLE, UNLOADING, END = "START", "LOADING", "AVAILABLE", "UNLOADING", "END"
STATES = (START, LOADING, AVAILABLE, UNLOADING, END)
FIRST_RETRY_S = 10.0  # guess: a load costs seconds of a core; doubled at each failure
MAX_RETRY_S = 900.0  # guess: a version that fails for an hour will hardly load a minute later


@dataclass(frozen=True, slots=True)
class Policy:
    """Which of the versions that are found are to be served.

    `specific` names them; where it is None, the `latest` newest are, and all where `latest` is None too.
    """

    latest: int | None = None
    specific: frozenset[int] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The policy of `all`, `latest`, `latest:N` or `specific:1,3`.

        Raises:
            ValueError: none of them.
        """
        kind, _, rest = text.partition(":")
        if text == "all":
            return cls()
        if kind == "latest" and (not rest or (rest.isdecimal() and int(rest) > 0)) and text != "latest:":
            return cls(latest=int(rest or 1))
        if kind == "specific" and rest and all(part.strip().isdecimal() for part in rest.split(",")):
            return cls(specific=frozenset(map(int, rest.split(","))))
        raise ValueError("is all, latest, latest:N or specific:N,M,…")

    def pick(self, versions: Iterable[int]) -> list[int]:
        """Those that are to be served, newest first."""
        newest_first = sorted(versions, reverse=True)
        if self.specific is not None:
            return [version for version in newest_first if version in self.specific]
        return newest_first[: self.latest]


class Failure(NamedTuple):
    """A version that did not load: what it looked like then, how often it failed, and when to try again."""

    stamp: object
    tries: int
    retry_at_s: float

    @classmethod
    def after(cls, earlier: "Failure | None", stamp: object, now_s: float) -> Self:
        """The failure at `now_s` of a version that has failed before, or not (None); each wait is twice the last."""
        tries = earlier.tries + 1 if earlier is not None and earlier.stamp == stamp else 1
        return cls(stamp, tries, now_s + min(FIRST_RETRY_S * 2 ** (tries - 1), MAX_RETRY_S))


class Plan(NamedTuple):
    """What to do: load these, newest first; take those away; some are still being written."""

    loads: list[int]
    unloads: list[int]
    unsettled: list[int]


def plan(
    found: Mapping[int, Found],
    served: Collection[int],
    failures: Mapping[int, Failure],
    policy: Policy,
    now_s: float,
) -> Plan:
    """What to do now.

    A version that fails, or is still being written, does not count: the policy picks among the others, so that an older
    one goes on serving in its place. One that failed is tried again when its time has come, or when its files change.
    Nothing is taken away before all that is wanted is served, and the last version never is: a folder that is emptied,
    or whose disk is gone, looks the same as one that lost a version.
    """
    usable = {version for version, each in found.items() if each.is_settled or version in served}
    failing = {v for v, failure in failures.items() if v in found and failure.stamp == found[v].stamp} - set(served)
    wanted = policy.pick(usable - failing)
    due = {version for version in policy.pick(usable) if version in failing and now_s >= failures[version].retry_at_s}
    loads = sorted({*wanted, *due} - set(served), reverse=True)
    replaced = bool(wanted) and set(wanted) <= set(served)
    unloads = sorted(set(served) - set(wanted)) if replaced else []
    return Plan(loads, unloads, sorted(set(policy.pick(found)) - usable, reverse=True))
