"""Imports that do without packages they only ask for in passing."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def hiding(*packages: str) -> Iterator[None]:
    """Imports in the block find none of `packages`, as if they weren't installed; after it they import as ever.

    What was imported before stays to be found.
    """
    hidden = [package for package in packages if package not in sys.modules]
    modules = cast("dict[str, Any]", sys.modules)
    modules.update(dict.fromkeys(hidden))  # None there makes an import fail
    try:
        yield
    finally:
        for package in hidden:
            del modules[package]
