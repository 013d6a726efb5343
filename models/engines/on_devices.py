"""What stands on the devices: a session of the graph on each, and the fronts on the cores beside them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from darkroom.models.engine import Engine
from darkroom.models.engines.cpu_decode import Cores, find_joints, with_front
from darkroom.models.engines.devices import Device, place
from darkroom.models.engines.joint import Joint, with_joints
from darkroom.models.rewriting.artifact import Artifact
from darkroom.models.rewriting.rewriter import open_session
from darkroom.models.runtime.session import SessionEngine
from darkroom.models.runtime.tensorflow import SessionOptions, graph_pb2


def joints_for(artifact: Artifact, options: SessionOptions, devices: Sequence[Device]) -> dict[str, Joint]:
    """What is put into the graph for its fronts."""
    if not _have_fronts(artifact, options, devices):
        return {}
    graph_def = graph_pb2.GraphDef.FromString(artifact.graph)
    return find_joints(graph_def, artifact.bindings.values(), cores_for(options))


def put_fronts(
    replicas: Mapping[str, dict[str, Engine]],
    artifact: Artifact,
    options: SessionOptions,
    devices: Sequence[Device],
    joints: Mapping[str, Joint],
) -> Cores | None:
    """Puts engines with their front on the CPU's cores in the place of those that they beat; the threads, or None."""
    if not _have_fronts(artifact, options, devices):
        return None
    graph_def = graph_pb2.GraphDef.FromString(artifact.graph)
    cores, is_used = Cores(cores_for(options)), False
    for device in devices:
        each = {name: replicas[name][str(device)] for name in artifact.bindings}
        whole = {name: engine for name, engine in each.items() if isinstance(engine, SessionEngine)}
        fronted = with_front(
            whole, graph_def, artifact.bindings, artifact.samples, cores, joints=joints, float_bytes=device.float_bytes
        )
        for name, engine in fronted.items():
            replicas[name][str(device)] = engine
            is_used = True
    if is_used:
        return cores
    cores.close()
    return None


def _have_fronts(artifact: Artifact, options: SessionOptions, devices: Sequence[Device]) -> bool:
    """Not on the one CPU: there the layers run on the same cores, and shards do better (models/engines/sharded.py)."""
    return bool(artifact.graph) and tuple(devices) != (Device("cpu", 0),) and cores_for(options) > 1


def cores_for(options: SessionOptions) -> int:
    """The cores that a session's calls may use."""
    return options.intra_op_threads or os.cpu_count() or 1


def session_on(device: Device, artifact: Artifact, options: SessionOptions, joints: Mapping[str, Joint]) -> Any:
    """A session of the artifact's graph, placed on the device."""
    graph_def = place(graph_pb2.GraphDef.FromString(artifact.graph), device, artifact.bindings.values())
    if joints:
        graph_def = with_joints(graph_def, joints.values(), device.path)
    return open_session(graph_def, options_on(device, options))


def options_on(device: Device, options: SessionOptions) -> SessionOptions:
    """The options of a session on the device: for a CPU it sees no GPU."""
    if device.kind == "gpu":
        return options
    return replace(options, cpu_devices=device.count, uses_gpus=False)
