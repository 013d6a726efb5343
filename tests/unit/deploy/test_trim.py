"""What `deploy/trim.py` removes from an image's packages, and that it does not change CUDA; run in a small venv."""

import os
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIBRARY = "tensorflow/libtensorflow_cc.so.2"
PACKAGES = {LIBRARY, "tensorflow/include/a.h", "numpy/tests/test_a.py", "numpy/a.py", "numpy.libs/libblas.so"}
CUDA = {
    "nvidia/cublas/lib/libcublas.so.12",
    "nvidia/cuda_nvcc/bin/ptxas",
    "nvidia/cuda_nvcc/nvvm/libdevice/libdevice.10.bc",
    "nvidia/cuda_runtime/lib/libcudadevrt.a",
    "nvidia/cudnn/tests/kernel.bin",
}


@pytest.fixture
def python(tmp_path: Path) -> Path:
    venv.create(tmp_path / "venv")
    return tmp_path / "venv/bin/python"


def trim(python: Path, tools: Path, files: set[str]) -> dict[str, str]:
    """The files that are left of `files`, and what is in them; `strip` is a program that says so in its argument."""
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    for name in files:
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text("# whole")
    (tools / "strip").write_text('#!/bin/sh\necho "# stripped" > "$2"\n')
    (tools / "strip").chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run([python, ROOT / "deploy/trim.py"], env=environment, check=True, capture_output=True, timeout=60)
    return {name: (packages / name).read_text().strip() for name in files if (packages / name).exists()}


def test_the_cpus_libraries_are_stripped_and_what_no_server_opens_goes(python: Path, tmp_path: Path) -> None:
    left = trim(python, tmp_path, PACKAGES)
    assert left == {LIBRARY: "# stripped", "numpy/a.py": "# whole", "numpy.libs/libblas.so": "# whole"}


def test_with_cuda_nothing_is_stripped_and_nothing_of_cuda_is_removed(python: Path, tmp_path: Path) -> None:
    left = trim(python, tmp_path, PACKAGES | CUDA)
    assert set(left) == {LIBRARY, "numpy/a.py", "numpy.libs/libblas.so"} | CUDA
    assert set(left.values()) == {"# whole"}
