"""Requests that wait for one another: an engine that is held, so that what comes meanwhile shares the next batch."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import httpx

from darkroom.models.engine import LoadedModel
from darkroom.models.engines.fakes import SlowEngine, fake_model
from tests.serving import metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from darkroom.models.engine import Engine
    from darkroom.models.rows import Rows

Made = TypeVar("Made")
TIMEOUT_S = 60


class Held:
    """A model, a fake by default, whose engines stand still at each batch until `ride` lets them go.

    With `samples` it is warmed up by them: then its engines stand still from the beginning of `ride` on.
    """

    def __init__(self, model: LoadedModel | None = None, samples: Sequence[Rows] = ()) -> None:
        self._go = threading.Event()
        if samples:
            self._go.set()
        model = model or fake_model(name="default")
        engines = {name: self._hold(engine) for name, engine in model.engines.items()}
        self.model = LoadedModel(model.spec, engines, dict.fromkeys(engines, tuple(samples)), free=model.free)

    def _hold(self, engine: Engine) -> Engine:
        return SlowEngine(engine, lambda _: TIMEOUT_S, sleep=self._go.wait)

    def ride(self, url: str, plug: Callable[[], object], asks: Sequence[Callable[[], Made]]) -> list[Made]:
        """What each of `asks`, one picture each, gave. All were sent while the batch of `plug` was held."""
        if self._go.is_set():
            wait_for(lambda: httpx.get(f"{url}/v2/health/ready").status_code == 200)
            self._go.clear()
        with ThreadPoolExecutor(len(asks) + 1) as threads:
            try:
                plugged = threads.submit(plug)
                wait_for(lambda: metric(url, "darkroom_batches_total") == 1)
                asked = [threads.submit(ask) for ask in asks]
                wait_for(lambda: metric(url, "darkroom_queue_images") == len(asks))
            finally:
                self._go.set()
            plugged.result(TIMEOUT_S)
            return [answer.result(TIMEOUT_S) for answer in asked]

    @contextmanager
    def standing(self, url: str, plug: Callable[[], object]) -> Iterator[None]:
        """The block runs while the batch of `plug` is held."""
        with ThreadPoolExecutor(1) as threads:
            try:
                plugged = threads.submit(plug)
                wait_for(lambda: metric(url, "darkroom_batches_total") == 1)
                yield
            finally:
                self._go.set()
            plugged.result(TIMEOUT_S)


def wait_for(is_so: Callable[[], bool]) -> None:
    """Returns once `is_so`; fails after a minute."""
    ends_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < ends_s
        time.sleep(0.01)
