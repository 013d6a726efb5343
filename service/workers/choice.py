"""How many processes `--workers=auto` serves with: as many as the cores can use, where the event loop is the bound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from darkroom.service.serving.registry import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from darkroom.service.serving.registry import Registry
    from darkroom.service.serving.servable import Target

# What a JSON request with a picture of 28x28 takes the event loop without its engine, in seconds of a core: compiled or
# not. Measured (docs/decisions/0041-auto.md). Another machine is quicker or slower with the engine as well.
LOOP_S = {True: 70e-6, False: 95e-6}
BUSY = 0.75  # guess: what a loop may have to do and still answer at once
MAX_WORKERS = 16  # guess: who wants more says so
MEMORY_SHARE = 0.5  # guess: of the free memory for the further processes; the rest is for their start, bodies and swaps
MAX_BYTES = 1 << 30  # guess: a process that takes more is not doubled unasked
UNKNOWN = "the warm-up ran no model"
GPU = "the models run on a GPU, whose memory one process may take whole"
ENGINE = "the engine is the bound, not the event loop"
LOOP = "the event loop would be the bound"
MEMORY = "the event loop would be the bound, but there is too little memory for more processes"


class Choice(NamedTuple):
    """What was chosen, and why.

    Attributes:
        workers: the number of processes, the first one included.
        reason: for people.
        fields: the figures, for the log.
    """

    workers: int
    reason: str
    fields: dict[str, object]


class Resources(NamedTuple):
    """What there is, and what one process takes of it.

    Attributes:
        cores: that all processes together may use.
        own_bytes: the memory of one process that it shares with no other.
        free_bytes: the memory that further processes may take.
        is_compiled: whether the modules of the request path are.
    """

    cores: int
    own_bytes: int
    free_bytes: int
    is_compiled: bool


def choose_workers(row_s: Mapping[str, float], resources: Resources) -> Choice:
    """The number of processes with which the cores are full and no event loop is busier than BUSY.

    If all cores are full, loops and engines share them as a request does. So the loops together take
    `cores * loop_s / (loop_s + row_s)` cores, and each can take one. Of several models the cheapest counts: the one whose
    event loop is the bound.

    Args:
        row_s: the seconds of a core that the engine of each model takes for a small row.
        resources: its cores and memory.
    """
    loop_s = LOOP_S[resources.is_compiled]
    model, cheapest_s = min(row_s.items(), key=lambda item: item[1], default=("", math.inf))
    loops = resources.cores * loop_s / (loop_s + cheapest_s)
    wanted = max(1, min(math.ceil(loops / BUSY), resources.cores, MAX_WORKERS))
    more = int(MEMORY_SHARE * resources.free_bytes // resources.own_bytes) if resources.own_bytes else MAX_WORKERS
    workers = min(wanted, 1 + more) if resources.own_bytes <= MAX_BYTES else 1
    if cheapest_s == math.inf:
        return Choice(1, UNKNOWN, {})
    engine_us, loop_us = round(cheapest_s * 1e6), round(loop_s * 1e6)
    fields: dict[str, object] = {"cores": resources.cores, "model": model, "engine_us": engine_us, "loop_us": loop_us}
    if wanted > 1:
        fields |= {"process_mb": resources.own_bytes >> 20, "free_mb": resources.free_bytes >> 20}
    return Choice(workers, ENGINE if wanted == 1 else LOOP if workers > 1 else MEMORY, fields)


def choose_for(registry: Registry, resources: Resources) -> Choice:
    """`choose_workers` for the models that are served, each by the version and signature that a request means by itself."""
    usual = {name: _usual(registry.version(name).values()) for name in registry.models() if registry.versions(name)}
    if any(device.startswith("gpu") for target in usual.values() for device in target.metrics.device_batches):
        return Choice(1, GPU, {})
    return choose_workers({name: target.row_s for name, target in usual.items()}, resources)


def _usual(targets: Iterable[Target]) -> Target:
    """The default signature, or the one that costs the most."""
    return max(targets, key=lambda target: (target.spec.name == DEFAULT_SIGNATURE, target.row_s))
