"""Merges the expositions of several workers: counters and histograms are summed, gauges as `GAUGES` says."""

from __future__ import annotations

from operator import add
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]  # a sample's name and its labels
Version: TypeAlias = tuple[str, str] | None  # the names of a model and of its version
COUNTS = frozenset({"counter", "histogram"})
KINDS = COUNTS | {"gauge"}
# How the values of two processes are merged. Every gauge is listed; a test compares.
GAUGES: dict[str, Callable[[float, float], float]] = {
    "darkroom_http_requests_in_flight": add,
    "darkroom_build_info": max,
    "darkroom_queue_images": add,
    "darkroom_queue_bytes": add,
    "darkroom_queue_capacity_images": add,
    "darkroom_queue_oldest_age_seconds": max,
    "darkroom_batch_target_images": max,
    "darkroom_engine_slots": add,
    "darkroom_engine_stuck": add,
    "darkroom_engine_failing": add,
    "darkroom_slo_seconds": max,
    "darkroom_store_failing": max,
    "darkroom_models_loaded": add,
    "darkroom_load_waiting_requests": add,
    "darkroom_model_state": max,
    "darkroom_rewrite_applied": max,
    "darkroom_model_info": max,
    "darkroom_signature_batched": max,
    "darkroom_traffic_share": max,
    "darkroom_device_memory_bytes": add,
    "darkroom_cgroup_memory_bytes": max,  # all processes are in one group
    "darkroom_cgroup_memory_limit_bytes": max,
    "process_virtual_memory_bytes": add,
    "process_resident_memory_bytes": add,
    "process_start_time_seconds": min,  # the supervisor is the oldest
    "darkroom_workers": max,  # only the supervisor has it
    "process_open_fds": add,
    "process_max_fds": add,
}
# Counters that are not summed: each process reads the same ones, those of the group.
SHARED = frozenset(
    {"darkroom_cgroup_cpu_periods", "darkroom_cgroup_cpu_throttled_periods", "darkroom_cgroup_cpu_throttled_seconds"}
)


def merge(expositions: Iterable[str], *, ended: str = "", accept: str = "") -> tuple[str, str]:
    """One exposition for all processes, and its content type.

    Args:
        expositions: of each process, in Prometheus' text format.
        ended: the `counts` of the workers that ended. They stay in the sums, so that no counter decreases, except for
            versions that no worker has any more.
        accept: the Accept header that the format is chosen by.
    """
    whole = _Sum()
    for text in expositions:
        whole.add(text)
    versions = whole.versions()
    whole.add(ended, versions=versions)
    return whole.print(accept)


def counts(*expositions: str) -> str:
    """The sums of the counters and histograms of these expositions: what is kept of a worker that ended."""
    whole = _Sum()
    for text in expositions:
        whole.add(text, kinds=COUNTS)
    return whole.print()[0]


class _Sum(Collector):
    """Merged families by name, each with its samples by key, in the order in which they were added."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._values: dict[str, dict[Key, float]] = {}

    def add(self, text: str, *, kinds: Collection[str] = KINDS, versions: Collection[Version] | None = None) -> None:
        """Merges the samples of an exposition in: families of these kinds, and these versions (None: all versions)."""
        for family in text_string_to_metric_families(text):
            if family.type not in kinds:
                continue
            self._families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            values = self._values.setdefault(family.name, {})
            fold = GAUGES.get(family.name, max) if family.type == "gauge" else max if family.name in SHARED else add
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                if versions is None or _version(key) in versions:
                    values[key] = fold(values[key], sample.value) if key in values else sample.value

    def versions(self) -> set[Version]:
        """The model versions that samples are labelled with, and None for samples without a version."""
        return {None, *(_version(key) for values in self._values.values() for key in values)}

    def print(self, accept: str = "") -> tuple[str, str]:
        """The merged exposition as text, in the format that an Accept header asks for, and its content type."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        encode, content_type = choose_encoder(accept)
        return encode(registry).decode(), content_type

    def collect(self) -> Iterator[Metric]:
        """The merged families."""
        for name, family in self._families.items():
            for (sample, labels), value in self._values[name].items():
                family.add_sample(sample, dict(labels), value)
            yield family


def _version(key: Key) -> Version:
    """The model version that a sample is labelled with, if any."""
    labels = dict(key[1])
    return (labels["model"], labels["version"]) if {"model", "version"} <= labels.keys() else None
