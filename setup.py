"""Builds Darkroom. With DARKROOM_COMPILED=1, mypyc compiles the modules of the request path to machine code."""

import os
import tomllib
from pathlib import Path

from setuptools import setup


def extensions() -> list[object]:
    """The modules to compile, as pyproject.toml lists them; none unless DARKROOM_COMPILED=1."""
    if os.environ.get("DARKROOM_COMPILED") != "1":
        return []
    from mypyc.build import mypycify  # noqa: PLC0415 - only a compiled build needs mypy

    names = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["darkroom"]["compiled"]
    return list(mypycify([f"darkroom/{name.replace('.', '/')}.py" for name in names], opt_level="3", debug_level="0"))


setup(ext_modules=extensions())
