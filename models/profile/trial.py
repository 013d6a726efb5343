"""Times one way of calling a signature, alone in a process of its own, on request.

The plain signature uses the process's thread pools, which are sized once. So each way has a process, and the caller
times the ways alternately, so that background load affects all of them equally.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from darkroom.models.engine import PassReport
from darkroom.models.engines.tuning import seconds_of
from darkroom.models.errors import LoadFailed, ModelError, UnknownSignature
from darkroom.models.rows import Rows, fill
from darkroom.models.spec import SignatureSpec, Wire

DEFAULT_SIGNATURE = "serving_default"
MAX_INFLIGHT = 64
END_TIMEOUT_S = 10.0  # guess: a child that is still running a call then is killed


class Way(NamedTuple):
    """How a signature is called: as the engine does with these threads, or plainly, as `tf.saved_model.load` returns it."""

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    is_plain: bool = False

    def __str__(self) -> str:
        return "plain signature" if self.is_plain else f"intra={self.intra_op_threads} inter={self.inter_op_threads}"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is timed: a version folder, one of its signatures, and the rows that make the batches."""

    path: Path
    signature: str = DEFAULT_SIGNATURE
    pictures: tuple[bytes, ...] = ()  # the batches are made of these; empty: of the engine's warm-up rows
    custom_op_paths: tuple[Path, ...] = ()
    loaded: "LoadedSignature | None" = None  # as an engine loaded it; the plain way needs it


class LoadedSignature(NamedTuple):
    """A signature once it is loaded: what it wants, what the load-time passes came to, and single rows that it takes."""

    spec: SignatureSpec
    passes: tuple[PassReport, ...]
    rows: tuple[Rows, ...]


class Trial:
    """A process that times one way, as its parent sees it. A context manager; the process ends with it."""

    def __init__(self, subject: Subject, way: Way) -> None:
        """Starts the process and waits until the model is loaded.

        Raises:
            LoadFailed: it cannot be loaded, or the process ended.
        """
        context = multiprocessing.get_context("spawn")  # a fork of a process with TensorFlow's threads hangs
        self.way = way
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, subject, way), daemon=True)
        self._process.start()
        theirs.close()
        self.loaded: LoadedSignature = self._receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def seconds(self, images: int, inflight: int, repeats: int = 1) -> float:
        """The seconds of a call of `images` rows, while each of `inflight` threads at once makes `repeats` of them."""
        return float(self._ask("seconds", images, inflight, repeats))

    def answer(self, images: int) -> Rows:
        """The answer to a call of `images` rows."""
        answer: Rows = self._ask("answer", images)
        return answer

    def difference(self, images: int, other: Rows) -> str:
        """How `other`, an answer to the same call, differs from this way's by more than rounding; empty: not at all."""
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
    """Runs in the child: loads, sends the LoadedSignature, then answers questions until the pipe is closed."""
    try:
        caller = _plain(subject) if way.is_plain else _engine(subject, way)
        pipe.send(caller.loaded)
        while True:
            act, *arguments = pipe.recv()
            pipe.send(getattr(caller, act)(*arguments))
    except EOFError:
        return
    except ModelError as err:
        pipe.send(LoadFailed(str(err)))


class _Caller:
    """Makes batches of single rows, and calls the signature with them. Its methods are what a Trial asks for."""

    def __init__(self, loaded: LoadedSignature, prepare: Callable[[Rows], Callable[[], Rows]]) -> None:
        self.loaded = loaded
        self._prepare = prepare
        self._calls: dict[int, Callable[[], Rows]] = {}
        self._threads = ThreadPoolExecutor(MAX_INFLIGHT)

    def seconds(self, images: int, inflight: int, repeats: int) -> float:
        call = self._call(images)

        def make_them() -> None:
            for _ in range(repeats):
                call()

        def in_all_threads() -> None:
            others = [self._threads.submit(make_them) for _ in range(inflight - 1)]
            make_them()
            for other in others:
                other.result()

        return seconds_of(in_all_threads) / repeats

    def answer(self, images: int) -> Rows:
        return self._call(images)()

    def difference(self, images: int, other: Rows) -> str:
        from darkroom.models.rewriting.verify import unequal  # noqa: PLC0415 - TensorFlow, which the parent need not import

        return unequal(self.answer(images), other)

    def _call(self, images: int) -> Callable[[], Rows]:
        if images not in self._calls:
            self._calls[images] = self._prepare(fill(self.loaded.rows, images))
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
    if subject.pictures:
        if engine.spec.image_input is None or len(engine.spec.inputs) > 1:
            raise LoadFailed("its input is not one picture a row: only generated rows can be used")
        rows = tuple(Rows({engine.spec.image_input: [picture]}) for picture in subject.pictures)
    else:
        rows = model.samples.get(subject.signature, ()) or _untried_rows(engine.spec, subject.path)
    return _Caller(LoadedSignature(engine.spec, engine.passes, rows), lambda batch: lambda: engine.run(batch))


def _untried_rows(spec: SignatureSpec, path: Path) -> tuple[Rows, ...]:
    """The likeliest rows for a signature that is not run at load, since it keeps state; here the process ends with it.

    Raises:
        LoadFailed: none can be generated.
    """
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


def _plain(subject: Subject) -> _Caller:
    """The plain way. Base64, where the graph wants it, is made beforehand, as a client would; all outputs are fetched."""
    from darkroom.models.runtime.custom_ops import load_custom_ops  # noqa: PLC0415 - as above
    from darkroom.models.runtime.session import feed_value, fetched_column  # noqa: PLC0415 - as above
    from darkroom.models.runtime.tensorflow import tf  # noqa: PLC0415 - as above

    assert subject.loaded is not None  # noqa: S101 - the engine is loaded first, and its process sends it
    spec = subject.loaded.spec
    load_custom_ops(subject.custom_op_paths)
    model = tf.saved_model.load(str(subject.path), tags=["serve"])
    text = spec.image_input if spec.wire is Wire.BASE64 else None

    def prepare(batch: Rows) -> Callable[[], Rows]:
        function = model.signatures[spec.name]  # through the model, which keeps its variables alive
        tensors = {
            tensor.name: tf.constant(feed_value(batch.columns[tensor.name], tensor.name == text), tensor.dtype)
            for tensor in spec.inputs
        }
        return lambda: Rows(
            {name: fetched_column(np.asarray(value.numpy())) for name, value in function(**tensors).items()}
        )

    return _Caller(subject.loaded, prepare)
