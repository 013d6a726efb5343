"""A signature as a DirectSession callable: fixed feeds and fetches, one call a batch, from any thread.

`Session._make_callable_from_options` is the form without TensorFlow's Python on the way. Measured with TensorFlow 2.21,
a 28x28 linear model and one row, medians of one run: eager signature 276 us, `Session.make_callable` 205 us (it goes
by way of `Session.run`), this 34 us. Several threads may call it at once.
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
from darkroom.models.runtime.tensorflow import config_pb2, tf
from darkroom.models.spec import SignatureSpec, Wire

# A client may ask for any set of outputs; past this many sets, all outputs are computed and the others dropped.
MAX_CALLABLES = 16

_NODE_NOISE = re.compile(r"\[\[.*?\]\]|\{\{.*?\}\}|\[Op:\w+\]|\(defined at .*?\)", re.DOTALL)
_QUOTED_DATA = re.compile(r"(, value: |starting with )?'(?:[^']{40,}|[^']*\\[0-9x][^']*)'?", re.DOTALL)
# A message that quotes a client's bytes is not UTF-8, and then this is what TensorFlow's Python raises of it (tried:
# ParseExample). Only what the client sent can be quoted so.
_INVALID = (tf.errors.InvalidArgumentError, UnicodeDecodeError)


Spread = Callable[[Callable[..., Sequence[Any]], Sequence[Any]], Sequence[Any]]  # front, arrays → values to feed


def one_by_one(front: Callable[..., Sequence[Any]], arrays: Sequence[Any]) -> Sequence[Any]:
    """The front's first output for all rows, each run alone, in the calling thread."""
    rows = range(len(arrays[0]))
    return [np.concatenate([front(*[array[row : row + 1] for array in arrays])[0] for row in rows])]


@dataclass(frozen=True, slots=True)
class Binding:
    """Which tensors of a graph are a signature's inputs and outputs, and which of its nodes judge a row."""

    feeds: dict[str, str]  # input → tensor name
    fetches: dict[str, str]  # output → tensor name
    cut: tuple[str, ...] = ()  # see models/graph/decoding_ops.py; empty: there is none


class SessionEngine:
    """One signature of a graph in a session; the session is somebody else's to close.

    With a `waist` (models/engines/row_prefix.py: the name of a tensor that all rows pass through) what stands before that is run as
    `spread` does, for each row alone or in pieces, and what stands behind it for all of them. Such an engine takes
    aligned rows only. `spread` gives values of the waist and of `more`, the other tensors of a joint (models/engines/joint.py).
    """

    def __init__(
        self,
        spec: SignatureSpec,
        session: Any,
        binding: Binding,
        *,
        passes: tuple[PassReport, ...] = (),
        waist: str = "",
        spread: Spread = one_by_one,
        more: Sequence[str] = (),
    ) -> None:
        self.spec = spec
        self.passes = passes
        self._session = session
        self._binding = binding
        self.waist = waist
        self._spread = spread
        self._more_fed = more
        self._front = make_callable(session, list(binding.feeds.values()), [waist]) if waist else None
        self._hoisted = any(report.name == "hoist_base64" and report.applied for report in passes)
        self._all = tuple(sorted(binding.fetches))
        self._callables = {self._all: self._make(self._all)}
        self._judge = make_callable(session, list(binding.feeds.values()), targets=binding.cut) if binding.cut else None

    def at_waist(self, waist: str, spread: Spread = one_by_one, more: Sequence[str] = ()) -> "SessionEngine":
        """The same signature with a waist; see models/engines/row_prefix.py and models/engines/cpu_decode.py."""
        return type(self)(
            self.spec, self._session, self._binding, passes=self.passes, waist=waist, spread=spread, more=more
        )

    def run(self, rows: Rows) -> Rows:
        """The outputs of one call; see darkroom.models.engine.Engine."""
        if not len(rows):
            return self.spec.empty(rows.asked)
        asked = rows.asked or self._all
        arrays = {name: feed(rows.columns[name], self._encodes(name)) for name in self._binding.feeds}
        try:
            call = self._callables.get(asked) or self._more(asked)
            values = call(arrays)
        except Exception as err:
            raise translate(err) from err
        return Rows({name: values[name] for name in asked})

    def screen(self, rows: Rows) -> list[InvalidInput | None]:
        """What is wrong with each row; see darkroom.models.engine.Screener. One call a row, of the decoding part alone."""
        judge = self._judge
        if judge is None or not rows.aligned:
            return []
        arrays = [feed(rows.columns[name], self._encodes(name)) for name in self._binding.feeds]
        return [_fault(judge, [array[row : row + 1] for array in arrays]) for row in range(len(rows))]

    def nodes_of(self, rows: Rows, *, calls: int = 1) -> dict[str, float]:
        """The nodes that a call of these rows runs, with those that Grappler made of them.

        Each with its seconds in that one of `calls` in which it was quickest.
        """
        feeds = self._binding.feeds
        options = config_pb2.CallableOptions(feed=feeds.values())
        options.fetch.extend(sorted(set(self._binding.fetches.values()) - set(feeds.values())))
        options.run_options.trace_level = config_pb2.RunOptions.SOFTWARE_TRACE
        call = self._session._make_callable_from_options(options)  # noqa: SLF001 - see the file's first lines
        arrays = [feed(rows.columns[name], self._encodes(name)) for name in feeds]
        quickest_s: dict[str, float] = {}
        for _ in range(calls):
            told = config_pb2.RunMetadata()
            call(*arrays, run_metadata=told)
            took_s: dict[str, float] = defaultdict(float)  # a node in a loop is run more than once
            for node in (node for device in told.step_stats.dev_stats for node in device.node_stats):
                took_s[node.node_name] += (node.op_end_rel_nanos - node.op_start_rel_nanos) / 1e9
            quickest_s |= {name: min(seconds, quickest_s.get(name, seconds)) for name, seconds in took_s.items()}
        return quickest_s

    def close(self) -> None:
        """Lets the callables go."""
        self._callables.clear()
        self._judge = self._front = None

    def _encodes(self, name: str) -> bool:
        return name == self.spec.image_input and self.spec.wire is Wire.BASE64 and not self._hoisted

    def _more(self, asked: tuple[str, ...]) -> Any:
        if len(self._callables) >= MAX_CALLABLES:
            return self._callables[self._all]
        return self._callables.setdefault(asked, self._make(asked))

    def _make(self, outputs: tuple[str, ...]) -> Any:
        """A call for some outputs. One that is an input as well is not fetched: TensorFlow refuses that."""
        inputs = list(self._binding.feeds)
        passed_on = {tensor: name for name, tensor in self._binding.feeds.items()}
        fetched = sorted({self._binding.fetches[output] for output in outputs} - set(passed_on))
        session_call = self._make_call([self._binding.feeds[name] for name in inputs], fetched)

        def call(arrays: dict[str, Any]) -> dict[str, Column]:
            got = session_call(*[arrays[name] for name in inputs])
            values = dict(zip(fetched, got, strict=True))
            for tensor, name in passed_on.items():
                values[tensor] = arrays[name]
            return {output: unfeed(values[self._binding.fetches[output]]) for output in outputs}

        return call

    def _make_call(self, feeds: list[str], fetches: Sequence[str]) -> Any:
        """`make_callable`, by way of the waist where there is one."""
        front, spread = self._front, self._spread
        if front is None:
            return make_callable(self._session, feeds, fetches)
        behind = make_callable(self._session, [self.waist, *self._more_fed], fetches)
        return lambda *arrays: behind(*spread(front, arrays))


