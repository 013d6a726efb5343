"""The interface of a loaded model: what other packages may ask of an engine, and the record of one loaded version."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows
from darkroom.models.spec import ModelSpec, SignatureSpec


class PassReport(NamedTuple):
    """The result of one load-time pass for one signature.

    `name` is the pass, such as "freeze" or "hoist_base64". `reason` says why the pass is not applied; where it is
    applied, it is empty or says what the pass did.
    """

    name: str
    applied: bool
    reason: str = ""


class Engine(Protocol):
    """One signature, ready to run. Several threads may call `run` at the same time."""

    @property
    def spec(self) -> SignatureSpec:
        """The signature's inputs and outputs. The image input takes raw picture bytes, whatever the graph takes."""

    @property
    def passes(self) -> tuple[PassReport, ...]:
        """One report for each load-time pass, in the order in which the passes ran."""

    def run(self, rows: Rows) -> Rows:
        """Runs one call and returns its outputs; blocks until the call is done.

        Where `spec.batched`, each input column is `[n, ...]` and each output column is `[n, ...]` with the same `n`;
        row i of the answer belongs to row i of `rows`. Otherwise the shapes are the graph's. The answer has the outputs
        that `rows.asked` names, or all outputs where it names none. No rows give no rows, and nothing is run.
        The engine does not change `rows`; the answer belongs to the caller.

        Raises:
            InvalidInput: the graph refused a row. The error does not say which one.
            OutOfMemory: the device has too little memory for this call.
            PredictFailed: the call failed for any other reason.
        """

    def close(self) -> None:
        """Frees what the engine holds. Idempotent. No call may be running."""


@runtime_checkable
class Screener(Protocol):
    """An engine that can tell which rows of a failed call are invalid."""

    def screen(self, rows: Rows) -> list[InvalidInput | None]:
        """Checks each row alone, at a lower cost than a call.

        Returns one element for each row: the error of an invalid row, or None where no fault was found. None is no
        promise: the row may still fail later in the graph. Returns an empty list where these rows cannot be checked.
        """


@runtime_checkable
class SupportsInline(Protocol):
    """An engine that uses several threads, and can also run a call without them."""

    def run_inline(self, rows: Rows) -> Rows:
        """Does the same as `Engine.run`, in the calling thread only."""


@dataclass(slots=True)
class LoadedModel:
    """One version of a model, ready to serve. The owner closes it once.

    `samples` has, for each signature, warm-up rows that the signature takes, one row in each `Rows`; a signature
    without a batch dimension has one whole request there. `replicas` maps a signature to its engines by device; it is
    empty where there is one device.
    """

    spec: ModelSpec
    engines: dict[str, Engine]  # by signature
    samples: dict[str, tuple[Rows, ...]] = field(default_factory=dict)
    free: Callable[[], None] | None = field(default=None, repr=False)  # frees what the engines share
    replicas: dict[str, dict[str, Engine]] = field(default_factory=dict)

    def engines_of(self, signature: str) -> dict[str, Engine]:
        """The signature's engines by device, such as "gpu:0". The first one is the one in `engines`."""
        return self.replicas.get(signature) or {"cpu:0": self.engines[signature]}

    def close(self) -> None:
        """Frees the engines and what they share. Idempotent. No call may be running.

        If closing one engine raises, the others and what they share are freed nevertheless.
        """
        free, self.free = self.free, None
        with ExitStack() as last_first:
            if free is not None:
                last_first.callback(free)
            for name in self.engines:
                for engine in self.engines_of(name).values():
                    last_first.callback(engine.close)
