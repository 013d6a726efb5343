"""TensorFlow, imported in one place: the settings that must stand before its import, and the settings of a session."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# C++ INFO and WARNING lines (the CPU's instruction sets, no GPU found) are no news to an operator. Two INFO lines about
# oneDNN come before TensorFlow reads this.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Each session has threads of its own, as many as it is told; else the first session of the process sizes one pool for
# all. models/engines/sharded.py wants sessions of one thread beside others.
os.environ.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")

# A thread that calls oneDNN does its own share of an op, where otherwise it would wake a thread of the session for each
# and wait. Measured on 2 cores, a lone row of EfficientNet-Lite0 with a thread a core: 5.0 ms instead of 6.7.
os.environ.setdefault("TF_ONEDNN_THREADPOOL_USE_CALLER_THREAD", "1")

from darkroom.models.runtime.hiding import hiding
from darkroom.models.runtime.memory import is_jemalloc

# Buffers of a call by malloc, not out of one pool of oneDNN's, where malloc is jemalloc: models/runtime/memory.py tells why.
if is_jemalloc():
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")

# It imports Keras to register optimizers, and for an old Keras of its own h5py and scipy where they are; serving needs
# none. Measured after the import: 160 MB of private memory instead of 250, in two thirds of the time. `tf.keras`
# imports Keras when it is asked for.
with hiding("keras", "h5py", "scipy"):
    import tensorflow as tf
from tensorflow.core.framework import graph_pb2, tensor_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2
from tensorflow.python.framework import convert_to_constants, op_def_registry
from tensorflow.python.util import deprecation

from darkroom.models.errors import LoadFailed

__all__ = [
    "SessionOptions",
    "config_pb2",
    "convert_to_constants",
    "deprecation",
    "graph_pb2",
    "meta_graph_pb2",
    "op_def_registry",
    "saved_model_pb2",
    "tensor_pb2",
    "tf",
]


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How sessions are set up.

    Threads: 0 is TensorFlow's choice (one a core); `inter_op_threads` -1 runs every op in the calling thread, which is
    quicker for the smallest models. A process has one intra-op and one inter-op pool: its first session sizes them.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    log_device_placement: bool = False
    allow_soft_placement: bool = True
    allow_growth: bool = True  # a session takes GPU memory as it needs it, not all at once
    per_process_gpu_memory_fraction: float = 0.0  # 0: no bound
    bf16: bool = False  # convolutions and products of matrices in bfloat16, by oneDNN
    max_drift: float = 0.0  # how far bfloat16 may move an output
    cpu_devices: int = 1  # logical devices that the one CPU is shown as
    uses_gpus: bool = True  # False: no GPU is touched, though there may be some

    def with_session_config(self, session_config: Mapping[str, Any]) -> "SessionOptions":
        """The same options with Simple TensorFlow Serving's `session_config` over them.

        Raises:
            LoadFailed: a key that is not one of its four, or a value of another kind.
        """
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        for name, value in session_config.items():
            kinds = _SESSION_CONFIG.get(name)
            if kinds is None:
                raise LoadFailed(f"session_config: unknown key {name!r}; there are: {', '.join(_SESSION_CONFIG)}")
            if type(value) not in kinds:
                raise LoadFailed(f"session_config: {name} is {kinds[0].__name__}, not {value!r}")
            values[name] = value
        return SessionOptions(**values)

    def proto(self) -> Any:
        """The ConfigProto."""
        config = config_pb2.ConfigProto(
            intra_op_parallelism_threads=self.intra_op_threads,
            inter_op_parallelism_threads=self.inter_op_threads,
            log_device_placement=self.log_device_placement,
            allow_soft_placement=self.allow_soft_placement,
        )
        config.device_count["CPU"] = self.cpu_devices
        if not self.uses_gpus:
            config.device_count["GPU"] = 0
        rewrites = config.graph_options.rewrite_options
        if self.bf16:
            rewrites.auto_mixed_precision_onednn_bfloat16 = type(rewrites).ON
        config.gpu_options.allow_growth = self.allow_growth
        # What the CPU writes is where a GPU can fetch it (pinned memory); without, TensorFlow copies it there first.
        config.gpu_options.force_gpu_compatible = self.uses_gpus
        config.gpu_options.per_process_gpu_memory_fraction = self.per_process_gpu_memory_fraction
        # A copy of each graph, constants and all, that only debuggers read: 18 MB of EfficientNet-Lite0.
        config.experimental.disable_output_partition_graphs = True
        return config


_SESSION_CONFIG: dict[str, tuple[type, ...]] = {
    "log_device_placement": (bool,),
    "allow_soft_placement": (bool,),
    "allow_growth": (bool,),
    "per_process_gpu_memory_fraction": (float, int),
}
