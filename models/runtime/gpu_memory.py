"""Reads how much GPU memory TensorFlow uses. For a CPU, TensorFlow is not imported."""

from collections.abc import Callable, Mapping

KINDS = ("current", "peak")


def device_memory(device: str, *, ask: Callable[[str], Mapping[str, int]] | None = None) -> dict[str, int]:
    """Returns bytes by kind: `current`, and `peak` since the start of the process; {} where they are not counted.

    TensorFlow does not count the memory of a CPU. Call this only after a session is open on the device: the first use
    of a GPU decides whether TensorFlow takes its whole memory, and this call would take it. The first call blocks while
    TensorFlow sets up its eager context.

    Args:
        device: an engine's device, such as "gpu:0".
        ask: replaces TensorFlow in tests.
    """
    if not device.startswith("gpu:"):
        return {}
    known = (ask or _ask_tensorflow)(device.upper())
    return {kind: known[kind] for kind in KINDS if kind in known}


def _ask_tensorflow(device: str) -> Mapping[str, int]:
    from darkroom.models.runtime.tensorflow import tf  # noqa: PLC0415 - seconds, where nothing runs on a GPU

    try:
        info: Mapping[str, int] = tf.config.experimental.get_memory_info(device)
    except (ValueError, RuntimeError, tf.errors.OpError):  # no such device, or its memory is not tracked
        return {}
    return info
