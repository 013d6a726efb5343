"""The original SavedModel, before any rewriting. The passes are verified against it and fall back to it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from darkroom.models.engine import Engine, PassReport
from darkroom.models.errors import LoadFailed
from darkroom.models.graph.reachability import node_name, prune, reachable_names
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import Binding, SessionEngine, clean, feed_value, fetched_column, translate
from darkroom.models.runtime.tensorflow import (
    SessionOptions,
    convert_to_constants,
    deprecation,
    graph_pb2,
    saved_model_loader,
    tf,
)
from darkroom.models.saved_model.front.insert import make_plan, wrap
from darkroom.models.saved_model.front.preprocess import Preprocess
from darkroom.models.saved_model.reader import SERVE, read_meta_graph
from darkroom.models.spec import SignatureSpec

LARGE_BYTES = 64 << 10  # guess: of a variable that TensorFlow's conversion does not see
_VARIABLES = frozenset({"VarHandleOp", "Variable", "VariableV2"})


class Original(Protocol):
    """A loaded SavedModel. The owner closes it."""

    def engine(self, spec: SignatureSpec, passes: tuple[PassReport, ...] = ()) -> Engine:
        """Returns an engine that runs the signature unchanged."""

    def freeze(self, specs: Mapping[str, SignatureSpec]) -> tuple[Any, dict[str, Binding]]:
        """Returns one GraphDef for these signatures, with constants for variables, and each signature's binding."""

    def close(self) -> None:
        """Frees the model. Idempotent."""


def open_original(
    path: Path,
    meta_graph: Any,
    specs: Mapping[str, SignatureSpec],
    options: SessionOptions,
    pictures: Preprocess | None = None,
) -> Original:
    """Loads the SavedModel into a session, as TensorFlow Serving does, or else with `tf.saved_model.load`.

    A Keras 3 model inside a tf.Module saves two handles for each variable and restores the one that its functions do
    not use. Only the object loader knows that both are the same variable.

    Args:
        path: the version folder.
        meta_graph: its MetaGraphDef, with a decode front where `pictures` asks for one.
        specs: the signatures to serve.
        options: how the session is set up.
        pictures: what was asked for; None: nothing.

    Raises:
        LoadFailed: TensorFlow can load it in neither way.
    """
    try:
        original = SessionOriginal(path, meta_graph, options)
        if original.is_initialized([output.source for spec in specs.values() for output in spec.outputs]):
            return original
        original.close()
        return EagerOriginal(path, pictures)
    except LoadFailed:
        raise
    except Exception as err:
        raise LoadFailed(f"TensorFlow cannot load it: {clean(str(err))}") from err


def freeze(session: Any, graph_def: Any, outputs: Sequence[str]) -> Any:
    """Returns the graph with the current values of its variables as constants, and only what `outputs` need.

    Functions stay functions: the session inlines them itself. Inlining them here (Grappler's `function` pass, as
    convert_variables_to_constants_v2 does) made no measurable difference, on EfficientNet-Lite0 and on 28x28 models.

    Args:
        session: a session in which the variables have values.
        graph_def: its graph.
        outputs: tensor names.
    """
    nodes = sorted({node_name(output) for output in outputs})
    light = _SmallValues(session)
    with deprecation.silence():
        frozen = convert_to_constants.convert_variables_to_constants_from_session_graph(light, graph_def, nodes)
    frozen = prune(frozen, outputs)
    for node in frozen.node:
        if node.op == "Const" and node.name in light.left_out:
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(light.left_out.pop(node.name)))
    return frozen


class _SmallValues:
    """A session that gives a scalar for each large variable: TensorFlow's conversion copies the values several times.

    Attributes:
        left_out: the values of these variables, by name.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self.left_out: dict[str, Any] = {}

    def run(self, tensors: Sequence[str]) -> list[Any]:
        """Returns the values of variables."""
        values = self._session.run(tensors)
        for place, (name, value) in enumerate(zip(tensors, values, strict=True)):
            if value.nbytes >= LARGE_BYTES and value.dtype != object:
                self.left_out[name.removesuffix(":0").removesuffix("/Read/ReadVariableOp")] = value
                values[place] = np.zeros((), value.dtype)
        return values  # type: ignore[no-any-return]  # a list


class OnDemand:
    """A SavedModel that is loaded when it is needed. `close` frees it until it is needed again."""

    def __init__(self, load: Callable[[], Original]) -> None:
        self._load = load
        self._loaded: Original | None = None

    @property
    def _original(self) -> Original:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def engine(self, spec: SignatureSpec, passes: tuple[PassReport, ...] = ()) -> Engine:
        """See Original."""
        return self._original.engine(spec, passes)

    def freeze(self, specs: Mapping[str, SignatureSpec]) -> tuple[Any, dict[str, Binding]]:
        """See Original."""
        return self._original.freeze(specs)

    def close(self) -> None:
        """Frees what is loaded. Engines of it can't be run any more."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()


class _Loader(saved_model_loader.SavedModelLoader):  # type: ignore[misc]  # TensorFlow has no types
    """TensorFlow's loader, with the graph that is given instead of the one on disk."""

    def __init__(self, path: Path, meta_graph: Any) -> None:
        super().__init__(str(path))
        self._meta_graph = meta_graph

    def get_meta_graph_def_from_tags(self, _tags: object) -> Any:
        """Returns the graph that was given."""
        return self._meta_graph


