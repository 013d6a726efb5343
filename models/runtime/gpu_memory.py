"""How much of a GPU's memory TensorFlow uses. Imports it for a GPU only, where an engine has imported it already."""

from collections.abc import Callable, Mapping

KINDS = ("current", "peak")


def device_memory(device: str, *, ask: Callable[[str], Mapping[str, int]] | None = None) -> dict[str, int]:
    """Bytes by kind: `current`, and `peak` since the start of the process; {} where TensorFlow does not count them.

    TensorFlow counts no memory of a CPU, so for a CPU it is neither asked nor imported. Call this once a session is
    open on the device: the first use decides whether TensorFlow takes the whole GPU, and this one would take it. The
    first call blocks while TensorFlow sets up its eager context.

    Args:
        device: as the engines' devices are named: "gpu:0".
        ask: a test's stand-in for TensorFlow's `get_memory_info`.
    """
    if not device.startswith("gpu:"):
        return {}
    if ask is not None:
        known = ask(device.upper())
    else:
        from darkroom.models.runtime.tensorflow import tf  # noqa: PLC0415 - seconds, where nothing runs on a GPU

        try:
            known = tf.config.experimental.get_memory_info(device.upper())
        except (ValueError, RuntimeError, tf.errors.OpError):  # no such device, or its memory is not counted
            return {}
    return {kind: known[kind] for kind in KINDS if kind in known}
