"""Take out of the image's Python packages what a server never opens, and say how much each saved.

Run once, in the Dockerfile's `trimmed` stage, by the Python whose packages it trims. Licences (`*.dist-info/licenses`,
`THIRD_PARTY_NOTICES`) stay wherever the code stays. `warm_up.py` runs after it and proves that what is left works.
"""  # noqa: INP001 - a program, not a package

import compileall
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

PACKAGES = Path(sysconfig.get_paths()["purelib"])

# The CUDA libraries, in the GPU image alone. They stay as their wheels bring them, and no library beside them is
# stripped: TensorFlow's own then holds CUDA kernels, and a build has no GPU on which a stripped one could be tried.
CUDA = "nvidia"

# Glob under site-packages → why nothing misses it. Sizes with TensorFlow 2.21 on x86-64.
DROPPED = {
    "tensorflow/include": "headers for compiling custom ops (287 MB)",
    "clang": "libclang: TensorFlow names it as a requirement, no file of a running server imports it (61 MB)",
    "libclang-*.dist-info": "its metadata, so that the list of packages stays true",
    "tensorflow/compiler/tf2xla/ops/_xla_ops.so": "registers ops that libtensorflow_cc has registered already (19 MB)",
    "tensorflow/compiler/mlir/stablehlo": "MLIR's Python bindings; graphs are compiled without them (26 MB)",
    "grpc": "only TensorFlow's remote debugger imports it (18 MB)",
    "grpcio-*.dist-info": "its metadata",
    "**/tests": "tests of numpy, h5py and others (9 MB)",
    "**/*.pyi": "for type checkers (3 MB)",
    "**/*.a": "for linkers",
    "setuptools": "installs packages; nothing is installed any more (4 MB)",
    "setuptools-*.dist-info": "its metadata",
    "_distutils_hack": "part of setuptools",
    "distutils-precedence.pth": "part of setuptools",
    "wheel": "builds packages",
    "wheel-*.dist-info": "its metadata",
}

# These two get the bytecode of the modules that `warm_up.py` loads, 37 MB where all of it is 48; the small packages
# get all of theirs. With none, importing TensorFlow took 9.0 s instead of 2.4 s on two cores, at every start, since the
# container's root file system is read-only.
BY_USE = {"tensorflow", "keras"}


def size_bytes(path: Path) -> int:
    """The bytes of a file, or of all files under a folder."""
    return sum(file.lstat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def drop(pattern: str) -> int:
    """Remove what the pattern names; the bytes saved."""
    saved_bytes = 0
    for path in sorted(PACKAGES.glob(pattern)):
        if not path.exists() or path.is_relative_to(PACKAGES / CUDA):
            continue  # inside a folder that went a moment ago, or NVIDIA's
        saved_bytes += size_bytes(path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return saved_bytes


def libraries() -> Iterator[Path]:
    """Shared libraries, but for `*.libs`: auditwheel moved their sections, which old versions of strip spoil.

    None beside CUDA's.
    """
    if (PACKAGES / CUDA).exists():
        return
    for path in sorted(PACKAGES.rglob("*.so*")):
        if path.is_file() and not path.is_symlink() and not path.parent.name.endswith(".libs"):
            yield path


def strip() -> int:
    """Remove the symbols that only a debugger reads: 175 MB of libtensorflow_cc alone; the bytes saved."""
    saved_bytes = 0
    for path in libraries():
        before = path.stat().st_size
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)  # noqa: S603, S607 - binutils of the build stage
        saved_bytes += before - path.stat().st_size
    return saved_bytes


def main() -> None:
    """Drop, strip, compile."""
    say(size_bytes(PACKAGES), "before")
    for pattern, why in DROPPED.items():
        say(-drop(pattern), f"{pattern}: {why}")
    say(-strip(), "symbols that only debuggers read")
    for path in sorted(PACKAGES.iterdir()):
        if path.is_dir() and path.name not in BY_USE:
            compileall.compile_dir(path, quiet=2)  # 2: a template that isn't Python is no error
    say(size_bytes(PACKAGES), "after, with bytecode")


def say(size: int, what: str) -> None:
    """One line of the build's log."""
    sys.stdout.write(f"{size / 1e6:9.1f} MB  {what}\n")


if __name__ == "__main__":
    main()
