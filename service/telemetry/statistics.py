"""The statistics of a model version in the form of Triton's statistics extension, and their sum over processes."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from darkroom.service.telemetry.metrics import ModelMetrics

PHASES = ("compute_input", "compute_infer", "compute_output")  # of one engine call: join the rows, run, split


def describe_statistics(model: ModelMetrics) -> dict[str, Any]:
    """The counts and nanoseconds of one version since it was loaded.

    `success` and `fail` count requests, `queue` counts their entries, the phases and `execution_count` count engine calls
    that succeeded. `last_inference` is the time of the last of them, in milliseconds since the epoch; 0: there was none.
    There is no cache, so nothing hits or misses it.
    """
    name, version = model.labels
    good, queue = model.requests["ok"], model.queue_wait
    failed = sum(model.requests.values()) - good
    calls = [(int(each[0]), each[1:]) for each in model.batch_sizes.values()]
    phases = {
        phase: _duration(sum(count for count, _ in calls), sum(seconds[at] for _, seconds in calls))
        for at, phase in enumerate(PHASES)
    }
    return {
        "name": name,
        "version": version,
        "last_inference": int(model.last_call_s * 1000),
        "inference_count": model.images["ok"],
        "execution_count": sum(count for count, _ in calls),
        "inference_stats": {
            "success": _duration(good, model.ok_s),
            "fail": _duration(failed, max(0.0, model.duration.total - model.ok_s)),
            "queue": _duration(sum(queue.counts), queue.total),
            **phases,
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [
            {"batch_size": size, **{phase: _duration(int(each[0]), each[at]) for at, phase in enumerate(PHASES, 1)}}
            for size, each in sorted(model.batch_sizes.items())
        ],
    }


def merge_statistics(processes: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One list for all processes: counts and times are summed, of `last_inference` it is the latest."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for model in chain.from_iterable(processes):
        key = model["name"], model["version"]
        merged[key] = _add(merged[key], model) if key in merged else dict(model)
    return list(merged.values())


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * 1e9)}


def _add(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of two objects of the same form."""
    total: dict[str, Any] = {}
    for key, value in one.items():
        if key == "last_inference":
            total[key] = max(value, other[key])
        elif isinstance(value, dict):
            total[key] = _add(value, other[key])
        elif isinstance(value, list):
            sizes = {each["batch_size"]: each for each in value}
            for each in other[key]:
                size = each["batch_size"]
                sizes[size] = _add(sizes[size], each) | {"batch_size": size} if size in sizes else each
            total[key] = [sizes[size] for size in sorted(sizes)]
        else:
            total[key] = value if isinstance(value, str) else value + other[key]
    return total
