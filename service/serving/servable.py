"""A servable: one loaded version with its warm-up, threads and batchers, from open to close."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from darkroom.batching.batcher import Batcher
from darkroom.batching.limits import Limits
from darkroom.models.engines.runner import CLOSE_TIMEOUT_S, Runner
from darkroom.models.errors import InvalidInput, LoadFailed, OutOfMemory
from darkroom.models.rows import Rows
from darkroom.models.runtime.gpu_memory import device_memory
from darkroom.models.runtime.memory import free_bytes, give_back
from darkroom.models.saved_model.front.preprocess import pixels_of
from darkroom.models.saved_model.output_kinds import NUMBERS, kinds_of, read_said
from darkroom.service.config.machine import cores_each
from darkroom.service.serving.warmup import (
    REST,
    affordable,
    outputs_share,
    run_sizes_once,
    small_row_s,
    sweep_sizes,
    warm_up,
    warm_up_gently,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence

    from darkroom.batching.entry import Answer
    from darkroom.models.engine import Engine, LoadedModel
    from darkroom.models.saved_model.output_kinds import OutputKind, OutputSaid
    from darkroom.models.spec import ModelSpec, SignatureSpec
    from darkroom.service.config.settings import Settings
    from darkroom.service.config.traffic import Split
    from darkroom.service.serving.warmup import Findings
    from darkroom.service.telemetry.metrics import ModelMetrics

_log = logging.getLogger("darkroom.service")
InThread: TypeAlias = "Callable[..., Awaitable[Any]]"  # like asyncio.to_thread
# The scheduler gets this share of the SLO; the rest is for HTTP. Measured: p99 at 2x overload was 17 ms over 400.
SCHEDULER_SHARE = 0.95
STOP_S = 1.0  # guess: how long the end of the process may wait for the threads of a version; idle ones end at once


# How a model that takes tensors is made to take pictures; {} is its name, as JSON.
_REMEDY = """; to send image files, start the server with --pictures='{{{}: {{"preprocess": …}}}}' (docs/models.md)"""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One signature of one version of one model, ready for requests.

    Attributes:
        passes: the reports of the load-time passes, as the metadata shows them.
        samples: single rows that the signature accepted during warm-up.
        shares_outputs: whether requests for different outputs share batches, since computing all costs little more.
        row_s: the seconds of a core that the warm-up found for a small row in a good batch; infinite: it did not look.
        field: the input that messages name: the one that takes images, else the first; empty if there is no input.
        remedy: what would make a signature that takes images of one that takes them as tensors; empty for any other.
        kinds: what each output is, by name.
        forms: by output, the form that `POST /` and `:predict` answer where nothing is asked; without plain numbers.
        split: what chose this version for a request that names none; None: nothing did.
        shadow: is told rows, bytes and pixels of each, and the answer of what was answered; see `Shadow.offer`.
    """

    model: ModelSpec
    spec: SignatureSpec
    batcher: Batcher
    metrics: ModelMetrics
    passes: list[dict[str, Any]]
    samples: Sequence[Rows] = ()
    shares_outputs: bool = False
    row_s: float = math.inf
    said: Mapping[str, OutputSaid] = field(default_factory=dict)  # what the operator says of outputs
    split: Split | None = None
    shadow: Callable[[Rows, Sequence[int], Sequence[int], Answer], None] | None = None

    remedy: str = field(init=False)
    kinds: Mapping[str, OutputKind] = field(init=False)
    forms: Mapping[str, str] = field(init=False)
    field: str = field(init=False)

    def __post_init__(self) -> None:
        is_tensor = self.spec.image_input is None and any(pixels_of(tensor) is not None for tensor in self.spec.inputs)
        object.__setattr__(self, "remedy", _REMEDY.format(json.dumps(self.model.name)) if is_tensor else "")
        first = next((tensor.name for tensor in self.spec.inputs), "")
        object.__setattr__(self, "field", self.spec.image_input or first)
        kinds = kinds_of(self.spec, self.model.labels, self.said)
        forms = {name: kind.default for name, kind in kinds.items() if kind.default != NUMBERS}
        object.__setattr__(self, "kinds", kinds)
        object.__setattr__(self, "forms", forms)

    def accept(self, inputs: Mapping[str, object], *, strict: bool) -> Rows:
        """The rows of one request; see `SignatureSpec.accept`.

        Raises:
            InvalidInput: as there; for text instead of numbers it says what would make pictures of it.
        """

        def is_text(value: object) -> bool:
            while isinstance(value, list) and value:
                value = value[0]
            return isinstance(value, (bytes, str, dict))

        try:
            return self.spec.accept(inputs, strict=strict)
        except InvalidInput as err:
            if self.remedy and any(map(is_text, inputs.values())):
                raise InvalidInput(f"{err}{self.remedy}", input_name=err.input_name, index=err.index) from err
            raise

    def refuse_pictures(self) -> InvalidInput:
        """The error for encoded pictures that were sent to a signature that does not take them alone."""
        wants = ", ".join(f"{tensor.name} ({tensor.dtype})" for tensor in self.spec.inputs) or "none"
        if self.spec.image_input:
            more = f"takes more than a picture: its inputs are {wants}; send JSON"
            return InvalidInput(f"signature {self.spec.name!r} {more}")
        return InvalidInput(f"signature {self.spec.name!r} takes no picture: its inputs are {wants}{self.remedy}")


