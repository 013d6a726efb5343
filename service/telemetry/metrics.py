"""The metrics, under the names of docs/metrics.md. Only the event loop's thread writes them, so there are no locks.

prometheus_client's own metrics cost 1 to 2 µs per observation (a mutex each), and more if they are looked up by label;
a request makes about eleven. Here an observation is appended to a list and counted later (`telemetry/histogram.py`).
prometheus_client only collects and prints.
"""

from __future__ import annotations

import logging
import platform
import time
from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from darkroom.batching.entry import Reason
from darkroom.batching.observer import Observer, Outcome
from darkroom.models.runtime.gpu_memory import device_memory
from darkroom.models.versions.policy import STATES
from darkroom.service.errors import TABLE
from darkroom.service.telemetry.cgroup import read_usage
from darkroom.service.telemetry.histogram import (
    DISTANCE_EDGES,
    LATENCY_EDGES,
    LOAD_EDGES,
    SIGNED_EDGES,
    SIZE_EDGES,
    STAGE_EDGES,
    Histogram,
    batch_edges,
    with_slo,
)
from darkroom.service.telemetry.tasks import task_failures_family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from darkroom.batching.backend import BatchReport
    from darkroom.batching.entry import Batch, Timing
    from darkroom.batching.observer import QueueStats

CANCELLED = Outcome.CANCELLED
STAGES = ("parse", "decode", "inspect", "collate", "execute", "split", "serialize")
OUTCOMES = ("ok", *sorted({verdict.outcome for verdict in TABLE.values()} | {"cancelled"}))
TRACED = ("sent", "dropped", "failed")
POISONS = ("base64", "format", "pixels", "bytes", "graph")
SHADOW_OUTCOMES = ("same", "different", "unranked", "failed", "dropped")
MODEL_LABELS = ("model", "version")
FROM_REQUEST_TO_ANSWER = "From the complete request to its answer."


class RouteMetrics:
    """The histograms of one route."""

    def __init__(self) -> None:
        self.duration = Histogram(LATENCY_EDGES)
        self.request_size = Histogram(SIZE_EDGES)
        self.response_size = Histogram(SIZE_EDGES)
        self.histograms = (self.duration, self.request_size, self.response_size)


_log = logging.getLogger("darkroom.service")


class ShadowMetrics:
    """What became of the images that a version got as a shadow.

    Attributes:
        images: by outcome: the class was the `same` as that of the version that answered, or `different`; `unranked`:
            there is no class; `failed`: the shadow gave no answer; `dropped`: it was not run.
        seconds: of its engine calls (`shadow`), and what the version that answered takes for as many images (`answer`).
        distance: the largest absolute difference of any float of an image's answers.
    """

    def __init__(self) -> None:
        self.images: Counter[str] = Counter(dict.fromkeys(SHADOW_OUTCOMES, 0))
        self.seconds = {"shadow": 0.0, "answer": 0.0}
        self.distance = Histogram(DISTANCE_EDGES)


