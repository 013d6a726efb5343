"""The wheel in an empty environment: it brings the package `darkroom` and nothing else, and its types."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("darkroom", "batching", "models", "service", "requirements")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by pip from a copy, since setuptools packs what an earlier build left in build/lib."""
    source = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        "out",
        ".",
        cwd=source,
    )
    (path,) = (source / "out").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel in it and this one's packages behind it."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_holds_one_package_and_says_that_it_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"darkroom"}
    assert "darkroom/py.typed" in names


def test_the_command_runs_beside_a_package_of_the_user_that_is_called_models(python: Path, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("raise SystemExit('not Darkroom')\n")
    assert run(python.with_name("darkroom"), "--version", cwd=tmp_path) == f"darkroom {VERSION}, interpreted\n"
    assert run(python, "-m", "darkroom", "--version", cwd=tmp_path) == f"darkroom {VERSION}, interpreted\n"
    file = run(python, "-c", "import darkroom.service as found; print(found.__file__)", cwd=tmp_path)
    assert Path(file.strip()).is_relative_to(python.parents[1])


def test_a_type_checker_sees_the_types(python: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text("from darkroom.batching.limits import Limits\nLimits(max_batch_images='many')\n")
    checker = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir=cache", "--python-executable", str(python)]
    done = subprocess.run([*checker, "user.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert 'Argument "max_batch_images" to "Limits" has incompatible type "str"; expected "int"' in done.stdout
    assert "Found 1 error" in done.stdout
