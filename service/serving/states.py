"""What became of each version, in TensorFlow Serving's five words, served or not."""

from __future__ import annotations

from typing import NamedTuple

from darkroom.models.versions.policy import AVAILABLE, END, LOADING, START, STATES, UNLOADING

__all__ = ["AVAILABLE", "END", "LOADING", "NO_VERSION", "START", "STATES", "UNLOADING", "States", "VersionState"]
NO_VERSION = 0  # stands for a model of which no version is found


class VersionState(NamedTuple):
    """Where one version stands; `message` says why it is not served, where it should be."""

    model: str
    version: int
    state: str
    message: str = ""


class States:
    """The state of every version of every model that the server knows. On the event loop only."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, VersionState]] = {}

    def know(self, model: str) -> None:
        """Makes a model known before anything is known of its versions."""
        self._models.setdefault(model, {})

    def note(self, model: str, version: int, state: str, message: str = "") -> None:
        """Sets the state of a version."""
        self._models.setdefault(model, {})[version] = VersionState(model, version, state, message)

    def forget(self, model: str, version: int) -> None:
        """Takes a version away; the model stays known."""
        self._models.get(model, {}).pop(version, None)

    def models(self) -> tuple[str, ...]:
        """The models that are known, served or not, in the order they came."""
        return tuple(self._models)

    def of(self, model: str) -> tuple[VersionState, ...]:
        """The versions of a model, newest first; empty where it has none or is not known."""
        return tuple(state for _, state in sorted(self._models.get(model, {}).items(), reverse=True))

    def story(self, model: str) -> str:
        """Why nothing of a model is served, for people."""
        told = [f"version {s.version} is {s.state}{s.message and ': '}{s.message}" for s in self.of(model)]
        return "; ".join(told) or "nothing of it has been loaded yet"