class ModelMetrics(Observer):
    """The time series of one model version, and the observer of its batchers. It lives as long as the version."""

    def __init__(self, model: str, version: int, *, slo_s: float = 0.0, max_batch_images: int = 1) -> None:
        self.labels = (model, str(version))
        self.slo_s = slo_s
        latency = with_slo(LATENCY_EDGES, slo_s)
        # Start at 0: a series that begins with its first event hides that event from rate().
        self.requests: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.images: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.device_batches: Counter[str] = Counter()
        self.poison: Counter[str] = Counter(dict.fromkeys(POISONS, 0))
        self.batches: Counter[str] = Counter({reason.value: 0 for reason in Reason})
        self.padding_images = 0
        self.batch_retries = 0
        self.load_failures = 0
        self.late_requests = 0  # succeeded after the SLO
        self.ok_s = 0.0  # of the requests that succeeded, from their arrival to their answer
        self.last_call_s = 0.0  # when the last engine call succeeded, since the epoch
        self.last_request_s = 0.0  # when the last request ended, on the monotonic clock
        self.batch_sizes: dict[int, list[float]] = {}  # images → calls, and their seconds to join, run and split
        self.duration = Histogram(latency)
        self.queue_wait = Histogram(latency)
        self.execution = Histogram(latency)
        self.batch_images = Histogram(batch_edges(max_batch_images))
        self.wait_error = Histogram(SIGNED_EDGES)
        self.stages = {stage: Histogram(STAGE_EDGES) for stage in STAGES}
        self.load_s = Histogram(LOAD_EDGES)
        self.warmup_s = Histogram(LOAD_EDGES)
        often = (self.duration, self.queue_wait, self.execution, self.batch_images, self.wait_error)
        self.histograms = (*often, *self.stages.values())
        self.wire = "tensor"
        self.passes: dict[str, bool] = {}
        self.batched: dict[str, bool] = {}  # by signature
        self.queues: list[Callable[[], QueueStats]] = []
        self.shadow: ShadowMetrics | None = None  # while it never was one

    def begin_shadow(self) -> ShadowMetrics:
        """The counts of this version as a shadow, which are shown from now on."""
        if self.shadow is None:
            self.shadow = ShadowMetrics()
            self.histograms = (*self.histograms, self.shadow.distance)
        return self.shadow

    def request_ended(self, outcome: str, images: int, duration_s: float) -> None:
        """Counts one request for this version; `outcome` says how it ended."""
        self.requests[outcome] += 1
        self.images[outcome] += images
        self.duration.observe(duration_s)
        if outcome == "ok":
            self.ok_s += duration_s
            if 0.0 < self.slo_s < duration_s:
                self.late_requests += 1

    def ended(self, rows: int, outcome: Outcome, timing: Timing, error: BaseException | None) -> None:  # noqa: ARG002 - the observer's signature
        """Observes how long an entry waited for the engine; one that its client left tells nothing of that."""
        if outcome is not CANCELLED:
            self.queue_wait.observe(timing.queue_s)

    def dispatched(self, batch: Batch) -> None:
        """Counts a batch by its reason and size."""
        self.batches[batch.reason] += 1
        self.batch_images.observe(batch.images)
        self.padding_images += batch.padding

    def ran(self, batch: Batch, report: BatchReport) -> None:
        """Observes the times of one engine call, and counts it for its device."""
        if device := getattr(report, "device", ""):  # the scheduler knows of no devices
            self.device_batches[device] += 1
        self.execution.observe(report.execute_s)
        stages = self.stages
        stages["collate"].observe(report.collate_s)
        stages["execute"].observe(report.execute_s)
        stages["split"].observe(report.split_s)
        if report.error is None:
            self.last_call_s = time.time()
            totals = self.batch_sizes.setdefault(batch.images, [0.0, 0.0, 0.0, 0.0])
            totals[0] += 1
            totals[1] += report.collate_s
            totals[2] += report.execute_s
            totals[3] += report.split_s

    def kept_apart(self, is_alone: bool) -> None:  # noqa: FBT001 - the observer's signature
        """Logs that batches are smaller from now on."""
        together = "one by one" if is_alone else "with pictures of the same width and height only"
        model, version = self.labels
        fields = {"model": model, "version": version, "together": together}
        _log.warning("calls failed with images that were fine apart; they share calls now:", extra={"fields": fields})

    def retried(self, batch: Batch) -> None:  # noqa: ARG002 - the observer's signature
        """Counts one more engine call made by the bisection of a failed batch."""
        self.batch_retries += 1

    def guilty(self, error: BaseException) -> None:  # noqa: ARG002 - the observer's signature
        """Counts an image that the graph refused."""
        self.poison["graph"] += 1

    def curve(self) -> dict[int, list[float]]:
        """The engine calls that succeeded and their seconds, by size: images, rounded up to a power of two."""
        found: dict[int, list[float]] = {}
        for images, (calls, _, execute_s, _) in self.batch_sizes.items():
            total = found.setdefault(1 << (images - 1).bit_length(), [0.0, 0.0])
            total[0] += calls
            total[1] += execute_s
        return found

    def predicted(self, error_s: float) -> None:
        """Observes the error of the predicted wait, in seconds; positive: the entry waited longer."""
        self.wait_error.observe(error_s)


