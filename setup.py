"""Builds Darkroom; where DARKROOM_COMPILED=1 says so, what a request passes through is compiled by mypyc."""

import os
from pathlib import Path

from setuptools import setup

# Every module that a request passes through between its socket and TensorFlow, by folder. Left as they are: what other
# classes derive from (errors, Observer), dataclasses, and what makes handlers, whose signatures Sanic reads.
COMPILED = {
    "batching": tuple(
        path.stem
        for path in sorted(Path("batching").glob("*.py"))
        if path.stem not in {"__init__", "errors", "limits", "observer"}
    ),
    "models": ("image", "light", "rows", "runner"),
    "service": (
        "ask",
        "call",
        "codec",
        "compress",
        "door",
        "fastlane",
        "form",
        "gaps",
        "head",
        "histogram",
        "intake",
        "metrics",
        "visits",
    ),
    "service/api": ("infer", "infer_body", "instances", "predictions", "simple_body", "tensors"),
}


def extensions() -> list[object]:
    """The compiled modules; none unless they are asked for."""
    if os.environ.get("DARKROOM_COMPILED") != "1":
        return []
    from mypyc.build import mypycify  # noqa: PLC0415 - only who compiles has mypy

    modules = [f"{folder}/{name}.py" for folder, names in COMPILED.items() for name in names]
    return list(mypycify(modules, opt_level="3", debug_level="0"))


setup(ext_modules=extensions())
