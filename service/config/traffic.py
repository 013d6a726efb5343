"""`--traffic`: which versions of a model answer requests that name none, and which one runs beside them. Pure functions."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from darkroom.service.errors import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

PICTURE = "picture"  # for `sticky`, in place of a header's name
STICKY_HEADER = "X-Darkroom-Sticky"
BUSY = 0.005  # so one request in 200 at most finds a shadow's call running, and the 99th percentile hardly moves
_KEYS = ("split", "sticky", "shadow")
_SPLIT = 'split: expected weights by version or label, such as {"1": 95, "2": 5}'
_SHADOW = 'shadow: expected an object such as {"version": 3, "share": 0.5}'
_TOKEN_CHARS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")  # of a header's name, RFC 9110 5.6.2
_MAX_PARTS = 64  # guess: versions of one split


@dataclass(frozen=True, slots=True)
class TrafficRule:
    """What the operator says of one model. Versions are named by number or label, as text.

    Attributes:
        split: the weight of each version; empty: the newest one answers.
        sticky: the header whose value decides, in the operator's letters; or PICTURE.
        shadow: the version that runs beside the one that answers; empty: none.
        share: of the answers, how many it is compared with, above 0 and at most 1.
        busy: of the time, in how much it may run at most, above 0 and at most 1.
    """

    split: Mapping[str, float]
    sticky: str = STICKY_HEADER
    shadow: str = ""
    share: float = 1.0
    busy: float = BUSY

    @classmethod
    def of(cls, said: object) -> TrafficRule:
        """Reads the JSON object of one model.

        Raises:
            ValueError: it can't be meant; names the key, the value and what is expected.
        """
        if not isinstance(said, dict) or not said:
            raise ValueError(f'expected an object such as {{"split": {{"1": 95, "2": 5}}}}, got {quote(said)}')
        if unknown := [key for key in said if key not in _KEYS]:
            raise ValueError(f"there is no key {quote(unknown[0])}; there are: {', '.join(_KEYS)}")
        split = _read_split(said.get("split", {}))
        sticky = said.get("sticky", STICKY_HEADER)
        if not isinstance(sticky, str) or not sticky or not _TOKEN_CHARS.issuperset(sticky.lower()):
            raise ValueError(f'sticky: expected the name of a header, or "{PICTURE}", got {quote(sticky)}')
        return cls(split, sticky, *(_read_shadow(said["shadow"]) if "shadow" in said else ()))

    @property
    def names(self) -> tuple[str, ...]:
        """The versions and labels that it names."""
        return (*self.split, *filter(None, [self.shadow]))

    def describe(self) -> dict[str, Any]:
        """The rule as JSON, with its defaults; `of` reads it."""
        told: dict[str, Any] = {"split": dict(self.split), "sticky": self.sticky}
        if self.shadow:
            told["shadow"] = {"version": self.shadow, "share": self.share, "busy": self.busy}
        return told


class Part(NamedTuple):
    """One part of a split: the name that the operator gave it, its weight, and the version that it means now."""

    name: str
    weight: float
    version: int


class Split:
    """Which of the versions that are served now answers a request that names none. It never changes.

    Attributes:
        parts: the versions that answer.
        header: the request header whose value decides, in lower case.
        by_picture: the picture decides where a request has no such header.
        main: the version with the largest share, of equal ones the newest.
        missing: the names in the rule, with a weight, whose version is not served. Their share goes to the others.
        shadow: the version that runs beside; None: none is wanted, or it is not served.
    """

    def __init__(
        self,
        model: str,
        rule: TrafficRule,
        served: Collection[int],
        labels: Mapping[str, int],
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._model = model
        self._chance = chance
        self.by_picture = rule.sticky == PICTURE
        self.header = (STICKY_HEADER if self.by_picture else rule.sticky).lower()
        meant = {name: number_of(name, labels) for name in rule.names}
        self.missing = tuple([name for name, weight in rule.split.items() if weight and meant[name] not in served])
        shadow = meant.get(rule.shadow)
        self.shadow = shadow if shadow in served else None
        wanted = [Part(name, weight, meant[name] or 0) for name, weight in rule.split.items() if weight]
        parts = [part for part in wanted if part.version in served]
        if not parts:  # of those that are not only looked at, the newest answers, as without a rule
            newest = max([each for each in served if each != shadow] or served)
            parts = [Part(str(newest), 1.0, newest)]
        self.parts = parts
        total = sum([part.weight for part in parts])
        self._edges = [edge / total for edge in accumulate([part.weight for part in parts[:-1]])]
        versions = sorted({part.version for part in parts}, reverse=True)
        self.shares = {each: sum([part.weight for part in parts if part.version == each]) / total for each in versions}
        self.main = max(versions, key=self.shares.__getitem__)

    def choose(self, headers: Mapping[str, str]) -> int:
        """The version for a request with these headers."""
        if key := headers.get(self.header):
            return self.pick(key)
        return self.main if self.by_picture else self.parts[bisect_right(self._edges, self._chance())].version

    def pick(self, key: str) -> int:
        """The version of a key: always the same one while it is served, in every process.

        By weighted rendezvous hashing: a weight that changes, or a version that comes or goes, moves no more keys than it
        must. Labels keep their keys when they move to another version.
        """

        def height(part: Part) -> float:
            raw = f"{self._model}\0{part.name}\0{key}".encode(errors="surrogateescape")
            drawn = (int.from_bytes(blake2b(raw, digest_size=6).digest()) + 0.5) / (1 << 48)  # between 0 and 1
            return -part.weight / math.log(drawn)

        return max(self.parts, key=height).version


def number_of(name: str, labels: Mapping[str, int]) -> int | None:
    """The version that a number or a label means; None: no version has the label."""
    return int(name) if name.isascii() and name.isdigit() else labels.get(name)


def _read_split(said: object) -> dict[str, float]:
    if not isinstance(said, dict) or len(said) > _MAX_PARTS:
        raise ValueError(f"{_SPLIT}, for {_MAX_PARTS} versions at most, got {quote(said)}")
    for name, weight in said.items():
        if not name or (name.isdigit() and len(name) > 18):
            raise ValueError(f"{_SPLIT}; got the name {quote(name)}")
        if type(weight) not in {int, float} or not 0 <= weight <= 1e9:
            raise ValueError(f"split: {quote(name)}: the weight must be a number from 0 to 1e9, got {quote(weight)}")
    if said and not sum(said.values()):
        raise ValueError("split: the weights add up to 0; give one version at least a weight above 0")
    return {name: float(weight) for name, weight in said.items()}


def _read_shadow(said: object) -> tuple[str, float, float]:
    """The version, the share and the busy time."""
    if not isinstance(said, dict) or not {"version"} <= said.keys() <= {"version", "share", "busy"}:
        raise ValueError(f"{_SHADOW}, got {quote(said)}")
    version, shares = said["version"], {"share": 1.0, "busy": BUSY} | said
    if type(version) not in {int, str} or version == "":
        raise ValueError(f"shadow.version: expected the number or the label of a version, got {quote(version)}")
    for name in ("share", "busy"):
        if type(shares[name]) not in {int, float} or not 0 < shares[name] <= 1:
            raise ValueError(f"shadow.{name}: expected a number above 0 and at most 1, got {quote(shares[name])}")
    return str(version), float(shares["share"]), float(shares["busy"])
