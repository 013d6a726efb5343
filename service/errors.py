"""The one table: which HTTP status, which outcome and which error code each exception of the house becomes.

    CodecError                 the request cannot be read
    ├── BadImage               an image is not base64, or not in a format that the graph decodes
    ├── UnsupportedContent     no dialect reads this content type
    ├── NotFound               the request names something that is not served
    ├── TooLarge               over a limit; the message names its flag
    └── Unimplemented          the protocol has it, this server does not; the message says what there is instead
    NotReady                   the server or the model is starting or stopping
    └── NotLoaded              the model is loaded when a request needs it (`--load=lazy`), and is not in memory now
    Forbidden                  only the operator may do this

The exceptions of `batching` and `models` are drawn in their own modules. None of them knows a status code.

The code tells programs what the message tells people. It stands in the header `X-Darkroom-Error` of every error answer,
and in most dialects under `code` in its body. Codes are part of the API: they are never renamed.
"""

from __future__ import annotations

import reprlib
from typing import NamedTuple

from darkroom.batching.errors import (
    BadOutput,
    BatchingError,
    Closed,
    DeadlineExceeded,
    EngineTimeout,
    PredictedLate,
    QueueFull,
)
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

MAX_QUOTED_BYTES = 256  # bytes of UTF-8: nothing a client sent is echoed beyond this


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 2 * MAX_QUOTED_BYTES
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 20


class CodecError(ValueError):
    """A request that cannot be read; the message names the field, the index and the remedy."""


class BadImage(CodecError):
    """An image that is not base64, or not in a format that the graph decodes; the message names `field[index]`."""


class UnsupportedContent(CodecError):
    """A content type that the path does not take."""


class NotFound(CodecError):
    """The request names a model, version or signature that is not served; the message uses the words of its dialect."""


class TooLarge(CodecError):
    """A body, a number of images or an image over a limit; the message names the flag."""


class Unimplemented(CodecError):
    """The protocol has this, and this server does not; the message says what there is instead."""


class NotReady(RuntimeError):
    """The server or the model is starting or stopping; the client may try again soon."""


class NotLoaded(NotReady):
    """A lazy model that is not in memory; a predict request waits until it is loaded.

    Attributes:
        model: its name; empty: nobody may wait for it.
        retry_after_s: when a repeat is likely to be answered; None where that is not known.
    """

    def __init__(self, message: str, *, model: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.model = model
        self.retry_after_s = retry_after_s


class Forbidden(PermissionError):
    """Only the operator may do this, and the request does not show that it is his; the message says what would."""


class Verdict(NamedTuple):
    """What an exception becomes: the HTTP status, the status for STS's clients, the `outcome` label, the error code."""

    status: int
    sts_status: int
    outcome: str
    code: str


# STS answered every refusal with 400, and its clients test for that. The statuses it never used (429, 503, 504) stay.
TABLE: dict[type[Exception], Verdict] = {
    CodecError: Verdict(400, 400, "invalid_input", "bad_request"),
    BadImage: Verdict(400, 400, "invalid_input", "bad_image"),
    UnsupportedContent: Verdict(415, 400, "invalid_input", "unsupported_media_type"),
    NotFound: Verdict(404, 400, "invalid_input", "not_found"),
    TooLarge: Verdict(413, 413, "invalid_input", "too_large"),
    Unimplemented: Verdict(501, 400, "invalid_input", "unimplemented"),
    NotReady: Verdict(503, 503, "draining", "not_ready"),
    NotLoaded: Verdict(503, 503, "draining", "not_ready"),
    Forbidden: Verdict(403, 403, "invalid_input", "forbidden"),
    InvalidInput: Verdict(400, 400, "invalid_input", "invalid_input"),
    UnknownModel: Verdict(404, 400, "invalid_input", "not_found"),
    UnknownVersion: Verdict(404, 400, "invalid_input", "not_found"),
    UnknownLabel: Verdict(400, 400, "invalid_input", "not_found"),
    UnknownSignature: Verdict(400, 400, "invalid_input", "not_found"),
    LoadFailed: Verdict(503, 503, "model_error", "load_failed"),
    PredictFailed: Verdict(500, 500, "model_error", "predict_failed"),
    OutOfMemory: Verdict(503, 503, "out_of_memory", "out_of_memory"),
    QueueFull: Verdict(429, 429, "queue_full", "queue_full"),
    PredictedLate: Verdict(429, 429, "predicted_late", "predicted_late"),
    DeadlineExceeded: Verdict(504, 504, "expired", "deadline_exceeded"),
    EngineTimeout: Verdict(504, 504, "model_error", "engine_timeout"),
    Closed: Verdict(503, 503, "draining", "not_ready"),
    BadOutput: Verdict(500, 500, "model_error", "bad_output"),
    BatchingError: Verdict(500, 500, "model_error", "internal"),
    ModelError: Verdict(500, 500, "model_error", "internal"),
}
UNKNOWN = Verdict(500, 500, "model_error", "internal")

ERROR_HEADER = "X-Darkroom-Error"  # its value is the code
# The codes of answers that no exception of the house stands behind: Sanic's own refusals, authentication, health.
HTTP_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "too_large",
    417: "expectation_failed",
    431: "headers_too_large",
    503: "not_ready",
}


# gRPC's status for each error code that is not INVALID_ARGUMENT. Only RESOURCE_EXHAUSTED tells a client to try again later.
INVALID_ARGUMENT = 3
GRPC_STATUSES = {
    "deadline_exceeded": 4,  # DEADLINE_EXCEEDED
    "engine_timeout": 4,
    "request_timeout": 4,
    "not_found": 5,  # NOT_FOUND
    "forbidden": 7,  # PERMISSION_DENIED
    "queue_full": 8,  # RESOURCE_EXHAUSTED
    "predicted_late": 8,
    "unimplemented": 12,  # UNIMPLEMENTED
    "unsupported_media_type": 12,
    "predict_failed": 13,  # INTERNAL
    "bad_output": 13,
    "internal": 13,
    "not_ready": 14,  # UNAVAILABLE
    "load_failed": 14,
    "out_of_memory": 14,
    "unauthorized": 16,  # UNAUTHENTICATED
}


def http_code(status: int) -> str:
    """The error code of an HTTP status for which there is no exception of the house."""
    return HTTP_CODES.get(status, "bad_request" if status < 500 else "internal")


def judge(error: BaseException) -> Verdict:
    """The verdict on the nearest class that stands in the table; any other exception is our own fault: 500."""
    for cls in type(error).__mro__:
        verdict = TABLE.get(cls)
        if verdict is not None:
            return verdict
    return UNKNOWN


def describe(error: BaseException) -> str:
    """What the client is told: the message of an exception of the house; of any other, only that it happened."""
    if judge(error) is UNKNOWN:
        return "internal error; the log of the server tells more"
    return str(error) or type(error).__name__


def retry_after_s(error: BaseException) -> float | None:
    """Seconds after which the client may try again; None where the error does not know."""
    value = getattr(error, "retry_after_s", None)
    return value if isinstance(value, (int, float)) else None


def quote(value: object) -> str:
    """A client's value for a message: its repr, cut at 256 bytes of UTF-8. Only the beginning of the value is read."""
    return shorten(_REPR.repr(value))


def shorten(text: str) -> str:
    """The text, cut at 256 bytes of UTF-8."""
    raw = text[: MAX_QUOTED_BYTES + 1].encode("utf-8", "replace")
    return text if len(raw) <= MAX_QUOTED_BYTES else raw[:MAX_QUOTED_BYTES].decode("utf-8", "ignore") + "…"