class SessionOriginal:
    """The SavedModel's graph in its own session, with restored variables and initialized tables."""

    def __init__(self, path: Path, meta_graph: Any, options: SessionOptions) -> None:
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=options.proto())
        tags = set(meta_graph.meta_info_def.tags) or {SERVE}
        # A device of another job (`/job:ps`) belongs to a training cluster, and does not exist here.
        is_from_cluster = any("/job:" in node.device for node in meta_graph.graph_def.node)
        with self._graph.as_default(), deprecation.silence():
            _Loader(path, meta_graph).load(self._session, tags, clear_devices=is_from_cluster)

    def is_initialized(self, outputs: list[str]) -> bool:
        """Whether every variable that computing `outputs` reads has a value."""
        nodes, _ = reachable_names(self._graph.as_graph_def(), outputs)
        with self._graph.as_default():
            checks = [
                tf.raw_ops.VarIsInitializedOp(resource=operation.outputs[0])
                if operation.type == "VarHandleOp"
                else tf.compat.v1.is_variable_initialized(operation.outputs[0])
                for operation in self._graph.get_operations()
                if operation.type in _VARIABLES and operation.name in nodes
            ]
        return all(self._session.run(checks))

    def engine(self, spec: SignatureSpec, passes: tuple[PassReport, ...] = ()) -> Engine:
        """See Original."""
        return SessionEngine(spec, self._session, _binding(spec), passes=passes)

    def freeze(self, specs: Mapping[str, SignatureSpec]) -> tuple[Any, dict[str, Binding]]:
        """See Original."""
        bindings = {name: _binding(spec) for name, spec in specs.items()}
        outputs = sorted({tensor for binding in bindings.values() for tensor in binding.fetches.values()})
        with self._graph.as_default():
            return freeze(self._session, self._graph.as_graph_def(), outputs), bindings

    def close(self) -> None:
        """Closes the session."""
        self._session.close()


class EagerOriginal:
    """The SavedModel as Python objects. A call takes several times as long as in a session."""

    def __init__(self, path: Path, pictures: Preprocess | None = None) -> None:
        self._model = tf.saved_model.load(str(path), tags=[SERVE])  # holds the variables
        self._signatures: dict[str, Any] = dict(self._model.signatures)
        if pictures is not None:
            self._signatures = wrap(self._signatures, make_plan(read_meta_graph(path), pictures))

    def engine(self, spec: SignatureSpec, passes: tuple[PassReport, ...] = ()) -> Engine:
        """See Original."""
        return EagerEngine(spec, self._signatures[spec.name], passes=passes)

    def freeze(self, specs: Mapping[str, SignatureSpec]) -> tuple[Any, dict[str, Binding]]:
        """See Original. Each signature's nodes have their own prefix."""
        graph = tf.Graph()
        bindings = {}
        for number, name in enumerate(specs):
            signature = self._signatures[name]
            frozen = convert_to_constants.convert_variables_to_constants_v2(signature, lower_control_flow=False)
            prefix = f"signature_{number}"
            with graph.as_default():
                tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), name=prefix)
            inputs = [f"{prefix}/{tensor.name}" for tensor in frozen.inputs]
            outputs = [f"{prefix}/{tensor.name}" for tensor in frozen.outputs]
            bindings[name] = Binding(
                dict(zip(sorted(signature.structured_input_signature[1]), inputs, strict=True)),
                dict(zip(sorted(signature.structured_outputs), outputs, strict=True)),
            )
        graph_def = graph_pb2.GraphDef()
        graph_def.CopyFrom(graph.as_graph_def())
        return prune(graph_def, [name for binding in bindings.values() for name in binding.fetches.values()]), bindings

    def close(self) -> None:
        """Drops the objects."""
        self._model = None
        self._signatures.clear()


class EagerEngine:
    """One signature that is called eagerly. Several threads may call it at the same time."""

    def __init__(self, spec: SignatureSpec, function: Any, *, passes: tuple[PassReport, ...] = ()) -> None:
        self.spec = spec
        self.passes = passes
        self._function = function

    def run(self, rows: Rows) -> Rows:
        """Runs one call; see darkroom.models.engine.Engine."""
        if not len(rows):
            return self.spec.empty(rows.asked)
        try:
            tensors = {
                tensor.name: tf.constant(
                    feed_value(rows.columns[tensor.name], self.spec.encodes(tensor.name)), tensor.dtype
                )
                for tensor in self.spec.inputs
            }
            values = self._function(**tensors)
            columns = {name: fetched_column(values[name].numpy()) for name in rows.asked or sorted(values)}
        except Exception as err:
            raise translate(err) from err
        return Rows(columns)

    def close(self) -> None:
        """Drops the function. A later run fails."""
        self._function = None


def _binding(spec: SignatureSpec) -> Binding:
    return Binding(
        {tensor.name: tensor.source for tensor in spec.inputs}, {tensor.name: tensor.source for tensor in spec.outputs}
    )
