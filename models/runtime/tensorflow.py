"""Imports TensorFlow, with the environment that must be set before, and holds the options of a session."""

# ruff: noqa: E402 - the environment and `hide_packages` must come before the imports

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

# Hides C++ INFO and WARNING lines (the CPU's instruction sets, no GPU found). Two INFO lines about oneDNN are logged
# before TensorFlow reads this.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Each session has its own threads, as many as its options say. Without this the first session of the process sizes one
# pool for all sessions. models/engines/sharded.py needs sessions of one thread next to others.
os.environ.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")

# A thread that calls oneDNN computes its own share of an op. Without this it wakes a thread of the session for each share
# and waits. Measured on 2 cores, a lone row of EfficientNet-Lite0 with a thread a core: 5.0 ms instead of 6.7.
os.environ.setdefault("TF_ONEDNN_THREADPOOL_USE_CALLER_THREAD", "1")

from darkroom.models.runtime.memory import is_jemalloc

# With jemalloc, the buffers of a call come from malloc instead of oneDNN's own pool: see models/runtime/memory.py.
if is_jemalloc():
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")


@contextmanager
def hide_packages(*packages: str) -> Iterator[None]:
    """Context manager that hides optional packages during an import, so that TensorFlow loads without Keras.

    Inside the block an import finds none of `packages`, as if they were not installed. Afterwards they import as usual.
    A package that is already imported stays visible.
    """
    hidden = [package for package in packages if package not in sys.modules]
    modules = cast("dict[str, Any]", sys.modules)
    modules.update(dict.fromkeys(hidden))  # None there makes an import fail
    try:
        yield
    finally:
        for package in hidden:
            del modules[package]


# TensorFlow imports Keras to register optimizers, and h5py and scipy for its own old Keras. Serving needs none of them.
# Measured after the import: 160 MB of private memory instead of 250, in two thirds of the time. `tf.keras` still imports
# Keras at its first use.
with hide_packages("keras", "h5py", "scipy"):
    import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, graph_pb2, tensor_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2
from tensorflow.python.framework import convert_to_constants, op_def_registry, tensor_util
from tensorflow.python.saved_model import loader_impl as saved_model_loader
from tensorflow.python.util import deprecation

from darkroom.models.errors import LoadFailed, instead_of

__all__ = [
    "SessionOptions",
    "attr_value_pb2",
    "config_pb2",
    "convert_to_constants",
    "deprecation",
    "graph_pb2",
    "meta_graph_pb2",
    "op_def_registry",
    "saved_model_loader",
    "saved_model_pb2",
    "tensor_pb2",
    "tensor_util",
    "tf",
]


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The options of a session.

    Thread counts of 0 are TensorFlow's choice, one per core. `inter_op_threads` of -1 runs every op in the calling
    thread, which is faster for the smallest models.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    log_device_placement: bool = False
    allow_soft_placement: bool = True
    allow_growth: bool = True  # a session takes GPU memory when it needs it, not all at the start
    per_process_gpu_memory_fraction: float = 0.0  # from 0 to 1; 0: no limit
    bf16: bool = False  # oneDNN computes convolutions and matrix products in bfloat16
    max_drift: float = 0.0  # largest change of an output value that bfloat16 may cause
    cpu_devices: int = 1  # number of logical devices that the CPU is divided into
    uses_gpus: bool = True  # False: the session uses no GPU, even if there is one
    is_optimized: bool = (
        False  # the graph was optimized before (models/rewriting/optimize.py); a CPU's session does not
    )

    def with_session_config(self, session_config: Mapping[str, Any]) -> "SessionOptions":
        """Returns the same options, overridden by Simple TensorFlow Serving's `session_config`.

        Raises:
            LoadFailed: a key is not one of the four that it has, or a value has the wrong type.
        """
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        for name, value in session_config.items():
            kinds = _SESSION_CONFIG.get(name)
            if kinds is None:
                raise LoadFailed(f"session_config: unknown key {name!r}{instead_of(name, _SESSION_CONFIG)}")
            if type(value) not in kinds:
                raise LoadFailed(f"session_config: {name} is {kinds[0].__name__}, not {value!r}")
            values[name] = value
        return SessionOptions(**values)

    def proto(self) -> Any:
        """Returns these options as TensorFlow's ConfigProto."""
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
        if self.is_optimized and not self.uses_gpus:
            rewrites.disable_meta_optimizer = True
            config.graph_options.place_pruned_graph = True  # else the session keeps the weights once more
        if self.bf16:
            rewrites.auto_mixed_precision_onednn_bfloat16 = type(rewrites).ON
        config.gpu_options.allow_growth = self.allow_growth
        # CPU outputs go to pinned memory, which a GPU can read. Without this TensorFlow copies them there first.
        config.gpu_options.force_gpu_compatible = self.uses_gpus
        config.gpu_options.per_process_gpu_memory_fraction = self.per_process_gpu_memory_fraction
        # Otherwise the session keeps a copy of each graph with its constants, for debuggers: 18 MB for EfficientNet-Lite0.
        config.experimental.disable_output_partition_graphs = True
        return config


_SESSION_CONFIG: dict[str, tuple[type, ...]] = {
    "log_device_placement": (bool,),
    "allow_soft_placement": (bool,),
    "allow_growth": (bool,),
    "per_process_gpu_memory_fraction": (float, int),
}
