"""A histogram that the event loop writes without a lock, and the edges of every bucket there is."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client.core import HistogramMetricFamily

LATENCY_EDGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5, 10)
STAGE_EDGES = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, *LATENCY_EDGES)  # decoding takes tens of us
SIZE_EDGES = (256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
LOAD_EDGES = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIGNED_EDGES = (-1, -0.3, -0.1, -0.03, -0.01, -0.003, -0.001, 0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)


class Histogram:
    """One child of a histogram: counts a bucket, and their sum."""

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = tuple(edges)
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts `value` into the bucket whose upper edge is the first that is not below it."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Adds this child, cumulated as Prometheus wants it."""
        buckets, running = [], 0
        for edge, count in zip((*map(str, map(float, self.edges)), "+Inf"), self.counts, strict=True):
            running += count
            buckets.append((edge, float(running)))
        family.add_metric(labels, buckets, self.total)


def with_slo(edges: Sequence[float], slo_s: float) -> tuple[float, ...]:
    """The edges with the SLO among them, so that the share of answers inside it is read exactly."""
    return tuple(sorted({*edges, slo_s})) if slo_s else tuple(edges)


def batch_edges(max_images: int) -> tuple[int, ...]:
    """1, 2, 4, … and the largest batch."""
    return tuple(sorted({1 << bit for bit in range(max_images.bit_length())} | {max_images}))
