"""Where engines run: which devices a server asked for, and a graph's nodes on one of them, its decoding on the CPU."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from darkroom.models.engines.cpu_decode import find_front
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
    count: int = 1  # of its kind, that the session must have

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}"

    @property
    def float_bytes(self) -> int:
        """How exact its floats are at best; see models/rewriting/verify.py. A GPU multiplies in TF32."""
        return TF32 if self.kind == "gpu" else EXACT

    @property
    def path(self) -> str:
        """TensorFlow's name of it."""
        return f"/device:{self.kind.upper()}:{self.index}"


def resolve(wanted: str) -> tuple[Device, ...]:
    """The devices that `--device` names, one engine each: `auto` is every GPU, or the CPU where there is none.

    `cpu:N` divides nothing: it makes N logical devices of one CPU, which is for tests.

    Raises:
        LoadFailed: it is no such name, or TensorFlow sees no such GPU.
    """
    if re.fullmatch(PATTERN, wanted) is None:
        raise LoadFailed(f"--device={wanted!r} is none of auto, cpu, cpu:N, gpu, gpu:0,1")
    kind, _, numbers = wanted.partition(":")
    if kind == "cpu":
        count = int(numbers or 1)
        return tuple(Device("cpu", index, count) for index in range(count))
    seen = len(tf.config.list_physical_devices("GPU"))
    if kind == "auto":
        return tuple(Device("gpu", index, seen) for index in range(seen)) or (Device("cpu", 0),)
    indices = sorted({int(number) for number in numbers.split(",")}) if numbers else list(range(seen))
    if not indices or indices[-1] >= seen:
        raise LoadFailed(f"--device={wanted}: TensorFlow sees {seen or 'no'} GPU{'s' if seen > 1 else ''}")
    return tuple(Device("gpu", index, seen) for index in indices)


def place(graph_def: Any, device: Device, bindings: Iterable[Binding]) -> Any:
    """The graph with its nodes on `device`, but for those that judge and decode strings: they have CPU kernels only.

    A node that its author placed stays where it is. A graph for the one CPU is returned as it is.
    """
    if device.kind == "cpu" and device.count == 1:
        return graph_def
    on_cpu = decoding(graph_def, bindings) if device.kind == "gpu" else set()
    placed = graph_pb2.GraphDef()
    placed.CopyFrom(graph_def)
    for node in placed.node:
        node.device = node.device or ("/device:CPU:0" if node.name in on_cpu else device.path)
    return placed


def decoding(graph_def: Any, bindings: Iterable[Binding]) -> set[str]:
    """The names of the nodes that judge and decode strings, up to where all rows have come together (models/engines/cpu_decode.py).

    None where nothing is decoded, or behind a layer.
    """
    nodes: set[str] = set()
    for binding in bindings:
        try:
            nodes |= find_front(graph_def, binding)[1]
        except ValueError:  # nothing is decoded, or behind a layer: soft placement finds each op a kernel
            continue
    return nodes
