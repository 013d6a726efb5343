"""A joint in a graph: where the rows of a tensor may come in several pieces, which TensorFlow itself puts together.

Pieces that Python puts together are copied by one thread into memory that is new to the process, and copied again by
TensorFlow since numpy doesn't align its memory as TensorFlow wants it. Here each piece goes to the device from where
the CPU wrote it, and the device puts them together. Measured with TensorFlow 2.21 on an H100 and 16 cores, pictures a
second of EfficientNet-Lite0's layers, 32 rows and two calls at once: 6,395 from Python's array, 9,139 so; from JPEGs on
3,305 and 5,101.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from darkroom.models.graph.reachability import prune
from darkroom.models.runtime.tensorflow import graph_pb2, tf


class Joint(NamedTuple):
    """The first output of the node `name`: where rows of one `shape` and `dtype` come in as many as `pieces` pieces."""

    name: str
    dtype: Any
    shape: tuple[int, ...]
    pieces: int

    @property
    def tensors(self) -> list[str]:
        """What is fed, a piece each."""
        return [f"{self.name}:0", *(f"{part}:0" for part in self._parts)]

    def fill(self, pieces: Sequence[Any]) -> list[Any]:
        """A value for each of `tensors`: these, and no rows for the rest."""
        return [*pieces, *[self._no_rows] * (self.pieces - len(pieces))]

    def nodes(self, device: str) -> list[Any]:
        """The nodes that put the pieces together; nothing is added to the rows of `name` where none of them is fed."""
        with tf.Graph().as_default() as graph:
            first = tf.compat.v1.placeholder(self.dtype, [None, *self.shape], name=self.name)
            parts = [
                tf.compat.v1.placeholder_with_default(self._no_rows, [None, *self.shape], name=part)
                for part in self._parts
            ]
            tf.concat([first, *parts], 0, name=self.end)
        nodes = [node for node in graph.as_graph_def().node if node.name != self.name]
        for node in nodes:
            node.device = device
        return nodes

    @property
    def end(self) -> str:
        """The node that has all rows."""
        return f"{self.name}/joint"

    @property
    def _parts(self) -> list[str]:
        return [f"{self.name}/piece_{place}" for place in range(1, self.pieces)]

    @property
    def _no_rows(self) -> Any:
        return np.zeros((0, *self.shape), self.dtype.as_numpy_dtype)


def find_joint(graph_def: Any, name: str, pieces: int) -> Joint | None:
    """A joint behind the node `name`; None where its rows may have more than one shape."""
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(prune(graph_def, [name]), name="")
    tensor = graph.get_tensor_by_name(f"{name}:0")
    if not tensor.shape.rank or not tensor.shape[1:].is_fully_defined() or tensor.dtype == tf.string:
        return None
    return Joint(name, tensor.dtype, tuple(tensor.shape[1:]), pieces)


def with_joints(graph_def: Any, joints: Iterable[Joint], device: str) -> Any:
    """A copy of the graph in which what read the joints' nodes reads the joints; those are on `device`."""
    made = graph_pb2.GraphDef()
    made.CopyFrom(graph_def)
    ends = {name: joint.end for joint in joints for name in (joint.name, f"{joint.name}:0")}
    for node in made.node:
        node.input[:] = [ends.get(name, name) for name in node.input]
    for joint in joints:
        made.node.extend(joint.nodes(device))
    return made
