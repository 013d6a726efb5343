"""The registry: one record for each version of each model, and the views of them that requests read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from darkroom.models.errors import UnknownLabel, UnknownModel, UnknownSignature, UnknownVersion
from darkroom.models.versions.policy import START
from darkroom.service.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Hashable

    from darkroom.models.versions.policy import Failure
    from darkroom.service.serving.servable import Servable, Target
    from darkroom.service.telemetry.metrics import ModelMetrics


DEFAULT_MODEL = "default"  # the model of a request that names none (STS)
DEFAULT_SIGNATURE = "serving_default"
NO_VERSION = 0  # stands for a model of which no version was found
MAX_REASON_CHARS = 1024  # guess: room for the reasons of a few versions


class VersionState(NamedTuple):
    """The state of one version; `message` says why it is not served, where it should be."""

    model: str
    version: int
    state: str
    message: str


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


class Registry:
    """All versions of all models. Every request reads it; it changes only when a version does. On the event loop only.

    The records are the only store. What requests read is derived from them at each change.

    Attributes:
        sole: the only target, if there is exactly one; a request can mean no other.
        usual: the target of a request that names no model, version and signature; None: it is not served now.
    """

    def __init__(self) -> None:
        self._records: dict[str, dict[int, VersionRecord]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._served: dict[str, dict[int, dict[str, Target]]] = {}  # derived: versions in rising order
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
        """Deletes a model of which no version is served; requests get that there is no such model."""
        for known in (self._records, self._labels, self._served):
            known.pop(model, None)
        self._derive()

    def add(self, model: str, version: int, targets: dict[str, Target]) -> None:
        """Lets requests find a version, all signatures at once; replaces the targets that it had."""
        self.record(model, version).targets = targets
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
        """Sets the labels of a model, label to version; replaces the labels that it had."""
        self._labels[model] = dict(labels)

    def labels(self, model: str) -> dict[str, int]:
        """The labels of a model whose version is served."""
        served = self._served.get(model, {})
        return {label: version for label, version in self._labels.get(model, {}).items() if version in served}

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

    def version(self, model: str, version: int | None = None) -> dict[str, Target]:
        """The targets of one version by signature; without `version`, those of the highest number.

        Raises:
            UnknownModel, UnknownVersion: there is none; lists those that exist.
            NotReady: no version of the model is served now; says why.
        """
        versions = self.versions(model)
        if not versions:
            raise NotReady(f"model {model!r} is not served: {self.story(model)}"[:MAX_REASON_CHARS])
        try:
            return versions[max(versions) if version is None else version]
        except KeyError:
            raise UnknownVersion(model, str(version), tuple(versions)) from None

    def find(self, model: str, version: int | None = None, signature: str = DEFAULT_SIGNATURE) -> Target:
        """The target of a request.

        Raises:
            UnknownModel, UnknownVersion, UnknownSignature: there is none; lists those that exist.
            NotReady: no version of the model is served now; says why.
        """
        targets = self.version(model, version)
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
        self.sole = targets[0] if len(targets) == 1 else None
        usual = self._served.get(DEFAULT_MODEL, {})
        self.usual = usual[max(usual)].get(DEFAULT_SIGNATURE) if usual else None
