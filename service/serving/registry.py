"""The registry: one record for each version of each model, and the views of them that requests read."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from darkroom.models.errors import UnknownLabel, UnknownModel, UnknownSignature, UnknownVersion
from darkroom.models.versions.policy import START
from darkroom.service.config.traffic import Split
from darkroom.service.errors import NotLoaded, NotReady
from darkroom.service.serving.shadow import Shadow, take_the_same

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from darkroom.batching.batcher import Batcher
    from darkroom.models.versions.policy import Failure
    from darkroom.service.config.traffic import TrafficRule
    from darkroom.service.serving.servable import Servable, Target
    from darkroom.service.telemetry.metrics import ModelMetrics

_log = logging.getLogger("darkroom.service")
DEFAULT_MODEL = "default"  # the model of a request that names none (STS)
DEFAULT_SIGNATURE = "serving_default"
NO_VERSION = 0  # stands for a model of which no version was found
MAX_REASON_CHARS = 1024  # guess: room for the reasons of a few versions
NOT_LOADED = "it is not loaded yet; the first request loads it"


class VersionState(NamedTuple):
    """The state of one version; `message` says why it is not served, where it should be."""

    model: str
    version: int
    state: str
    message: str

    @property
    def has_failed(self) -> bool:
        """Whether the message tells of a failure."""
        return bool(self.message) and self.message != NOT_LOADED


@dataclass(slots=True, eq=False)
class VersionRecord:
    """Everything that the server knows about one version of one model.

    Attributes:
        model: the model's name.
        version: the version's number, or NO_VERSION.
        state: one of `models.versions.policy.STATES`.
        message: why it is not served, where it should be.
        stamp: the stamp of its files when `servable` was loaded.
        failure: the last load, where that failed; None otherwise.
        servable: the loaded version; None while it is not served.
        targets: the targets by signature; empty while it is not served. Set by `Registry.add` and `Registry.remove`.
        metrics: its time series; None: `/metrics` does not show the version.
    """

    model: str
    version: int
    state: str = START
    message: str = ""
    stamp: Hashable = None
    failure: Failure | None = None
    servable: Servable | None = None
    targets: dict[str, Target] = field(default_factory=dict)
    metrics: ModelMetrics | None = None

    def note(self, state: str, message: str = "") -> None:
        """Sets the state; `message` says why the version is not served, where it should be."""
        self.state = state
        self.message = message


class Routes:
    """Where the requests for one model go that name no version, by the operator's rule. Made anew at each change.

    Args:
        rule: the operator's.
        split: chooses the version.
        served: the targets of each version that is served, by signature.
        is_idle: whether no engine of the process has anything to do.

    Attributes:
        rule, split, served: as given.
        targets: as `served`, of the versions that answer: as the requests see them.
        trouble: why the shadow does not run, or not beside every version; empty: it runs, or none is wanted.
    """

    def __init__(
        self,
        rule: TrafficRule,
        split: Split,
        served: Mapping[int, Mapping[str, Target]],
        *,
        is_idle: Callable[[], bool],
    ) -> None:
        self.rule, self.split, self.served = rule, split, served
        self.trouble = f"version {rule.shadow} is not served" if rule.shadow and split.shadow is None else ""
        self._shadows: list[Shadow] = []
        self.targets: dict[int, dict[str, Target]] = {}
        for version in split.shares:
            own = self.targets[version] = {name: replace(each, split=split) for name, each in served[version].items()}
            for name, beside in () if split.shadow in {None, version} else served[split.shadow].items():
                if name in own and not take_the_same(own[name].spec, beside.spec):
                    self.trouble = f"version {split.shadow} takes other inputs than version {version}"
                elif name in own:
                    self._shadows.append(Shadow(own[name], beside, share=rule.share, busy=rule.busy, is_idle=is_idle))
                    own[name] = replace(own[name], shadow=self._shadows[-1].offer)

    def is_on_trial(self, version: int) -> bool:
        """Whether a version answers no request that names none, and only runs beside one that does."""
        return version == self.split.shadow and version not in self.split.shares

    def close(self) -> None:
        """Ends the shadows."""
        for shadow in self._shadows:
            shadow.close()

    def describe(self) -> dict[str, Any]:
        """The rule, the share that each version has now, and what is amiss."""
        shares = {str(version): round(share, 6) for version, share in self.split.shares.items()}
        return {**self.rule.describe(), "shares": shares, "missing": list(self.split.missing), "trouble": self.trouble}


class Registry:
    """All versions of all models. Every request reads it; it changes only when a version does. On the event loop only.

    The records are the only store. What requests read is derived from them at each change.

    Attributes:
        loadable: the lazy models that a request finds or loads; `allow_loading` changes it.
        sole: the only target, if there is exactly one; a request can mean no other.
        usual: the target of a request that names no model, version and signature; None: it is not served now, or a rule
            chooses it.
    """

    def __init__(self) -> None:
        self._records: dict[str, dict[int, VersionRecord]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._before: dict[str, dict[str, int]] = {}  # the labels that stand until the version of the new one is served
        self._rules: dict[str, TrafficRule] = {}
        self._served: dict[str, dict[int, dict[str, Target]]] = {}  # derived: versions in rising order
        self._routes: dict[str, Routes] = {}  # derived: of the models that have a rule and are served
        self._batchers: tuple[Batcher, ...] = ()  # derived: of all targets, if a model has a rule
        self.loadable: frozenset[str] = frozenset()
        self.sole: Target | None = None
        self.usual: Target | None = None

    def know(self, model: str) -> None:
        """Makes a model known before anything is known about its versions."""
        self._records.setdefault(model, {})
        self._served.setdefault(model, {})

    def record(self, model: str, version: int) -> VersionRecord:
        """The record of a version; a new one in state START, if there was none."""
        self.know(model)
        return self._records[model].setdefault(version, VersionRecord(model, version))

    def records(self, model: str) -> tuple[VersionRecord, ...]:
        """The records of a model, newest version first; empty if it has none or is not known."""
        return tuple(record for _, record in sorted(self._records.get(model, {}).items(), reverse=True))

    def forget(self, model: str, version: int) -> None:
        """Deletes the record of a version that is not served, and its time series with it; the model stays known."""
        self._records.get(model, {}).pop(version, None)

    def forget_model(self, model: str) -> None:
        """Deletes a model of which no version is served, with all that is known of it."""
        for known in (self._records, self._labels, self._before, self._rules):
            known.pop(model, None)
        self.loadable -= {model}
        self._derive()

    def add(self, model: str, version: int, targets: dict[str, Target]) -> None:
        """Lets requests find a version, all signatures at once; replaces the targets that it had."""
        self.record(model, version).targets = targets
        for label, named in self._labels.get(model, {}).items():
            if named == version:
                self._before.get(model, {}).pop(label, None)
        self._derive()

    def remove(self, model: str, version: int) -> dict[str, Target]:
        """Hides a version from requests. Returns its targets, for the caller to drain."""
        record = self.record(model, version)
        targets, record.targets = record.targets, {}
        self._derive()
        return targets

    def states(self, model: str) -> tuple[VersionState, ...]:
        """The state of each version of a model, newest first; empty if it has none or is not known."""
        return tuple(VersionState(model, each.version, each.state, each.message) for each in self.records(model))

    def story(self, model: str) -> str:
        """Why no version of a model is served, for people."""
        reasons = [
            s.message if s.version == NO_VERSION else f"version {s.version} is {s.state}{s.message and ': '}{s.message}"
            for s in self.records(model)
        ]
        return "; ".join(reasons) or "nothing of it has been loaded yet"

    def exported(self) -> list[tuple[ModelMetrics, str]]:
        """The time series of each version that has some, and its state: what `/metrics` shows."""
        records = [record for versions in self._records.values() for record in versions.values()]
        return [(record.metrics, record.state) for record in records if record.metrics is not None]

    def label(self, model: str, labels: dict[str, int]) -> None:
        """Sets the labels of a model, label to version; replaces the labels that it had.

        One whose version is not served yet stays with the version that it had, so that it always leads somewhere.
        """
        self._before[model] = self.labels(model)
        self._labels[model] = dict(labels)
        self._derive()

    def direct(self, model: str, rule: TrafficRule | None) -> None:
        """Sets the rule of a model: which versions answer requests that name none. None: the newest one does."""
        if rule is not None:
            self._rules[model] = rule
        else:
            self._rules.pop(model, None)
        self._derive()

    def rule(self, model: str) -> TrafficRule | None:
        """The rule of a model; None: it has none."""
        return self._rules.get(model)

    def routes(self, model: str) -> Routes | None:
        """Where the requests for a model go that name no version; None: it has no rule, or is not served."""
        return self._routes.get(model)

    def shares(self) -> list[tuple[str, str, float]]:
        """Model, version and share of the requests that name none, of the models with a rule; 0 where it is not served."""
        found = []
        for model, routes in self._routes.items():
            found += [(model, str(version), share) for version, share in routes.split.shares.items()]
            found += [(model, name, 0.0) for name in routes.split.missing]
        return found

    def is_on_trial(self, target: Target) -> bool:
        """Whether a version only runs beside another, as its shadow: then nothing depends on it."""
        routes = self._routes.get(target.model.name)
        return routes is not None and routes.is_on_trial(target.model.version)

    def labels(self, model: str) -> dict[str, int]:
        """The labels of a model whose version is served; all of a lazy model that is not loaded."""
        served, before = self._served.get(model, {}), self._before.get(model, {})
        if self.is_unloaded(model):
            return dict(self._labels.get(model, {}))
        found = {}
        for label, version in self._labels.get(model, {}).items():
            if version in served:
                found[label] = version
            elif before.get(label) in served:
                found[label] = before[label]
        return found

    def labelled(self, model: str, label: str) -> int:
        """The version that a label names.

        Raises:
            UnknownModel: there is no such model.
            UnknownLabel: it has no such label, or the label's version is not served.
        """
        self.versions(model)
        labels = self.labels(model)
        try:
            return labels[label]
        except KeyError:
            raise UnknownLabel(model, label, tuple(labels)) from None

    def allow_loading(self, model: str, *, is_allowed: bool) -> None:
        """Sets whether a request for a model that is not served may load it."""
        if is_allowed != (model in self.loadable):
            self.loadable ^= {model}
            self._derive()

    def is_unloaded(self, model: str) -> bool:
        """Whether a model is lazy and not in memory, and a request would load it."""
        return model in self.loadable and not self._served[model]

    def last_used_s(self, model: str) -> float:
        """When the last request for a model ended, or when it was loaded, on the monotonic clock; 0: neither has happened."""
        return max((each.metrics.last_request_s for each in self.records(model) if each.metrics), default=0.0)

    def is_available(self, model: str) -> bool:
        """Whether a request for a model is answered: it is served, or would be loaded."""
        return bool(self._served.get(model)) or model in self.loadable

    def __contains__(self, model: str) -> bool:
        """Whether there is a model of that name, served or not."""
        return model in self._records

    def models(self) -> tuple[str, ...]:
        """The names of all models, in the order in which they became known; some may not be served now."""
        return tuple(self._records)

    def versions(self, model: str) -> dict[int, dict[str, Target]]:
        """The targets of each version that is served, versions rising; empty while it loads, or if all loads failed.

        Raises:
            UnknownModel: there is no such model.
        """
        try:
            return self._served[model]
        except KeyError:
            raise UnknownModel(model, self.models()) from None

    def version(
        self, model: str, version: int | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Target]:
        """The targets of one version by signature; without `version`, those of the highest number.

        Where the model has a rule, a request without a version gets what it says, by the request's `headers`; without
        these it is the version with the largest share.

        Raises:
            UnknownModel, UnknownVersion: there is none; lists those that exist.
            NotLoaded: it is to be loaded first.
            NotReady: no version of the model is served now; says why.
        """
        versions = self.versions(model)
        if not versions and model in self.loadable:
            if version not in {None, *self._records[model]}:
                raise UnknownVersion(model, str(version), tuple(sorted(self._records[model])))
            raise NotLoaded(f"model {model!r} is not served: {NOT_LOADED}", model=model)
        if not versions:
            raise NotReady(f"model {model!r} is not served: {self.story(model)}"[:MAX_REASON_CHARS])
        if version is None and (routes := self._routes.get(model)) is not None:
            split = routes.split
            return versions[split.main] if headers is None else routes.targets[split.choose(headers)]
        try:
            return versions[max(versions) if version is None else version]
        except KeyError:
            raise UnknownVersion(model, str(version), tuple(versions)) from None

    def find(
        self,
        model: str,
        version: int | None = None,
        signature: str = DEFAULT_SIGNATURE,
        headers: Mapping[str, str] | None = None,
    ) -> Target:
        """The target of a request; see `version`.

        Raises:
            UnknownModel, UnknownVersion, UnknownSignature: there is none; lists those that exist.
            NotReady: no version of the model is served now; says why.
        """
        targets = self.version(model, version, headers)
        try:
            return targets[signature]
        except KeyError:
            refused = next(iter(targets.values())).model.refused
            raise UnknownSignature(signature, tuple(targets), refused.get(signature, "")) from None

    def targets(self) -> list[Target]:
        """Every target that is served."""
        return [t for versions in self._served.values() for named in versions.values() for t in named.values()]

    def _derive(self) -> None:
        """Derives what requests read, so that no request has to search the records."""
        self._served = {
            model: {version: record.targets for version, record in sorted(records.items()) if record.targets}
            for model, records in self._records.items()
        }
        targets = self.targets()
        self._batchers = tuple({target.batcher for target in targets} if self._rules else ())
        is_sole = len(targets) == 1 and all(self._served[model] for model in self.loadable)
        self.sole = targets[0] if is_sole else None
        before, self._routes = self._routes, {}
        for model, rule in self._rules.items():
            if served := self._served.get(model):
                self._routes[model] = self._directed(model, rule, served, before.pop(model, None))
        for routes in before.values():
            routes.close()
        usual = {} if DEFAULT_MODEL in self._routes else self._served.get(DEFAULT_MODEL, {})
        self.usual = usual[max(usual)].get(DEFAULT_SIGNATURE) if usual else None

    def _directed(
        self, model: str, rule: TrafficRule, served: Mapping[int, Mapping[str, Target]], before: Routes | None
    ) -> Routes:
        """The routes by a rule: those before, if they are the same. Logs the shares if these changed."""
        split = Split(model, rule, served, self.labels(model))
        if before is not None and (before.rule, before.served) == (rule, served) and before.split.parts == split.parts:
            return before
        routes = Routes(rule, split, served, is_idle=lambda: all(each.is_idle for each in self._batchers))
        told = routes.describe()
        if before is not None:
            before.close()
        if before is None or before.describe() != told:
            amiss = {key: told[key] for key in ("missing", "trouble") if told[key]}
            tell = _log.warning if amiss else _log.info
            fields = {"model": model, "shares": told["shares"], **amiss}
            tell("requests that name no version are shared out", extra={"fields": fields})
        return routes
