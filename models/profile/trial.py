"""One way of calling a signature, alone in a process of its own, timed when it is asked to.

The threads of the plain signature are the process's, sized once. So each way has a process, and the ways are timed in
turn, round by round: what else the machine does falls on all of them alike.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from darkroom.models.engine import PassReport
from darkroom.models.errors import LoadFailed, ModelError, UnknownSignature
from darkroom.models.rows import Rows, fill
from darkroom.models.spec import SignatureSpec, Wire

DEFAULT_SIGNATURE = "serving_default"
MAX_INFLIGHT = 64
END_TIMEOUT_S = 10.0  # guess: a child that still runs a call then is killed


class Way(NamedTuple):
    """How a signature is called: as the engine does, or plainly, as `tf.saved_model.load` gives it."""

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    is_plain: bool = False

    def __str__(self) -> str:
        return "plain signature" if self.is_plain else f"intra={self.intra_op_threads} inter={self.inter_op_threads}"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tried: a version folder, one of its signatures, and the rows that make the batches."""

    path: Path
    signature: str = DEFAULT_SIGNATURE
    pictures: tuple[bytes, ...] = ()  # what the batches are made of; empty: the engine's warm-up rows
    custom_op_paths: tuple[Path, ...] = ()
    story: "Story | None" = None  # what an engine made of it; the plain way needs it


class Story(NamedTuple):
    """What became of a signature at load."""

    spec: SignatureSpec
    passes: tuple[PassReport, ...]
    rows: tuple[Rows, ...]


class Trial:
    """The parent's end: asks one process for timings. A context manager; the process ends with it."""

    def __init__(self, subject: Subject, way: Way) -> None:
        """Starts the process and waits until the model is loaded.

        Raises:
            LoadFailed: it cannot be loaded, or the process ended.
        """
        context = multiprocessing.get_context("spawn")  # a fork of a process that has TensorFlow's threads hangs
        self.way = way
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, subject, way), daemon=True)
        self._process.start()
        theirs.close()
        self.story: Story = self._receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def seconds(self, images: int, inflight: int, repeats: int = 1) -> float:
        """The wall time of a call of `images` rows: `inflight` threads at once make `repeats` of them each."""
        return float(self._ask("seconds", images, inflight, repeats))

    def answer(self, images: int) -> Rows:
        """What a call of `images` rows gives."""
        answer: Rows = self._ask("answer", images)
        return answer

    def difference(self, images: int, other: Rows) -> str:
        """How `other`, an answer to the same call, differs from this way's beyond rounding; empty: in nothing."""
        return str(self._ask("difference", images, other))

    def close(self) -> None:
        """Ends the process; idempotent."""
        self._pipe.close()
        self._process.join(END_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, *question: Any) -> Any:
        self._pipe.send(question)
        return self._receive()

    def _receive(self) -> Any:
        try:
            reply = self._pipe.recv()
        except (EOFError, ConnectionResetError) as err:
            self._process.join(END_TIMEOUT_S)
            raise LoadFailed(f"the process that tried it ended with status {self._process.exitcode}") from err
        if isinstance(reply, ModelError):
            self.close()
            raise reply
        return reply


def _serve(pipe: Connection, subject: Subject, way: Way) -> None:
    """The child's end: loads, tells the story, then answers until the pipe is closed."""
    try:
        caller = _plain(subject) if way.is_plain else _engine(subject, way)
        pipe.send(caller.story)
        while True:
            act, *arguments = pipe.recv()
            pipe.send(getattr(caller, act)(*arguments))
    except EOFError:
        return
    except ModelError as err:
        pipe.send(LoadFailed(str(err)))


