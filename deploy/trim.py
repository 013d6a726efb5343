"""Removes files that a server never opens from the image's Python packages, and prints how much each removal saved.

The Dockerfile's `trimmed` stages run it once, with the Python whose packages it trims. Licences
(`*.dist-info/licenses`, `THIRD_PARTY_NOTICES`) stay with their code. `warm_up.py` runs afterwards and proves that the
remaining files work.
"""  # noqa: INP001 - a program, not a package

import compileall
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

PACKAGES = Path(sysconfig.get_paths()["purelib"])

# The CUDA libraries, only in the GPU image. They are not changed, and no other library of that image is stripped:
# TensorFlow's own library contains CUDA kernels there, and a build has no GPU to test a stripped one on.
CUDA = "nvidia"

# Glob below site-packages → why no server needs it. Sizes are those of TensorFlow 2.21 on x86-64.
DROPPED = {
    "tensorflow/include": "headers for compiling custom ops (287 MB)",
    "clang": "libclang: a requirement of TensorFlow that no file of a running server imports (61 MB)",
    "libclang-*.dist-info": "its metadata, so that the list of packages stays correct",
    "tensorflow/compiler/tf2xla/ops/_xla_ops.so": "registers ops that libtensorflow_cc registers too (19 MB)",
    "tensorflow/compiler/mlir/stablehlo": "MLIR's Python bindings; compiling graphs does not need them (26 MB)",
    "grpc": "only TensorFlow's remote debugger imports it (18 MB)",
    "grpcio-*.dist-info": "its metadata",
    "**/tests": "tests of numpy, h5py and others (9 MB)",
    "**/*.pyi": "for type checkers (3 MB)",
    "**/*.a": "for linkers",
    "setuptools": "installs packages; the final image installs none (4 MB)",
    "setuptools-*.dist-info": "its metadata",
    "_distutils_hack": "part of setuptools",
    "distutils-precedence.pth": "part of setuptools",
    "wheel": "builds packages",
    "wheel-*.dist-info": "its metadata",
}

# For these two packages only the modules that `warm_up.py` loads get bytecode: 37 MB instead of 48 MB. All other
# packages are compiled completely. Without bytecode, importing TensorFlow took 9.0 s instead of 2.4 s on two cores, at
# every start, because the container's root file system is read-only.
BY_USE = {"tensorflow", "keras"}


def size_bytes(path: Path) -> int:
    """Returns the bytes of a file, or of all files below a folder."""
    return sum(file.lstat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def drop(pattern: str) -> int:
    """Removes the files and folders that match the pattern; returns the bytes saved."""
    saved_bytes = 0
    for path in sorted(PACKAGES.glob(pattern)):
        if not path.exists() or path.is_relative_to(PACKAGES / CUDA):
            continue  # inside a folder that was just removed, or one of CUDA's
        saved_bytes += size_bytes(path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return saved_bytes


def libraries() -> Iterator[Path]:
    """Yields the shared libraries that can be stripped; none in an image with CUDA.

    Those in `*.libs` are left out: auditwheel moved their sections, and old versions of strip damage them.
    """
    if (PACKAGES / CUDA).exists():
        return
    for path in sorted(PACKAGES.rglob("*.so*")):
        if path.is_file() and not path.is_symlink() and not path.parent.name.endswith(".libs"):
            yield path


def strip() -> int:
    """Removes symbols that only a debugger reads, 175 MB of libtensorflow_cc alone; returns the bytes saved."""
    saved_bytes = 0
    for path in libraries():
        before = path.stat().st_size
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)  # noqa: S603, S607 - binutils of the build stage
        saved_bytes += before - path.stat().st_size
    return saved_bytes


def main() -> None:
    """Removes files, strips libraries, compiles bytecode."""
    say(size_bytes(PACKAGES), "before")
    for pattern, why in DROPPED.items():
        say(-drop(pattern), f"{pattern}: {why}")
    say(-strip(), "symbols that only debuggers read")
    for path in sorted(PACKAGES.iterdir()):
        if path.is_dir() and path.name not in BY_USE:
            compileall.compile_dir(path, quiet=2)  # 2: no error for templates that are not Python
    say(size_bytes(PACKAGES), "after, with bytecode")


def say(size: int, what: str) -> None:
    """Writes one line of the build's log."""
    sys.stdout.write(f"{size / 1e6:9.1f} MB  {what}\n")


if __name__ == "__main__":
    main()
