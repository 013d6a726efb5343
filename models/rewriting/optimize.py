"""Runs TensorFlow's graph optimizer once, when a large model is prepared, on a graph without its weights.

A session optimizes the graph for each callable, and copies the weights for each step of that. Measured with TensorFlow
2.21 on a VGG16 of 528 MB: a callable takes 7.1 GB at its peak and 56 s; of a graph that was optimized here, and in a
session that does not optimize it again, 3.0 GB and 6 s. Without the weights the optimizer takes 0.8 s.

Each large constant is replaced by an op that gives a tensor of its shape, and put back afterwards. So whatever the
optimizer does is right for all values. What it would do with a value is done here: a factor behind a convolution
without bias, as a batch normalization leaves it, goes into the weights.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np
from tensorflow.python.grappler import tf_optimizer

from darkroom.models.graph.decoding_ops import downstream, readers_of
from darkroom.models.graph.reachability import node_name
from darkroom.models.rewriting.passes import BoundSignature
from darkroom.models.runtime.tensorflow import SessionOptions, graph_pb2, tensor_pb2, tf

OPTIMIZE = "optimize"  # the pass's name in metrics, metadata and logs
MIN_GRAPH_BYTES = 32 << 20  # guess: a session optimizes a smaller graph in a second, and takes 400 MB for it
MIN_WEIGHT_BYTES = 64 << 10  # guess: smaller constants may be shapes, and all of them together are small
_STAND_IN = "ImmutableConst"  # takes any shape and no memory; it is never run
_BRANCHES = frozenset({"If", "StatelessIf", "Case", "StatelessCase", "Switch", "RefSwitch"})
_CHANNEL_AXES = {"Conv2D": -1, "DepthwiseConv2dNative": -2}  # op → from which axis of its weights on are the channels


class _Weight(NamedTuple):
    """A constant that is not in the graph: its node, and a factor for its values, by channel."""

    node: Any
    factor: Any = None

    def by_channel(self, convolution: Any, values: Any) -> Any:
        """Returns a factor as it multiplies the weights; None: it is not one for all, or one for each channel."""
        sizes = [dim.size for dim in self.node.attr["value"].tensor.tensor_shape.dim]
        channels = sizes[_CHANNEL_AXES[convolution.op] :]
        if values.ndim > len(sizes):
            return None
        if values.size == 1:
            return values.reshape(())
        is_last = convolution.attr["data_format"].s in {b"", b"NHWC"} and values.shape[-1] == values.size
        return values.reshape(channels) if is_last and values.size == np.prod(channels) else None

    def put_back(self, stand_in: Any) -> None:
        """Makes a stand-in the constant that it stands for."""
        stand_in.CopyFrom(self.node)
        if self.factor is not None:
            old = self.node.attr["value"].tensor
            values = (tf.make_ndarray(old) * self.factor).astype(self.factor.dtype)
            new = tensor_pb2.TensorProto(
                dtype=old.dtype, tensor_shape=old.tensor_shape, tensor_content=values.tobytes()
            )
            stand_in.attr["value"].tensor.CopyFrom(new)


def optimize(
    graph_def: Any, signatures: Mapping[str, BoundSignature], wanted: AbstractSet[str]
) -> tuple[Any, dict[str, str]]:
    """Optimizes the graph of all its signatures, or of none: it is one graph. Small graphs are left to the sessions."""
    if len(wanted) < len(signatures):
        return graph_def, dict.fromkeys(wanted, "another signature of the graph was taken back")
    if (size := graph_bytes(graph_def)) < MIN_GRAPH_BYTES:
        return graph_def, dict.fromkeys(wanted, f"its {size >> 20} MB are optimized at each load")
    feeds = {tensor for each in signatures.values() for tensor in each.binding.feeds.values()}
    fetches = {tensor for each in signatures.values() for tensor in each.binding.fetches.values()}
    # What chooses a branch: a proof looks at it (models/rewriting/rewriter.py).
    branches = {node.input[1 if "Switch" in node.op else 0] for node in graph_def.node if node.op in _BRANCHES}
    kept = sorted(feeds | fetches | branches)
    light, weights = _without_weights(graph_def, feeds, fetches)
    light = _optimized(light, kept)
    if _fold_factors(light, weights, {node_name(tensor) for tensor in kept}):
        light = _optimized(light, kept)
    for node in light.node:
        if node.name in weights:
            weights.pop(node.name).put_back(node)
    if any(node.op == _STAND_IN for node in light.node):
        return graph_def, dict.fromkeys(wanted, "the optimizer copied a constant")
    return light, {}


def graph_bytes(graph_def: Any) -> int:
    """Returns the bytes of the graph, nearly; to ask protobuf for all of it at once takes as much memory."""
    return int(graph_def.library.ByteSize() + sum(node.ByteSize() for node in graph_def.node))


def room_to_open(size: int, *, is_optimized: bool) -> int:
    """Returns the memory that a session and its first callable take at their peak, for a graph of `size` bytes.

    Measured on a VGG16 of 528 MB and a ResNet50 of 98: 5.9 times as much, and 11 if the session optimizes the graph.
    """
    return (6 if is_optimized else 11) * size


def without_values(graph_def: Any) -> Any:
    """Returns the graph with zeros in its large constants, to be looked at."""
    light, weights = _copy(graph_def, _is_large)
    for node in light.node:
        if node.name in weights:
            tensor = weights[node.name].node.attr["value"].tensor
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = tensor.dtype
            node.attr["value"].tensor.CopyFrom(
                tensor_pb2.TensorProto(dtype=tensor.dtype, tensor_shape=tensor.tensor_shape)
            )
    return light


def _without_weights(graph_def: Any, feeds: Iterable[str], fetches: Iterable[str]) -> tuple[Any, dict[str, _Weight]]:
    """Returns the graph without the large constants of which only ops that need an input read, and these constants.

    An op of constants alone, such as a cast of the weights, is computed by the optimizer.
    """
    nodes = {node.name: node for node in graph_def.node}
    readers = readers_of(nodes)
    fed = downstream(map(node_name, feeds), readers)
    fetched = set(map(node_name, fetches))
    controls = {name[1:] for node in graph_def.node for name in node.input if name.startswith("^")}

    def is_weight(node: Any) -> bool:
        if not _is_large(node) or node.name in fetched | controls:
            return False
        waiting = [node.name]
        while waiting:
            read = [name for name in readers.get(waiting.pop(), ()) if name not in fed and nodes[name].op != "NoOp"]
            if any(name in fetched or nodes[name].op != "Identity" for name in read):
                return False
            waiting += read
        return True

    return _copy(graph_def, is_weight)


def _copy(graph_def: Any, is_left_out: Any) -> tuple[Any, dict[str, _Weight]]:
    """Returns a copy with a stand-in for some constants, and these by name."""
    light, weights = graph_pb2.GraphDef(versions=graph_def.versions, library=graph_def.library), {}
    for node in graph_def.node:
        if not is_left_out(node):
            light.node.add().CopyFrom(node)
            continue
        weights[node.name] = _Weight(node)
        stand_in = light.node.add(name=node.name, op=_STAND_IN, input=node.input, device=node.device)
        stand_in.attr["dtype"].type = node.attr["dtype"].type
        stand_in.attr["shape"].shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
        stand_in.attr["memory_region_name"].s = node.name.encode()  # two weights of one shape are not the same
    return light, weights


def _is_large(node: Any) -> bool:
    if node.op != "Const":
        return False
    tensor = node.attr["value"].tensor
    return bool(tensor.dtype != tf.string.as_datatype_enum and tensor.ByteSize() >= MIN_WEIGHT_BYTES)


def _optimized(graph_def: Any, kept: Iterable[str]) -> Any:
    """Returns what a session would make of the graph before it runs it. Nodes of the tensors in `kept` stay."""
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(graph_def, name="")
    meta_graph = tf.compat.v1.train.export_meta_graph(graph_def=graph_def, graph=graph)
    meta_graph.collection_def["train_op"].node_list.value.extend(kept)
    config = SessionOptions().proto()
    config.graph_options.rewrite_options.min_graph_nodes = -1  # a small graph is optimized too
    return tf_optimizer.OptimizeGraph(config, meta_graph, verbose=False)


def _fold_factors(graph_def: Any, weights: dict[str, _Weight], kept: AbstractSet[str]) -> int:
    """Moves each constant factor by channel behind a convolution into its weights; returns how many there were."""
    nodes = {node.name: node for node in graph_def.node}
    readers = readers_of(nodes)
    count = 0
    for node in graph_def.node:
        inputs = tuple(node.input) if node.op == "Mul" else ()
        for name, other in (inputs, inputs[::-1])[: len(inputs)]:
            convolution, constant = nodes.get(name), nodes.get(other)
            if convolution is None or convolution.op not in _CHANNEL_AXES or constant is None or constant.op != "Const":
                continue
            weight = weights.get(convolution.input[1])
            is_private = len(readers[name]) == len(readers[convolution.input[1]]) == 1 and name not in kept
            if weight is None or weight.factor is not None or not is_private:
                continue
            factor = weight.by_channel(convolution, tf.make_ndarray(constant.attr["value"].tensor))
            if factor is not None:
                weights[convolution.input[1]] = weight._replace(factor=factor)
                dtype = node.attr["T"].type
                node.op = "Identity"
                node.input[:] = [name]
                node.attr.clear()
                node.attr["T"].type = dtype
                count += 1
                break
    return count
