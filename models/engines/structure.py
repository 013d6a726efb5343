"""The structure of a graph: what two versions of a model have in common when only their weights differ."""

import hashlib

from darkroom.models.rewriting.artifact import Artifact
from darkroom.models.runtime.tensorflow import SessionOptions, graph_pb2, tf


def structure_of(artifact: Artifact, options: SessionOptions) -> str:
    """Equal for graphs of the same nodes, whatever their weights, that are called alike, in sessions set up alike.

    The values of floats are left out; those of all other constants count: they are shapes, strides and the like.
    """
    graph_def = graph_pb2.GraphDef.FromString(artifact.graph)
    digest = hashlib.sha256(repr((sorted(artifact.bindings.items()), options)).encode())
    digest.update(graph_def.library.SerializeToString(deterministic=True))
    for node in graph_def.node:
        tensor = node.attr["value"].tensor
        if node.op == "Const" and tf.dtypes.as_dtype(tensor.dtype).is_floating:
            sizes = [dim.size for dim in tensor.tensor_shape.dim]
            digest.update(repr((node.name, node.device, tensor.dtype, sizes)).encode())
        else:
            digest.update(node.SerializeToString(deterministic=True))
    return digest.hexdigest()
