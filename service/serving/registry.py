"""The catalogue: every (model, version, signature) that can be asked, each with its own batcher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from darkroom.models.errors import UnknownLabel, UnknownModel, UnknownSignature, UnknownVersion
from darkroom.service.errors import NotReady
from darkroom.service.serving.states import States

if TYPE_CHECKING:
    from collections.abc import Sequence

    from darkroom.batching.batcher import Batcher
    from darkroom.models.rows import Rows
    from darkroom.models.spec import ModelSpec, SignatureSpec
    from darkroom.service.telemetry.metrics import ModelMetrics

DEFAULT_MODEL = "default"  # STS's name for the one that a request need not name
DEFAULT_SIGNATURE = "serving_default"
MAX_REASON_CHARS = 1024  # guess: room for the reasons of a few versions


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One signature of one version of one model, ready to be asked."""

    model: ModelSpec
    spec: SignatureSpec
    batcher: Batcher
    metrics: ModelMetrics
    passes: list[dict[str, Any]]  # what the load-time passes came to, as metadata tells it
    samples: Sequence[Rows] = ()  # single rows that the signature took at warm-up

    field: str = field(init=False)  # the input that messages name: the one that takes pictures, else the first

    def __post_init__(self) -> None:
        object.__setattr__(self, "field", self.spec.image_input or self.spec.inputs[0].name)


class Registry:
    """Who can be asked. Read by every request, changed only when a version comes or goes; on the loop's thread only.

    Attributes:
        states: tells of every version, also of those that cannot be asked.
        sole: the one target that any request can mean; None where there are several, or none.
        usual: the target of a request that names nothing; None where there is none, or not now.
    """

    def __init__(self) -> None:
        self.states = States()
        self._models: dict[str, dict[int, dict[str, Target]]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self.sole: Target | None = None
        self.usual: Target | None = None

    def add(self, model: str, version: int, targets: dict[str, Target]) -> None:
        """Makes one version available under its signatures' names, whole or not at all."""
        versions = dict(self._models.get(model, {}))
        versions[version] = targets
        self._models[model] = dict(sorted(versions.items()))
        self._look()

    def remove(self, model: str, version: int) -> dict[str, Target]:
        """Takes one version away and returns what it had, for the caller to drain."""
        targets = self._models.get(model, {}).pop(version, {})
        self._look()
        return targets

    def label(self, model: str, labels: dict[str, int]) -> None:
        """Sets the labels of a model, label to version, in place of those it had."""
        self._labels[model] = dict(labels)

    def labels(self, model: str) -> dict[str, int]:
        """The labels of a model whose version is served."""
        served = self._models.get(model, {})
        return {label: version for label, version in self._labels.get(model, {}).items() if version in served}

    def labelled(self, model: str, label: str) -> int:
        """The version that a label means.

        Raises:
            UnknownModel, UnknownLabel: there is none.
        """
        self.versions(model)
        labels = self.labels(model)
        try:
            return labels[label]
        except KeyError:
            raise UnknownLabel(model, label, tuple(labels)) from None

    def __contains__(self, model: str) -> bool:
        """Whether there is a model of that name."""
        return model in self._models or model in self.states.models()

    def models(self) -> tuple[str, ...]:
        """The names of the models, in the order they came; some may have no version to ask at the moment."""
        return tuple(dict.fromkeys((*self.states.models(), *self._models)))

    def versions(self, model: str) -> dict[int, dict[str, Target]]:
        """The versions of a model that can be asked, rising; none while it loads, or where all of them failed.

        Raises:
            UnknownModel: there is none of that name.
        """
        try:
            return self._models[model]
        except KeyError:
            if model in self.states.models():
                return {}
            raise UnknownModel(model, self.models()) from None

    def version(self, model: str, version: int | None = None) -> dict[str, Target]:
        """The signatures of one version; of the latest, the numeric maximum, where none is named.

        Raises:
            UnknownModel, UnknownVersion: there is none.
            NotReady: nothing of the model can be asked now; says why.
        """
        versions = self.versions(model)
        if not versions:
            raise NotReady(f"model {model!r} is not served: {self.states.story(model)}"[:MAX_REASON_CHARS])
        try:
            return versions[max(versions) if version is None else version]
        except KeyError:
            raise UnknownVersion(model, str(version), tuple(versions)) from None

    def find(self, model: str, version: int | None = None, signature: str = DEFAULT_SIGNATURE) -> Target:
        """The target of a request.

        Raises:
            UnknownModel, UnknownVersion, UnknownSignature: there is none; each lists what there is.
            NotReady: nothing of the model can be asked now.
        """
        targets = self.version(model, version)
        try:
            return targets[signature]
        except KeyError:
            raise UnknownSignature(signature, tuple(targets)) from None

    def _look(self) -> None:
        """Notes what most requests mean, so that they need not look it up."""
        targets = self.targets()
        self.sole = targets[0] if len(targets) == 1 else None
        usual = self._models.get(DEFAULT_MODEL, {})
        self.usual = usual[max(usual)].get(DEFAULT_SIGNATURE) if usual else None

    def targets(self) -> list[Target]:
        """Every target."""
        return [t for versions in self._models.values() for named in versions.values() for t in named.values()]
