"""A version of a model that is ready to answer."""

from collections.abc import Callable
from dataclasses import dataclass, field

from darkroom.models.engine import Engine
from darkroom.models.rows import Rows
from darkroom.models.spec import ModelSpec


@dataclass(slots=True)
class LoadedModel:
    """One version: its spec, an engine and warm-up rows for each signature, and what frees the engines' session."""

    spec: ModelSpec
    engines: dict[str, Engine]
    samples: dict[str, tuple[Rows, ...]] = field(default_factory=dict)  # single rows that each signature takes
    free: Callable[[], None] | None = field(default=None, repr=False)
    replicas: dict[str, dict[str, Engine]] = field(default_factory=dict)  # signature → device → its engine there

    def engines_of(self, signature: str) -> dict[str, Engine]:
        """The signature's engines by the device they run on; the first is that of `engines`."""
        return self.replicas.get(signature) or {"cpu:0": self.engines[signature]}

    def close(self) -> None:
        """Frees the engines and what they share; idempotent. No call may be running."""
        for name in self.engines:
            for engine in self.engines_of(name).values():
                engine.close()
        free, self.free = self.free, None
        if free is not None:
            free()
