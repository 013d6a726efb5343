"""What the scheduler needs of the backend, which runs batches."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Sized


class BatchReport(Protocol):
    """The outcome of one batch.

    Attributes:
        results: one for each part, with as many rows as the part; None if the batch failed.
        error: why it failed, or None.
        guilty: the rows of the call that made it fail, each with its own error; empty if the backend does not know:
            then they are found by bisection.
        started_s: when the backend's thread took the batch, on the batcher's clock.
        collate_s: joining the parts to one input; execute_s: the engine's call; split_s: splitting the outputs.
    """

    @property
    def results(self) -> Sequence[Sized] | None:
        """The answers, by part."""

    @property
    def error(self) -> BaseException | None:
        """Why there are no results."""

    @property
    def guilty(self) -> Mapping[int, BaseException]:
        """The errors of the guilty rows, by row of the call."""

    @property
    def started_s(self) -> float:
        """When the call began."""

    @property
    def collate_s(self) -> float:
        """Seconds to join the parts."""

    @property
    def execute_s(self) -> float:
        """Seconds in the engine."""

    @property
    def split_s(self) -> float:
        """Seconds to split the outputs."""


class BackendFailure(NamedTuple):
    """The report of a batch that never ran, or whose own report is malformed."""

    error: BaseException | None  # never None; mypyc looks for a bare `BaseException` in this module
    started_s: float
    results: None = None
    guilty: Mapping[int, BaseException] = MappingProxyType({})
    collate_s: float = 0.0
    execute_s: float = 0.0
    split_s: float = 0.0


class Backend(Protocol):
    """Runs batches in a thread of its own."""

    def start(self, parts: Sequence[tuple[Any, int, int]], padding: int, done: Callable[[BatchReport], None]) -> None:
        """Takes a batch and returns at once; called on the loop.

        Args:
            parts: payloads, each with the range of rows [start, stop) to take from it; their order is that of the rows.
            padding: rows to add at the end by repeating the last.
            done: to be called exactly once, from any thread; a second call is ignored.
        """