class Servable:
    """One loaded version. Its methods run on the event loop; `in_thread` runs what blocks.

    It owns `loaded`, and frees it at the end. `outputs` is what the operator says of the model's outputs.

    Attributes:
        targets: by signature; filled by `open`.
        inflight: the calls in flight of each signature; filled by `open`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: Settings,
        metrics: ModelMetrics,
        *,
        outputs: Mapping[str, Any] = MappingProxyType({}),
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        self._loaded: LoadedModel | None = loaded
        self._in_thread = in_thread
        self.targets: dict[str, Target] = {}
        self.inflight: dict[str, int] = {}
        self._settings = settings
        self._metrics = metrics
        self._said = read_said(outputs)
        self._runners: list[Runner] = []
        self._is_opening = False

    async def open(self, serving_inflight: Mapping[str, int] | None = None) -> None:
        """Warms up every signature and starts its batcher. It takes no request before this returns.

        Args:
            serving_inflight: the calls in flight of each signature of the version that is serving; the warm-up then
                leaves it most of the machine. None: nothing is serving.

        Raises:
            ModelError: a signature failed on its warm-up rows, or there is none.
        """
        started_s = time.monotonic()
        self._is_opening = True
        try:
            await self._open_all(serving_inflight)
        finally:
            self._is_opening = False
        self._metrics.warmup_s.observe(time.monotonic() - started_s)

    async def _open_all(self, serving_inflight: Mapping[str, int] | None) -> None:
        loaded = self._loaded
        assert loaded is not None  # noqa: S101 - it is opened before it is closed
        same = {name: spec for name, spec in loaded.spec.signatures.items() if spec.same_as}
        for name, engine in loaded.engines.items():
            if name not in same:
                self.targets[name] = await self._open(loaded, engine, serving_inflight)
        self.targets |= {name: replace(self.targets[spec.same_as], spec=spec) for name, spec in same.items()}
        self._metrics.batched = {name: target.spec.batched for name, target in self.targets.items()}
        if not self.targets:
            raise LoadFailed("it has no signature that can be served")
        await self._in_thread(give_back)  # measured on EfficientNet-Lite0: opening it leaves 140 MB behind
        for batcher in self._batchers:
            batcher.start()
            self._metrics.queues.append(batcher.stats)

    async def _open(self, loaded: LoadedModel, engine: Engine, serving_inflight: Mapping[str, int] | None) -> Target:
        """Warms up one signature, and makes its threads and its batcher."""
        settings, spec, model = self._settings, engine.spec, loaded.spec
        findings = await self._warm_up(loaded, engine, serving_inflight)
        self.inflight[spec.name] = findings.inflight
        fields = {"model": model.name, "version": model.version, "signature": spec.name}
        _log.info("warmed up", extra={"fields": fields | findings.summary()})
        if not spec.batched:
            reason = {"reason": spec.unbatched_reason}
            _log.warning("a signature is served one request at a time", extra={"fields": fields | reason})
        engines = loaded.engines_of(spec.name)
        runner = Runner(engine, threads=findings.inflight, devices=engines, lone_s=findings.lone_s)
        for device in engines:  # the first call blocks; a scrape on the event loop must not be the first
            await self._in_thread(device_memory, device)
        self._metrics.device_batches.update(dict.fromkeys(engines, 0))
        self._runners.append(runner)
        batcher = Batcher(
            runner,
            _limits(settings, findings, devices=len(engines)),
            is_client_fault=lambda error: settings.isolation and isinstance(error, InvalidInput),
            is_out_of_memory=lambda error: isinstance(error, OutOfMemory),
            observer=self._metrics,
            slo_s=SCHEDULER_SHARE * settings.slo_ms / 1000 or None,
            name=f"{model.name}/{model.version}/{spec.name}",
            row_identity=_picture_hash if spec.image_input and spec.batched else None,
        )
        for images, seconds in findings.seeds:
            batcher.curve.seed(images, seconds)
        for sample in loaded.samples.get(spec.name, ()):
            batcher.know_shape(sample.key)
        self._metrics.wire = spec.wire.value
        self._metrics.passes |= {report.name: report.applied for report in engine.passes}
        passes = [report._asdict() for report in engine.passes]
        samples = loaded.samples.get(spec.name, ())
        return Target(
            model,
            spec,
            batcher,
            self._metrics,
            passes,
            samples,
            shares_outputs=findings.shares_outputs,
            row_s=findings.row_s,
            said=self._said,
        )

    async def _warm_up(
        self, loaded: LoadedModel, engine: Engine, serving_inflight: Mapping[str, int] | None
    ) -> Findings:
        """Runs all engines of a signature, since each makes its own kernels. Returns the findings of the first."""
        settings, name = self._settings, engine.spec.name
        samples = loaded.samples.get(name, ())
        wanted = sweep_sizes(settings.max_batch_images, settings.allowed_batch_sizes)
        sizes = affordable(wanted, engine.spec.row_bytes, free_bytes())
        inflight = settings.max_inflight_batches
        budget_s = settings.warmup_budget_ms / 1000
        call_s = min(settings.request_timeout_ms, settings.slo_ms or math.inf) / 1000
        warm: Callable[..., Findings] = partial(warm_up, cores=cores_each(settings.first_workers))
        rest_share = 0.0
        if serving_inflight is not None:
            inflight = inflight or serving_inflight.get(name, 1)
            warm, rest_share = partial(warm_up_gently, sleep=time.sleep), REST
        warm = partial(warm, budget_s=budget_s, call_s=call_s)
        findings: Findings = await self._in_thread(warm, engine, samples, sizes=sizes, inflight=inflight)
        if len(sizes) < len(wanted):
            fields = {"signature": name, "largest": max(sizes), "row_bytes": engine.spec.row_bytes}
            _log.warning("batches are kept small: larger ones have no room in memory", extra={"fields": fields})
            findings = findings._replace(ended_at=findings.ended_at or max(sizes))
        if settings.workers == "auto" and samples and serving_inflight is None:
            findings = findings._replace(row_s=await self._in_thread(small_row_s, engine, samples, findings.seeds))
        engines = loaded.engines_of(name)
        for other in list(engines.values())[1:]:
            await self._in_thread(warm, other, samples, sizes=sizes, inflight=findings.inflight)
        every = settings.allowed_batch_sizes or range(1, 1 + (findings.ended_at or settings.max_batch_images))

        def rest(seconds: float) -> None:
            time.sleep(rest_share * seconds)

        for each in (each for device, each in engines.items() if device.startswith("gpu:")):
            await self._in_thread(run_sizes_once, each, samples, every, rest=rest, budget_s=budget_s)
        size, call_s = min(sizes), findings.lone_s
        shares = await self._in_thread(outputs_share, engine, samples, size=size, call_s=call_s, rest=rest)
        return findings._replace(shares_outputs=shares)

    @property
    def _batchers(self) -> list[Batcher]:
        """The batchers of all targets, once each: signatures that are the same function share one."""
        return list(dict.fromkeys(target.batcher for target in self.targets.values()))

    async def drain(self, timeout_s: float) -> int:
        """Refuses new entries and answers the accepted ones, for at most `timeout_s`. Returns how many it did not answer."""
        return sum(await asyncio.gather(*(batcher.drain(timeout_s) for batcher in self._batchers)))

    async def retire(self, timeout_s: float) -> None:
        """Drains, then frees everything. Waits for its threads off the event loop."""
        await self.drain(timeout_s)
        self._close_batchers()
        await self._in_thread(self._free)
        await self._in_thread(give_back)

    def close(self) -> None:
        """Closes the batchers, waits a moment for the threads, then frees the engines; for the end of the process."""
        self._close_batchers()
        if not self._is_opening:  # else a thread runs its warm-up
            self._free(STOP_S)

    def _close_batchers(self) -> None:
        for batcher in self._batchers:
            batcher.close()
            if batcher.stats in self._metrics.queues:
                self._metrics.queues.remove(batcher.stats)

    def _free(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Closes what it owns and drops the references, without which the memory would not be freed.

        If closing one part raises, the others are closed nevertheless. If a call does not return within `timeout_s`, its
        engine stays open: to close it would wait, or crash.
        """
        runners, self._runners = self._runners, []
        loaded, self._loaded = self._loaded, None
        self.targets.clear()
        still_run: list[Runner] = []

        def end(runner: Runner) -> None:
            if not runner.close(timeout_s):
                still_run.append(runner)

        def free(model: LoadedModel) -> None:
            if not still_run:
                model.close()
                return
            fields = {"model": model.spec.name, "version": model.spec.version}
            _log.error("an engine call has not returned; the version's memory is not freed", extra={"fields": fields})

        with ExitStack() as last_first:
            if loaded is not None:
                last_first.callback(free, loaded)
            for runner in runners:
                last_first.callback(end, runner)