def _fault(judge: Callable[..., object], arrays: list[Any]) -> InvalidInput | None:
    try:
        judge(*arrays)
    except _INVALID as err:
        return InvalidInput(_message(err))
    return None


def make_callable(session: Any, feeds: list[str], fetches: Sequence[str] = (), targets: Sequence[str] = ()) -> Any:
    """`fetches` for values of `feeds`, in their orders, once `targets` ran; no call where there is neither."""
    if not (fetches or targets):
        return lambda *_: ()  # TensorFlow refuses that
    options = config_pb2.CallableOptions(feed=feeds, fetch=fetches, target=targets)
    return session._make_callable_from_options(options)  # noqa: SLF001 - see the file's first lines


def feed(column: Column, encode: bool) -> Any:  # noqa: FBT001 - decided by the engines alone
    r"""A column as TensorFlow takes it, pictures in URL-safe base64 where `encode`.

    Strings go as an object array, never as a list: TensorFlow makes numpy's fixed-width bytes of a list, and those lose
    trailing zero bytes (tried: `[b"ab\0"]` arrives as 2 bytes).
    """
    if not isinstance(column, list):
        if encode:
            flat = [urlsafe_b64encode(value) for value in column.ravel()]
            return objects(flat).reshape(column.shape)
        return column
    return objects([urlsafe_b64encode(value) for value in column] if encode else column)


def objects(values: list[bytes]) -> "np.ndarray[Any, np.dtype[Any]]":
    """A rank-1 array of Python bytes."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def unfeed(value: Any) -> Column:
    """A column of what TensorFlow gave: for a scalar it gives bytes or a numpy scalar, not an array."""
    if isinstance(value, bytes):
        return objects([value]).reshape(())
    if isinstance(value, np.generic):
        return np.asarray(value)
    if value.dtype == object and value.ndim == 1:
        return value.tolist()  # type: ignore[no-any-return]  # bytes, of a string tensor
    return value  # type: ignore[no-any-return]  # an ndarray


def translate(err: BaseException) -> ModelError:
    """TensorFlow's error as one of ours: only an invalid argument is the client's fault."""
    if isinstance(err, ModelError):
        return err
    if isinstance(err, _INVALID):
        return InvalidInput(_message(err))
    text = _message(err)
    if isinstance(err, (tf.errors.ResourceExhaustedError, MemoryError)):
        return OutOfMemory(text or "out of memory")
    return PredictFailed(f"{type(err).__name__}: {text}")


def _message(err: BaseException) -> str:
    """What TensorFlow said, cleaned."""
    if isinstance(err, UnicodeDecodeError):
        return clean(err.object.decode(errors="replace"))
    return clean(getattr(err, "message", None) or str(err))


def clean(message: str) -> str:
    """TensorFlow's message without the names of its nodes and without the data that it quotes: at most 256 bytes."""
    text = _NODE_NOISE.sub("", message.partition("\nOriginal stack trace")[0])
    text = _QUOTED_DATA.sub("", text)
    lines = [line.strip() for line in text.splitlines() if line.strip() and "Graph execution error" not in line]
    return quote(" ".join(lines)).strip(" ,:")
