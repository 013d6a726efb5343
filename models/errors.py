"""What can go wrong with a model.

ModelError
├── LoadFailed         a SavedModel cannot be served
├── UnknownModel       no model of that name
├── UnknownVersion     the model has no such version
├── UnknownLabel       the model has no version of that label
├── UnknownSignature   the version has no such signature
├── InvalidInput       the client's fault: an input that the signature or its graph does not take
├── PredictFailed      the model's fault: the run failed for another cause
└── OutOfMemory        the run needed more memory than the device has

No error carries a status code, and none carries a picture: a message quotes at most 256 bytes of what a client sent.
"""

from collections.abc import Sequence

QUOTE_BYTES = 256


def quote(text: str, limit_bytes: int = QUOTE_BYTES) -> str:
    """`text` on one line of printable characters, cut at `limit_bytes` bytes of UTF-8."""
    printable = "".join(char if char.isprintable() else " " for char in text[:limit_bytes])
    raw = printable.encode("utf-8", "replace")
    return printable if len(raw) <= limit_bytes else raw[:limit_bytes].decode("utf-8", "ignore")


class ModelError(Exception):
    """The root of this tree; never raised itself."""


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
    """The version of the model has no signature `name`."""

    def __init__(self, name: str, available: Sequence[str] = ()) -> None:
        super().__init__(f"unknown signature {quote(name)!r}; there are: {', '.join(available) or 'none'}")
        self.name = name
        self.available = tuple(available)


class InvalidInput(ModelError):
    """What the client sent is not what the signature, or the graph behind it, takes.

    `input_name` names the input and `index` its row, where they are known. A merged batch that fails so may be
    bisected: the graph names no row, and only the guilty one deserves the error.
    """

    def __init__(self, message: str, *, input_name: str = "", index: int | None = None) -> None:
        super().__init__(message)
        self.input_name = input_name
        self.index = index


class PredictFailed(ModelError):
    """The run failed and not by the client's fault; never replayed."""


class OutOfMemory(ModelError):
    """The run needed more memory than the device has; never replayed."""
