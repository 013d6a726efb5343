"""The SavedModel in another server's worker, called in one of two ways: as TensorFlow's guide does, or by a session.

Runs in that server's environment, with numpy and TensorFlow but without Darkroom.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf

Answer = dict[str, Any]  # output → ndarray[n, …]
FOLDER, WAY = "PEER_MODEL", "PEER_ENGINE"  # variables: the version folder, and `signature` or `session`


def open_model() -> Callable[[Sequence[bytes]], Answer]:
    """Returns a function from `images: bytes[n]`, encoded as the graph wants them, to every output of the batch."""
    return {"signature": _signature, "session": _session}[os.environ.get(WAY, "signature")](os.environ[FOLDER])


def _signature(folder: str) -> Callable[[Sequence[bytes]], Answer]:
    """Opens the model by `tf.saved_model.load(...).signatures[...]`, the documented way."""
    model = tf.saved_model.load(folder)
    signature = model.signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]

    def call(images: Sequence[bytes]) -> Answer:
        assert model is not None  # noqa: S101 - it owns the variables and must outlive the signature
        return {key: value.numpy() for key, value in signature(**{name: tf.constant(_array(images))}).items()}

    return call


def _session(folder: str) -> Callable[[Sequence[bytes]], Answer]:
    """Opens the model in a TF1 session: without eager dispatch, the fastest call of TensorFlow's public interface."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], folder)
    signature = meta_graph.signature_def["serving_default"]
    (fed,) = signature.inputs.values()
    fetched = {name: info.name for name, info in sorted(signature.outputs.items())}
    run = session.make_callable(list(fetched.values()), feed_list=[fed.name])

    def call(images: Sequence[bytes]) -> Answer:
        return dict(zip(fetched, run(_array(images)), strict=True))

    return call


def _array(images: Sequence[bytes]) -> Any:
    """Returns an array of strings for TensorFlow, which drops trailing zero bytes of strings in a list."""
    array = np.empty(len(images), dtype=object)
    array[:] = images
    return array
