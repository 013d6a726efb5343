"""The job of a child process: what it prepares, and the cache key of the result. Imports no TensorFlow."""

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

TRYING = "darkroom.trying"  # the logger that names each signature before a child runs it
_SOURCES = Path(__file__).parents[1]
_CPU = Path("/proc/cpuinfo")
_DEVICES = Path("/dev")
_NOT_IN_KEY = frozenset({"path", "name", "version", "device", "refused"})  # the artifact does not depend on these


@dataclass(frozen=True, slots=True)
class Job:
    """A SavedModel to prepare, and the options that its preparation depends on."""

    path: Path
    name: str
    version: int
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    session_config: dict[str, Any] = field(default_factory=dict)
    custom_op_paths: tuple[Path, ...] = ()
    max_drift: float | None = None  # largest change that bfloat16 may cause; None: bfloat16 is not tried
    pictures: dict[str, Any] | None = None  # the decode front to put in, see Preprocess; None: none
    device: str = "auto"  # see models/engines/devices.py; the artifact depends on it only in whether it may be a GPU
    refused: dict[str, str] = field(
        default_factory=dict
    )  # signatures that ended a child, and how; they are not tried again

    def dump(self) -> str:
        """Returns the job as one line of JSON."""
        return json.dumps(asdict(self), default=lambda path: str(path.resolve()))

    @classmethod
    def parse(cls, line: str) -> Self:
        """Reads what `dump` returned."""
        fields = json.loads(line)
        paths = tuple(map(Path, fields.pop("custom_op_paths")))
        return cls(path=Path(fields.pop("path")), custom_op_paths=paths, **fields)

    def may_use_gpus(self) -> bool:
        """Whether the version may run on a GPU of this machine."""
        return self.device.startswith("gpu") or (self.device == "auto" and any(_DEVICES.glob("nvidia[0-9]*")))

    def key(self) -> str:
        """Returns a digest of all that the artifact depends on: the files' content, options, this code, this machine.

        The name, the number and the path of the version are not part of it.

        Raises:
            LoadFailed: a file cannot be read.
        """
        options = {name: value for name, value in asdict(self).items() if name not in _NOT_IN_KEY}
        options["may_use_gpus"] = self.may_use_gpus()
        digest = hashlib.sha256(json.dumps(options, default=str, sort_keys=True).encode())
        digest.update("\n".join(_environment()).encode())
        try:
            for folder in (_SOURCES, *self.custom_op_paths, self.path):
                for file in sorted(folder.rglob("*.py" if folder is _SOURCES else "*")):
                    if file.is_file():
                        digest.update(f"\n{file.relative_to(folder)}\n".encode("utf-8", "surrogateescape"))
                        digest.update(_digest(file))
        except OSError as err:
            raise LoadFailed(f"its files cannot be read: {err.strerror}") from err
        return digest.hexdigest()


def _digest(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _environment() -> Iterator[str]:
    """Yields what TensorFlow's answers depend on besides the model: its version, its switches, the CPU's instructions."""
    for package in ("tensorflow-cpu", "tensorflow"):
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    yield from (f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("TF_ENABLE_"))
    yield platform.machine()
    if _CPU.is_file():
        yield next((line for line in _CPU.read_text("ascii", "replace").splitlines() if line.startswith("flags")), "")
