"""What a graph tells about the pixels that it was trained on. It is evidence for people; nothing is chosen by it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from darkroom.models.graph.decoding_ops import readers_of
from darkroom.models.graph.inline import inline_calls
from darkroom.models.graph.reachability import node_name
from darkroom.models.runtime.tensorflow import tensor_util

if TYPE_CHECKING:
    from darkroom.models.spec import SignatureSpec, TensorSpec

# Ops that leave pixels as they are, and those that compute with a constant, as they are written.
_SAME: Final = frozenset(
    {"Cast", "EnsureShape", "Identity", "MirrorPad", "Pad", "PadV2", "PlaceholderWithDefault", "ResizeArea"}
    | {"ResizeBicubic", "ResizeBilinear", "ResizeNearestNeighbor", "StopGradient", "StridedSlice", "Transpose"}
)
_RESHAPES: Final = frozenset({"Cast", "ExpandDims", "Identity", "Reshape", "Squeeze"})  # of a constant
_SIGNS: Final = {"Add": "+", "AddV2": "+", "BiasAdd": "+", "Div": "/", "Mul": "*", "RealDiv": "/", "Sub": "-"}
_MANY: Final = (
    10.0  # guess: what scales pixels of 0 to 255 has constants over this, what scales smaller numbers has not
)
_RANGES: Final = {"raw": "pixels from 0 to 255", "unit": "pixels from 0 to 1"}
_STEPS: Final = 40  # guess: followed from the input; the scaling of pixels comes first
# The mode of preprocess_input for the models of keras.applications, by what their names begin with; longer names first.
_MODES: Final = {
    "efficientnet": "raw",
    "mobilenetv3": "raw",
    "convnext": "raw",
    "resnet50v2": "tf",
    "resnet101v2": "tf",
    "resnet152v2": "tf",
    "resnet": "caffe",
    "vgg16": "caffe",
    "vgg19": "caffe",
    "densenet": "torch",
    "inception": "tf",
    "mobilenet": "tf",
    "nasnet": "tf",
    "xception": "tf",
}
_NAMES: Final = re.compile(rf"(?:^|/)(({'|'.join(_MODES)})[\w.]*)", re.IGNORECASE)


def evidence(graph_def: Any, spec: SignatureSpec, tensor: TensorSpec) -> str:
    """Returns, in a sentence or two, what the graph shows of the pixels that `tensor` takes."""
    if tensor.dtype == "uint8":
        return "It takes uint8, which is pixels from 0 to 255: raw."
    inlined = inline_calls(graph_def, [output.source for output in spec.outputs])
    computed = first_steps(inlined, tensor.source)
    if seems := range_of(computed):
        found = f"The graph itself computes {computed} first, so it seems to take {_RANGES[seems]}: {seems}."
    elif computed:
        found = f"The graph computes {computed} first, which tells no range."
    else:
        found = "Nothing is seen in the graph that scales its input, so the pixels were probably scaled before."
    names = (match for node in inlined.node if (match := _NAMES.search(node.name)))
    return " ".join(filter(None, (found, keras_hint(match[1]) if (match := next(names, None)) else "")))


def keras_hint(name: str) -> str:
    """Returns what the name of a model of keras.applications says; empty for any other name."""
    match = _NAMES.match(name)
    if match is None:
        return ""
    mode = _MODES[match[2].lower()]
    return f"Its name, {match[1][:40]}, is that of a keras.applications model whose preprocess_input is {mode}."


def first_steps(graph_def: Any, source: str) -> str:
    """Returns what a graph without calls computes of `source` before its first layer, such as `x * 0.00784 - 1`."""
    nodes = {node.name: node for node in graph_def.node}
    readers = readers_of(nodes)
    at, text = node_name(source), "x"

    def constant(name: str) -> Any:
        node = nodes.get(node_name(name))
        while node is not None and node.op in _RESHAPES:
            node = nodes.get(node_name(node.input[0]))
        return None if node is None or node.op != "Const" else tensor_util.MakeNdarray(node.attr["value"].tensor)

    for _ in range(_STEPS):
        following = {name for name in readers.get(at, ()) if nodes[name].op in _SAME or nodes[name].op in _SIGNS}
        if len(following) > 1:  # one for each channel, as where their order is turned
            following = {reader for name in following for reader in readers.get(name, ()) if nodes[reader].op == "Pack"}
        if len(following) != 1:
            break
        node = nodes[following.pop()]
        if node.op in _SIGNS:
            others = [name for name in node.input if node_name(name) != at]
            if len(others) != 1 or (value := constant(others[0])) is None:
                break
            numbers = [f"{float(each):.4g}" for each in np.ravel(value)[:4]]
            text += f" {_SIGNS[node.op]} " + (numbers[0] if len(numbers) == 1 else f"[{', '.join(numbers)}]")
        at = node.name
    return "" if text == "x" else text


def range_of(computed: str) -> str:
    """The preset for which steps, as `first_steps` writes them, scale pixels to small numbers; empty: none is clear.

    It is `raw` where pixels from 0 to 255 are divided or shifted, `unit` where numbers from 0 to 1 are multiplied.
    """
    match = re.match(r"x ([*/+-]) \[?(-?[\d.e+-]+)", computed)
    if match is None:
        return ""
    sign, value = match[1], abs(float(match[2]))
    if sign in "+-":
        return "raw" if value > _MANY else ""
    factor = value if sign == "*" else 1 / value if value else 0.0
    return "raw" if 0 < factor < 1 / _MANY else "unit" if factor > _MANY else ""
