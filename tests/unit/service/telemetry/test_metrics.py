from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from darkroom.batching.observer import QueueStats
from darkroom.service.telemetry.histogram import LATENCY_EDGES, Histogram
from darkroom.service.telemetry.metrics import Metrics, ModelMetrics


def _shown(metrics: Metrics, *models: ModelMetrics) -> ModelMetrics:
    """Has `metrics` show these, and returns the first."""
    metrics.show_versions(lambda: [(model, "AVAILABLE") for model in models])
    return models[0]


def _samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    body, _ = metrics.render()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_folding_counts_all_that_was_noted_and_keeps_none_of_it() -> None:
    metrics = Metrics(version="1", tensorflow="2")
    model = _shown(metrics, ModelMetrics("m", 1))
    for _ in range(1000):
        metrics.http_ended("/", "POST", 200, duration_s=0.1, request_bytes=10, response_bytes=20)
        model.request_ended("ok", 1, 0.1)
        metrics.loop_lag.observe(0.1)
    histograms = (metrics.routes["/"].request_size, model.duration, metrics.loop_lag)
    assert {histogram.noted for histogram in histograms} == {1000}
    metrics.fold()
    assert {histogram.noted for histogram in histograms} == {0}
    assert {sum(histogram.counts) for histogram in histograms} == {1000}


@given(st.lists(st.floats(0, 20), max_size=30))
def test_a_histogram_counts_each_value_in_the_first_bucket_that_holds_it(values: list[float]) -> None:
    histogram = Histogram(LATENCY_EDGES)
    for place, value in enumerate(values):
        histogram.observe(value)
        if place % 7 == 0:
            histogram.fold()
    assert sum(histogram.counts) == len(values)
    for value in values:
        assert histogram.counts[bisect_left(LATENCY_EDGES, value)] > 0
    assert abs(histogram.total - sum(values)) < 1e-6


def test_what_is_written_can_be_read_by_prometheus_own_parser() -> None:
    metrics = Metrics(version="1", tensorflow="2")
    model = _shown(metrics, ModelMetrics("m", 3, slo_s=0.12, max_batch_images=8))
    model.request_ended("ok", 2, 0.12)
    model.request_ended("queue_full", 1, 0.001)
    model.queues.append(lambda: QueueStats(5, 100, 64, 0.5, 1, 8, slots=2))
    model.passes["freeze"] = True
    model.batched["serve"] = False
    metrics.http_ended("/", "POST", 200, duration_s=0.2, request_bytes=10, response_bytes=20)
    samples = _samples(metrics)
    version = (("model", "m"), ("version", "3"))
    assert samples["darkroom_requests_total", (("model", "m"), ("outcome", "ok"), ("version", "3"))] == 1
    assert samples["darkroom_images_total", (("model", "m"), ("outcome", "ok"), ("version", "3"))] == 2
    assert samples["darkroom_request_duration_seconds_count", version] == 2
    # The SLO is an edge of its own, so the share inside it is exact: both were.
    assert samples["darkroom_request_duration_seconds_bucket", (("le", "0.12"), *version)] == 2
    assert samples["darkroom_queue_images", version] == 5
    assert samples["darkroom_engine_slots", version] == 2
    assert samples["darkroom_signature_batched", (("model", "m"), ("signature", "serve"), ("version", "3"))] == 0
    assert samples["darkroom_rewrite_applied", (("model", "m"), ("pass", "freeze"), ("version", "3"))] == 1
    assert samples["darkroom_http_requests_total", (("code", "200"), ("method", "POST"), ("route", "/"))] == 1


def test_a_version_that_goes_takes_its_series_along() -> None:
    metrics = Metrics(version="1", tensorflow="2")
    models = [(ModelMetrics("m", 1), "UNLOADING"), (ModelMetrics("m", 2), "AVAILABLE")]
    metrics.show_versions(lambda: models)
    models[0][0].request_ended("ok", 1, 0.1)
    assert (
        _samples(metrics)[
            "darkroom_model_state", tuple(sorted({"model": "m", "version": "1", "state": "UNLOADING"}.items()))
        ]
        == 1
    )
    del models[0]
    versions = {dict(labels).get("version") for name, labels in _samples(metrics) if "model" in dict(labels)}
    assert versions == {"2"}


def test_two_servers_in_one_process_do_not_share_a_metric() -> None:
    one, other = Metrics(version="1", tensorflow="2"), Metrics(version="1", tensorflow="2")
    one.http_ended("/", "GET", 200, duration_s=0.1, request_bytes=0, response_bytes=0)
    assert not other.http_requests


def test_a_gpu_that_a_version_runs_on_is_asked_at_each_scrape_for_its_memory() -> None:
    asked: list[str] = []

    def memory_of(device: str) -> dict[str, int]:
        asked.append(device)
        return {"current": 100 + len(asked), "peak": 300} if device == "gpu:0" else {}

    metrics = Metrics(version="1", tensorflow="2", memory_of=memory_of)
    assert not [name for name, _ in _samples(metrics) if name == "darkroom_device_memory_bytes"]
    assert asked == []
    models = [ModelMetrics("m", version) for version in (1, 2, 3)]
    _shown(metrics, *models)
    for model, device in zip(models, ("gpu:0", "gpu:0", "cpu:0"), strict=True):
        model.device_batches[device] = 0
    metrics.render()
    assert asked == ["cpu:0", "gpu:0"]
    found = {key: value for key, value in _samples(metrics).items() if key[0] == "darkroom_device_memory_bytes"}
    assert found == {
        ("darkroom_device_memory_bytes", (("device", "gpu:0"), ("kind", "current"))): 104,
        ("darkroom_device_memory_bytes", (("device", "gpu:0"), ("kind", "peak"))): 300,
    }


def test_an_answer_is_late_only_after_the_slo_and_only_if_there_is_one() -> None:
    promised, free = ModelMetrics("m", 1, slo_s=0.1), ModelMetrics("m", 2)
    for model in (promised, free):
        for outcome, duration_s in (("ok", 0.1), ("ok", 0.2), ("queue_full", 0.2)):
            model.request_ended(outcome, 1, duration_s)
    assert (promised.late_requests, free.late_requests) == (1, 0)


def test_the_service_curve_adds_up_calls_of_about_one_size() -> None:
    metrics = Metrics(version="1", tensorflow="2")
    model = _shown(metrics, ModelMetrics("m", 1))
    model.batch_sizes = {1: [2, 0, 0.2, 0], 3: [1, 0, 0.3, 0], 4: [1, 0, 0.5, 0]}
    samples = _samples(metrics)
    found = {
        (name.rpartition("_curve_")[2], dict(labels)["images"]): value
        for (name, labels), value in samples.items()
        if "_curve_" in name
    }
    assert found == {
        ("calls_total", "1"): 2,
        ("seconds_total", "1"): 0.2,
        ("calls_total", "4"): 2,
        ("seconds_total", "4"): 0.8,
    }