class _Caller:
    """Batches made of single rows, and the calls that take them."""

    def __init__(self, story: Story, prepare: Callable[[Rows], Callable[[], Rows]]) -> None:
        self.story = story
        self._prepare = prepare
        self._calls: dict[int, Callable[[], Rows]] = {}
        self._threads = ThreadPoolExecutor(MAX_INFLIGHT)

    def seconds(self, images: int, inflight: int, repeats: int) -> float:
        call = self._call(images)

        def make_them() -> None:
            for _ in range(repeats):
                call()

        started_s = time.perf_counter()
        others = [self._threads.submit(make_them) for _ in range(inflight - 1)]
        make_them()
        for other in others:
            other.result()
        return (time.perf_counter() - started_s) / repeats

    def answer(self, images: int) -> Rows:
        return self._call(images)()

    def difference(self, images: int, other: Rows) -> str:
        from darkroom.models.rewriting.verify import unequal  # noqa: PLC0415 - TensorFlow, which the parent need not import

        return unequal(self.answer(images), other)

    def _call(self, images: int) -> Callable[[], Rows]:
        if images not in self._calls:
            singles = self.story.rows
            self._calls[images] = self._prepare(fill(singles, images))
        return self._calls[images]


def _engine(subject: Subject, way: Way) -> _Caller:
    from darkroom.models.engines.open import load_model  # noqa: PLC0415 - as above
    from darkroom.models.runtime.custom_ops import load_custom_ops  # noqa: PLC0415 - TensorFlow, which the parent need not import

    load_custom_ops(subject.custom_op_paths)
    model = load_model(
        subject.path,
        name="trial",
        version=1,
        intra_op_threads=way.intra_op_threads,
        inter_op_threads=way.inter_op_threads,
    )
    engine = model.engines.get(subject.signature)
    if engine is None:
        raise UnknownSignature(subject.signature, list(model.engines))
    rows = _single_rows(engine.spec, subject.pictures) or model.samples.get(subject.signature, ())
    rows = rows or _untried_rows(engine.spec, subject.path)
    return _Caller(Story(engine.spec, engine.passes, rows), lambda batch: lambda: engine.run(batch))


def _plain(subject: Subject) -> _Caller:
    """The usual way: text where the graph wants base64 (made beforehand, as a client would), every output fetched."""
    from darkroom.models.runtime.custom_ops import load_custom_ops  # noqa: PLC0415 - as above
    from darkroom.models.runtime.session import feed_value, fetched_column  # noqa: PLC0415 - as above
    from darkroom.models.runtime.tensorflow import tf  # noqa: PLC0415 - as above

    assert subject.story is not None  # noqa: S101 - the engine is tried first, and says what it is
    spec = subject.story.spec
    load_custom_ops(subject.custom_op_paths)
    model = tf.saved_model.load(str(subject.path), tags=["serve"])
    text = spec.image_input if spec.wire is Wire.BASE64 else None

    def prepare(batch: Rows) -> Callable[[], Rows]:
        function = model.signatures[spec.name]  # by way of the model: its variables live as long as it does
        tensors = {
            tensor.name: tf.constant(feed_value(batch.columns[tensor.name], tensor.name == text), tensor.dtype)
            for tensor in spec.inputs
        }
        return lambda: Rows(
            {name: fetched_column(np.asarray(value.numpy())) for name, value in function(**tensors).items()}
        )

    return _Caller(subject.story, prepare)


def _untried_rows(spec: SignatureSpec, path: Path) -> tuple[Rows, ...]:
    """The likeliest rows for a signature that is not run at load: it keeps state, which ends with this process."""
    from darkroom.models.runtime.tensorflow import SessionOptions  # noqa: PLC0415 - as above
    from darkroom.models.saved_model.reader import read_meta_graph  # noqa: PLC0415 - as above
    from darkroom.models.saved_model.sample_rows import PictureMaker, candidates  # noqa: PLC0415 - as above

    pictures = PictureMaker(SessionOptions())
    try:
        found = next(candidates(spec, read_meta_graph(path).graph_def, pictures), [])
    finally:
        pictures.close()
    if not found:
        raise LoadFailed("no row could be generated that it may take, so there is nothing to time it with")
    return tuple(found)


def _single_rows(spec: SignatureSpec, pictures: Sequence[bytes]) -> tuple[Rows, ...]:
    """One row of each picture."""
    if pictures and (spec.image_input is None or len(spec.inputs) > 1):
        raise LoadFailed("its input is not one picture a row: only generated rows can be used")
    return tuple(Rows({str(spec.image_input): [picture]}) for picture in pictures)
