"""Runs a signature through a DirectSession callable: fixed feeds and fetches, one call per batch, from any thread.

`Session._make_callable_from_options` is the way with the least Python in it. Measured with TensorFlow 2.21, a 28x28
linear model and one row, medians of one run: eager signature 276 us, `Session.make_callable` 205 us (it goes through
`Session.run`), this one 34 us. Several threads may call it at the same time.
"""

import re
from base64 import urlsafe_b64encode
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from darkroom.models.engine import PassReport
from darkroom.models.errors import InvalidInput, ModelError, OutOfMemory, PredictFailed, quote
from darkroom.models.rows import Column, Rows
from darkroom.models.runtime.memory import trimmed
from darkroom.models.runtime.tensorflow import SessionOptions, config_pb2, tf
from darkroom.models.spec import SignatureSpec

# A client may ask for any set of outputs. Beyond this many sets all outputs are computed and the others are dropped.
MAX_CALLABLES = 16

_NODE_NOISE = re.compile(r"\[\[.*?\]\]|\{\{.*?\}\}|\[Op:\w+\]|\(defined at .*?\)", re.DOTALL)
_QUOTED_DATA = re.compile(r"(, value: |starting with )?'(?:[^']{40,}|[^']*\\[0-9x][^']*)'?", re.DOTALL)
# A message that quotes a client's bytes is not UTF-8, and TensorFlow's Python then raises UnicodeDecodeError (seen with
# ParseExample). Only what the client sent can be quoted in this way.
# OutOfRange: a kernel's index beyond a tensor that the client made too small; TensorFlow Serving answers 400 as well.
_INVALID = (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError, UnicodeDecodeError)
# CUDA's libraries tell TensorFlow so in an InternalError, not in a ResourceExhaustedError.
_NO_DEVICE_MEMORY = re.compile(r"CUDA_ERROR_OUT_OF_MEMORY|(CUDNN|CUBLAS|CUFFT)_STATUS_ALLOC_FAILED|CUFFT_ALLOC_FAILED")
# oneDNN refuses a shape that a layer cannot take: a pooling window larger than the picture (its dnnl_invalid_arguments and
# dnnl_unimplemented), a softmax of rank 6.
_ONEDNN_REFUSALS = (*(f"Compute received an exception:Status: {code}" for code in (2, 3)), "Input dims must be")


# How the part of a graph in front of a split is run: (that part, the arrays of the inputs) → the values to feed behind it.
PrefixRunner = Callable[[Callable[..., Sequence[Any]], Sequence[Any]], Sequence[Any]]


def row_by_row(prefix: Callable[..., Sequence[Any]], arrays: Sequence[Any]) -> Sequence[Any]:
    """Runs the prefix for each row alone, in the calling thread; returns its first output for all rows."""
    rows = range(len(arrays[0]))
    return [np.concatenate([prefix(*[array[row : row + 1] for array in arrays])[0] for row in rows])]


@dataclass(frozen=True, slots=True)
class Binding:
    """The tensors of a graph that are a signature's inputs and outputs, and the nodes that check a row."""

    feeds: dict[str, str]  # input → tensor name
    fetches: dict[str, str]  # output → tensor name
    screen_nodes: tuple[str, ...] = ()  # see models/graph/decoding_ops.py; empty: rows cannot be checked


