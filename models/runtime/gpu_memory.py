"""What TensorFlow uses of a GPU's memory; imports it for a GPU only, where an engine has imported it already."""

from collections.abc import Callable, Mapping

KINDS = ("current", "peak")


def device_memory(device: str, *, ask: Callable[[str], Mapping[str, int]] | None = None) -> dict[str, int]:
    """Bytes by kind: `current`, and `peak` since the start of the process; {} where TensorFlow doesn't count them.

    It doesn't on a CPU, and for one it is neither asked nor imported. To be called once a session is open on the
    device: what comes first decides whether TensorFlow takes the whole GPU, and this would say yes. The first call
    blocks, as TensorFlow sets its eager context up.

    Args:
        device: as the engines' devices are named: "gpu:0".
        ask: the stand-in of a test; else TensorFlow.
    """
    if not device.startswith("gpu:"):
        return {}
    known = (ask or _ask_tensorflow)(device.upper())
    return {kind: known[kind] for kind in KINDS if kind in known}


def _ask_tensorflow(device: str) -> Mapping[str, int]:
    from darkroom.models.runtime.tensorflow import tf  # noqa: PLC0415 - seconds, where nothing runs on a GPU

    try:
        info: Mapping[str, int] = tf.config.experimental.get_memory_info(device)
    except (ValueError, RuntimeError, tf.errors.OpError):  # no such device, or one whose memory is not tracked
        return {}
    return info
