"""Lazy models: requests wait here until their model is loaded; models that nobody asks for are unloaded."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from darkroom.batching.errors import DeadlineExceeded
from darkroom.service.errors import NotLoaded, NotReady

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from darkroom.service.config.settings import Settings
    from darkroom.service.serving.registry import Registry

Then: TypeAlias = (
    "Callable[[BaseException | None], None]"  # called once: with None when the model may be asked, or why not
)
LIMIT, IDLE, REQUEST = "limit", "idle", "request"  # why a model is unloaded
POLL_S = 0.02  # guess: until the next look for a model without requests, while all that are loaded have some


class Waiting(NamedTuple):
    """A request that waits for its model: the bytes of its body, what to call, and the timer of its deadline."""

    size: int
    then: Then
    timer: asyncio.TimerHandle


class LazyModels:
    """Loads lazy models when requests need them, and unloads the least recently used ones. On the event loop.

    A request waits until its model is loaded, or its own deadline has passed; the load goes on then. As many requests
    may wait for one model as images may in a queue, with as many bytes. A model with requests that wait or are in flight is
    never unloaded; if all that are loaded have some, a load waits.

    Args:
        settings: of the server.
        registry: tells which models are lazy, and which of these are loaded.
        load: loads a model, in a `room`. It may fail: the registry then says why.
        unload: unloads a model that has no requests, for a reason; returns False if it can't now.
        clock: in seconds; the monotonic one.

    Attributes:
        unloads: how often each model was unloaded, by model and reason.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        load: Callable[[str], Awaitable[None]],
        unload: Callable[[str, str], Awaitable[bool]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._load = load
        self._unload = unload
        self._clock = clock
        self._waiting: dict[str, dict[object, Waiting]] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._claimed: Counter[str] = Counter()  # models that are being loaded and count as loaded
        self._turn = asyncio.Lock()  # held while room is made
        self._load_s: float | None = None  # of the last load
        self._is_closed = False
        self.unloads: Counter[tuple[str, str]] = Counter()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._waiting.values()))

    def wait(self, name: str, size: int, deadline_s: float, then: Then) -> Callable[[], None]:
        """Has a request of `size` bytes wait for a model, until `deadline_s` on the monotonic clock; begins to load it.

        Returns:
            A function that takes the request back: `then` is not called any more.

        Raises:
            NotLoaded: too many requests wait for it.
            NotReady: the server is draining.
        """
        if self._is_closed:
            raise NotReady("the server is draining; ask another one")
        waiting = self._waiting.setdefault(name, {})
        self._check_room(name, size, waiting)
        key = object()
        delay_s = max(0.0, deadline_s - self._clock())
        timer = asyncio.get_running_loop().call_later(delay_s, self._expire, name, key)
        waiting[key] = Waiting(size, then, timer)
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._load_for_all(name), name=f"load-{name}")
        return partial(self._leave, name, key)

    async def ensure(self, name: str) -> None:
        """Returns when a lazy model is loaded; at once for any other, and for one that does not exist.

        Raises:
            NotReady, DeadlineExceeded: see `wait`; or why it can't be loaded now.
        """
        if not self._registry.is_unloaded(name):
            return
        done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        deadline_s = self._clock() + self._settings.request_timeout_ms / 1000
        leave = self.wait(name, 0, deadline_s, lambda error: None if done.done() else done.set_result(error))
        try:
            if (error := await done) is not None:
                raise error
        finally:
            leave()

    @asynccontextmanager
    async def room(self, name: str) -> AsyncIterator[None]:
        """Context manager in which a lazy model may be loaded: others are unloaded first if the limit says so.

        Raises:
            NotLoaded: for the time of a request, all that are loaded had requests.
        """
        most, patience_s = self._settings.max_loaded_models, self._settings.request_timeout_ms / 1000
        async with self._turn:
            until_s = self._clock() + patience_s
            while most and len(self._loaded() - {name}) >= most:
                if not await self._unload_one(name):
                    if self._is_closed or self._clock() > until_s:
                        busy = f"all {most} that may be loaded (--max_loaded_models) are answering requests"
                        raise NotLoaded(f"model {name!r} can't be loaded now: {busy}", model=name)
                    await asyncio.sleep(POLL_S)
            self._claimed[name] += 1
        try:
            yield
        finally:
            self._claimed -= Counter([name])

    async def run(self) -> None:
        """Unloads models that got no request for `--unload_idle_ms`, forever."""
        idle_s = self._settings.unload_idle_ms / 1000
        while True:
            await asyncio.sleep(min(1.0, idle_s / 4))
            async with self._turn:
                for name in self._loaded() - self._claimed.keys():
                    if self._clock() - self._registry.last_used_s(name) >= idle_s and not self._waiting.get(name):
                        await self._unload(name, IDLE)

    def forget(self, name: str) -> None:
        """Forgets the counts of a model that is no longer known."""
        for key in [key for key in self.unloads if key[0] == name]:
            del self.unloads[key]

    def close(self) -> None:
        """Refuses those that wait, and all that come: the server is draining."""
        self._is_closed = True
        for name in list(self._waiting):
            self._end(name, NotReady("the server is draining; ask another one"))

    def _loaded(self) -> set[str]:
        """The lazy models that are in memory, or will be."""
        return {name for name in self._registry.loadable if self._registry.versions(name)} | self._claimed.keys()

    async def _unload_one(self, other_than: str) -> bool:
        """Unloads the least recently used model without requests; whether there is one."""
        loaded = self._loaded() - self._claimed.keys() - {other_than}
        for name in sorted(loaded, key=self._registry.last_used_s):
            if not self._waiting.get(name) and await self._unload(name, LIMIT):
                return True
        return False

    async def _load_for_all(self, name: str) -> None:
        """Loads a model, then lets all go on that wait for it."""
        error: BaseException | None = None
        started_s = self._clock()
        try:
            await self._load(name)
        except Exception as err:  # noqa: BLE001 - it is answered to those that wait
            error = err
        else:
            self._load_s = self._clock() - started_s
        finally:
            del self._loading[name]
        self._end(name, error)

    def _end(self, name: str, error: BaseException | None) -> None:
        """Calls all that wait for a model. They may wait again, for another load."""
        for each in self._waiting.pop(name, {}).values():
            each.timer.cancel()
            each.then(error)

    def _check_room(self, name: str, size: int, waiting: dict[object, Waiting]) -> None:
        settings = self._settings
        is_full = len(waiting) >= settings.max_queue_images
        if is_full or (waiting and sum(each.size for each in waiting.values()) + size > settings.max_queue_bytes):
            flag = "max_queue_images" if is_full else "max_queue_bytes"
            said = f"model {name!r} is being loaded, and {len(waiting)} requests wait for it already (--{flag})"
            raise NotLoaded(said, model=name, retry_after_s=self._load_s)

    def _expire(self, name: str, key: object) -> None:
        if each := self._waiting.get(name, {}).pop(key, None):
            each.then(
                DeadlineExceeded(f"model {name!r} was not loaded within the time of the request; its load goes on")
            )

    def _leave(self, name: str, key: object) -> None:
        if each := self._waiting.get(name, {}).pop(key, None):
            each.timer.cancel()