class Metrics(Collector):
    """Every metric of one server, in a registry of its own."""

    def __init__(
        self, *, version: str, tensorflow: str, memory_of: Callable[[str], Mapping[str, int]] = device_memory
    ) -> None:
        self._memory_of = memory_of
        self._versions: Callable[[], Iterable[tuple[ModelMetrics, str]]] = tuple
        self._shares: Callable[[], Iterable[tuple[str, str, float]]] = tuple
        self._stores: Callable[[], Mapping[str, tuple[bool, int]]] = dict
        self._memory: Callable[[], tuple[int, int, Mapping[tuple[str, str], int]]] = lambda: (0, 0, {})
        self.http_requests: Counter[tuple[str, str, int]] = Counter()
        self.routes: dict[str, RouteMetrics] = {}
        self.http_in_flight = 0
        self.fast_lane_requests = 0
        self.task_failures: Counter[str] = Counter()
        self.traces: Counter[str] = Counter(dict.fromkeys(TRACED, 0))
        self.loop_lag = Histogram(LATENCY_EDGES)
        self.build = (version, tensorflow, platform.python_version())
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(self)

    def show_versions(
        self,
        versions: Callable[[], Iterable[tuple[ModelMetrics, str]]],
        shares: Callable[[], Iterable[tuple[str, str, float]]] = tuple,
    ) -> None:
        """Shows what these return, at every scrape: the series of each version with its state; model, version and share."""
        self._versions = versions
        self._shares = shares

    def show_stores(self, stores: Callable[[], Mapping[str, tuple[bool, int]]]) -> None:
        """Shows what `stores` returns at every scrape: by model, whether its store can't be read, and the bytes fetched."""
        self._stores = stores

    def show_memory(self, memory: Callable[[], tuple[int, int, Mapping[tuple[str, str], int]]]) -> None:
        """Shows what `memory` returns at every scrape: loaded models, waiting requests, and unloads by model and reason."""
        self._memory = memory

    def http_ended(
        self, route: str, method: str, code: int, *, duration_s: float, request_bytes: int, response_bytes: int
    ) -> None:
        """Counts one answered HTTP request; `route` is the template, never the raw path."""
        self.http_requests[route, method, code] += 1
        metrics = self.routes.get(route) or self.routes.setdefault(route, RouteMetrics())
        metrics.duration.observe(duration_s)
        metrics.request_size.observe(request_bytes)
        metrics.response_size.observe(response_bytes)

    def models(self) -> list[ModelMetrics]:
        """The series of each model version that is shown."""
        return [model for model, _ in self._versions()]

    def fold(self) -> None:
        """Counts the observations that the histograms noted; to be called a few times a second."""
        self.loop_lag.fold()
        owners: list[RouteMetrics | ModelMetrics] = [*self.routes.values(), *self.models()]
        for owner in owners:
            for histogram in owner.histograms:
                histogram.fold()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition in the format that an Accept header asks for, and its content type; Prometheus' text by default."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Every family, even if it has no child yet, so that a dashboard can be checked against an idle server."""
        yield from self._collect_server()
        versions = list(self._versions())
        yield from _collect_counts([model for model, _ in versions])
        yield from _collect_shadows([(model.labels, model.shadow) for model, _ in versions if model.shadow is not None])
        yield from _collect_curves([(model.labels, model.curve()) for model, _ in versions])
        yield from self._collect_gauges(versions)
        yield from self._collect_stores()
        yield from _collect_cgroup()
        yield from self._collect_memory()

    def _collect_memory(self) -> Iterator[Metric]:
        """Which models are in memory, and which were unloaded."""
        loaded, waiting, unloads = self._memory()
        yield _gauge("darkroom_models_loaded", "Models in memory.", [((), loaded)])
        text = "Requests that wait until a lazy model is loaded."
        yield _gauge("darkroom_load_waiting_requests", text, [((), waiting)])
        text = "Models unloaded: limit (--max_loaded_models), idle (--unload_idle_ms), request (an operator's)."
        yield _counter("darkroom_model_unloads", text, unloads.items(), ("model", "reason"))

    def _collect_stores(self) -> Iterator[Metric]:
        """Of the models that are kept in a store."""
        stores = self._stores()
        failing = (((model,), float(is_failing)) for model, (is_failing, _) in stores.items())
        text = "1 if a model's store can't be read, or a version in it can't be fetched, else 0."
        yield _gauge("darkroom_store_failing", text, failing, ("model",))
        fetched = (((model,), size) for model, (_, size) in stores.items())
        yield _counter("darkroom_store_fetched_bytes", "Bytes fetched from a store.", fetched, ("model",))

    def _collect_server(self) -> Iterator[Metric]:
        """What no model version owns: HTTP, the event loop and the build."""
        requests = (((route, method, str(code)), count) for (route, method, code), count in self.http_requests.items())
        yield _counter("darkroom_http_requests", "HTTP requests answered.", requests, ("route", "method", "code"))
        yield _gauge("darkroom_http_requests_in_flight", "HTTP requests in progress.", [((), self.http_in_flight)])
        text = "HTTP requests that bypassed Sanic."
        yield _counter("darkroom_fast_lane_requests", text, [((), self.fast_lane_requests)])
        yield task_failures_family(self.task_failures)
        text = "Traced requests: sent to the collector, dropped as too many waited, failed to be sent."
        traces = (((result,), number) for result, number in self.traces.items())
        yield _counter("darkroom_traces", text, traces, ("result",))
        routes = self.routes.items()
        for name, text, pick in (
            ("darkroom_http_request_duration_seconds", FROM_REQUEST_TO_ANSWER, attrgetter("duration")),
            ("darkroom_http_request_size_bytes", "Size of the request bodies.", attrgetter("request_size")),
            ("darkroom_http_response_size_bytes", "Size of the response bodies.", attrgetter("response_size")),
        ):
            yield _histogram(name, text, (((route,), pick(metrics)) for route, metrics in routes), ("route",))
        lag = "How late the event loop ran a timer."
        yield _histogram("darkroom_event_loop_lag_seconds", lag, [((), self.loop_lag)], ())
        build = GaugeMetricFamily(
            "darkroom_build_info", "Always 1; the labels are versions.", labels=("version", "tensorflow", "python")
        )
        build.add_metric(self.build, 1)
        yield build

    def _collect_gauges(self, versions: Sequence[tuple[ModelMetrics, str]]) -> Iterator[Metric]:
        """The present state of the model versions: queues, states, passes, and the memory of their devices."""
        models = [model for model, _ in versions]
        stats = [(m.labels, [read() for read in m.queues]) for m in models]
        for name, text, fold, field in (
            ("darkroom_queue_images", "Images that are waiting.", sum, "images"),
            ("darkroom_queue_bytes", "Encoded bytes that are waiting.", sum, "bytes"),
            ("darkroom_queue_capacity_images", "Images that may wait at most.", sum, "capacity_images"),
            ("darkroom_queue_oldest_age_seconds", "Age of the oldest waiting entry.", max, "oldest_age_s"),
            ("darkroom_engine_slots", "Engine calls that may run at the same time.", max, "slots"),
            ("darkroom_engine_stuck", "Engine calls that run far longer than they should.", sum, "stuck_batches"),
            ("darkroom_engine_failing", "Engines whose calls fail, also with a known good row.", sum, "failing"),
            ("darkroom_batch_target_images", "Batch size for a long queue.", max, "target_images"),
        ):
            values = ((labels, fold(getattr(one, field) for one in queues)) for labels, queues in stats if queues)
            yield _gauge(name, text, values, MODEL_LABELS)
        slos = ((m.labels, m.slo_s) for m in models)
        yield _gauge("darkroom_slo_seconds", "The promised latency; 0: none is promised.", slos, MODEL_LABELS)
        states = (((*m.labels, state), float(now == state)) for m, now in versions for state in STATES)
        yield _gauge("darkroom_model_state", "1 for the current state, else 0.", states, (*MODEL_LABELS, "state"))
        passes = (((*m.labels, name), float(is_on)) for m in models for name, is_on in m.passes.items())
        text = "1 if a pass changed the graph and was verified."
        yield _gauge("darkroom_rewrite_applied", text, passes, (*MODEL_LABELS, "pass"))
        batched = (((*m.labels, name), float(is_batched)) for m in models for name, is_batched in m.batched.items())
        text = "1 if requests share calls; 0 if each runs alone. `GET /v1/models/NAME` says why."
        yield _gauge("darkroom_signature_batched", text, batched, (*MODEL_LABELS, "signature"))
        wires = (((*m.labels, m.wire), 1.0) for m in models)
        text = "Always 1; `wire` says in which form the graph takes images."
        yield _gauge("darkroom_model_info", text, wires, (*MODEL_LABELS, "wire"))
        shares = (((model, version), share) for model, version, share in self._shares())
        text = "Share of the requests that name no version, by --traffic; 0: it should get some, and is not served."
        yield _gauge("darkroom_traffic_share", text, shares, MODEL_LABELS)
        devices = sorted({device for m in models for device in m.device_batches})
        sizes = (((device, kind), size) for device in devices for kind, size in self._memory_of(device).items())
        text = "GPU memory that TensorFlow uses: current and peak. None for a CPU."
        yield _gauge("darkroom_device_memory_bytes", text, sizes, ("device", "kind"))


