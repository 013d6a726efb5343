"""Where engines run: the devices that `--device` names, and a graph's nodes placed on one of them."""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from darkroom.models.engines.cpu_decode import find_decode_stage
from darkroom.models.errors import LoadFailed
from darkroom.models.rewriting.verify import EXACT, TF32
from darkroom.models.runtime.session import Binding
from darkroom.models.runtime.tensorflow import graph_pb2, tf

PATTERN = r"auto|cpu(:[1-9][0-9]?)?|gpu(:[0-9]+(,[0-9]+)*)?"


@dataclass(frozen=True, slots=True)
class Device:
    """One device of this process: `kind` is "cpu" or "gpu"."""

    kind: str
    index: int
    count: int = 1  # devices of this kind that the session must have

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}"

    @property
    def float_bytes(self) -> int:
        """How exact its floats are at best; see models/rewriting/verify.py. A GPU multiplies in TF32."""
        return TF32 if self.kind == "gpu" else EXACT

    @property
    def path(self) -> str:
        """TensorFlow's name for it."""
        return f"/device:{self.kind.upper()}:{self.index}"


def resolve(wanted: str, *, gpus: int | None = None) -> tuple[Device, ...]:
    """The devices that `--device` names, for one engine each. `auto` is every GPU, or the CPU where there is none.

    `cpu:N` makes N logical devices of the one CPU and divides nothing: it is for tests.

    Args:
        wanted: `auto`, `cpu`, `cpu:N`, `gpu` or `gpu:0,1`.
        gpus: how many there are; None: as many as TensorFlow sees.

    Raises:
        LoadFailed: `wanted` is none of these, or TensorFlow sees no such GPU.
    """
    if re.fullmatch(PATTERN, wanted) is None:
        raise LoadFailed(f"--device={wanted!r} is none of auto, cpu, cpu:N, gpu, gpu:0,1")
    kind, _, numbers = wanted.partition(":")
    if kind == "cpu":
        count = int(numbers or 1)
        return tuple(Device("cpu", index, count) for index in range(count))
    seen = len(tf.config.list_physical_devices("GPU")) if gpus is None else gpus
    if kind == "auto":
        return tuple(Device("gpu", index, seen) for index in range(seen)) or (Device("cpu", 0),)
    indices = sorted({int(number) for number in numbers.split(",")}) if numbers else list(range(seen))
    if not indices or indices[-1] >= seen:
        raise LoadFailed(f"--device={wanted}: TensorFlow sees {seen or 'no'} GPU{'s' if seen > 1 else ''}")
    return tuple(Device("gpu", index, seen) for index in indices)


def place(graph_def: Any, device: Device, bindings: Iterable[Binding]) -> Any:
    """The graph with its nodes on `device`.

    On a GPU, the decode stage (models/engines/cpu_decode.py) goes to the CPU: string ops have CPU kernels only. A node
    that its author placed stays where it is. A graph for the one CPU is returned as it is.
    """
    if device.kind == "cpu" and device.count == 1:
        return graph_def
    on_cpu: set[str] = set()
    for binding in bindings if device.kind == "gpu" else ():
        with contextlib.suppress(ValueError):  # nothing to decode, or after a layer: soft placement finds the kernels
            on_cpu |= find_decode_stage(graph_def, binding)[1]
    placed = graph_pb2.GraphDef()
    placed.CopyFrom(graph_def)
    for node in placed.node:
        node.device = node.device or ("/device:CPU:0" if node.name in on_cpu else device.path)
    return placed