class SessionEngine:
    """One signature of a graph in a session. The engine does not close the session.

    With a `split`, the name of a tensor that all rows pass through (see models/engines/row_prefix.py), `run_prefix`
    runs the part of the graph in front of that tensor, row by row or in pieces, and one call runs the rest for all rows.
    `run_prefix` returns values for the tensor `split` and for `extra_feeds`. Such an engine takes aligned rows only.
    """

    def __init__(
        self,
        spec: SignatureSpec,
        session: Any,
        binding: Binding,
        *,
        passes: tuple[PassReport, ...] = (),
        split: str = "",
        run_prefix: PrefixRunner = row_by_row,
        extra_feeds: Sequence[str] = (),
    ) -> None:
        self.spec = spec
        self.passes = passes
        self.split = split
        self._session = session
        self._binding = binding
        self._run_prefix = run_prefix
        self._extra_feeds = extra_feeds
        feeds = list(binding.feeds.values())
        self._prefix = make_callable(session, feeds, [split]) if split else None
        self._hoisted = any(report.name == "hoist_base64" and report.applied for report in passes)
        self._all = tuple(sorted(binding.fetches))
        self._callables = {self._all: self._make(self._all)}
        self._check = make_callable(session, feeds, targets=binding.screen_nodes) if binding.screen_nodes else None

    def split_at(
        self, split: str, run_prefix: PrefixRunner = row_by_row, extra_feeds: Sequence[str] = ()
    ) -> "SessionEngine":
        """Returns a new engine for the same signature with a split; empty: without one."""
        return type(self)(
            self.spec,
            self._session,
            self._binding,
            passes=self.passes,
            split=split,
            run_prefix=run_prefix,
            extra_feeds=extra_feeds,
        )

    def run(self, rows: Rows) -> Rows:
        """Runs one call; see darkroom.models.engine.Engine."""
        if not len(rows):
            return self.spec.empty(rows.asked)
        asked = rows.asked or self._all
        arrays = {name: feed_value(rows.columns[name], self._encodes(name)) for name in self._binding.feeds}
        try:
            call = self._callables.get(asked)
            if call is None and len(self._callables) < MAX_CALLABLES:
                call = self._callables.setdefault(asked, self._make(asked))
            values = (call or self._callables[self._all])(arrays)
        except Exception as err:
            raise translate(err) from err
        return Rows({name: values[name] for name in asked})

    def screen(self, rows: Rows) -> list[InvalidInput | None]:
        """Checks each row alone; see darkroom.models.engine.Screener. Runs only the decoding nodes, one call per row."""
        check = self._check
        if check is None or not rows.aligned:
            return []
        arrays = [feed_value(rows.columns[name], self._encodes(name)) for name in self._binding.feeds]

        def fault(row: int) -> InvalidInput | None:
            try:
                check(*[array[row : row + 1] for array in arrays])
            except _INVALID as err:
                return InvalidInput(_message(err))
            return None

        return [fault(row) for row in range(len(rows))]

    def nodes_of(self, rows: Rows, *, calls: int = 1) -> dict[str, float]:
        """Runs `calls` traced calls; returns, for each node that ran, its seconds in the call in which it was fastest.

        The nodes are those of the optimized graph, so nodes that Grappler fused or made are among them.
        """
        feeds = self._binding.feeds
        options = config_pb2.CallableOptions(feed=feeds.values())
        options.fetch.extend(sorted(set(self._binding.fetches.values()) - set(feeds.values())))
        options.run_options.trace_level = config_pb2.RunOptions.SOFTWARE_TRACE
        call = self._session._make_callable_from_options(options)  # noqa: SLF001 - see the file's first lines
        arrays = [feed_value(rows.columns[name], self._encodes(name)) for name in feeds]
        fastest_s: dict[str, float] = {}
        for _ in range(calls):
            metadata = config_pb2.RunMetadata()
            call(*arrays, run_metadata=metadata)
            took_s: dict[str, float] = defaultdict(float)  # a node in a loop runs several times
            for node in (node for device in metadata.step_stats.dev_stats for node in device.node_stats):
                took_s[node.node_name] += (node.op_end_rel_nanos - node.op_start_rel_nanos) / 1e9
            fastest_s |= {name: min(seconds, fastest_s.get(name, seconds)) for name, seconds in took_s.items()}
        return fastest_s

    def close(self) -> None:
        """Drops the callables."""
        self._callables.clear()
        self._check = self._prefix = None

    def _encodes(self, name: str) -> bool:
        return self.spec.encodes(name) and not (name == self.spec.image_input and self._hoisted)

    def _make(self, outputs: tuple[str, ...]) -> Any:
        """Makes a call for some outputs. TensorFlow refuses to fetch a tensor that is fed, so it is copied instead."""
        inputs = list(self._binding.feeds)
        fed = {tensor: name for name, tensor in self._binding.feeds.items()}
        fetched = sorted({self._binding.fetches[output] for output in outputs} - set(fed))
        prefix, run_prefix = self._prefix, self._run_prefix
        if prefix is None:
            session_call = make_callable(self._session, [self._binding.feeds[name] for name in inputs], fetched)
        else:
            rest = make_callable(self._session, [self.split, *self._extra_feeds], fetched)

            def session_call(*arrays: Any) -> Any:
                return rest(*run_prefix(prefix, arrays))

        def call(arrays: dict[str, Any]) -> dict[str, Column]:
            got = session_call(*[arrays[name] for name in inputs])
            values = dict(zip(fetched, got, strict=True))
            for tensor, name in fed.items():
                values[tensor] = arrays[name]
            return {output: fetched_column(values[self._binding.fetches[output]]) for output in outputs}

        return call