def _collect_counts(models: Sequence[ModelMetrics]) -> Iterator[Metric]:
    """The counters and histograms of the model versions."""
    for name, text, label, counts_of in (
        ("darkroom_requests", "Requests by outcome.", "outcome", attrgetter("requests")),
        ("darkroom_images", "Images by the outcome of their request.", "outcome", attrgetter("images")),
        ("darkroom_poison_images", "Images that were refused.", "reason", attrgetter("poison")),
        ("darkroom_batches", "Engine calls by the reason for dispatch.", "reason", attrgetter("batches")),
        ("darkroom_device_batches", "Engine calls by device.", "device", attrgetter("device_batches")),
    ):
        counts = (((*model.labels, value), count) for model in models for value, count in counts_of(model).items())
        yield _counter(name, text, counts, (*MODEL_LABELS, label))
    for name, text, pick in (
        ("darkroom_request_duration_seconds", FROM_REQUEST_TO_ANSWER, attrgetter("duration")),
        ("darkroom_queue_wait_seconds", "From submit to the start of the engine call.", attrgetter("queue_wait")),
        ("darkroom_batch_execution_seconds", "One engine call.", attrgetter("execution")),
        ("darkroom_batch_images", "Images in one engine call.", attrgetter("batch_images")),
        ("darkroom_predicted_wait_error_seconds", "Actual wait minus predicted wait.", attrgetter("wait_error")),
        ("darkroom_model_load_seconds", "Loading one version.", attrgetter("load_s")),
        ("darkroom_model_warmup_seconds", "Warm-up of one version.", attrgetter("warmup_s")),
    ):
        yield _histogram(name, text, ((m.labels, pick(m)) for m in models))
    stages = (((*m.labels, stage), child) for m in models for stage, child in m.stages.items())
    labels = (*MODEL_LABELS, "stage")
    yield _histogram("darkroom_stage_duration_seconds", "Each stage of a request or a batch.", stages, labels)
    for name, text, pick in (
        (
            "darkroom_late_requests",
            "Requests with the outcome ok that took longer than the SLO.",
            attrgetter("late_requests"),
        ),
        ("darkroom_padding_images", "Rows added to reach an allowed batch size.", attrgetter("padding_images")),
        ("darkroom_batch_retries", "Engine calls made to find a guilty row.", attrgetter("batch_retries")),
        ("darkroom_model_load_failures", "Loads of a version that failed.", attrgetter("load_failures")),
    ):
        yield _counter(name, text, ((model.labels, pick(model)) for model in models), MODEL_LABELS)


