"""The catalogue: every (model, version, signature) that can be asked, each with its own batcher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.errors import UnknownLabel, UnknownModel, UnknownSignature, UnknownVersion

if TYPE_CHECKING:
    from batching.batcher import Batcher
    from models.spec import ModelSpec, SignatureSpec
    from service.metrics import ModelMetrics

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One signature of one version of one model, ready to be asked."""

    model: ModelSpec
    spec: SignatureSpec
    batcher: Batcher
    metrics: ModelMetrics
    passes: list[dict[str, Any]]  # what the load-time passes came to, as metadata tells it

    @property
    def field(self) -> str:
        """The input that messages name: the one that takes pictures, else the first."""
        return self.spec.image_input or self.spec.inputs[0].name


class Catalogue:
    """Who can be asked. Read by every request, changed only when a version comes or goes; on the loop's thread only."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, dict[str, Target]]] = {}
        self._labels: dict[str, dict[str, int]] = {}

    def add(self, model: str, version: int, targets: dict[str, Target]) -> None:
        """Makes one version available under its signatures' names, whole or not at all."""
        versions = dict(self._models.get(model, {}))
        versions[version] = targets
        self._models[model] = dict(sorted(versions.items()))

    def remove(self, model: str, version: int) -> dict[str, Target]:
        """Takes one version away and returns what it had, for the caller to drain."""
        return self._models.get(model, {}).pop(version, {})

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

    def models(self) -> tuple[str, ...]:
        """The names of the models, in the order they came."""
        return tuple(self._models)

    def versions(self, model: str) -> dict[int, dict[str, Target]]:
        """The versions of a model, rising.

        Raises:
            UnknownModel: there is none of that name.
        """
        try:
            return self._models[model]
        except KeyError:
            raise UnknownModel(model, self.models()) from None

    def version(self, model: str, version: int | None = None) -> dict[str, Target]:
        """The signatures of one version; of the latest, the numeric maximum, where none is named.

        Raises:
            UnknownModel, UnknownVersion: there is none.
        """
        versions = self.versions(model)
        try:
            return versions[max(versions) if version is None else version]
        except (KeyError, ValueError):
            raise UnknownVersion(model, "latest" if version is None else version, tuple(versions)) from None

    def find(self, model: str, version: int | None = None, signature: str = DEFAULT_SIGNATURE) -> Target:
        """The target of a request.

        Raises:
            UnknownModel, UnknownVersion, UnknownSignature: there is none; each lists what there is.
        """
        targets = self.version(model, version)
        try:
            return targets[signature]
        except KeyError:
            raise UnknownSignature(signature, tuple(targets)) from None

    def targets(self) -> list[Target]:
        """Every target."""
        return [t for versions in self._models.values() for named in versions.values() for t in named.values()]
