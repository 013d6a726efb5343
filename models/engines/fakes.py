"""Engines without TensorFlow: deterministic, shipped, used by tests and by `--model fake`."""

import time
from collections.abc import Callable
from zlib import crc32

import numpy as np

from darkroom.models.engine import Engine, LoadedModel, PassReport
from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows
from darkroom.models.spec import ModelSpec, SignatureSpec, TensorSpec, Wire

FORMATS = frozenset({"jpeg", "png", "gif", "bmp", "webp"})

ECHO = SignatureSpec(
    name="serving_default",
    inputs=(TensorSpec("images", "string", (None,)),),
    outputs=(TensorSpec("digest", "int64", (None,)), TensorSpec("length", "int64", (None,))),
    wire=Wire.BYTES,
    image_input="images",
    formats=FORMATS,
)


class EchoEngine:
    """Answers `length` (bytes) and `digest` (CRC-32) of each picture, both int64[n], so that an answer shows whose it is."""

    def __init__(self, spec: SignatureSpec = ECHO) -> None:
        self.spec = spec
        self.passes: tuple[PassReport, ...] = ()

    def run(self, rows: Rows) -> Rows:
        """One value a row for each output that is asked for."""
        pictures = list(rows.columns[self.spec.inputs[0].name])
        columns = {
            "digest": np.array([crc32(picture) for picture in pictures], dtype=np.int64),
            "length": np.array([len(picture) for picture in pictures], dtype=np.int64),
        }
        return Rows({name: columns[name] for name in rows.asked or columns})

    def close(self) -> None:
        """Nothing to free."""


class _Wrapper:
    """An engine that does something before `inner` runs."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner

    @property
    def spec(self) -> SignatureSpec:
        return self._inner.spec

    @property
    def passes(self) -> tuple[PassReport, ...]:
        return self._inner.passes

    def close(self) -> None:
        self._inner.close()


class SlowEngine(_Wrapper):
    """Takes `seconds(n)` for a batch of n rows before `inner` runs; `sleep` is what waits."""

    def __init__(
        self, inner: Engine, seconds: Callable[[int], float], *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        super().__init__(inner)
        self._seconds = seconds
        self._sleep = sleep

    def run(self, rows: Rows) -> Rows:
        """What `inner` answers, after `seconds(n)`."""
        self._sleep(self._seconds(len(rows)))
        return self._inner.run(rows)


class FailingEngine(_Wrapper):
    """Refuses a batch with a guilty picture, as a graph does: the error does not say which row it was."""

    def __init__(self, inner: Engine, guilty: Callable[[bytes], bool]) -> None:
        super().__init__(inner)
        self._guilty = guilty

    def run(self, rows: Rows) -> Rows:
        """What `inner` answers.

        Raises:
            InvalidInput: a picture of the batch is guilty.
        """
        pictures = rows.columns[self.spec.inputs[0].name]
        if any(self._guilty(picture) for picture in pictures):
            raise InvalidInput("the graph refused a row: guilty picture")
        return self._inner.run(rows)


class ScreeningEngine(FailingEngine):
    """Refuses a batch with a guilty picture as FailingEngine does, and can tell afterwards which rows were guilty."""

    def screen(self, rows: Rows) -> list[InvalidInput | None]:
        """An error for each guilty picture, None for each other one."""
        pictures = rows.columns[self.spec.inputs[0].name]
        return [InvalidInput("guilty picture") if self._guilty(picture) else None for picture in pictures]


class BrokenEngine(_Wrapper):
    """Raises `error` at every run."""

    def __init__(self, inner: Engine, error: BaseException) -> None:
        super().__init__(inner)
        self._error = error

    def run(self, rows: Rows) -> Rows:  # noqa: ARG002 - the protocol's argument
        """Never answers: raises `error`."""
        raise self._error


def fake_model(engine: Engine | None = None, *, name: str = "fake", version: int = 1) -> LoadedModel:
    """A model with one signature, run by `engine` (by default an EchoEngine)."""
    engine = engine or EchoEngine()
    return LoadedModel(ModelSpec(name, version, {engine.spec.name: engine.spec}), {engine.spec.name: engine})
