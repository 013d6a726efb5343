"""What is measured when a model is opened: timing that is fair to both sides, and a cache of what was decided.

A new version of a model nearly always has the same layers with other weights, for which the same decisions hold. To
measure again takes seconds of every core while the old version is serving, and calls larger than any that serves:
TensorFlow's allocator never returns the memory of those.

No TensorFlow is imported with this module: the warm-up and the parent process of a profile use its timing.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from darkroom.models.engine import PassReport
from darkroom.models.rows import Rows

if TYPE_CHECKING:
    from darkroom.models.rewriting.artifact import Artifact
    from darkroom.models.runtime.tensorflow import SessionOptions

T = TypeVar("T")
Clock = Callable[[], float]  # seconds that only rise
Run = Callable[[Rows], Rows]

ROUNDS = 9  # the quickest of them counts: background load only adds time
BUDGET_S = 2.0  # for one comparison: a slow call needs no second look, since noise is a small part of it (guess)
MAX_CACHED = 64  # graphs, some hundred bytes each (guess: more than one server has models)


def interleave(measures: Sequence[Callable[[], T]], *, rounds: int) -> list[list[T]]:
    """The results of `rounds` runs of each of `measures`, which take turns, so that background load affects all equally.

    Each round begins with the next one, so that none always follows the same neighbour.

    Returns:
        A list for each of `measures`, in their order, with `rounds` results.
    """
    results: list[list[T]] = [[] for _ in measures]
    for number in range(rounds):
        for place in range(len(measures)):
            turn = (place + number) % len(measures)
            results[turn].append(measures[turn]())
    return results


def seconds_of(call: Callable[[], object], *, clock: Clock = time.perf_counter) -> float:
    """The seconds that one call of `call` takes."""
    started_s = clock()
    call()
    return clock() - started_s


def time_both(
    first: Run, second: Run, rows: Rows, *, rounds: int = ROUNDS, clock: Clock = time.perf_counter
) -> tuple[float, float]:
    """The seconds of the quickest call of each of two implementations, timed alternately.

    The very first call of each makes its kernels and is not counted, unless the two are so slow that BUDGET_S is over.
    """
    tried = [seconds_of(partial(call, rows), clock=clock) for call in (first, second)]
    rounds = min(rounds, int((BUDGET_S - sum(tried)) / max(sum(tried), 1e-9)))
    if rounds < 1:
        return tried[0], tried[1]
    times = interleave(
        [partial(seconds_of, partial(call, rows), clock=clock) for call in (first, second)], rounds=rounds
    )
    return min(times[0]), min(times[1])


class Timer(Protocol):
    """What compares two implementations: `time_both`, or a test's table of times."""

    def __call__(self, first: Run, second: Run, rows: Rows, *, rounds: int = ROUNDS) -> tuple[float, float]:
        """See `time_both`."""


class Tuning(NamedTuple):
    """What was decided for a signature, and the reports that say so.

    Attributes:
        split: the tensor up to which rows run one by one (models/engines/row_prefix.py); empty: none.
        min_rows: as ShardedEngine's (models/engines/sharded.py); 0: shards do not pay.
        piece_rows: as ShardedEngine's.
        split_report: the report on the row prefix.
        shard_reports: the report on shards; none where they were not tried.
    """

    split: str = ""
    min_rows: int = 0
    piece_rows: int = 0
    split_report: PassReport = PassReport("row_prefix", applied=False)
    shard_reports: tuple[PassReport, ...] = ()


class TuningCache:
    """The tunings of a server's models, by `graph_key` and signature. Threads may share it."""

    def __init__(self) -> None:
        self._cached: dict[str, dict[str, Tuning]] = {}

    def get(self, key: str) -> Mapping[str, Tuning]:
        """The tunings of a graph by signature; empty where it was not measured yet."""
        return self._cached.get(key, {})

    def put(self, key: str, tunings: Mapping[str, Tuning]) -> None:
        """Keeps the tunings of a graph. Past MAX_CACHED graphs the oldest is dropped."""
        self._cached[key] = dict(tunings)
        if len(self._cached) > MAX_CACHED:
            self._cached.pop(next(iter(self._cached)), None)


def graph_key(artifact: "Artifact", options: "SessionOptions") -> str:
    """Equal for graphs with the same nodes and bindings, in sessions with the same options, whatever their weights.

    The values of float constants are left out. Those of all other constants count: they are shapes, strides and the like.
    """
    from darkroom.models.runtime.tensorflow import graph_pb2, tf  # noqa: PLC0415 - see the module's first lines

    graph_def = graph_pb2.GraphDef.FromString(artifact.graph)
    digest = hashlib.sha256(repr((sorted(artifact.bindings.items()), options)).encode())
    digest.update(graph_def.library.SerializeToString(deterministic=True))
    for node in graph_def.node:
        tensor = node.attr["value"].tensor
        if node.op == "Const" and tf.dtypes.as_dtype(tensor.dtype).is_floating:
            sizes = [dim.size for dim in tensor.tensor_shape.dim]
            digest.update(repr((node.name, node.device, tensor.dtype, sizes)).encode())
        else:
            digest.update(node.SerializeToString(deterministic=True))
    return digest.hexdigest()
