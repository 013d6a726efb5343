"""The register: what became of a version, told to those who ask for states and to the metrics alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.service.config.settings import Settings
    from darkroom.service.serving.states import States
    from darkroom.service.telemetry.metrics import Metrics, ModelMetrics


class Register:
    """Keeps states and metrics of every version in step."""

    def __init__(self, states: States, metrics: Metrics, settings: Settings) -> None:
        self._states = states
        self._metrics = metrics
        self._settings = settings

    def note(self, model: str, version: int, state: str, message: str = "") -> None:
        """Sets the state of a version; `message` says why it is not served, where it should be."""
        self._states.note(model, version, state, message)
        self.metrics_of(model, version).state = state

    def forget(self, model: str, version: int) -> None:
        """Takes a version away with its series; the model stays known."""
        self._states.forget(model, version)
        self._metrics.forget_model(model, version)

    def metrics_of(self, model: str, version: int) -> ModelMetrics:
        """The metrics of a version, new unless they are there."""
        settings = self._settings
        return self._metrics.add_model(
            model, version, slo_s=settings.slo_ms / 1000, max_batch_images=settings.max_batch_images
        )