def open_session(graph_def: Any, options: SessionOptions) -> Any:
    """Returns a new session on a new graph with the nodes of `graph_def`. The caller closes it."""
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(graph_def, name="")
    return tf.compat.v1.Session(graph=graph, config=options.proto())


def open_beside(session: Any, options: SessionOptions) -> Any:
    """Returns a second session on the graph of `session`; both share its constants. The caller closes it."""
    return tf.compat.v1.Session(graph=session.graph, config=options.proto())


def make_callable(session: Any, feeds: list[str], fetches: Sequence[str] = (), targets: Sequence[str] = ()) -> Any:
    """Returns a function: values of `feeds` → values of `fetches`, in these orders, after the nodes `targets` ran.

    Without fetches and targets the function does nothing, because TensorFlow refuses such a call.
    """
    if not (fetches or targets):
        return lambda *_: ()
    options = config_pb2.CallableOptions(feed=feeds, fetch=fetches, target=targets)
    with trimmed():
        return session._make_callable_from_options(options)  # noqa: SLF001 - see the file's first lines


def feed_value(column: Column, encode: bool) -> Any:  # noqa: FBT001 - decided by the engines alone
    r"""Returns a column as TensorFlow takes it; with `encode`, its pictures as URL-safe base64.

    Strings are fed as an array of objects, never as a list: TensorFlow makes numpy's fixed-width bytes of a list, and
    those lose trailing zero bytes (tried: `[b"ab\0"]` arrives as 2 bytes).
    """
    if not isinstance(column, list):
        if encode:
            flat = [urlsafe_b64encode(value) for value in column.ravel()]
            return objects(flat).reshape(column.shape)
        return column
    return objects([urlsafe_b64encode(value) for value in column] if encode else column)


def objects(values: list[bytes]) -> "np.ndarray[Any, np.dtype[Any]]":
    """Returns an array of objects of rank 1 that holds these bytes."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def fetched_column(value: Any) -> Column:
    """Returns a fetched value as a column. TensorFlow returns a scalar as bytes or a numpy scalar, not as an array."""
    if isinstance(value, bytes):
        return objects([value]).reshape(())
    if isinstance(value, np.generic):
        return np.asarray(value)
    if value.dtype == object and value.ndim == 1:
        return value.tolist()  # type: ignore[no-any-return]  # bytes, of a string tensor
    return value  # type: ignore[no-any-return]  # an ndarray


def translate(err: BaseException) -> ModelError:
    """Returns TensorFlow's error as one of ours. Only an invalid argument is the client's fault."""
    if isinstance(err, ModelError):
        return err
    if isinstance(err, _INVALID):
        return InvalidInput(_message(err))
    text = _message(err)
    if isinstance(err, tf.errors.AbortedError) and text.startswith(_ONEDNN_REFUSALS):
        return InvalidInput(
            "a layer of the model cannot take an input of this shape, such as one smaller than its window"
        )
    if isinstance(err, (tf.errors.ResourceExhaustedError, MemoryError)) or _NO_DEVICE_MEMORY.search(str(err)):
        return OutOfMemory(text or "out of memory")
    return PredictFailed(f"{type(err).__name__}: {text}")


def _message(err: BaseException) -> str:
    if isinstance(err, UnicodeDecodeError):
        return clean(err.object.decode(errors="replace"))
    return clean(getattr(err, "message", None) or str(err))


def clean(message: str) -> str:
    """Returns TensorFlow's message, without node names and without the data that it quotes: at most 256 bytes."""
    text = _NODE_NOISE.sub("", message.partition("\nOriginal stack trace")[0])
    text = _QUOTED_DATA.sub("", text)
    lines = [line.strip() for line in text.splitlines() if line.strip() and "Graph execution error" not in line]
    return quote(" ".join(lines)).strip(" ,:")
