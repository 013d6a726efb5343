"""Builds Darkroom; where DARKROOM_COMPILED=1 says so, what a request passes through is compiled by mypyc."""

import os
import tomllib
from pathlib import Path

from setuptools import setup


def extensions() -> list[object]:
    """The compiled modules; none unless they are asked for."""
    if os.environ.get("DARKROOM_COMPILED") != "1":
        return []
    from mypyc.build import mypycify  # noqa: PLC0415 - only who compiles has mypy

    names = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["darkroom"]["compiled"]
    return list(mypycify([f"darkroom/{name.replace('.', '/')}.py" for name in names], opt_level="3", debug_level="0"))


setup(ext_modules=extensions())
