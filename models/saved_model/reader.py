"""Reads a SavedModel on disk: its meta graph, its signatures as specs, its labels. Runs nothing."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict

from darkroom.models.errors import LoadFailed
from darkroom.models.runtime.tensorflow import saved_model_pb2, tf
from darkroom.models.saved_model import FILE_NAME
from darkroom.models.spec import DTYPES, REF_OFFSET, SignatureSpec, TensorSpec

SERVE = "serve"
LABELS = Path("assets.extra") / "labels.txt"
_INTERNAL = frozenset({"__saved_model_init_op", "__saved_model_train_op"})
_NAMES = {number: name for name, (number, _) in DTYPES.items()}


def read_meta_graph(path: Path) -> Any:
    """Returns the MetaGraphDef tagged `serve`. Of several, it is the one with the fewest other tags.

    Raises:
        LoadFailed: saved_model.pb does not exist, is damaged, or has no graph with that tag.
    """
    try:
        saved = saved_model_pb2.SavedModel.FromString((path / FILE_NAME).read_bytes())
    except OSError as err:
        raise LoadFailed(f"{FILE_NAME} cannot be read: {err.strerror}") from err
    except Exception as err:  # protobuf's DecodeError is not one class in all its implementations
        raise LoadFailed(f"{FILE_NAME} is damaged: it is no SavedModel protobuf") from err
    graphs = [graph for graph in saved.meta_graphs if SERVE in graph.meta_info_def.tags]
    if not graphs:
        tags = sorted({tag for graph in saved.meta_graphs for tag in graph.meta_info_def.tags})
        raise LoadFailed(f"no graph is tagged {SERVE!r}; its tags are: {', '.join(tags) or 'none'}")
    return min(graphs, key=lambda graph: len(graph.meta_info_def.tags))


def read_signatures(meta_graph: Any) -> tuple[dict[str, SignatureSpec], dict[str, str]]:
    """Returns the specs of the signatures that can be served, and the reasons why others cannot, both by name."""
    specs: dict[str, SignatureSpec] = {}
    refused: dict[str, str] = {}
    for name, signature in sorted(meta_graph.signature_def.items()):
        if name in _INTERNAL:
            continue
        try:
            specs[name] = SignatureSpec(
                name=name,
                method_name=signature.method_name,
                inputs=tuple(
                    replace(_tensor(key, info), default=_default(signature.defaults, key))
                    for key, info in sorted(signature.inputs.items())
                ),
                outputs=tuple(_tensor(key, info) for key, info in sorted(signature.outputs.items())),
            )
        except LoadFailed as err:
            refused[name] = str(err)
    return specs, refused


def describe_signatures(meta_graph: Any, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Returns the signatures of these names as JSON objects with every field, as TensorFlow Serving prints them."""
    signatures = {name: each for name, each in sorted(meta_graph.signature_def.items()) if name in names}
    return {
        name: MessageToDict(each, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for name, each in signatures.items()
    }


def read_labels(path: Path) -> tuple[str, ...]:
    """Returns the class names in `assets.extra/labels.txt`, one per line; empty without that file."""
    try:
        return tuple((path / LABELS).read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return ()


def _tensor(name: str, info: Any) -> TensorSpec:
    encoding = info.WhichOneof("encoding")
    if encoding != "name":
        kind = {"coo_sparse": "sparse", "composite_tensor": "ragged or composite"}.get(encoding, "empty")
        raise LoadFailed(f"tensor {name!r} is {kind}: only plain tensors can be served")
    is_ref = info.dtype > REF_OFFSET
    number = info.dtype - REF_OFFSET if is_ref else info.dtype
    if number not in _NAMES:
        raise LoadFailed(f"tensor {name!r} has TensorFlow's dtype {number}, which has no form on the wire")
    return TensorSpec(name, _NAMES[number], _shape(info.tensor_shape), source=info.name, is_ref=is_ref)


def _default(defaults: Any, name: str) -> Any:
    """The value of an input that has a default, as lists; strings as text."""
    if name not in defaults:
        return None
    array = tf.make_ndarray(defaults[name])
    return (np.char.decode(array.astype(bytes), "latin-1") if array.dtype.kind == "O" else array).tolist()


def _shape(proto: Any) -> tuple[int | None, ...] | None:
    if proto.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else int(dim.size) for dim in proto.dim)
