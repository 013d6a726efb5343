"""The model manager: loads, swaps and unloads versions, as their sources, the version policy and the operator want."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager, nullcontext
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from darkroom.models.errors import LoadFailed, ModelError, UnknownLabel, UnknownModel, UnknownVersion, quote
from darkroom.models.versions.folder import SETTLED_SCANS, GivenSource
from darkroom.models.versions.policy import AVAILABLE, END, LOADING, START, UNLOADING, Failure, Plan, Policy, plan
from darkroom.models.versions.stores.source import StoreSource
from darkroom.service.config.model_config import BadSettingsError, ModelEntry
from darkroom.service.config.traffic import TrafficRule, number_of
from darkroom.service.errors import NotReady, Unimplemented
from darkroom.service.serving.lazy_models import REQUEST, LazyModels
from darkroom.service.serving.load_turns import LoadTurns
from darkroom.service.serving.registry import NO_VERSION, NOT_LOADED
from darkroom.service.serving.servable import InThread, Servable, describe_loaded
from darkroom.service.serving.sources import Sources, is_lazy, policy_of, settings_of
from darkroom.service.telemetry.metrics import ModelMetrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from darkroom.models.engine import LoadedModel
    from darkroom.models.versions.folder import Found, Source
    from darkroom.service.config.settings import Settings
    from darkroom.service.serving.registry import Registry, VersionRecord, VersionState
    from darkroom.service.serving.repository import Wanted
    from darkroom.service.serving.servable import Target
    from darkroom.service.telemetry.metrics import Metrics

_log = logging.getLogger("darkroom.service")
SCAN_TIMEOUT_S = 10.0  # guess: a folder of a file server is listed in less
# The stamps of a version that is to be loaded again, from another folder or in another way; unlike any other stamp.
MOVED, CHANGED = object(), object()
MODEL_FOLDER = "the model's folder"  # in messages
T = TypeVar("T")
UNLOADED = "it was unloaded on request"


class Scan(Generic[T]):
    """A look at a folder, in a thread; `folder` is its name in messages. One that takes too long goes on."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._running: asyncio.Future[T] | None = None

    async def result(self, in_thread: InThread, look: Callable[[], T]) -> T:
        """What `look` returns. While an earlier look has not ended, a call asks only whether it has, and gets its result.

        Raises:
            LoadFailed: it takes too long.
        """
        is_late = self._running is not None
        running = self._running = self._running or asyncio.ensure_future(in_thread(look))
        await asyncio.wait([running], timeout=0 if is_late else SCAN_TIMEOUT_S)
        if not running.done():
            raise LoadFailed(f"{self._folder} does not answer within {SCAN_TIMEOUT_S:.0f} s")
        self._running = None
        return running.result()


class Model:
    """One model: where its versions come from and whether they are wanted. Their records are in the registry.

    Attributes:
        settings: those of the server, with what is different for this model.
        entry: what it was made of, or why it can't be served; None: its source was given.
        is_missing: the last look at the folder of models did not find it.
        is_awaited: a version of it is being fetched from a store.
        is_wanted: False after it was unloaded on request.
        is_lazy: it is loaded when a request needs it, and may be unloaded when none does.
        is_asleep: it is lazy, and nothing of it is loaded until a request needs it.
        inflight: the calls in flight of each signature, from the version that was loaded last.
        trouble: why the last scan of its source failed; empty if it did not.
        scanning: the scan of its source.
        bug: what else the last look at it raised; empty if nothing.
        change: held while a version is loaded or unloaded.
        follower: follows its source while the server runs.
    """

    def __init__(
        self, name: str, source: Source, policy: Policy, settings: Settings, entry: Wanted | None = None
    ) -> None:
        self.name = name
        self.source = source
        self.policy = policy
        self.settings = settings
        self.entry = entry
        self.is_missing = self.is_awaited = False
        self.is_wanted = True
        self.is_lazy = self.is_asleep = is_lazy(entry, settings)
        self.inflight: dict[str, int] = {}
        self.trouble = self.bug = ""
        self.scanning: Scan[Mapping[int, Found]] = Scan(MODEL_FOLDER)
        self.change = asyncio.Lock()
        self.follower: asyncio.Task[Plan] | None = None

    async def scan(self, in_thread: InThread) -> Mapping[int, Found]:
        """The versions of the source; see `Scan.result`.

        Raises:
            LoadFailed: it takes too long.
        """
        return await self.scanning.result(in_thread, self.source.scan)


