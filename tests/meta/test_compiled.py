"""What is compiled: the modules that pyproject.toml names, and only where `make compiled` made them."""

from __future__ import annotations

import importlib
import os
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAMES = PROJECT["tool"]["darkroom"]["compiled"]
IS_EXPECTED = os.environ.get("EXPECT_COMPILED") == "1"


def test_every_module_of_the_scheduler_is_compiled_or_left_for_a_reason() -> None:
    files = (path for path in (ROOT / "batching").rglob("*.py") if path.name != "__init__.py")
    scheduler = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    left = {"batching.errors", "batching.limits", "batching.observer"}
    assert scheduler - left == {name for name in NAMES if name.startswith("batching.")}


@pytest.mark.parametrize("name", NAMES)
def test_a_module_is_compiled_where_that_is_asked_for_and_nowhere_else(name: str) -> None:
    assert (ROOT / f"{name.replace('.', '/')}.py").exists()
    file = str(importlib.import_module(f"darkroom.{name}").__file__)
    assert file.endswith(".so") is IS_EXPECTED


def test_what_an_extra_brings_may_be_missing_where_the_modules_are_compiled() -> None:
    """Types are checked before the modules are compiled, and `make serve` installs no extra: it would serve interpreted."""
    extras = {name for names in PROJECT["project"]["optional-dependencies"].values() for name in names}
    overrides = [each for each in PROJECT["tool"]["mypy"]["overrides"] if each.get("ignore_missing_imports")]
    assert extras
    assert {f"{name}.*" for name in extras} <= {module for each in overrides for module in each["module"]}