def _collect_curves(curves: Sequence[tuple[tuple[str, str], dict[int, list[float]]]]) -> Iterator[Metric]:
    """What a call of each size took, as far as there were any: the service curve as it is."""
    labels = (*MODEL_LABELS, "images")
    for at, name, text in (
        (
            0,
            "darkroom_service_curve_calls",
            "Engine calls that succeeded, by size: images, rounded up to a power of two.",
        ),
        (1, "darkroom_service_curve_seconds", "Their time in the engine."),
    ):
        values = (((*own, str(size)), total[at]) for own, curve in curves for size, total in sorted(curve.items()))
        yield _counter(name, text, values, labels)


def _collect_cgroup() -> Iterator[Metric]:
    """What the control group uses that all processes of the server share; no series where there is none."""
    usage = read_usage()
    for make, name, text, value in (
        (
            _gauge,
            "memory_bytes",
            "Memory of the control group (container), without droppable files.",
            usage.memory_bytes,
        ),
        (_gauge, "memory_limit_bytes", "Memory limit of the control group.", usage.limit_bytes),
        (_counter, "cpu_periods", "Periods of the control group's CPU quota.", usage.periods),
        (_counter, "cpu_throttled_periods", "Those in which it was throttled.", usage.throttled_periods),
        (_counter, "cpu_throttled_seconds", "How long its threads were throttled.", usage.throttled_s),
    ):
        yield make(f"darkroom_cgroup_{name}", text, [] if value is None else [((), float(value))])


