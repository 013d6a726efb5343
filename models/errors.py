"""The errors of a model.

ModelError
├── LoadFailed         a SavedModel cannot be served
├── UnknownModel       no model of that name
├── UnknownVersion     the model has no such version
├── UnknownLabel       the model has no version of that label
├── UnknownSignature   the version has no such signature
├── InvalidInput       the client's fault: the signature or its graph does not accept an input
├── PredictFailed      the model's fault: the run failed for another reason
└── OutOfMemory        the run needed more memory than the device has

These errors have no HTTP status code. A message quotes at most 256 bytes of what a client sent, and never a picture.
"""

from collections.abc import Collection, Sequence
from difflib import get_close_matches

QUOTE_BYTES = 256


def quote(text: str, limit_bytes: int = QUOTE_BYTES) -> str:
    """Returns `text` on one line, printable characters only, at most `limit_bytes` bytes of UTF-8."""
    printable = "".join(char if char.isprintable() else " " for char in text[:limit_bytes])
    raw = printable.encode("utf-8", "replace")
    return printable if len(raw) <= limit_bytes else raw[:limit_bytes].decode("utf-8", "ignore")


def instead_of(word: str, known: Collection[str]) -> str:
    """The end of a message about an unknown word: the one that may be meant, if one is like it, and all that there are."""
    near = get_close_matches(word, known, 1)
    return f"; {f'is {near[0]} meant? There' if near else 'there'} are: {', '.join(known) or 'none'}"


class ModelError(Exception):
    """The base class of this tree. It is never raised itself."""


class LoadFailed(ModelError):
    """A SavedModel, or one of its signatures, cannot be served; the message says which and why."""


class UnknownModel(ModelError):
    """No model is called `name`."""

    def __init__(self, name: str, available: Sequence[str] = ()) -> None:
        super().__init__(f"unknown model {quote(name)!r}; there are: {', '.join(available) or 'none'}")
        self.name = name
        self.available = tuple(available)


class UnknownVersion(ModelError):
    """Model `name` has no version `version`."""

    def __init__(self, name: str, version: int | str, available: Sequence[int] = ()) -> None:
        listed = ", ".join(map(str, available)) or "none"
        super().__init__(f"model {quote(name)!r} has no version {quote(str(version))}; there are: {listed}")
        self.name = name
        self.version = version
        self.available = tuple(available)


class UnknownLabel(ModelError):
    """No version of model `name` is labelled `label`."""

    def __init__(self, name: str, label: str, available: Sequence[str] = ()) -> None:
        listed = ", ".join(available) or "none"
        super().__init__(f"model {quote(name)!r} has no version labelled {quote(label)!r}; there are: {listed}")
        self.name = name
        self.label = label
        self.available = tuple(available)


class UnknownSignature(ModelError):
    """The version of the model has no signature `name`, or cannot serve it for a `reason`."""

    def __init__(self, name: str, available: Sequence[str] = (), reason: str = "") -> None:
        what = (
            f"signature {quote(name)!r} can't be served: {reason}" if reason else f"unknown signature {quote(name)!r}"
        )
        super().__init__(f"{what}; there are: {', '.join(available) or 'none'}")
        self.name = name
        self.available = tuple(available)
        self.reason = reason


class InvalidInput(ModelError):
    """The signature, or its graph, does not accept what the client sent.

    `input_name` is the input and `index` is the row, where they are known. A batch of several requests that fails with
    this error may be bisected, because the graph does not say which row is invalid.
    """

    def __init__(self, message: str, *, input_name: str = "", index: int | None = None) -> None:
        super().__init__(message)
        self.input_name = input_name
        self.index = index


class PredictFailed(ModelError):
    """The run failed, and the client is not the cause. The call is never repeated."""


class OutOfMemory(ModelError):
    """The run needed more memory than the device has. A batch of several rows is halved and run again, one row is not."""
