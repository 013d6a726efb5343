"""What the scheduler needs of whatever runs a batch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Sized


class BatchReport(Protocol):
    """What came back of one batch.

    Attributes:
        results: one a part, with as many rows as the part; None when it failed.
        error: why it failed, or None.
        guilty: the rows of the call by whose fault it failed, each with its own error; empty where the runner can't
            tell: then they are found by bisection.
        started_s: when the runner's thread took the batch, on the batcher's clock.
        collate_s: joining the parts to one input; execute_s: the engine's call; split_s: taking the outputs apart.
    """

    @property
    def results(self) -> Sequence[Sized] | None:
        """The answers by part."""

    @property
    def error(self) -> BaseException | None:
        """Why there are none."""

    @property
    def guilty(self) -> Mapping[int, BaseException]:
        """Whose fault that is, by row of the call."""

    @property
    def started_s(self) -> float:
        """When it began."""

    @property
    def collate_s(self) -> float:
        """Seconds to join."""

    @property
    def execute_s(self) -> float:
        """Seconds in the engine."""

    @property
    def split_s(self) -> float:
        """Seconds to take apart."""


class BackendFailure(NamedTuple):
    """The report of a batch that never ran, or whose report is worth nothing."""

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

        `done` is called exactly once, from any thread; a second call is ignored.
        """
