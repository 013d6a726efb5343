"""What an engine is: what the rest of the house may ask of a signature that is ready to run."""

from typing import NamedTuple, Protocol, runtime_checkable

from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows
from darkroom.models.spec import SignatureSpec


class PassReport(NamedTuple):
    """One load-time pass: whether it is in force, and why it is not (or what it did)."""

    name: str
    applied: bool
    reason: str = ""


class Engine(Protocol):
    """One signature, ready to run. `run` may be called from several threads at once."""

    @property
    def spec(self) -> SignatureSpec:
        """What it wants and gives. Its image input takes raw picture bytes, whatever the graph wants."""

    @property
    def passes(self) -> tuple[PassReport, ...]:
        """What the load-time passes came to."""

    def run(self, rows: Rows) -> Rows:
        """The outputs of one call; row i of the answer belongs to row i of `rows` where the spec is batched.

        Raises:
            InvalidInput: the graph refused a row. It says not which.
            OutOfMemory: the device has not enough.
            PredictFailed: anything else.
        """

    def close(self) -> None:
        """Frees what it holds; idempotent. No call may be running."""


@runtime_checkable
class Screener(Protocol):
    """An engine that can tell which rows of a failed call are to blame."""

    def screen(self, rows: Rows) -> list[InvalidInput | None]:
        """What is wrong with each row, judged alone and for less than a call; empty: it cannot tell of these.

        None says that no fault was found, which is no promise: the row may fail later in the graph.
        """


@runtime_checkable
class Concise(Protocol):
    """An engine that uses several threads, and can do without."""

    def run_alone(self, rows: Rows) -> Rows:
        """As `Engine.run`, in the calling thread only."""
