"""Which Darkroom this is: its version, that of a package beside it, and whether it is compiled."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from darkroom.batching.scheduler import queue


def version_of(*packages: str) -> str:
    """The version of the first package that is installed; "unknown" where none is."""
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "unknown"


def is_compiled() -> bool:
    """Whether what a request passes through is machine code (setup.py, DARKROOM_COMPILED=1)."""
    return not str(queue.__file__).endswith(".py")


def story() -> str:
    """Both, for people."""
    return f"darkroom {version_of('darkroom')}, {'compiled' if is_compiled() else 'interpreted'}"
