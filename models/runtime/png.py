"""Writes PNG by TensorFlow's own encoder, in a session that is made for the first picture."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from darkroom.models.runtime.session import make_callable
from darkroom.models.runtime.tensorflow import SessionOptions, tf

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

_OPTIONS = SessionOptions(intra_op_threads=1, inter_op_threads=-1, uses_gpus=False)  # runs in the calling thread


def encode_png(pixels: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    """Returns a PNG file. `pixels` is `uint8` or `uint16` of `[height, width, 1, 3 or 4]`; any thread may call this."""
    return bytes(_encoders()[pixels.dtype.name](pixels)[0])


@cache
def _encoders() -> dict[str, Callable[[Any], Any]]:
    """An encoder for each dtype."""
    with tf.Graph().as_default() as graph:
        pixels = {name: tf.compat.v1.placeholder(name, [None, None, None]) for name in ("uint8", "uint16")}
        files = {name: tf.io.encode_png(each) for name, each in pixels.items()}
    session = tf.compat.v1.Session(graph=graph, config=_OPTIONS.proto())
    return {name: make_callable(session, [pixels[name].name], [files[name].name]) for name in pixels}
