"""A job: what a child process is told to prepare, and the key under which its work is kept. No TensorFlow here."""

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from darkroom.models.errors import LoadFailed

_SOURCES = Path(__file__).parents[1]
_CPU = Path("/proc/cpuinfo")
_ELSEWHERE = frozenset({"path", "name", "version", "device"})  # what an artifact does not depend on


@dataclass(frozen=True, slots=True)
class Job:
    """A SavedModel to be prepared, and all that its preparation depends on."""

    path: Path
    name: str
    version: int
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    session_config: dict[str, Any] = field(default_factory=dict)
    custom_op_paths: tuple[Path, ...] = ()
    max_drift: float | None = None  # bfloat16 is tried, and may move an output by so much
    device: str = "auto"  # see models/engines/devices.py; the artifact is the same for all

    def dump(self) -> str:
        """The job on one line."""
        return json.dumps(asdict(self), default=lambda path: str(path.resolve()))

    @classmethod
    def parse(cls, line: str) -> Self:
        """The job of `dump`."""
        fields = json.loads(line)
        paths = tuple(map(Path, fields.pop("custom_op_paths")))
        return cls(path=Path(fields.pop("path")), custom_op_paths=paths, **fields)

    def key(self) -> str:
        """Equal for jobs that come to the same: the content of their files, their options, this code, this machine.

        The name, the number and the place of a version are not in it.

        Raises:
            LoadFailed: a file cannot be read.
        """
        options = {name: value for name, value in asdict(self).items() if name not in _ELSEWHERE}
        digest = hashlib.sha256(json.dumps(options, default=str, sort_keys=True).encode())
        digest.update("\n".join(_surroundings()).encode())
        try:
            for folder in (_SOURCES, *self.custom_op_paths, self.path):
                for file in sorted(folder.rglob("*.py" if folder is _SOURCES else "*")):
                    if file.is_file():
                        digest.update(f"\n{file.relative_to(folder)}\n".encode())
                        digest.update(_digest(file))
        except OSError as err:
            raise LoadFailed(f"its files cannot be read: {err.strerror}") from err
        return digest.hexdigest()


def _digest(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _surroundings() -> Iterator[str]:
    """What TensorFlow's answers hang on besides the model: its release, its switches, the CPU's instructions."""
    for package in ("tensorflow-cpu", "tensorflow"):
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    yield from (f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("TF_ENABLE_"))
    yield platform.machine()
    if _CPU.is_file():
        yield next((line for line in _CPU.read_text("ascii", "replace").splitlines() if line.startswith("flags")), "")
