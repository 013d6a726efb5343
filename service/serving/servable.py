"""A servable: one loaded version made ready to be asked (warmed up, given threads and batchers), and taken down."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from darkroom.batching.batcher import Batcher
from darkroom.batching.limits import Limits
from darkroom.models.engines.runner import Runner
from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows
from darkroom.models.runtime.gpu_memory import device_memory
from darkroom.models.runtime.memory import give_back
from darkroom.service.serving.registry import Target
from darkroom.service.serving.warmup import REST, meet_sizes, summary, sweep_sizes, warm_up, warm_up_gently

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping

    from darkroom.models.engine import Engine
    from darkroom.models.loaded import LoadedModel
    from darkroom.service.config.settings import Settings
    from darkroom.service.serving.warmup import Findings
    from darkroom.service.telemetry.metrics import ModelMetrics

_log = logging.getLogger("darkroom.service")
InThread: TypeAlias = "Callable[..., Awaitable[Any]]"  # as asyncio.to_thread
EDGE_SHARE = 0.95  # of the SLO is the scheduler's, the rest is HTTP's: measured, p99 at 2x overload was 17 ms over 400


class Servable:
    """One version, from its warm-up to its end. Its methods belong to the event loop; `in_thread` runs what blocks."""

    def __init__(
        self, loaded: LoadedModel, settings: Settings, metrics: ModelMetrics, *, in_thread: InThread = asyncio.to_thread
    ) -> None:
        self._loaded: LoadedModel | None = loaded
        self._in_thread = in_thread
        self.targets: dict[str, Target] = {}
        self.inflight: dict[str, int] = {}  # signature → its calls at once
        self._settings = settings
        self._metrics = metrics
        self._runners: list[Runner] = []

    async def open(self, beside: Mapping[str, int] | None = None) -> None:
        """Warms every signature up and opens its batcher; nobody asks it before this returns.

        Args:
            beside: the calls at once of each signature of the version that serves; then the warm-up is gentle.
                None: nobody is served meanwhile.
        """
        started_s = time.monotonic()
        loaded = self._loaded
        assert loaded is not None  # noqa: S101 - it is opened before it is closed
        for name, engine in loaded.engines.items():
            self.targets[name] = await self._open(loaded, engine, beside)
        await self._in_thread(give_back)  # measured on EfficientNet-Lite0: opening it leaves 140 MB behind
        for target in self.targets.values():
            target.batcher.start()
            self._metrics.queues.append(target.batcher.stats)
        self._metrics.warmup_s.observe(time.monotonic() - started_s)

    async def _open(self, loaded: LoadedModel, engine: Engine, beside: Mapping[str, int] | None) -> Target:
        """One signature: measured, given its threads and its batcher."""
        settings, spec, model = self._settings, engine.spec, loaded.spec
        findings = await self._warm_up(loaded, engine, beside)
        self.inflight[spec.name] = findings.inflight
        told = {"model": model.name, "version": model.version, "signature": spec.name}
        _log.info("warmed up", extra={"fields": told | summary(findings)})
        engines = loaded.engines_of(spec.name)
        runner = Runner(engine, threads=findings.inflight, devices=engines, lone_s=findings.lone_s)
        for device in engines:  # the first question blocks: not at a scrape, on the event loop
            await self._in_thread(device_memory, device)
        self._metrics.device_batches.update(dict.fromkeys(engines, 0))
        self._runners.append(runner)
        batcher = Batcher(
            runner,
            _limits(settings, findings, devices=len(engines)),
            is_client_fault=lambda error: settings.isolation and isinstance(error, InvalidInput),
            observer=self._metrics,
            slo_s=EDGE_SHARE * settings.slo_ms / 1000 or None,
            name=f"{model.name}/{model.version}/{spec.name}",
            row_identity=_picture_hash if spec.image_input and spec.batched else None,
        )
        for images, seconds in findings.seeds:
            batcher.curve.seed(images, seconds)
        self._metrics.wire = spec.wire.value
        self._metrics.passes |= {report.name: report.applied for report in engine.passes}
        passes = [report._asdict() for report in engine.passes]
        return Target(model, spec, batcher, self._metrics, passes, loaded.samples.get(spec.name, ()))

    async def _warm_up(self, loaded: LoadedModel, engine: Engine, beside: Mapping[str, int] | None) -> Findings:
        """Runs all engines of a signature, each of which makes its own kernels; what was found of the first."""
        settings, name = self._settings, engine.spec.name
        samples = loaded.samples.get(name, ())
        sizes = sweep_sizes(settings.max_batch_images, settings.allowed_batch_sizes)
        inflight = settings.max_inflight_batches
        warm: Callable[..., Findings] = partial(warm_up, workers=settings.workers)
        rest: Callable[[float], None] = _no_rest
        if beside is not None:
            inflight = inflight or beside.get(name, 1)
            warm, rest = partial(warm_up_gently, sleep=time.sleep), _rest
        findings: Findings = await self._in_thread(warm, engine, samples, sizes=sizes, inflight=inflight)
        engines = loaded.engines_of(name)
        for other in list(engines.values())[1:]:
            await self._in_thread(warm, other, samples, sizes=sizes, inflight=findings.inflight)
        every = settings.allowed_batch_sizes or range(1, 1 + (findings.ended_at or settings.max_batch_images))
        for each in (each for device, each in engines.items() if device.startswith("gpu:")):
            await self._in_thread(meet_sizes, each, samples, every, rest=rest)
        return findings

    async def drain(self, timeout_s: float) -> None:
        """Answers what was accepted, `timeout_s` at most, refusing what is new."""
        await asyncio.gather(*(target.batcher.drain(timeout_s) for target in self.targets.values()))

    async def retire(self, timeout_s: float) -> None:
        """Drains, then frees everything; its threads are waited for off the loop."""
        await self.drain(timeout_s)
        self._shut()
        await self._in_thread(self._free)
        await self._in_thread(give_back)

    def close(self) -> None:
        """Ends the batchers, then the threads, then frees the engines, waiting for them; idempotent."""
        self._shut()
        self._free()

    def _shut(self) -> None:
        for target in self.targets.values():
            target.batcher.close()
            if target.batcher.stats in self._metrics.queues:
                self._metrics.queues.remove(target.batcher.stats)

    def _free(self) -> None:
        """Closes what it has and lets go of it: what is still referred to is not given back."""
        for runner in self._runners:
            runner.close()
        self._runners.clear()
        self.targets.clear()
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()


def _rest(seconds: float) -> None:
    time.sleep(REST * seconds)


def _no_rest(seconds: float) -> None:
    """There is nobody to leave the machine to."""


def story(loaded: LoadedModel) -> dict[str, object]:
    """What an operator wants to read of a version that came."""
    spec = loaded.spec
    told: dict[str, object] = {"model": spec.name, "version": spec.version}
    for name, engine in loaded.engines.items():
        applied = [report.name for report in engine.passes if report.applied]
        dropped = [f"{report.name} ({report.reason})" for report in engine.passes if not report.applied]
        devices = ",".join(loaded.engines_of(name))
        facts = f"wire={engine.spec.wire.value} batched={engine.spec.batched} devices={devices}"
        told[name] = f"{facts} passes={applied} dropped={dropped}"
    return told | ({"refused": spec.refused} if spec.refused else {})


def _picture_hash(payload: object, row: int) -> Hashable:
    """What tells one picture from another: its bytes' hash and number, and what is asked of it."""
    assert isinstance(payload, Rows)  # noqa: S101 - every payload of this house is a Rows
    picture = next(iter(payload.columns.values()))[row]
    return hash(picture), len(picture), payload.asked


def _limits(settings: Settings, findings: Findings, *, devices: int) -> Limits:
    """The scheduler's limits out of the settings; no batch is larger than what the warm-up found worth a run."""
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
