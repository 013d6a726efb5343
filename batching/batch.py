"""What one engine call carries."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from darkroom.batching.entry import Entry


class Reason(StrEnum):
    """Why a batch left when it did, and with as many rows as it had."""

    IDLE = "idle"  # a slot was free: everything that waited went
    FULL = "full"  # the limit or the most efficient size was reached
    LINGER = "linger"  # the window was over
    SLACK = "slack"  # more rows, or more waiting, would have been too late for one of them
    BYTES = "bytes"
    PIXELS = "pixels"
    RETRY = "retry"  # what is left of a batch in which a row was guilty, or half of it
    DRAIN = "drain"  # the queue is being emptied, so no window was kept


# Rows [start, stop) of one entry, and of one payload as the runner sees them. Plain tuples: one is made for each entry.
Span: TypeAlias = "tuple[Entry, int, int]"
Part: TypeAlias = tuple[object, int, int]


class Batch:
    """Rows of one or many entries, in order, that ride in one engine call.

    Attributes:
        serial: its number in the queue's order of dispatch, from 1.
        spans: whose rows they are, in the order of the call.
        parts: the same rows for the runner.
        images: rows of all spans, padding left out.
        padding: rows to add at the end by repeating the last; nobody gets their answer.
        reason: why it left.
        dispatched_s: when, on the batcher's clock.
        returned_s: when the runner was done with it; None: not yet, or nobody looked.
    """

    __slots__ = (
        "dispatched_s",
        "forecast_s",
        "images",
        "is_out",
        "padding",
        "parts",
        "reason",
        "returned_s",
        "serial",
        "spans",
    )

    def __init__(
        self, serial: int, spans: list[Span], images: int, *, padding: int, reason: Reason, dispatched_s: float
    ) -> None:
        self.serial = serial
        self.spans = spans
        self.images = images
        self.padding = padding
        self.reason = reason
        self.dispatched_s = dispatched_s
        self.forecast_s = dispatched_s  # when it is expected back
        self.returned_s: float | None = None  # when the runner was done with it
        self.is_out = True  # until the runner gives it back
        # Payloads are noted now: an entry that ends while its batch is out lets go of its own reference.
        self.parts: list[Part] = [(e.payload, e.first_row + start, e.first_row + stop) for e, start, stop in spans]

    def took_s(self, now: float) -> float:
        """How long the runner had it; what came after, until the loop heard of it, is the loop's own time."""
        return (now if self.returned_s is None else self.returned_s) - self.dispatched_s

    @property
    def is_retry(self) -> bool:
        """Whether its rows have been in a batch that failed."""
        return self.reason is Reason.RETRY
