"""Exports a user's own model with what can be seen in it: its input, the scaling in its first layers, its last activation.

What is seen decides only where it leaves no doubt. Where the range of the pixels or the meaning of the answers cannot be
known, the export stops and says which flag it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from darkroom.models.export.errors import ExportFailed
from darkroom.models.export.export import call, check_free, export_image_model, named_outputs
from darkroom.models.graph.reachability import node_name
from darkroom.models.runtime.session import clean
from darkroom.models.runtime.tensorflow import convert_to_constants, tf
from darkroom.models.saved_model.front.decode import model_input
from darkroom.models.saved_model.front.evidence import first_steps, keras_hint, range_of
from darkroom.models.spec import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from darkroom.models.saved_model.front.preprocess import Preprocess
    from darkroom.models.saved_model.front.recipe import Recipe

_SIZE: Final = (224, 224)  # of a callable that says none (precedent: ImageNet)
_SHOWN: Final = 3  # values of each answer
_PASSES: Final = frozenset({"Cast", "Identity", "Reshape", "StopGradient"})


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen in a model: what it computes before its first layer, and the op behind each output."""

    computed: str
    outputs: dict[str, tuple[str, tuple[int | None, ...]]]  # output → its last op, its shape

    @property
    def activation(self) -> str:
        """The last op where the only output is `float[n, classes]`; empty for any other model."""
        last = list(self.outputs.values())
        return last[0][0] if len(last) == 1 and len(last[0][1]) == 2 else ""


def export_own_model(
    model: Callable[[Any], Any],
    base_path: Path,
    said: Preprocess,
    *,
    answers: str = "",
    version: int = 1,
    labels: Sequence[str] = (),
    force: bool = False,
    channels: int = 3,
    progress: Callable[[str], None],
) -> Path:
    """Exports a model, such as `load_reference` finds, and runs one picture both ways.

    Args:
        model: a Keras model or any callable `float32[n, height, width, channels]` → tensors.
        base_path: the model's folder.
        said: what the user says about its pictures.
        answers: what its outputs are; empty: as its last activation shows.
        version: the name of the version folder.
        labels: the class names in order.
        force: replace an existing version.
        channels: of the input of a plain callable; a Keras model says it itself.
        progress: takes a line for each thing that was seen or done.

    Raises:
        ExportFailed: it cannot be built, or something must be said that only the user knows.
        LoadFailed: what is said does not fit the model's input.
    """
    check_free(base_path, version, force=force)
    tensor = _input_of(model, said.size or _SIZE, channels)
    look = _look(model, tensor, said)
    if not said.is_said:
        said = replace(said, preprocess=_range(look, str(getattr(model, "name", ""))))
        progress(f"the model itself computes {look.computed}: it takes {said.preprocess} pixels")
    recipe = replace(said.recipe(tensor), answers=answers or _answers(look))
    progress(f"its answers are taken as {recipe.answers}")
    path = export_image_model(model, base_path, recipe, version=version, labels=labels, force=force)
    for line in _both_ways(model, recipe, path):
        progress(line)
    return path


def _input_of(model: Any, size: tuple[int, int], channels: int) -> TensorSpec:
    """The model's only input, as Keras knows it; of a plain callable, what the flags say."""
    if not isinstance(model, tf.keras.Model):
        return TensorSpec("x", "float32", (None, *size, channels))
    inputs = tf.nest.flatten(getattr(model, "inputs", None) or [])
    if len(inputs) != 1:
        there = f"{len(inputs)} inputs" if inputs else "no input of a known shape, since it was never called"
        raise ExportFailed(f"it has {there}; save it with model.export(), and give that folder with --from")
    return TensorSpec(str(inputs[0].name), str(inputs[0].dtype), tuple(inputs[0].shape))


def _look(model: Callable[[Any], Any], tensor: TensorSpec, said: Preprocess) -> Look:
    """Traces the model and reads its graph."""
    shape = said.recipe(tensor).size if said.is_said or said.size else None
    dims = list(tensor.shape or ())
    if shape is not None and None in dims[1:]:
        dims = [size if size is not None else shape[at == 2] for at, size in enumerate(dims)]
        dims[0] = None
    names: list[str] = []

    def run(x: Any) -> list[Any]:
        outputs = named_outputs(model, call(model, x))
        names[:] = outputs
        return list(outputs.values())

    try:
        spec = tf.TensorSpec(dims, tensor.dtype, name="x")
        traced = tf.function(run, input_signature=[spec], autograph=False).get_concrete_function()
        frozen = convert_to_constants.convert_variables_to_constants_v2(traced)
    except Exception as err:
        raise ExportFailed(f"it cannot be traced for {tensor.dtype}{dims}: {clean(str(err))}") from err
    graph_def = frozen.graph.as_graph_def()
    nodes = {node.name: node for node in graph_def.node}
    outputs = {
        name: (_last_op(nodes, each.name), tuple(each.shape)) for name, each in zip(names, frozen.outputs, strict=True)
    }
    return Look(first_steps(graph_def, frozen.inputs[0].name), outputs)


def _last_op(nodes: dict[str, Any], tensor: str) -> str:
    node = nodes[node_name(tensor)]
    while node.op in _PASSES and node.input:
        node = nodes[node_name(node.input[0])]
    return str(node.op)


def _range(look: Look, name: str) -> str:
    if seems := range_of(look.computed):
        return seems
    what = (
        f"computes {look.computed} first, which tells no range" if look.computed else "is not seen to scale its input"
    )
    raise ExportFailed(
        f"how pixels become its input must be said: --preprocess=tf|torch|caffe|unit|raw, or --mean and --std. "
        f"The model {what}. {keras_hint(name)}".strip()
    )


def _answers(look: Look) -> str:
    if look.activation == "Softmax":
        return "probability"
    if not look.activation or look.activation == "Sigmoid":
        return "values"
    raise ExportFailed(
        "its last layer has no softmax or sigmoid, so its answers may be logits or plain numbers: --answers=logits adds a "
        "softmax, --answers=values leaves them as they are"
    )


def _both_ways(model: Callable[[Any], Any], recipe: Recipe, path: Path) -> list[str]:
    """One picture through the model itself and through the export, in words."""
    down, across = np.mgrid[0:200, 0:300]
    light = np.stack([down, across, down + across], axis=-1) % 256
    picture = tf.io.encode_jpeg(light.astype(np.uint8)).numpy()
    output = call(model, model_input(tf.constant([picture]), replace(recipe, wire="bytes")))
    if recipe.answers == "logits":
        output = tf.nn.softmax(output)
    direct = named_outputs(model, output) if recipe.answers == "values" else {"probability": output}
    text = tf.io.encode_base64(picture).numpy() if recipe.wire == "base64" else picture
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    exported = signature(images=tf.constant([text]))
    lines = []
    for name, value in direct.items():
        one, other = (np.asarray(each).ravel() for each in (value, exported[name]))
        apart = float(np.max(np.abs(one - other), initial=0.0))
        lines.append(
            f"one picture, {name}: the model gives {_shown(one)}, the export {_shown(other)}; {apart:.1g} apart"
        )
    return lines


def _shown(values: Any) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values[:_SHOWN]) + (", …]" if len(values) > _SHOWN else "]")
