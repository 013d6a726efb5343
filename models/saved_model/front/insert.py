"""Puts a decode front before a signature: in a MetaGraphDef, for a session, or around a callable of a loaded SavedModel.

In a graph, the nodes between the signature's inputs and outputs are copied under a new name and read from the front.
What they read besides, such as variables, tables and constants, is shared. So the tensor signature stays as it is, the
copies see the exact shape of their input, and nothing is written or restored again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from darkroom.models.errors import LoadFailed
from darkroom.models.graph.reachability import reachable_names
from darkroom.models.runtime.tensorflow import deprecation, meta_graph_pb2, tf
from darkroom.models.saved_model.front.decode import model_input
from darkroom.models.saved_model.front.evidence import evidence
from darkroom.models.saved_model.front.preprocess import DEFAULT, FrontPlan, Preprocess, plan
from darkroom.models.saved_model.reader import read_meta_graph, read_signatures

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_STRING = 7  # DT_STRING


def make_plan(meta_graph: Any, said: Preprocess) -> FrontPlan:
    """Returns what `said` means for a SavedModel.

    Raises:
        LoadFailed: it cannot be done, or how pixels become numbers is not said: the message has the evidence.
    """
    specs, _ = read_signatures(meta_graph)
    made = plan(specs, said)
    spec = specs[made.signature]
    for tensor in spec.inputs:
        if tensor.name in made.recipes and tensor.dtype != "uint8" and not said.is_said:
            found = evidence(meta_graph.graph_def, spec, tensor)
            raise LoadFailed(
                f"how pixels become the numbers of input {tensor.name!r} must be said: "
                f"--preprocess=tf|torch|caffe|unit|raw, or --mean and --std. {found}"
            )
    return made


def read_with_front(path: Path, said: Preprocess | None) -> Any:
    """Returns the MetaGraphDef of a version folder, with a decode front where `said` asks for one. Raises LoadFailed."""
    meta_graph = read_meta_graph(path)
    return meta_graph if said is None else add_front(meta_graph, said)


def add_front(meta_graph: Any, said: Preprocess) -> Any:
    """Returns a copy of the MetaGraphDef with the signature that takes pictures; see `plan` for the names.

    Raises:
        LoadFailed: as `make_plan`.
    """
    made = make_plan(meta_graph, said)
    copy = meta_graph_pb2.MetaGraphDef()
    copy.CopyFrom(meta_graph)
    source = meta_graph.signature_def[made.signature]
    prefix = _free_prefix(meta_graph.graph_def)
    front, fed, outputs = _front(made, source, prefix, meta_graph.graph_def)
    copy.graph_def.node.extend(front.node)
    copy.graph_def.library.MergeFrom(front.library)
    replaced = {source.inputs[name].name: tensor for name, tensor in outputs.items()}
    moved = _copy_nodes(copy.graph_def, [info.name for info in source.outputs.values()], replaced, prefix)
    for old, new in made.renamed.items():
        if old != new:
            copy.signature_def[new].CopyFrom(meta_graph.signature_def[old])
    signature = copy.signature_def[DEFAULT]
    signature.CopyFrom(source)
    for info in signature.outputs.values():
        info.name = _moved(info.name, replaced, moved)
    for name, public in made.images.items():
        info = signature.inputs.pop(name)
        info.name, info.dtype = fed[name], _STRING
        del info.tensor_shape.dim[1:]
        signature.inputs[public].CopyFrom(info)
    return copy


def wrap(signatures: Mapping[str, Any], made: FrontPlan) -> dict[str, Any]:
    """Returns the callables of a loaded SavedModel by their new names, with the one that takes pictures."""
    named = {new: signatures[old] for old, new in made.renamed.items() if old in signatures}
    return named | {DEFAULT: _around(signatures[made.signature], made)}


def _around(signature: Any, made: FrontPlan) -> Any:
    """Returns a concrete function that decodes its pictures and calls `signature`."""
    wanted = signature.structured_input_signature[1]
    public = {name: made.images.get(name, name) for name in wanted}

    def serve(**inputs: Any) -> Any:
        given = {
            name: model_input(inputs[new], made.recipes[name]) if name in made.recipes else inputs[new]
            for name, new in public.items()
        }
        return signature(**given)

    specs = {
        new: tf.TensorSpec(wanted[name].shape[:1], tf.string, name=new)
        if name in made.recipes
        else tf.TensorSpec(wanted[name].shape, wanted[name].dtype, name=new)
        for name, new in public.items()
    }
    return tf.function(serve, autograph=False).get_concrete_function(**specs)


def _free_prefix(graph_def: Any) -> str:
    """A name under which the graph has no node."""
    taken = {node.name.partition("/")[0] for node in graph_def.node}
    return next(name for name in ("pictures", *(f"pictures_{n}" for n in range(1, 1000))) if name not in taken)


def _front(made: FrontPlan, source: Any, prefix: str, graph_def: Any) -> tuple[Any, dict[str, str], dict[str, str]]:
    """Returns the front as a GraphDef whose names the graph does not have, and for each picture what is fed and read."""
    taken = {function.signature.name for function in graph_def.library.function}
    while True:
        fed, outputs = {}, {}
        with tf.Graph().as_default() as graph, deprecation.silence(), tf.name_scope(f"{prefix}/front"):
            for name, recipe in made.recipes.items():
                dims = source.inputs[name].tensor_shape.dim
                shape = [None if dims[0].size < 0 else dims[0].size]
                images = tf.compat.v1.placeholder(tf.string, shape, name="images")
                fed[name], outputs[name] = images.name, tf.identity(model_input(images, recipe)).name
        front = graph.as_graph_def()
        # TensorFlow numbers its functions, so that another try has other names.
        if taken.isdisjoint(function.signature.name for function in front.library.function):
            return front, fed, outputs


def _copy_nodes(graph_def: Any, outputs: list[str], replaced: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Copies the nodes that compute `outputs` from the tensors `replaced`; returns their new names.

    A node without inputs stays shared: it is a variable, a table or a constant. The copies have a scope of their own,
    since graphs of TensorFlow 1 have nodes called `images`, `Identity` or `sub`, as the front has.
    """
    names, _ = reachable_names(graph_def, outputs, list(replaced))
    nodes = [node for node in graph_def.node if node.name in names and node.input]
    moved = {node.name: f"{prefix}/model/{node.name}" for node in nodes}
    for node in nodes:
        copy = graph_def.node.add()
        copy.CopyFrom(node)
        copy.name = moved[node.name]
        copy.input[:] = [_moved(name, replaced, moved) for name in node.input]
        copy.attr.pop("_class", None)  # names a node to be placed with
        copy.attr.pop("_output_shapes", None)  # of the input as it was
        if "frame_name" in copy.attr:  # loops of one name in one frame would be one loop
            copy.attr["frame_name"].s = prefix.encode() + b"/" + copy.attr["frame_name"].s
    return moved


def _moved(tensor: str, replaced: Mapping[str, str], moved: Mapping[str, str]) -> str:
    """The name of a tensor, or of a control input, among the copies."""
    if new := replaced.get(tensor) or replaced.get(f"{tensor}:0"):
        return new
    node, colon, index = tensor.removeprefix("^").partition(":")
    return tensor[: tensor.startswith("^")] + moved.get(node, node) + colon + index
