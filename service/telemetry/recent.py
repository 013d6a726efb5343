"""The last minutes, second by second, out of the same time series as `/metrics`; the page `/live` draws them.

Once a second `Recent.tick` notes what each model version counted since the last one. A second is a JSON-ready dict with
the wall clock as its number, so that the seconds of several workers can be added up. Imports no library, since the
supervisor of `--workers` merges, too.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from darkroom.service.telemetry.histogram import Histogram
    from darkroom.service.telemetry.metrics import ModelMetrics

# {"second": Unix time, "models": [{"model", "version", "queue", "images" and, by name, counts: see COUNTED}, …]}; a
# version of which there is nothing to tell is left out.
Second: TypeAlias = dict[str, Any]
COUNTED = ("requests", "latency", "batches")  # by outcome; by upper edge in seconds; by upper edge in images
COMPARED = ("shadow", "distance")  # of a shadow only: its images by outcome and its seconds by side; by upper edge
ADDED = ("queue", "images")  # images that wait at the end of the second; images in its engine calls
KEPT_S = 300  # guess: long enough to see what just happened, short enough to keep


class Recent:
    """The last `KEPT_S` seconds of one process; on the event loop only.

    Args:
        versions: the time series that exist now; `Metrics.models`.
        clock: the wall clock.
    """

    def __init__(
        self, versions: Callable[[], Iterable[ModelMetrics]], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._versions = versions
        self._clock = clock
        self._seconds: deque[Second] = deque(maxlen=KEPT_S)
        self._before: dict[ModelMetrics, dict[str, Any]] = {}

    async def run(self) -> None:
        """Ticks at the end of every second, until it is cancelled."""
        while True:
            await asyncio.sleep(1.0 - self._clock() % 1.0)
            self.tick()

    def tick(self) -> None:
        """Notes the second that has just ended; where some were missed, all that happened in them counts for it."""
        second = int(self._clock()) - 1
        if self._seconds and not 0 <= second - self._seconds[-1]["second"] <= KEPT_S:
            self._seconds.clear()  # the clock was set
        if self._seconds and second == self._seconds[-1]["second"]:
            return  # woken up early
        now = {  # what each version has counted since its load
            metrics: {
                "requests": dict(metrics.requests),
                "latency": _buckets(metrics.duration),
                "batches": _buckets(metrics.batch_images),
                "images": int(metrics.batch_images.total),
                **compared_of(metrics),
            }
            for metrics in self._versions()
        }
        found = []
        for metrics, totals in now.items():
            model, version = metrics.labels
            told = _since(self._before.get(metrics), totals)
            told["queue"] = sum(read().images for read in metrics.queues)
            if any(told.values()):
                found.append({"model": model, "version": version} | told)
        self._before = now
        self._seconds.append({"second": second, "models": found})

    def since(self, second: int) -> list[Second]:
        """The seconds from `second` on in which something happened, oldest first, and the last one in any case."""
        if not self._seconds:
            return []
        last = self._seconds[-1]
        return [each for each in self._seconds if each["second"] >= second and (each["models"] or each is last)]


def merge_seconds(processes: Iterable[Iterable[Second]]) -> list[Second]:
    """The seconds of several processes added up, oldest first."""
    merged: dict[int, dict[tuple[str, str], dict[str, Any]]] = {}
    for seconds in processes:
        for second in seconds:
            models = merged.setdefault(second["second"], {})
            for told in second["models"]:
                key = told["model"], told["version"]
                models[key] = _added(models[key], told) if key in models else told
    return [{"second": second, "models": list(models.values())} for second, models in sorted(merged.items())]


def _buckets(histogram: Histogram) -> dict[str, int]:
    return dict(zip((*map(str, histogram.edges), "+Inf"), histogram.counts, strict=True))


def compared_of(metrics: ModelMetrics) -> dict[str, Any]:
    """What a version has counted as a shadow; empty if it never was one."""
    if (shadow := metrics.shadow) is None:
        return {}
    seconds = {f"{side}_s": seconds for side, seconds in shadow.seconds.items()}
    return {"shadow": {**shadow.images, **seconds}, "distance": _buckets(shadow.distance)}


def _since(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """What was counted in between, without zeros."""
    if before is None:
        before = {"images": 0}
    told: dict[str, Any] = {"images": now["images"] - before["images"]}
    for name in (*COUNTED, *COMPARED):
        past = before.get(name, {})
        counts = {
            key: count - past.get(key, 0) for key, count in now.get(name, {}).items() if count != past.get(key, 0)
        }
        if counts or name in COUNTED:
            told[name] = counts
    return told


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    added = one | {name: one[name] + other[name] for name in ADDED}
    for name in [name for name in (*COUNTED, *COMPARED) if name in one or name in other]:
        counts = dict(one.get(name, {}))
        for key, count in other.get(name, {}).items():
            counts[key] = counts.get(key, 0) + count
        added[name] = counts
    return added
