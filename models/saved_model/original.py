"""A SavedModel as its author meant it, before any rewriting: what the passes are verified against, and fall back to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from darkroom.models.engine import Engine, PassReport
from darkroom.models.errors import LoadFailed
from darkroom.models.graph.reachability import names_in_reach, node_name, prune
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import Binding, SessionEngine, clean, feed, translate, unfeed
from darkroom.models.runtime.tensorflow import SessionOptions, convert_to_constants, deprecation, graph_pb2, tf
from darkroom.models.saved_model.reader import SERVE
from darkroom.models.spec import SignatureSpec, Wire

_VARIABLES = frozenset({"VarHandleOp", "Variable", "VariableV2"})


class Original(Protocol):
    """A loaded SavedModel."""

    def engine(self, spec: SignatureSpec, passes: tuple[PassReport, ...] = ()) -> Engine:
        """The signature as it stands."""

    def freeze(self, specs: Mapping[str, SignatureSpec]) -> tuple[Any, dict[str, Binding]]:
        """One GraphDef for these signatures with constants for variables, and each signature's tensors in it."""

    def close(self) -> None:
        """Frees it; idempotent."""


def open_original(path: Path, meta_graph: Any, specs: Mapping[str, SignatureSpec], options: SessionOptions) -> Original:
    """The SavedModel in a session, as TensorFlow Serving runs it; or by `tf.saved_model.load` where only that can.

    A Keras 3 model inside a tf.Module saves two handles for each variable and restores the one that its functions do
    not use: only the object loader knows that they are one.

    Raises:
        LoadFailed: neither can.
    """
    try:
        original = SessionOriginal(path, meta_graph, options)
        if original.is_initialized([output.source for spec in specs.values() for output in spec.outputs]):
            return original
        original.close()
        return EagerOriginal(path)
    except LoadFailed:
        raise
    except Exception as err:
        raise LoadFailed(f"TensorFlow cannot load it: {clean(str(err))}") from err


def freeze(session: Any, graph_def: Any, outputs: Sequence[str]) -> Any:
    """The graph with its variables' present values as constants, and only what `outputs` (tensor names) need.

    Functions stay functions: the session inlines them itself. Inlining them here (Grappler's `function` pass, as
    convert_variables_to_constants_v2 does) made no measurable difference, on EfficientNet-Lite0 and on 28x28 models.
    """
    nodes = sorted({node_name(output) for output in outputs})
    with deprecation.silence():
        frozen = convert_to_constants.convert_variables_to_constants_from_session_graph(session, graph_def, nodes)
    return prune(frozen, outputs)


class SessionOriginal:
    """The SavedModel's graph in a session of its own, with variables restored and tables filled."""

    def __init__(self, path: Path, meta_graph: Any, options: SessionOptions) -> None:
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=options.proto())
        tags = set(meta_graph.meta_info_def.tags) or {SERVE}
        # A device of another job (`/job:ps`) comes from a training cluster and exists nowhere else.
        elsewhere = any("/job:" in node.device for node in meta_graph.graph_def.node)
        with self._graph.as_default(), deprecation.silence():
            tf.compat.v1.saved_model.loader.load(self._session, tags, str(path), clear_devices=elsewhere)

    def is_initialized(self, outputs: list[str]) -> bool:
        """Whether every variable that the outputs read has a value."""
        nodes, _ = names_in_reach(self._graph.as_graph_def(), outputs)
        with self._graph.as_default():
            checks = [
                _is_initialized(operation)
                for operation in self._graph.get_operations()
                if operation.type in _VARIABLES and operation.name in nodes
            ]
        return all(self._session.run(checks))

    def engine(self, spec: SignatureSpec, passes: tuple[PassReport, ...] = ()) -> Engine:
        """The signature as it stands."""
        return SessionEngine(spec, self._session, _binding(spec), passes=passes)

    def freeze(self, specs: Mapping[str, SignatureSpec]) -> tuple[Any, dict[str, Binding]]:
        """One GraphDef for these signatures, and each signature's tensors in it."""
        bindings = {name: _binding(spec) for name, spec in specs.items()}
        outputs = sorted({tensor for binding in bindings.values() for tensor in binding.fetches.values()})
        with self._graph.as_default():
            return freeze(self._session, self._graph.as_graph_def(), outputs), bindings

    def close(self) -> None:
        """Closes the session."""
        self._session.close()


class EagerOriginal:
    """The SavedModel as Python objects; a call costs several times that of a session."""

    def __init__(self, path: Path) -> None:
        self._model = tf.saved_model.load(str(path), tags=[SERVE])

    def engine(self, spec: SignatureSpec, passes: tuple[PassReport, ...] = ()) -> Engine:
        """The signature as it stands."""
        return EagerEngine(spec, self._model.signatures[spec.name], passes=passes)

    def freeze(self, specs: Mapping[str, SignatureSpec]) -> tuple[Any, dict[str, Binding]]:
        """One GraphDef for these signatures, each under a prefix of its own, and its tensors in it."""
        graph = tf.Graph()
        bindings = {}
        for number, name in enumerate(specs):
            signature = self._model.signatures[name]
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
        """Lets the objects go."""
        self._model = None


class EagerEngine:
    """One signature called eagerly. Threads may call it at once."""

    def __init__(self, spec: SignatureSpec, function: Any, *, passes: tuple[PassReport, ...] = ()) -> None:
        self.spec = spec
        self.passes = passes
        self._function = function

    def run(self, rows: Rows) -> Rows:
        """The outputs of one call; see darkroom.models.engine.Engine."""
        if not len(rows):
            return self.spec.empty(rows.asked)
        try:
            tensors = {
                tensor.name: tf.constant(feed(rows.columns[tensor.name], self._encodes(tensor.name)), tensor.dtype)
                for tensor in self.spec.inputs
            }
            values = self._function(**tensors)
            columns = {name: unfeed(values[name].numpy()) for name in rows.asked or sorted(values)}
        except Exception as err:
            raise translate(err) from err
        return Rows(columns)

    def close(self) -> None:
        """Lets the function go; a run after it fails."""
        self._function = None

    def _encodes(self, name: str) -> bool:
        return name == self.spec.image_input and self.spec.wire is Wire.BASE64


def _binding(spec: SignatureSpec) -> Binding:
    return Binding(
        {tensor.name: tensor.source for tensor in spec.inputs}, {tensor.name: tensor.source for tensor in spec.outputs}
    )


def _is_initialized(operation: Any) -> Any:
    handle = operation.outputs[0]
    if operation.type == "VarHandleOp":
        return tf.raw_ops.VarIsInitializedOp(resource=handle)
    return tf.compat.v1.is_variable_initialized(handle)
