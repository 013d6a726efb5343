"""The version of Darkroom and of other packages, and whether the request path is compiled."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from darkroom.batching.scheduler import queue


def version_of(*packages: str) -> str:
    """The version of the first of these packages that is installed; "unknown" if none is."""
    for package in packages:
        with suppress(PackageNotFoundError):
            return version(package)
    return "unknown"


def is_compiled() -> bool:
    """Whether the modules of the request path are compiled (setup.py with DARKROOM_COMPILED=1)."""
    return not str(queue.__file__).endswith(".py")


def version_line() -> str:
    """The version and whether it is compiled, for people."""
    return f"darkroom {version_of('darkroom')}, {'compiled' if is_compiled() else 'interpreted'}"
