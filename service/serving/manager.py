"""The models of one server: loads, swaps and unloads their versions, as their sources and the operator want it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from darkroom.models.errors import LoadFailed, ModelError, UnknownModel, UnknownVersion
from darkroom.models.versions.folder import GivenSource
from darkroom.models.versions.policy import Failure, Plan, Policy, plan
from darkroom.service.serving.model import Model
from darkroom.service.serving.register import Register
from darkroom.service.serving.servable import InThread, Servable, story
from darkroom.service.serving.sources import Sources, policy_of
from darkroom.service.serving.states import AVAILABLE, END, LOADING, NO_VERSION, START, UNLOADING, VersionState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from darkroom.models.engine import LoadedModel
    from darkroom.models.versions.folder import Found, Source
    from darkroom.service.config.settings import Settings
    from darkroom.service.serving.registry import Registry
    from darkroom.service.telemetry.metrics import Metrics

_log = logging.getLogger("darkroom.service")
UNLOADED = "it was unloaded on request"


class ModelManager:
    """Every model and version of a server, from load to close. On the event loop; what blocks runs in a thread.

    One version is loaded at a time, whoever asks: two loads at once would take twice the memory and no less time.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Registry,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._states = catalogue.states
        self._register = Register(catalogue.states, metrics, settings)
        self._clock = clock
        self._in_thread = in_thread
        self._sources = Sources(settings)
        self._models: dict[str, Model] = {}
        self._is_serving = False  # the first load of all is over
        self._is_stopping = False
        self._change = asyncio.Lock()  # held while a version comes or goes
        self._retiring: set[Servable] = set()  # not in the catalogue yet, or not any more
        self._changes: set[asyncio.Task[None]] = set()

    @property
    def are_healthy(self) -> bool:
        """Whether there is a model and every batcher is alive."""
        targets = self._catalogue.targets()
        return bool(targets) and all(target.batcher.is_healthy for target in targets)

    def know(self, name: str, source: Source, policy: Policy) -> None:
        """Names a model, in place of those of the settings; `load_all` serves it."""
        self._models[name] = Model(name, source, policy)
        self._states.know(name)

    def give(self, models: Sequence[LoadedModel]) -> None:
        """Names models that are loaded already; see `know`."""
        for name in dict.fromkeys(loaded.spec.name for loaded in models):
            versions = {
                loaded.spec.version: lambda loaded=loaded: loaded for loaded in models if loaded.spec.name == name
            }
            self.know(name, GivenSource(versions), Policy())

    async def load_all(self) -> None:
        """Loads every model; one that fails is told and left out.

        A model that is still being written is waited for where nothing else can be served, and where nobody watches.

        Raises:
            LoadFailed: none could be loaded; says why of each.
        """
        if not self._models:
            for entry in self._settings.models:
                self.know(entry.name, self._sources.of(entry), policy_of(entry, self._settings))
                self._catalogue.label(entry.name, entry.version_labels)
        while True:
            left = [(model, await self._follow(model)) for model in self._models.values()]
            is_left = any(todo.unsettled and not model.served for model, todo in left)
            if not is_left or (self._catalogue.targets() and self._settings.reload_models):
                break
            await asyncio.sleep(self._settings.reload_interval_ms / 1000)
        if not self._catalogue.targets():
            raise LoadFailed("; ".join(f"{self._place(name)}: {self._states.story(name)}" for name in self._models))
        self._is_serving = True

    async def watch(self) -> None:
        """Follows the sources for ever, every `--reload_interval_ms`."""
        while True:
            await asyncio.sleep(self._settings.reload_interval_ms / 1000)
            for model in self._models.values():
                await self._follow(model)

    async def load(self, name: str) -> None:
        """Loads what the model's policy names, now: what is new, what failed before, and what changed where it lies.

        A caller that is cancelled leaves; the load goes on.

        Raises:
            UnknownModel: the server was not started with such a model.
            LoadFailed: a version could not be loaded; what is served goes on being served.
        """
        await self._apart(self._load_now(self._find(name)))

    async def unload(self, name: str) -> None:
        """Takes a model away: answers what it accepted, frees it, and keeps it away until `load`.

        A caller that is cancelled leaves; the model goes all the same.

        Raises:
            UnknownModel: the server was not started with such a model.
        """
        await self._apart(self._unload_now(self._find(name)))

    async def _apart(self, change: Coroutine[Any, Any, None]) -> None:
        """Waits for a change that nobody can leave half done."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _load_now(self, model: Model) -> None:
        async with self._change:
            model.is_wanted = True
            model.failures.clear()
            for version, found in (await self._scan(model)).items():
                if version in model.served and model.served[version][0] != found.stamp and found.is_settled:
                    await self._load(model, version, found)
            todo = await self._update(model)
        if model.failures or todo.unsettled or not model.served:
            raise LoadFailed(self._states.story(model.name))

    async def _unload_now(self, model: Model) -> None:
        async with self._change:
            model.is_wanted = False
            versions = {*model.served, *model.failures}
            await asyncio.gather(*(self._retire(model, version) for version in list(model.served)))
            model.failures.clear()
            for version in versions:
                self._states.note(model.name, version, END, UNLOADED)
        _log.info("model is unloaded on request", extra={"fields": {"model": model.name}})

    def index(self) -> tuple[VersionState, ...]:
        """Every version that is known of every model, newest first, with its state and what is wrong with it."""
        return tuple(state for name in self._states.models() for state in self._states.of(name))

    def label(self, name: str, labels: Mapping[str, int]) -> None:
        """Sets the labels of a model in place of those it had.

        Raises:
            UnknownModel, UnknownVersion: there is no such model, or the version of a label is not served.
        """
        model = self._find(name)
        for version in labels.values():
            if version not in model.served:
                raise UnknownVersion(name, version, sorted(model.served))
        self._catalogue.label(name, dict(labels))

    async def drain(self, timeout_s: float) -> None:
        """Loads nothing more; answers what was accepted, `timeout_s` at most, refusing what is new."""
        self._is_stopping = True
        self._sources.stop()
        await asyncio.gather(*(servable.drain(timeout_s) for servable in self._servables()))

    def close(self) -> None:
        """Ends the batchers, then the threads, then frees the engines; idempotent."""
        for servable in self._servables():
            servable.close()

    def _servables(self) -> list[Servable]:
        return [s for model in self._models.values() for _, s in model.served.values()] + list(self._retiring)

    def _place(self, name: str) -> str:
        """A model for the one who started the server: he may know the folder."""
        folders = {entry.name: entry.base_path for entry in self._settings.models}
        return f"{name} ({folders[name]})" if name in folders else name

    def _find(self, name: str) -> Model:
        try:
            return self._models[name]
        except KeyError:
            raise UnknownModel(name, tuple(self._models)) from None

    async def _follow(self, model: Model) -> Plan:
        async with self._change:
            return await self._update(model)

    async def _update(self, model: Model) -> Plan:
        """Brings what is served in line with what is found, and tells what is left."""
        todo = Plan([], [], [])
        if not model.is_wanted or self._is_stopping:
            return todo
        while found := await self._scan(model):
            todo = plan(found, model.served, model.failures, model.policy, self._clock())
            if not todo.loads:
                await asyncio.gather(*(self._retire(model, version) for version in todo.unloads))
                self._forget_gone(model, found)
                for version in todo.unsettled:
                    self._register.note(model.name, version, START, "its files are still being written")
                break
            await self._load(model, todo.loads[0], found[todo.loads[0]])
        return todo

    async def _scan(self, model: Model) -> Mapping[int, Found]:
        """What is found; nothing where the source cannot be looked into, which changes nothing of what is served."""
        trouble = ""
        found: Mapping[int, Found] = {}
        try:
            found = await self._in_thread(model.source.scan)
        except LoadFailed as err:
            trouble = str(err)
        if trouble and trouble != model.trouble:
            fields = {"model": model.name, "reason": trouble, "still_served": sorted(model.served)}
            _log.error("a model's versions can't be looked for", extra={"fields": fields})
        if trouble and not model.served:
            self._register.note(model.name, NO_VERSION, END, trouble)
        model.trouble = trouble
        return found

    async def _load(self, model: Model, version: int, found: Found) -> None:
        """Loads and warms one version, then puts it in the place of itself or beside the others; or notes why not."""
        started_s = self._clock()
        self._register.note(model.name, version, LOADING)
        try:
            loaded = await self._in_thread(model.source.load, version)
        except LoadFailed as err:
            self._fail(model, version, found, str(err))
            return
        load_s = self._clock() - started_s
        metrics = self._register.metrics_of(model.name, version)
        metrics.load_s.observe(load_s)
        servable = Servable(loaded, self._settings, metrics, in_thread=self._in_thread)
        self._retiring.add(servable)  # so that `close` finds it
        is_alone = not self._catalogue.targets() or not self._is_serving
        try:
            await servable.open(beside=None if is_alone else model.inflight)
        except ModelError as err:
            await self._free(servable)
            self._fail(model, version, found, f"its warm-up failed: {err}")
            return
        model.inflight |= servable.inflight
        self._retiring.discard(servable)
        _, before = model.served.get(version, (None, None))
        model.served[version] = (found.stamp, servable)
        model.failures.pop(version, None)
        self._catalogue.add(model.name, version, servable.targets)
        self._register.note(model.name, version, AVAILABLE)
        fields = {"load_s": round(load_s, 2), "warmup_s": round(self._clock() - started_s - load_s, 2)}
        _log.info("model is served", extra={"fields": story(loaded) | fields})
        if before is not None:
            await self._free(before)

    def _fail(self, model: Model, version: int, found: Found, reason: str) -> None:
        failure = Failure.after(model.failures.get(version), found.stamp, self._clock())
        model.failures[version] = failure
        if version in model.served:  # it was to be loaded anew; what was loaded before goes on
            self._register.note(model.name, version, AVAILABLE, f"its new files can't be served: {reason}")
        else:
            self._register.note(model.name, version, END, reason)
        fields = {"model": model.name, "version": version, "reason": reason}
        fields["next_try_s"] = round(failure.retry_at_s - self._clock())
        _log.error("model can't be served", extra={"fields": fields})

    async def _retire(self, model: Model, version: int) -> None:
        """Takes a version out of the catalogue, then lets it finish what it accepted, then frees it."""
        _, servable = model.served.pop(version)
        self._catalogue.remove(model.name, version)
        self._register.note(model.name, version, UNLOADING)
        await self._free(servable)
        self._register.forget(model.name, version)
        _log.info("version is unloaded", extra={"fields": {"model": model.name, "version": version}})

    async def _free(self, servable: Servable) -> None:
        self._retiring.add(servable)
        # Every entry it holds has a deadline at most so far away.
        await servable.retire(self._settings.request_timeout_ms / 1000)
        self._retiring.discard(servable)

    def _forget_gone(self, model: Model, found: Mapping[int, Found]) -> None:
        """Lets go what is neither found nor served."""
        for state in self._states.of(model.name):
            if state.version not in found and state.version not in model.served:
                model.failures.pop(state.version, None)
                self._register.forget(model.name, state.version)
