"""The last minutes by second: what was counted in between, no more than is kept, and several processes added up."""

from __future__ import annotations

from typing import Any

from darkroom.batching.entry import Batch, Entry, Reason
from darkroom.batching.observer import QueueStats
from darkroom.service.telemetry.metrics import ModelMetrics
from darkroom.service.telemetry.recent import KEPT_S, Recent, merge_seconds


class _Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.1

    def __call__(self) -> float:
        return self.now


def _recent(*series: ModelMetrics) -> tuple[Recent, _Clock]:
    clock = _Clock()
    return Recent(lambda: series, clock=clock), clock


def _run(metrics: ModelMetrics, images: int) -> None:
    """One answered batch of single pictures."""
    entry = Entry(None, images)
    metrics.dispatched(
        Batch(1, [(entry, 0, images)], images, padding=0, reason=Reason.IDLE, dispatched_s=0, expected_s=1)
    )
    for _ in range(images):
        metrics.request_ended("ok", 1, 0.004)


def test_a_second_tells_what_was_counted_since_the_one_before() -> None:
    metrics = ModelMetrics("m", 1, max_batch_images=8)
    recent, clock = _recent(metrics)
    _run(metrics, 3)
    recent.tick()
    clock.now += 1
    _run(metrics, 1)
    metrics.request_ended("expired", 1, 7.0)
    metrics.queues.append(lambda: QueueStats(5, 0, 9, 0.0, 1, 8))
    recent.tick()
    first, second = recent.since(0)
    assert first == {
        "second": 999,
        "models": [
            {"model": "m", "version": "1", "images": 3, "queue": 0, "requests": {"ok": 3}, "latency": {"0.005": 3}, "batches": {"4": 1}}
        ],
    }  # fmt: skip
    (told,) = second["models"]
    assert (second["second"], told["queue"], told["requests"]) == (1000, 5, {"ok": 1, "expired": 1})
    assert told["latency"] == {"0.005": 1, "10": 1}
    assert recent.since(1000) == [second]


def test_a_quiet_second_is_told_only_if_it_is_the_last() -> None:
    metrics = ModelMetrics("m", 1)
    recent, clock = _recent(metrics)
    for _ in range(3):
        recent.tick()
        clock.now += 1
    assert recent.since(0) == [{"second": 1001, "models": []}]
    _run(metrics, 1)
    recent.tick()
    clock.now += 1
    recent.tick()
    assert [each["second"] for each in recent.since(0)] == [1002, 1003]


def test_no_more_than_the_last_minutes_are_kept_and_a_clock_that_is_set_starts_anew() -> None:
    metrics = ModelMetrics("m", 1)
    recent, clock = _recent(metrics)
    for _ in range(KEPT_S + 20):
        _run(metrics, 1)
        recent.tick()
        clock.now += 1
    assert len(recent.since(0)) == KEPT_S
    clock.now -= 500
    _run(metrics, 1)
    recent.tick()
    assert len(recent.since(0)) == 1


def test_a_tick_that_comes_early_waits_and_one_that_comes_late_loses_nothing() -> None:
    metrics = ModelMetrics("m", 1)
    recent, clock = _recent(metrics)
    recent.tick()
    clock.now += 0.8
    _run(metrics, 1)
    recent.tick()
    assert recent.since(0) == [{"second": 999, "models": []}]
    clock.now += 4
    recent.tick()
    assert [model["requests"] for each in recent.since(0) for model in each["models"]] == [{"ok": 1}]


def test_a_version_that_is_gone_and_one_that_comes_back_begin_with_their_own_counts() -> None:
    series = [ModelMetrics("m", 1)]
    clock = _Clock()
    recent = Recent(lambda: series, clock=clock)
    _run(series[0], 2)
    recent.tick()
    series[0] = ModelMetrics("m", 1)
    _run(series[0], 1)
    clock.now += 1
    recent.tick()
    assert [model["images"] for each in recent.since(0) for model in each["models"]] == [2, 1]


def test_what_a_version_did_as_a_shadow_is_told_and_added_up() -> None:
    metrics = ModelMetrics("m", 2)
    shadow = metrics.begin_shadow()
    assert metrics.begin_shadow() is shadow
    recent, clock = _recent(metrics)
    shadow.images["same"] += 3
    recent.tick()
    shadow.images["same"] += 1
    shadow.seconds["shadow"] += 0.5
    shadow.distance.observe(0.02)
    clock.now += 1
    recent.tick()
    seconds = recent.since(0)
    told = [(each["models"][0]["shadow"], each["models"][0].get("distance")) for each in seconds]
    assert told == [({"same": 3}, None), ({"same": 1, "shadow_s": 0.5}, {"0.03": 1})]
    (merged, _) = merge_seconds([seconds, [{"second": seconds[0]["second"], "models": seconds[1]["models"]}]])
    assert merged["models"][0]["shadow"] == {"same": 4, "shadow_s": 0.5}
    assert merged["models"][0]["distance"] == {"0.03": 1}


def test_the_seconds_of_several_processes_are_added_up() -> None:
    def told(model: str, *, ok: int, queue: int) -> dict[str, Any]:
        return {
            "model": model,
            "version": "1",
            "queue": queue,
            "images": ok,
            "requests": {"ok": ok},
            "latency": {"0.1": ok},
            "batches": {"1": ok},
        }

    one: list[dict[str, Any]] = [{"second": 8, "models": [told("a", ok=1, queue=1)]}, {"second": 9, "models": []}]
    other = [{"second": 7, "models": []}, {"second": 8, "models": [told("a", ok=2, queue=4), told("b", ok=5, queue=0)]}]
    assert merge_seconds([one, other, []]) == [
        {"second": 7, "models": []},
        {"second": 8, "models": [told("a", ok=3, queue=5), told("b", ok=5, queue=0)]},
        {"second": 9, "models": []},
    ]
    assert one[0]["models"][0]["requests"] == {"ok": 1}, "what comes in stays as it is"
