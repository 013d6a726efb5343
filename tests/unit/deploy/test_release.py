"""What a release consists of: the image's labels, the list of its packages, wheels for arm64, and the unit of systemd."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from darkroom.service.config.settings import Settings

ROOT = Path(__file__).parents[3]
TOOLS = ROOT / ".bench/release/bin"
UNIT = ROOT / "deploy/systemd/darkroom.service"
has_tools = pytest.mark.skipif(not TOOLS.exists(), reason="its tools are not installed (make .bench/release.done)")
has_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


LOCKS = "".join(
    (ROOT / name).read_text(encoding="utf-8") for name in ("requirements/serve.txt", "requirements/stores.txt")
)


def pins(machine: str) -> set[str]:
    """The packages of the lock files, as name==version, that an image for this machine has."""
    lines = re.findall(r"^([\w.-]+==[^\\\n]+)", LOCKS, re.MULTILINE)
    here = {
        "platform_machine": machine,
        "sys_platform": "linux",
        "python_version": "3.12",
        "python_full_version": "3.12.0",
    }
    found = [Requirement(line) for line in lines]
    return {f"{each.name}{each.specifier}" for each in found if each.marker is None or each.marker.evaluate(here)}


def test_the_image_is_labelled_with_its_version_and_the_commit_that_it_was_built_from() -> None:
    variables = ["IMAGE=registry.example/darkroom", "TARGET=gpu", "DOCKER_FLAGS=--push"]
    command = ["make", "--dry-run", "--silent", "image", *variables]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    (_, build) = printed.replace("\\\n", "").rsplit("docker build", 1)
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    assert f"--tag registry.example/darkroom:{version[1]} " in build
    assert "--target gpu" in build
    assert build.rstrip().endswith("--push .")
    assert {name for name, _ in re.findall(r"org\.opencontainers\.image\.(\w+)=(\S+)", build)} == {
        "version",
        "revision",
        "created",
    }
    assert f"image.version={version[1]}" in build


@has_tools
def test_the_list_of_packages_is_that_of_the_lock_files_on_the_image_s_machine_with_their_hashes(
    tmp_path: Path,
) -> None:
    command = [sys.executable, str(ROOT / "deploy/packages.py"), "sbom", str(tmp_path / "sbom.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    document = json.loads((tmp_path / "sbom.json").read_text(encoding="utf-8"))
    assert (document["bomFormat"], document["metadata"]["component"]["name"]) == ("CycloneDX", "darkroom")
    listed = {f"{each['name']}=={each['version']}": each for each in document["components"]}
    assert set(listed) == pins("x86_64")
    assert "tensorflow-cpu" in {each["name"] for each in listed.values()}
    assert all(each["externalReferences"][0]["hashes"] for each in listed.values())


def test_every_package_of_the_image_has_a_wheel_for_arm64() -> None:
    lines = (ROOT / "deploy/arm64_wheels.txt").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split() for line in lines]
    assert {pin for pin, *_ in rows} == pins("aarch64")  # else: make requirements
    for pin, wheel, digest in rows:
        assert re.search(r"-(any|\w*aarch64[\w.]*)\.whl$", wheel), pin
        assert digest in LOCKS


@has_systemd
def test_systemd_takes_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/darkroom/bin/darkroom", shutil.which("true") or ""))
    for command in ("verify --man=no", "security --no-pager --offline=yes --threshold=20"):  # 2.0 of 10
        words = ["systemd-analyze", *command.split(), str(unit)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""


def test_the_unit_gives_the_server_the_time_that_its_drain_takes() -> None:
    text = UNIT.read_text(encoding="utf-8")
    found = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert found
    settings = Settings()
    assert int(found[1]) > (settings.drain_delay_ms + settings.drain_timeout_ms) / 1000 + 4
    names = re.findall(r"\bDARKROOM_([A-Z_]+)=", text)
    assert {name.lower() for name in names} <= set(Settings.model_fields)
