"""Statistics in Triton's form, and their sum over workers."""

from __future__ import annotations

from darkroom.batching.entry import Batch, Reason
from darkroom.models.engines.runner import RunReport
from darkroom.service.telemetry.metrics import ModelMetrics
from darkroom.service.telemetry.statistics import describe_statistics, merge_statistics


def _ran(metrics: ModelMetrics, images: int, *, error: Exception | None = None) -> None:
    batch = Batch(1, [], images, padding=0, reason=Reason.IDLE, dispatched_s=0, expected_s=1)
    report = RunReport([], error, 0.0, 0.001, 0.01, 0.002, device="cpu:0")
    metrics.ran(batch, report)


def _metrics(*sizes: int) -> ModelMetrics:
    metrics = ModelMetrics("cats", 3)
    for size in sizes:
        _ran(metrics, size)
        metrics.request_ended("ok", size, 0.02)
    return metrics


def test_calls_count_by_their_size_and_requests_by_how_they_ended() -> None:
    metrics = _metrics(1, 4, 4)
    _ran(metrics, 2, error=ValueError("x"))
    metrics.request_ended("invalid_input", 2, 0.5)
    found = describe_statistics(metrics)
    assert (found["name"], found["version"], found["inference_count"], found["execution_count"]) == ("cats", "3", 9, 3)
    stats = found["inference_stats"]
    assert stats["success"] == {"count": 3, "ns": 60_000_000}
    assert stats["fail"] == {"count": 1, "ns": 500_000_000}
    assert stats["compute_infer"] == {"count": 3, "ns": 30_000_000}
    assert [(each["batch_size"], each["compute_output"]) for each in found["batch_stats"]] == [
        (1, {"count": 1, "ns": 2_000_000}),
        (4, {"count": 2, "ns": 4_000_000}),
    ]
    assert found["last_inference"] > 0


def test_a_version_that_was_never_asked_has_zeros() -> None:
    found = describe_statistics(ModelMetrics("cats", 3))
    assert (found["last_inference"], found["inference_count"], found["batch_stats"]) == (0, 0, [])


def test_workers_are_summed_and_the_last_call_is_the_latest() -> None:
    one, other = _metrics(1, 4), _metrics(2, 4)
    one.last_call_s, other.last_call_s = 5.0, 7.0
    described = [describe_statistics(one), describe_statistics(ModelMetrics("dogs", 1))]
    cats, dogs = merge_statistics([described, [describe_statistics(other)], []])
    assert (cats["name"], cats["version"], cats["inference_count"], cats["last_inference"]) == ("cats", "3", 11, 7000)
    assert [(each["batch_size"], each["compute_infer"]["count"]) for each in cats["batch_stats"]] == [
        (1, 1),
        (2, 1),
        (4, 2),
    ]
    assert dogs["name"] == "dogs"
    assert merge_statistics([]) == []
