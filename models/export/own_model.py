"""Exports a user's own model with what can be seen in it: its input, the scaling in its first layers, its last activation.

What is seen decides only where it leaves no doubt. Where the range of the pixels or the meaning of the answers cannot be
known, the export stops and says which flag it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

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
    own = OwnModel.of(model, said, channels)
    if not said.is_said:
        said = replace(said, preprocess=own.preset)
        progress(f"the model itself computes {own.computed}: it takes {own.preset} pixels")
    recipe = replace(said.recipe(own.tensor), answers=answers or own.answers)
    progress(f"its answers are taken as {recipe.answers}")
    path = export_image_model(model, base_path, recipe, version=version, labels=labels, force=force)
    for line in own.both_ways(recipe, path):
        progress(line)
    return path


@dataclass(frozen=True)
class OwnModel:
    """A model, its only input, and what its graph shows."""

    model: Callable[[Any], Any]
    tensor: TensorSpec
    dims: tuple[int | None, ...]  # the tensor's shape, with what was said for open sides

    @classmethod
    def of(cls, model: Any, said: Preprocess, channels: int) -> Self:
        """Looks at a model's input, as Keras knows it; that of a plain callable is what the flags say."""
        tensor = TensorSpec("x", "float32", (None, *(said.size or _SIZE), channels))
        if isinstance(model, tf.keras.Model):
            inputs = tf.nest.flatten(getattr(model, "inputs", None) or [])
            if len(inputs) != 1:
                there = f"{len(inputs)} inputs" if inputs else "no input of a known shape, since it was never called"
                raise ExportFailed(f"it has {there}; save it with model.export(), and give that folder with --from")
            tensor = TensorSpec(str(inputs[0].name), str(inputs[0].dtype), tuple(inputs[0].shape))
        dims = tensor.shape or ()
        if None in dims[1:]:
            height, width = said.recipe(tensor).size
            sides = (height, width, dims[3]) if said.recipe(tensor).layout == "nhwc" else (dims[1], height, width)
            dims = (None, *sides)
        return cls(model, tensor, dims)

    @cached_property
    def traced(self) -> tuple[Any, dict[str, Any]]:
        """The model's graph with constants for variables, and its outputs by name."""
        names: list[str] = []

        def run(x: Any) -> list[Any]:
            outputs = named_outputs(self.model, call(self.model, x))
            names[:] = outputs
            return list(outputs.values())

        try:
            spec = tf.TensorSpec(self.dims, self.tensor.dtype, name="x")
            function = tf.function(run, input_signature=[spec], autograph=False).get_concrete_function()
            frozen = convert_to_constants.convert_variables_to_constants_v2(function)
        except Exception as err:
            shape = f"{self.tensor.dtype}{list(self.dims)}"
            raise ExportFailed(f"it cannot be traced for {shape}: {clean(str(err))}") from err
        return frozen.graph.as_graph_def(), dict(zip(names, frozen.outputs, strict=True))

    @property
    def name(self) -> str:
        """What Keras calls it; empty for a plain callable."""
        return str(getattr(self.model, "name", ""))

    @property
    def nodes(self) -> dict[str, Any]:
        """The nodes of its graph by name."""
        return {node.name: node for node in self.traced[0].node}

    @cached_property
    def computed(self) -> str:
        """What it computes of its input before its first layer; see `first_steps`."""
        return first_steps(self.traced[0], "x")

    @property
    def activation(self) -> str:
        """The last op where the only output is `float[n, classes]`; empty for any other model."""
        tensor, *more = self.traced[1].values()
        if more or tensor.shape.rank != 2:
            return ""
        nodes = self.nodes
        node = nodes[node_name(tensor.name)]
        while node.op in _PASSES and node.input:
            node = nodes[node_name(node.input[0])]
        return str(node.op)

    @property
    def preset(self) -> str:
        """The preset that its own scaling shows.

        Raises:
            ExportFailed: it shows none.
        """
        if seems := range_of(self.computed):
            return seems
        what = (
            f"computes {self.computed} first, which tells no range"
            if self.computed
            else "is not seen to scale its input"
        )
        hint = keras_hint(self.name)
        needed = "--preprocess=tf|torch|caffe|unit|raw, or --mean and --std"
        raise ExportFailed(f"how pixels become its input must be said: {needed}. The model {what}. {hint}".strip())

    @property
    def answers(self) -> str:
        """What its outputs are, as its last activation shows.

        Raises:
            ExportFailed: it shows nothing.
        """
        if self.activation in {"", "Sigmoid", "Softmax"}:
            return "probability" if self.activation == "Softmax" else "values"
        raise ExportFailed(
            "its last layer has no softmax or sigmoid, so its answers may be logits or plain numbers: --answers=logits adds "
            "a softmax, --answers=values leaves them as they are"
        )

    def both_ways(self, recipe: Recipe, path: Path) -> list[str]:
        """One picture through the model itself and through the export, in words."""
        down, across = np.mgrid[0:200, 0:300]
        light = np.stack([down, across, down + across], axis=-1) % 256
        picture = tf.io.encode_jpeg(light.astype(np.uint8)).numpy()
        output = call(self.model, model_input(tf.constant([picture]), replace(recipe, wire="bytes")))
        if recipe.answers == "logits":
            output = tf.nn.softmax(output)
        direct = named_outputs(self.model, output) if recipe.answers == "values" else {"probability": output}
        text = tf.io.encode_base64(picture).numpy() if recipe.wire == "base64" else picture
        exported = tf.saved_model.load(str(path)).signatures["serving_default"](images=tf.constant([text]))

        def line(name: str) -> str:
            one, other = (np.asarray(each[name]).ravel() for each in (direct, exported))
            apart = float(np.max(np.abs(one - other), initial=0.0))
            first, second = (np.array2string(each[:_SHOWN], precision=4) for each in (one, other))
            return f"one picture, {name}: the model gives {first}, the export {second}; {apart:.1g} apart"

        return [line(name) for name in direct]