def describe_loaded(loaded: LoadedModel) -> dict[str, object]:
    """The log fields of a version that was loaded: its signatures with wire form, devices and passes."""
    spec = loaded.spec
    fields: dict[str, object] = {"model": spec.name, "version": spec.version}
    for name, engine in loaded.engines.items():
        applied = [report.name for report in engine.passes if report.applied]
        dropped = [f"{report.name} ({report.reason})" for report in engine.passes if not report.applied]
        devices = ",".join(loaded.engines_of(name))
        facts = f"wire={engine.spec.wire.value} batched={engine.spec.batched} devices={devices}"
        fields[name] = f"{facts} passes={applied} dropped={dropped}"
    return fields | ({"refused": spec.refused} if spec.refused else {})


def _picture_hash(payload: object, row: int) -> Hashable:
    """What makes two rows equal: the hash of each input's value, and the outputs that are asked for."""
    assert isinstance(payload, Rows)  # noqa: S101 - every payload of this server is a Rows
    values = [column[row] for column in payload.columns.values()]
    hashes = [hash(each if isinstance(each, bytes) else tuple(np.ravel(each).tolist())) for each in values]
    return *hashes, payload.asked


def _limits(settings: Settings, findings: Findings, *, devices: int) -> Limits:
    """The scheduler's limits from the settings. No batch is larger than the largest size that the warm-up ran."""
    largest = findings.ended_at or settings.max_batch_images
    return Limits(
        max_batch_images=largest,
        max_batch_bytes=settings.max_batch_bytes,
        max_batch_pixels=settings.max_batch_pixels,
        max_queue_images=settings.max_queue_images,
        max_queue_bytes=settings.max_queue_bytes,
        allowed_batch_sizes=tuple(size for size in settings.allowed_batch_sizes if size <= largest),
        max_inflight_batches=findings.inflight * devices,
        linger_s=settings.batch_linger_ms / 1000,
    )
