from __future__ import annotations

import json

from loadtest.measure.latencies import LatencyHistogram
from loadtest.measure.server_timing import TimingStatistics


def test_what_a_worker_heard_arrives_at_the_master_whole() -> None:
    worker, master = TimingStatistics(), TimingStatistics()
    for queue_ms in (1.0, 3.0):
        worker.add("json", f'queue;dur={queue_ms}, execute;dur=10, batch;desc="8"')
    master.add("json", 'queue;dur=2, batch;desc="2"')
    master.merge({kind: dict(found) for kind, found in worker.as_pairs().items()})
    assert len(master.queue["json"]) == 3
    assert master.queue["json"].quantile_ms(1) == 3.0
    assert master.execute["json"].quantile_ms(0.5) == 10.0
    assert master.mean_batch("json") == 6


def test_times_survive_the_way_as_json() -> None:
    times = LatencyHistogram()
    times.merge(json.loads(json.dumps(LatencyHistogram([1.0, 2.0, 2.0]).as_pairs())))
    assert (len(times), times.quantile_ms(0.5)) == (3, 2.0)
