"""The one table: which HTTP status and which outcome each exception of the house becomes.

    CodecError                 what a client sent can't be read
    ├── UnsupportedContent     a content type no dialect reads
    ├── NotFound               a path names what isn't served, told in its dialect's own words
    └── TooLarge               over a limit that names its flag
    NotReady                   the server is starting or stopping
    Forbidden                  what only the operator may ask

The exceptions of `batching` and `models` are drawn in their own modules; none of them knows a status code.
"""

from __future__ import annotations

import reprlib
from typing import NamedTuple

from darkroom.batching.errors import BadOutput, BatchingError, Closed, DeadlineExceeded, PredictedLate, QueueFull
from darkroom.models.errors import (
    InvalidInput,
    LoadFailed,
    ModelError,
    OutOfMemory,
    PredictFailed,
    UnknownLabel,
    UnknownModel,
    UnknownSignature,
    UnknownVersion,
)

MAX_QUOTED_CHARS = 256  # nothing a client sent is echoed beyond this


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 2 * MAX_QUOTED_CHARS
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 20


class CodecError(ValueError):
    """A request that can't be read; the message names the field, the index and the remedy."""


class UnsupportedContent(CodecError):
    """A content type that the path doesn't take."""


class NotFound(CodecError):
    """The path names a model or a version that isn't served; the message says so in the words of its dialect."""


class TooLarge(CodecError):
    """A body, a count or a picture over a limit; the message names the flag."""


class NotReady(RuntimeError):
    """The server or the model is starting or stopping: ask again soon."""


class Forbidden(PermissionError):
    """Only the operator may ask this, and nothing shows that it was him; the message names what would."""


class Verdict(NamedTuple):
    """What an exception means at the edge: the HTTP status, the same for an STS client, and the `outcome` label."""

    status: int
    sts_status: int
    outcome: str


# STS answered every refusal with 400 and its clients test for that. What it never had (429, 503, 504) stays itself.
TABLE: dict[type[Exception], Verdict] = {
    CodecError: Verdict(400, 400, "invalid_input"),
    UnsupportedContent: Verdict(415, 400, "invalid_input"),
    NotFound: Verdict(404, 404, "invalid_input"),
    TooLarge: Verdict(413, 413, "invalid_input"),
    NotReady: Verdict(503, 503, "draining"),
    Forbidden: Verdict(403, 403, "invalid_input"),
    InvalidInput: Verdict(400, 400, "invalid_input"),
    UnknownModel: Verdict(404, 400, "invalid_input"),
    UnknownVersion: Verdict(404, 400, "invalid_input"),
    UnknownLabel: Verdict(400, 400, "invalid_input"),
    UnknownSignature: Verdict(400, 400, "invalid_input"),
    LoadFailed: Verdict(503, 503, "model_error"),
    PredictFailed: Verdict(500, 500, "model_error"),
    OutOfMemory: Verdict(503, 503, "out_of_memory"),
    QueueFull: Verdict(429, 429, "queue_full"),
    PredictedLate: Verdict(429, 429, "predicted_late"),
    DeadlineExceeded: Verdict(504, 504, "expired"),
    Closed: Verdict(503, 503, "draining"),
    BadOutput: Verdict(500, 500, "model_error"),
    BatchingError: Verdict(500, 500, "model_error"),
    ModelError: Verdict(500, 500, "model_error"),
}
UNKNOWN = Verdict(500, 500, "model_error")


def judge(error: BaseException) -> Verdict:
    """The verdict of the nearest class of the table; anything that isn't in it is our own fault: 500."""
    for cls in type(error).__mro__:
        verdict = TABLE.get(cls)
        if verdict is not None:
            return verdict
    return UNKNOWN


def describe(error: BaseException) -> str:
    """What the client is told: the message of an exception of the house; of any other only that it happened."""
    if judge(error) is UNKNOWN:
        return "internal error; the log of the server tells more"
    return str(error) or type(error).__name__


def retry_after_s(error: BaseException) -> float | None:
    """Seconds after which the client may try again, where the error knows."""
    value = getattr(error, "retry_after_s", None)
    return value if isinstance(value, (int, float)) else None


def quote(value: object) -> str:
    """A client's value for a message: its repr, cut at 256 characters; only the beginning is looked at."""
    text = _REPR.repr(value)
    return text if len(text) <= MAX_QUOTED_CHARS else text[:MAX_QUOTED_CHARS] + "…"