def _collect_shadows(shadows: Sequence[tuple[tuple[str, str], ShadowMetrics]]) -> Iterator[Metric]:
    """What the versions did that run beside others."""
    for name, text, label, counts_of in (
        (
            "darkroom_shadow_images",
            "Images that a shadow got, by how its answer compares.",
            "outcome",
            attrgetter("images"),
        ),
        (
            "darkroom_shadow_engine_seconds",
            "Engine time of the shadow's calls, and of calls of the same sizes by the version that answered.",
            "side",
            attrgetter("seconds"),
        ),
    ):
        counts = (((*labels, value), count) for labels, shadow in shadows for value, count in counts_of(shadow).items())
        yield _counter(name, text, counts, (*MODEL_LABELS, label))
    text = "Largest absolute difference of any float between a shadow's answer and the one that was given, by image."
    yield _histogram("darkroom_shadow_distance", text, ((labels, shadow.distance) for labels, shadow in shadows))


def _histogram(
    name: str, text: str, children: Iterable[tuple[Sequence[str], Histogram]], labels: Sequence[str] = MODEL_LABELS
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, child in children:
        child.add_to(family, values)
    return family


def _counter(name: str, text: str, counts: Iterable[tuple[Sequence[str], float]], labels: Sequence[str] = ()) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for label_values, count in counts:
        family.add_metric(label_values, count)
    return family


def _gauge(name: str, text: str, values: Iterable[tuple[Sequence[str], float]], labels: Sequence[str] = ()) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family
