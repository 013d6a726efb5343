"""Finds which shapes a graph demands of its inputs beyond what the signature declares. Runs nothing.

TensorFlow aborts the process on some shapes that an op does not expect. Its shape inference knows most demands: a graph
is imported with inputs of one shape after another, and an op that cannot take its input's shape refuses the import.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from darkroom.models.graph.inline import inline_calls
from darkroom.models.graph.reachability import node_name
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.spec import MAX_RANK, SignatureSpec, TensorSpec

MAX_INPUTS = 8  # guess: with more, first dimensions are not tried; each takes two imports of the graph
_TWO = 2  # rows: they cannot be broadcast to three
_log = logging.getLogger("darkroom.models")

Shape = tuple[int | None, ...] | None


class _Imports:
    """Imports the graph of one signature with inputs of other shapes."""

    def __init__(self, spec: SignatureSpec, graph_def: Any) -> None:
        self.spec = spec
        self._graph_def = inline_calls(graph_def, [output.source for output in spec.outputs])
        for node in self._graph_def.node:
            node.attr.pop("_class", None)  # names a node to be placed with, which may be gone
        names = {node.name for node in self._graph_def.node}
        self._used = [tensor for tensor in spec.inputs if node_name(tensor.source) in names]

    def fed(self, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        """Returns placeholders for the inputs that the outputs need."""
        sources = {tensor.source: (tensor.dtype, shapes.get(tensor.name, tensor.shape)) for tensor in self._used}
        return {source: tf.compat.v1.placeholder(*kind) for source, kind in sources.items()}

    def take(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether no op refuses these shapes, by name; an input without one has its declared shape."""
        with suppress(ValueError), tf.Graph().as_default():
            tf.graph_util.import_graph_def(self._graph_def, input_map=self.fed(shapes), name="graph")
            return True
        return False

    def take_rows(self, **rows: int) -> bool:
        """Whether no op refuses these numbers of rows; the other inputs have two."""
        known = {tensor.name: tensor.shape for tensor in self.spec.inputs if tensor.shape is not None}
        return self.take({name: (rows.get(name, _TWO), *shape[1:]) for name, shape in known.items()})

    def with_rank(self, tensor: TensorSpec) -> TensorSpec:
        """Returns an input of unknown rank with the ranks that no op refuses."""
        ranks = [rank for rank in range(MAX_RANK + 1) if self.take({tensor.name: (None,) * rank})]
        if len(ranks) == 1 and ranks[0] and tensor.dtype != "string":  # metadata tells the shape of strings as saved
            return replace(tensor, shape=(None,) * ranks[0])
        return replace(tensor, ranks=tuple(ranks) if len(ranks) <= MAX_RANK else ())

    def shared(self) -> tuple[str, ...]:
        """Returns the inputs of known rank whose number of rows must be that of the others."""
        names = [tensor.name for tensor in self.spec.inputs if tensor.shape is not None and tensor.has_batch_dimension]
        if not 1 < len(names) <= MAX_INPUTS or not self.take_rows():
            return ()
        if self.take_rows(**{name: _TWO + at for at, name in enumerate(names)}):
            return ()
        return tuple(name for name in names if not self.take_rows(**{name: 3}))


def with_demands(spec: SignatureSpec, graph_def: Any) -> SignatureSpec:
    """Returns the spec with what shape inference shows: ranks of inputs of unknown rank, and which share their rows."""
    is_open = any(tensor.shape is None for tensor in spec.inputs)
    if spec.any_shape or not (is_open or len(spec.inputs) > 1):
        return spec
    try:
        imports = _Imports(spec, graph_def)
        if not imports.take({}):
            return spec  # it refuses what it declares: nothing can be learned
        inputs = tuple(imports.with_rank(tensor) if tensor.shape is None else tensor for tensor in spec.inputs)
        imports.spec = spec = replace(spec, inputs=inputs)
        shared = imports.shared()
        return replace(spec, same_rows=shared, one_row=tuple(name for name in shared if imports.take_rows(**{name: 1})))
    except Exception as err:  # noqa: BLE001 - a graph may be odd in any way, and what is not found is not demanded
        _log.warning(
            "the shapes that signature %r takes cannot be examined: %s: %s", spec.name, type(err).__name__, err
        )
        return spec