class ModelManager:
    """Loads and unloads every version of every model, from `load_all` to `close`. On the event loop.

    Whatever one version raises while it is found, loaded, warmed up, swapped or closed is the failure of that version:
    it ends in state END with the reason, the log has the traceback, and it is tried again as any failed load. All other
    versions and models go on.

    What blocks runs in a thread. One version is loaded at a time, and one that is much smaller beside it (`LoadTurns`);
    those with the smallest files come first. So a quick model does not wait for a slow one. A folder that does not
    answer, as of a file server that is gone, holds up its own model only.

    Args:
        settings: name the models, unless `know` or `give` did.
        registry: takes the versions; requests read it.
        metrics: shows the time series of the registry's versions from now on.
        turns: which versions are loaded at the same time.
        clock: in seconds.
        in_thread: runs a function that blocks.

    Attributes:
        lazy_models: loads lazy models when requests need them.
        on_served: called each time requests find a new version.
        awaits_models: whether the start waits because the folder of models has none yet.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        metrics: Metrics,
        *,
        turns: LoadTurns | None = None,
        clock: Callable[[], float] = time.monotonic,
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        self._settings = settings
        self._registry = registry
        metrics.show_versions(registry.exported, registry.shares)
        metrics.show_stores(self.stores)
        metrics.show_memory(self._memory)
        self.lazy_models = LazyModels(settings, registry, self._wake, self._put_to_sleep, clock=clock)
        self._clock = clock
        self._in_thread = in_thread
        self._sources = Sources(settings)
        self._repository = self._sources.repository()
        self._looking: Scan[dict[str, Wanted]] = Scan("--model_repository")
        self._look_turn = asyncio.Lock()  # held during a look at the repository
        self.awaits_models = False
        self._trouble = ""  # why the last look at the repository changed nothing; empty if it did not fail
        self._models: dict[str, Model] = {}
        self._is_serving = False  # the first load of all models is over
        self._is_stopping = False
        self.on_served: Callable[[], None] = lambda: None
        self._turns = turns or LoadTurns()
        self._listing = asyncio.Lock()  # held while the list of models changes
        self._unregistered: set[Servable] = set()  # being opened or freed
        self._changes: set[asyncio.Task[None]] = set()

    @property
    def are_healthy(self) -> bool:
        """Whether there is a model, be it one that would be loaded, and every batcher is alive."""
        return self._are_some_available and not self._dead

    @property
    def _dead(self) -> list[Target]:
        """The targets whose batcher is not alive, without those of versions that only run beside others."""
        targets = [target for target in self._registry.targets() if not target.batcher.is_healthy]
        return [target for target in targets if not self._registry.is_on_trial(target)]

    @property
    def trouble(self) -> str:
        """Why the models are not healthy, for people; empty if they are."""
        if dead := self._dead:
            return f"the batcher of model {dead[0].model.name!r}, signature {dead[0].spec.name!r}, is broken"
        return "" if self._are_some_available else "no model is served"

    @property
    def _are_some_available(self) -> bool:
        return bool(self._registry.loadable or self._registry.targets())

    def _memory(self) -> tuple[int, int, Mapping[tuple[str, str], int]]:
        """What metrics tell: models in memory, requests that wait for one, and unloads by model and reason."""
        loaded = sum(bool(self._registry.versions(name)) for name in self._registry.models())
        return loaded, self.lazy_models.waiting, self.lazy_models.unloads

    def know(self, name: str, source: Source, policy: Policy, *, is_lazy: bool = False) -> None:
        """Adds a model, in place of those of the settings. `load_all` loads it, unless it is lazy."""
        model = self._models[name] = Model(name, source, policy, self._settings)
        model.is_lazy = model.is_asleep = is_lazy
        self._registry.know(name)
        if (entry := self._entry(model)) is not None:
            self._registry.direct(name, rule_of(entry))

    def _add(self, name: str, entry: Wanted) -> None:
        """Adds the model of an entry; the next look at its versions loads it."""
        source, policy = self._sources.of(entry), policy_of(entry, self._settings)
        self._models[name] = Model(name, source, policy, settings_of(entry, self._settings), entry)
        self._registry.know(name)
        if not isinstance(entry, str):
            self._registry.label(name, entry.version_labels)
            self._registry.direct(name, rule_of(entry))

    @property
    def entries(self) -> dict[str, ModelEntry]:
        """What the settings or the repository say of each model, by name; without those whose entry is broken."""
        found = {name: self._entry(model) for name, model in self._models.items()}
        return {name: entry for name, entry in found.items() if entry is not None}

    def stores(self) -> dict[str, tuple[bool, int]]:
        """By each model that is kept in a store: whether it can't be read, and the bytes fetched by this process."""
        sources = {name: model.source for name, model in self._models.items()}
        return {
            name: (bool(source.trouble), source.fetched_bytes)
            for name, source in sources.items()
            if isinstance(source, StoreSource)
        }

    def folders(self) -> dict[str, str]:
        """The folder of each model that the settings or the repository name."""
        return {name: str(entry.base_path) for name, entry in self.entries.items()}

    def give(self, models: Sequence[LoadedModel]) -> None:
        """Adds models that are loaded already; see `know`."""
        for name in dict.fromkeys(loaded.spec.name for loaded in models):
            versions = {
                loaded.spec.version: lambda loaded=loaded: loaded for loaded in models if loaded.spec.name == name
            }
            self.know(name, GivenSource(versions), Policy())

    async def load_all(self) -> None:
        """Loads every model. One that fails is logged and left out.

        It waits for a model whose files are still being written, if nothing else can be served or nobody watches, and for
        one that is being fetched from a store.

        Raises:
            LoadFailed: no model could be loaded; says why of each.
        """
        if not self._models:
            for entry in self._settings.models:
                self._add(entry.name, entry)
            await self._look_until_found()
        found = await asyncio.gather(*(self._scan(model) for model in self._models.values()))
        sizes = [max((each.size for each in versions.values()), default=0) for versions in found]
        ordered = [model for _, model in sorted(zip(sizes, self._models.values(), strict=True), key=itemgetter(0))]
        while True:
            left = await asyncio.gather(*map(self._follow, ordered))
            is_left = any(
                todo.unsettled and not self._registry.is_available(model.name)
                for model, todo in zip(ordered, left, strict=True)
            )
            is_awaited = any(model.is_awaited and not self._registry.versions(model.name) for model in ordered)
            if not is_left or (self._are_some_available and self._settings.reload_models and not is_awaited):
                break
            await asyncio.sleep(self._settings.reload_interval_ms / 1000)
        if not self._are_some_available:
            # The operator reads this, who may know the folders.
            folders = {name: f" ({path})" for name, path in self.folders().items()}
            stories = [f"{name}{folders.get(name, '')}: {self._registry.story(name)}" for name in self._models]
            raise LoadFailed("; ".join(stories))
        self._is_serving = True

    async def watch(self) -> None:
        """Follows the sources forever, every `--reload_interval_ms`; a model that is being loaded holds up no other."""
        try:
            while True:
                await asyncio.sleep(self._settings.reload_interval_ms / 1000)
                await self._look()
                for model in [each for each in self._models.values() if not each.is_missing]:
                    if model.follower is None or model.follower.done():
                        step = self._refresh if model.is_wanted and self._is_moved(model) else self._update
                        model.follower = asyncio.create_task(self._follow(model, step), name=f"follow-{model.name}")
        finally:
            for model in self._models.values():
                if model.follower is not None:
                    model.follower.cancel()

    async def watch_config(self) -> None:
        """Follows `--model_config_file` forever, every `--model_config_poll_ms`; a file that is wrong changes nothing."""
        known, trouble = self._settings.models, ""
        while True:
            await asyncio.sleep(self._settings.model_config_poll_ms / 1000)
            try:
                entries = await self._in_thread(self._settings.read_models)
                if entries != known:
                    known = entries
                    await self.apply(entries)
                said = ""
            except (BadSettingsError, LoadFailed) as err:
                said = str(err)
            if said and said != trouble:
                _log.error("--model_config_file can't be followed", extra={"fields": {"reason": said}})
            trouble = said

    async def apply(self, entries: Sequence[ModelEntry]) -> None:
        """Serves these models and no others: loads new ones, unloads those left out, and changes policies and labels.

        A model whose folder changed is loaded from there, and serves what it had until then. Cancelling the caller does
        not stop it.

        Raises:
            Unimplemented: the models are those of `--model_repository`.
            NotReady: the first load of all models is not over.
            LoadFailed: of a model, no version can be served; the others are as asked.
        """

        async def apply_now() -> None:
            wanted = {entry.name: entry for entry in self._settings.with_said(tuple(entries))}
            async with self._listing:
                gone = [model for name, model in self._models.items() if name not in wanted]
                await asyncio.gather(*(self._drop(model) for model in gone))
                moved = [entry.name for entry in wanted.values() if await self._take(entry)]
                models = [self._models[name] for name in wanted]
            _log.info("the list of models is replaced", extra={"fields": {"models": list(wanted), "changed": moved}})
            for model in models:
                if model.name in moved or not model.is_wanted:
                    await self._bring(model)
            here = [model.name for model in models if self._models.get(model.name) is model]  # no later list dropped it
            unserved = [name for name in here if not self._registry.is_available(name)]
            if unserved:
                raise LoadFailed("; ".join(f"{name}: {self._registry.story(name)}" for name in unserved))

        if self._repository is not None:
            raise Unimplemented("the models are those of --model_repository: change its folders")
        if not self._is_serving:
            raise NotReady("the models of the start are still loading")
        await self._complete(apply_now())

    async def _look_until_found(self) -> None:
        """Looks for the models of the repository until there is one; only once if nobody watches.

        Raises:
            LoadFailed: the repository can't be read, or has no model and is not watched.
        """
        if self._repository is None:
            return
        await self._look()
        if not self._models and not self._trouble and self._settings.reload_models:
            _log.warning("the folder of --model_repository has no model yet; the server waits for one")
            self.awaits_models = True
        while not self._models and not self._trouble and self._settings.reload_models:
            await asyncio.sleep(self._settings.reload_interval_ms / 1000)
            await self._look()
        self.awaits_models = False
        if not self._models:
            raise LoadFailed(self._trouble or "the folder of --model_repository has no model")

    async def _look(self) -> None:
        """Follows the repository: adds models that came, changes those whose config did, removes those that went.

        A model is removed when two looks did not find it; while none at all is found, none is: the folder of a file
        server that is gone looks the same.
        """
        async with self._look_turn:
            if self._repository is None or self._is_stopping or (found := await self._find_models()) is None:
                return
            for name, entry in found.items():
                if (model := self._models.get(name)) is None:
                    self._add(name, entry)
                elif model.entry != entry:
                    async with model.change:
                        self._change_entry(model, entry)
                    _log.info("the configuration of a model changed", extra={"fields": {"model": name}})
            for model in list(self._models.values()):
                was_missing, model.is_missing = model.is_missing, model.name not in found
                if was_missing and model.is_missing:
                    await self._drop(model)

    async def _find_models(self) -> dict[str, Wanted] | None:
        """The models of the repository; None if it can't be read, or if it has lost all its models."""
        assert self._repository is not None  # noqa: S101 - `_look` asks first
        before, self._trouble = self._trouble, ""
        failure: Exception | None = None
        found: dict[str, Wanted] | None = None
        try:
            found = await self._looking.result(self._in_thread, self._repository.scan)
            if not found and self._registry.targets():
                self._trouble, found = "the folder of --model_repository is empty; its models are served on", None
        except Exception as err:  # noqa: BLE001 - whatever the folder raises; all that is served goes on
            failure, self._trouble = err, reason_of(err)
        if self._trouble and self._trouble != before:
            fields = {"reason": self._trouble}
            _log.error("models can't be looked for", extra={"fields": fields}, exc_info=traceable(failure))
        return found

    async def load(self, name: str) -> None:
        """Loads what the version policy selects: new versions, failed ones, and those whose files changed.

        Cancelling the caller does not stop the load.

        Raises:
            UnknownModel: the server was not started with such a model.
            LoadFailed: a version could not be loaded; the versions that are served stay.
            NotLoaded: it is lazy, and the models that are loaded have requests.
        """

        async def load_now() -> None:
            async with self._waking(model):
                todo = await self._refresh(model)
                is_whole = not self._failures(model) and not todo.unsettled and bool(self._registry.versions(name))
            if not is_whole:
                raise LoadFailed(self._registry.story(name))

        await self._look()  # its folder may just have come, or its config.pbtxt have changed
        model = self._find(name)
        await self._complete(load_now())

    async def unload(self, name: str) -> None:
        """Answers what the model accepted, frees it, and does not load it again until `load`.

        Cancelling the caller does not stop the unload.

        Raises:
            UnknownModel: the server was not started with such a model.
        """

        async def unload_now() -> None:
            async with model.change:
                self._check_known(model)
                model.is_wanted, model.is_asleep = False, model.is_lazy
                self._registry.allow_loading(name, is_allowed=False)
                self.lazy_models.unloads[name, REQUEST] += bool(self._registry.versions(name))
                versions = [
                    each.version
                    for each in self._registry.records(name)
                    if each.servable or each.failure or each.message == NOT_LOADED
                ]
                await asyncio.gather(*(self._retire(model, each) for each in list(self._registry.versions(name))))
                for version in versions:
                    record = self._registry.record(name, version)
                    record.failure = None
                    record.note(END, UNLOADED)
            _log.info("model is unloaded on request", extra={"fields": {"model": name}})

        model = self._find(name)
        await self._complete(unload_now())

    def index(self) -> tuple[VersionState, ...]:
        """The state of every version of every model, newest first."""
        return tuple(state for name in self._registry.models() for state in self._registry.states(name))

    def label(self, name: str, labels: Mapping[str, int]) -> None:
        """Sets the labels of a model; replaces the labels that it had.

        Raises:
            UnknownModel, UnknownVersion: there is no such model, or the version of a label is not served.
        """
        served = self._registry.versions(self._find(name).name)
        for version in labels.values():
            if version not in served:
                raise UnknownVersion(name, version, sorted(served))
        self._registry.label(name, dict(labels))

    def is_on_trial(self, target: Target) -> bool:
        """Whether a version only runs beside another, so that nothing depends on it."""
        return self._registry.is_on_trial(target)

    def direct(self, name: str, rule: TrafficRule | None) -> None:
        """Sets the rule of a model for requests that name no version; None: the newest version answers.

        Raises:
            UnknownModel: there is no such model.
        """
        self._registry.direct(self._find(name).name, rule)

    def describe_traffic(self, name: str) -> dict[str, Any] | None:
        """The rule of a model, and if it is served the share of each version now and what is amiss; None: it has no rule.

        Raises:
            UnknownModel: there is no such model.
        """
        rule, routes = self._registry.rule(self._find(name).name), self._registry.routes(name)
        if routes is not None:
            return routes.describe()
        return None if rule is None else rule.describe()

    def check_rule(self, name: str, rule: TrafficRule | None) -> None:
        """Returns if every version that a rule names, if there is one, is known, served or not.

        Raises:
            UnknownModel, UnknownVersion, UnknownLabel: there is none.
        """
        known = [each.version for each in self._registry.records(self._find(name).name)]
        labels = self._registry.labels(name)
        for each in () if rule is None else rule.names:
            version = number_of(each, labels)
            if version is None:
                raise UnknownLabel(name, each, tuple(labels))
            if version not in known:
                raise UnknownVersion(name, version, sorted(known))

    @property
    def targets(self) -> list[Target]:
        """The targets of every version that is loaded: served, being opened or being retired."""
        return [target for servable in self._servables() for target in servable.targets.values()]

    async def drain(self, timeout_s: float) -> int:
        """Stops loading, refuses new requests and answers the accepted ones, for at most `timeout_s`.

        Returns:
            How many were not answered in time.
        """
        self._is_stopping = True
        self.lazy_models.close()
        self._sources.stop()
        drained = await asyncio.gather(
            *(servable.drain(timeout_s) for servable in self._servables()), return_exceptions=True
        )
        unanswered = 0
        for found in drained:
            if isinstance(found, BaseException):
                _log.error("a version could not be drained", exc_info=found)
            else:
                unanswered += found
        return unanswered

    def close(self) -> None:
        """Closes the batchers, waits a moment for the threads, then frees the engines; idempotent."""
        for servable in self._servables():
            try:
                servable.close()
            except Exception as err:  # noqa: BLE001 - one version's bug must not keep the others open
                _log.error("a version could not be closed", exc_info=err)

    def _servables(self) -> list[Servable]:
        records = [record for name in self._models for record in self._registry.records(name)]
        return [record.servable for record in records if record.servable is not None] + list(self._unregistered)

    def _find(self, name: str) -> Model:
        try:
            return self._models[name]
        except KeyError:
            raise UnknownModel(name, tuple(self._models)) from None

    def _entry(self, model: Model) -> ModelEntry | None:
        """What the settings or the repository say of a model, also of one that was given instead; None: nothing, or nonsense."""
        if model.entry is not None:
            return model.entry if isinstance(model.entry, ModelEntry) else None
        return next((each for each in self._settings.models if each.name == model.name), None)

    def _check_known(self, model: Model) -> None:
        """Raises UnknownModel if the model was dropped, or replaced by another, while the caller waited."""
        if self._find(model.name) is not model:
            raise UnknownModel(model.name, tuple(self._models))

    async def _take(self, entry: ModelEntry) -> bool:
        """`_know`, once nothing of this model is being loaded or unloaded."""
        model = self._models.get(entry.name)
        if model is None:
            return self._know(entry)
        async with model.change:
            return self._know(entry)

    def _know(self, entry: ModelEntry) -> bool:
        """Adds a model of the settings, or changes the one of this name; whether anything is new."""
        model = self._models.get(entry.name)
        if model is None:
            self._add(entry.name, entry)
            return True
        if model.entry == entry:
            return False
        self._change_entry(model, entry)
        self._registry.label(entry.name, entry.version_labels)
        self._registry.direct(entry.name, rule_of(entry))
        return True

    def _change_entry(self, model: Model, entry: Wanted) -> None:
        """Gives a model another entry. What it serves is loaded again by it where it changes what is loaded.

        Of an entry that is broken the next look at the versions says so; what is served stays.
        """
        before, model.entry = model.entry, entry
        model.policy, model.settings = policy_of(entry, self._settings), settings_of(entry, self._settings)
        model.is_lazy = is_lazy(entry, self._settings)
        model.is_asleep = model.is_asleep and model.is_lazy
        if isinstance(model.source, StoreSource):
            model.source.policy = model.policy
        if _origin(before) == _origin(entry):
            return
        folders = {each.base_path for each in (before, entry) if isinstance(each, ModelEntry)}
        stamp = MOVED if len(folders) > 1 else CHANGED
        model.source, model.scanning = self._sources.of(entry), Scan(MODEL_FOLDER)
        for record in self._registry.records(model.name):
            if not isinstance(entry, str):
                record.stamp, record.failure = stamp, None
            elif record.servable is not None:
                record.note(AVAILABLE, f"its new configuration can't be served: {entry}")

    def _is_moved(self, model: Model) -> bool:
        """Whether a version that is served is to be loaded from another folder, or with another configuration."""
        records = self._registry.records(model.name)
        return any(
            each.stamp in {MOVED, CHANGED} and each.failure is None and each.servable is not None for each in records
        )

    async def _drop(self, model: Model) -> None:
        """Lets a model finish what it accepted, frees it and forgets it."""
        async with model.change:
            model.is_wanted = False
            await asyncio.gather(*(self._retire(model, each) for each in list(self._registry.versions(model.name))))
            self._models.pop(model.name)
            self._registry.forget_model(model.name)
            self.lazy_models.forget(model.name)
        _log.info("model is dropped", extra={"fields": {"model": model.name}})

    async def _bring(self, model: Model) -> None:
        """Loads what the policy selects. While files may still be written it looks again, a few times."""
        for _ in range(SETTLED_SCANS + 1):
            todo = await self._follow(model, self._refresh)
            records = self._registry.records(model.name)
            is_served = any(record.targets for record in records)
            is_moving = any(record.stamp in {MOVED, CHANGED} and record.failure is None for record in records)
            if not is_moving and (is_served or not todo.unsettled):
                break
            await asyncio.sleep(self._settings.reload_interval_ms / 1000)

    async def _refresh(self, model: Model) -> Plan:
        """Loads what the policy selects: new versions, failed ones, and those whose files changed. Returns what is left."""
        if self._models.get(model.name) is not model:
            return Plan([], [], [])
        model.is_wanted = True
        for record in self._registry.records(model.name):
            record.failure = None
        found = await self._scan(model)
        for record in self._registry.records(model.name):
            now = found.get(record.version)
            is_whole = now is not None and (now.is_settled or record.stamp is CHANGED)
            if now is not None and is_whole and record.servable is not None and record.stamp != now.stamp:
                async with self._turns.take(now.size), self._room(model):
                    await self._load(model, record.version, now)
        return await self._update(model)

    def _failures(self, model: Model) -> dict[int, Failure]:
        records = self._registry.records(model.name)
        return {record.version: record.failure for record in records if record.failure is not None}

    def _record(self, model: Model, version: int) -> VersionRecord:
        """The record of a version, which `/metrics` shows from now on."""
        record = self._registry.record(model.name, version)
        if record.metrics is None:
            slo_s, images = model.settings.slo_ms / 1000, model.settings.max_batch_images
            record.metrics = ModelMetrics(model.name, version, slo_s=slo_s, max_batch_images=images)
        return record

    async def _complete(self, change: Coroutine[Any, Any, None]) -> None:
        """Waits for a change; cancelling the caller does not cancel the change."""
        task = asyncio.create_task(change, name="change-models")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _follow(self, model: Model, step: Callable[[Model], Awaitable[Plan]] | None = None) -> Plan:
        """`_update`, or another step, alone. What it raises is this model's trouble: the others are followed all the same."""
        try:
            async with model.change:
                todo = await (step or self._update)(model)
        except Exception as err:  # noqa: BLE001 - a bug of ours, which only this model has met
            bug, todo = reason_of(err), Plan([], [], [])
            if bug != model.bug:
                _log.error("a model can't be followed", extra={"fields": {"model": model.name}}, exc_info=err)
            if not self._registry.versions(model.name):
                self._record(model, NO_VERSION).note(END, bug)
            model.bug = bug
        else:
            model.bug = ""
        return todo

    async def _update(self, model: Model) -> Plan:
        """Loads and unloads until the served versions are those that the policy selects. Returns what is left.

        Of a lazy model that sleeps it notes only what a request would load.
        """
        if not model.is_wanted or self._is_stopping or self._models.get(model.name) is not model:
            return Plan([], [], [])
        if model.is_asleep:
            return self._note_loadable(model, await self._scan(model))
        todo = await self._load_wanted(model)
        self._mark_loadable(model, is_loadable=bool(self._registry.versions(model.name)))
        return todo

    async def _load_wanted(self, model: Model) -> Plan:
        """Loads what the policy selects, then unloads the rest. Returns what is left."""
        todo = Plan([], [], [])
        while found := await self._scan(model):
            served = self._registry.versions(model.name)
            todo = plan(found, served, self._failures(model), model.policy, self._clock())
            if not todo.loads:
                await asyncio.gather(*(self._retire(model, version) for version in todo.unloads))
                for record in self._registry.records(model.name):
                    if record.version not in found and record.servable is None:
                        self._registry.forget(model.name, record.version)
                model.is_awaited = any(found[version].is_coming for version in todo.unsettled)
                for version in todo.unsettled:
                    self._note_unsettled(self._record(model, version), found[version])
                break
            version = todo.loads[0]
            async with self._turns.take(found[version].size), self._room(model):
                await self._load(model, version, found[version])
        return todo

    def _note_loadable(self, model: Model, found: Mapping[int, Found]) -> Plan:
        """Notes which versions of a lazy model a request would load. Returns what is left: none of these."""
        name = model.name
        todo = plan(found, (), self._failures(model), model.policy, self._clock())
        kept = {*todo.loads, *todo.unsettled, *(self._failures(model).keys() & found.keys())}
        for record in self._registry.records(name):
            if not found:
                record.note(END, model.trouble)
            elif record.version not in kept:
                self._registry.forget(name, record.version)
        for version in todo.loads:
            record = self._registry.record(name, version)
            record.stamp = None
            if record.failure is None:
                record.note(AVAILABLE, NOT_LOADED)
        for version in todo.unsettled:
            self._note_unsettled(self._record(model, version), found[version])
        self._mark_loadable(model, is_loadable=bool(todo.loads))
        model.is_awaited = False
        return todo._replace(loads=[])

    def _mark_loadable(self, model: Model, *, is_loadable: bool) -> None:
        """Notes whether a request for a model finds it or loads it, where it is lazy."""
        was_loadable = model.name in self._registry.loadable
        self._registry.allow_loading(model.name, is_allowed=is_loadable and model.is_lazy)
        if not was_loadable and model.name in self._registry.loadable:
            self.on_served()

    async def _wake(self, name: str) -> None:
        """Loads what the policy selects of a lazy model. What fails is told by the registry."""
        model = self._find(name)
        async with self._waking(model):
            await self._update(model)

    @asynccontextmanager
    async def _waking(self, model: Model) -> AsyncIterator[None]:
        """Context manager in which a model is changed, and loaded if it is lazy. If that loads nothing, it sleeps again.

        Raises:
            UnknownModel: it was dropped, or replaced by another, while the caller waited.
        """
        async with model.change:
            self._check_known(model)
            model.is_asleep = False
            try:
                yield
            finally:
                model.is_asleep = model.is_lazy and not self._registry.versions(model.name)

    def _room(self, model: Model) -> AbstractAsyncContextManager[None]:
        """Context manager in which a version of a model may be loaded: see `LazyModels.room`."""
        return self.lazy_models.room(model.name) if model.is_lazy else nullcontext()

    async def _put_to_sleep(self, name: str, reason: str) -> bool:
        """Frees a lazy model that has no requests; the next one loads it again.

        Returns False if it is busy, being changed, or not loaded any more.
        """
        model = self._models.get(name)
        if model is None or model.change.locked():
            return False
        async with model.change:
            served = self._registry.versions(name)
            targets = [target for named in served.values() for target in named.values()]
            if not served or not all(target.batcher.is_idle for target in targets):
                return False
            idle_s = round(self._clock() - self._registry.last_used_s(name), 1)
            model.is_asleep = True
            self.lazy_models.unloads[name, reason] += 1
            await asyncio.gather(*[self._free(*self._hide(name, version)) for version in list(served)])
        fields = {"model": name, "reason": reason, "idle_s": idle_s}
        _log.info("model is unloaded; the next request loads it", extra={"fields": fields})
        return True

    def _hide(self, name: str, version: int) -> tuple[Servable, VersionRecord]:
        """Hides a version that a request may load again, and returns it; its time series go on."""
        record = self._registry.record(name, version)
        servable, record.servable = record.servable, None
        assert servable is not None  # noqa: S101 - it is served
        self._registry.remove(name, version)
        record.note(AVAILABLE, NOT_LOADED)
        return servable, record

    def _note_unsettled(self, record: VersionRecord, found: Found) -> None:
        """Notes that a version is still being copied; logs what it waits for, each time that changes."""
        missing = found.missing
        reason = f"its files are still being written{missing and ': '}{missing}"
        if missing and (record.state, record.message) != (START, reason):
            fields = {"model": record.model, "version": record.version, "reason": missing}
            level = logging.INFO if found.is_coming else logging.WARNING
            _log.log(level, "a version waits for the rest of its files", extra={"fields": fields})
        record.note(START, reason)

    async def _scan(self, model: Model) -> Mapping[int, Found]:
        """The versions of the source. None if the source cannot be read, which changes nothing of what is served."""
        trouble = ""
        found: Mapping[int, Found] = {}
        failure: Exception | None = None
        try:
            found = await model.scan(self._in_thread)
        except Exception as err:  # noqa: BLE001 - whatever one model's folder raises is that model's failure
            failure, trouble = err, reason_of(err)
        served = self._registry.versions(model.name)
        if trouble and trouble != model.trouble:
            fields = {"model": model.name, "reason": trouble, "still_served": sorted(served)}
            what = (
                "a model can't be served" if isinstance(model.entry, str) else "a model's versions can't be looked for"
            )
            _log.error(what, extra={"fields": fields}, exc_info=traceable(failure))
        if trouble and not served:
            self._record(model, NO_VERSION).note(END, trouble)
        model.trouble = trouble
        return found

    async def _load(self, model: Model, version: int, found: Found) -> None:
        """Loads and warms up one version, then lets requests find it; or notes why that failed."""
        started_s = self._clock()
        record = self._record(model, version)
        record.note(LOADING)
        try:
            loaded = await self._in_thread(model.source.load, version)
        except Exception as err:  # noqa: BLE001 - whatever loading a version raises is that version's failure
            self._fail(record, found, reason_of(err), err)
            return
        load_s = self._clock() - started_s
        try:
            servable = await self._open(model, record, loaded, load_s)
        except Exception as err:  # noqa: BLE001 - as above
            self._fail(record, found, f"its warm-up failed: {reason_of(err)}", err)
            return
        before, record.servable = record.servable, servable
        record.stamp, record.failure = found.stamp, None
        self._registry.add(model.name, version, servable.targets)
        record.note(AVAILABLE)
        if record.metrics is not None:
            record.metrics.last_request_s = self._clock()
        self.on_served()
        fields = {"load_s": round(load_s, 2), "warmup_s": round(self._clock() - started_s - load_s, 2)}
        _log.info("model is served", extra={"fields": describe_loaded(loaded) | fields})
        if before is not None:
            await self._free(before, record)

    async def _open(self, model: Model, record: VersionRecord, loaded: LoadedModel, load_s: float) -> Servable:
        """A loaded version, warmed up and ready to take requests. If that fails, it is freed."""
        metrics = record.metrics
        assert metrics is not None  # noqa: S101 - `_record` gave it some
        metrics.load_s.observe(load_s)
        entry = self._entry(model)
        outputs = {} if entry is None else entry.outputs
        servable = Servable(loaded, model.settings, metrics, outputs=outputs, in_thread=self._in_thread)
        self._unregistered.add(servable)  # so that `close` finds it
        is_starting = not self._is_serving and self._settings.ready_when == "all"  # nobody is sent here yet
        is_alone = is_starting or not self._registry.targets()
        try:
            await servable.open(None if is_alone else model.inflight)
        except Exception:
            await self._free(servable, record)
            raise
        model.inflight |= servable.inflight
        self._unregistered.discard(servable)
        return servable

    def _fail(self, record: VersionRecord, found: Found, reason: str, error: Exception) -> None:
        """Notes that a version could not be loaded, why, and when it is tried again."""
        if record.metrics is not None:
            record.metrics.load_failures += 1
        record.failure = failure = Failure.after(record.failure, found.stamp, self._clock())
        if record.servable is not None:  # its files changed; what was loaded before stays
            record.note(AVAILABLE, f"its new files can't be served: {reason}")
        else:
            record.note(END, reason)
        fields = {"model": record.model, "version": record.version, "reason": reason}
        fields["next_try_s"] = round(failure.retry_at_s - self._clock())
        _log.error("model can't be served", extra={"fields": fields}, exc_info=traceable(error))

    async def _retire(self, model: Model, version: int) -> None:
        """Hides a version from requests, lets it finish what it accepted, then frees and forgets it."""
        record = self._registry.record(model.name, version)
        self._registry.remove(model.name, version)
        servable, record.servable = record.servable, None
        record.note(UNLOADING)
        if servable is not None:
            await self._free(servable, record)
        self._registry.forget(model.name, version)
        _log.info("version is unloaded", extra={"fields": {"model": model.name, "version": version}})

    async def _free(self, servable: Servable, record: VersionRecord) -> None:
        """Lets a version finish what it accepted, then frees it. If that raises, the log has it and all else goes on."""
        self._unregistered.add(servable)
        try:
            await servable.retire(self._settings.request_timeout_ms / 1000)  # no entry's deadline is further away
        except Exception as err:  # noqa: BLE001 - it serves no longer; the other versions go on
            fields = {"model": record.model, "version": record.version}
            _log.error("a version could not be freed", extra={"fields": fields}, exc_info=err)
        self._unregistered.discard(servable)


def rule_of(entry: ModelEntry) -> TrafficRule | None:
    """What an entry says of requests that name no version; None: nothing."""
    return TrafficRule.of(entry.traffic) if entry.traffic else None


def traceable(error: Exception | None) -> Exception | None:
    """The error if its traceback helps; None for a LoadFailed without a cause, whose message says it all."""
    return None if isinstance(error, LoadFailed) and error.__cause__ is None else error


def _origin(entry: Wanted | None) -> object:
    """What a model's versions are loaded from and with."""
    if type(entry) is not ModelEntry:  # of a repository everything counts
        return entry
    return entry.base_path, entry.custom_op_paths, entry.session_config, entry.pictures, entry.outputs


def reason_of(error: Exception) -> str:
    """Why a version or a task failed, for people: the message; of an error that is no ModelError, with its kind."""
    return str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {quote(str(error))}"
