"""Properties of the GPU image and its compose file, as far as they can be checked without a GPU."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from darkroom.service.config.settings import Settings

ROOT = Path(__file__).parents[3]
BASE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
OVER: dict[str, Any] = yaml.safe_load((ROOT / "deploy/docker-compose.gpu.yml").read_text(encoding="utf-8"))
SERVER: dict[str, Any] = OVER["services"]["server"]


def requirements(name: str) -> set[str]:
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def pins(name: str) -> dict[str, set[str]]:
    """Each package of a pinned file with its versions (more than one where it depends on Python's)."""
    found: dict[str, set[str]] = {}
    for line in requirements(name):
        if match := re.match(r"([a-z0-9-]+)==(\S+)", line):
            found.setdefault(match[1], set()).add(match[2])
    return found


def test_the_server_alone_is_changed_and_in_nothing_that_closes_it() -> None:
    assert list(OVER) == ["services"]
    assert list(OVER["services"]) == ["server"]
    assert set(SERVER) == {"build", "image", "environment", "deploy"}


def test_it_builds_the_gpus_image_under_a_name_of_its_own() -> None:
    assert SERVER["build"] == {"target": "gpu"}
    assert " AS gpu\n" in (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    assert SERVER["image"] != BASE["services"]["server"]["image"]


def test_nvidias_devices_are_reserved_and_each_that_is_seen_is_used() -> None:
    (device,) = SERVER["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "${SERVER_GPUS:-all}", "capabilities": ["gpu"]}
    assert SERVER["environment"]["DARKROOM_DEVICE"] == "${SERVER_DEVICE:-auto}"


def test_every_variable_of_the_server_is_a_setting() -> None:
    names = {name for name in SERVER["environment"] if name.startswith("DARKROOM_")}
    assert {name.removeprefix("DARKROOM_").lower() for name in names} <= set(Settings.model_fields)


def test_what_the_driver_compiles_is_kept_where_the_server_may_write() -> None:
    server = BASE["services"]["server"]
    writable = dict(mount.split(":") for mount in server["volumes"] if not mount.endswith(":ro"))
    assert writable == {"cache": server["environment"]["DARKROOM_CACHE_DIR"]}
    assert Path(SERVER["environment"]["CUDA_CACHE_PATH"]).parent == Path(writable["cache"])


def test_the_gpus_requirements_are_the_servers_but_for_tensorflow() -> None:
    serve = {line for line in requirements("serve.in") if not line.startswith("tensorflow")}
    tensorflow = "tensorflow[and-cuda]==2.21.*"
    assert requirements("gpu.in") == {"-c serve.txt", tensorflow, *serve}
    assert any(line.startswith("tensorflow-cpu==2.21.*;") for line in requirements("serve.in"))


def test_the_gpus_packages_have_the_servers_versions_and_cuda_besides() -> None:
    serve, gpu = pins("serve.txt"), pins("gpu.txt")
    assert serve.pop("tensorflow-cpu") == gpu["tensorflow"]
    assert {name: gpu.get(name) for name in serve} == serve
    more = set(gpu) - set(serve)
    assert {"nvidia-cudnn-cu12", "nvidia-cublas-cu12", "nvidia-cuda-nvcc-cu12"} <= more
    assert all(name.startswith("nvidia-") for name in more)


@pytest.mark.parametrize("name", ["serve", "gpu"])
def test_every_package_is_pinned_with_hashes_and_no_file_names_a_host(name: str) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8")
    assert all(re.search(r"==\S+.*\\$", line) for line in text.splitlines() if re.match(r"[a-z]", line))
    assert len(re.findall(r"--hash=sha256:", text)) > len(pins(f"{name}.txt"))
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text)
