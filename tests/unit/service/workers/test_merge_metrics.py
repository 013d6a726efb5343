from __future__ import annotations

import asyncio

from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from darkroom.service.config.settings import Settings
from darkroom.service.telemetry.metrics import Metrics, ModelMetrics
from darkroom.service.workers.merge_metrics import GAUGES, SHARED, counts, merge
from darkroom.service.workers.supervisor import Supervisor, worker_families

START_S = "process_start_time_seconds"


def _worker(oks: int, *versions: int, state: str = "AVAILABLE") -> str:
    metrics = Metrics(version="1", tensorflow="2", memory_of=lambda _: {"now": 7})
    models = [ModelMetrics("m", version, max_batch_images=4) for version in versions]
    metrics.show_versions(lambda: [(model, state) for model in models])
    for model in models:
        for _ in range(oks):
            model.request_ended("ok", 2, 0.004)
        model.batch_images.observe(oks)
        model.device_batches["gpu:0"] += 1
    metrics.http_ended("/", "GET", 200, duration_s=0.1, request_bytes=1, response_bytes=2)
    metrics.http_in_flight = oks
    metrics.show_stores(lambda: {"m": (oks > 2, oks)})
    return metrics.render()[0].decode()


def _merged(expositions: list[str], *, ended: str = "") -> str:
    return merge(expositions, ended=ended)[0]


def _value(text: str, name: str, **labels: str) -> float | None:
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) < 2
    return found[0] if found else None


def test_counts_of_all_workers_are_summed_also_in_each_bucket() -> None:
    whole = _merged([_worker(3, 1), _worker(2, 1)])
    assert _value(whole, "darkroom_requests_total", outcome="ok") == 5
    assert _value(whole, "darkroom_images_total", outcome="ok") == 10
    assert _value(whole, "darkroom_request_duration_seconds_count") == 5
    assert _value(whole, "darkroom_batch_images_bucket", le="2.0") == 1
    assert _value(whole, "darkroom_batch_images_bucket", le="4.0") == 2
    assert _value(whole, "darkroom_http_requests_total", route="/") == 2
    assert _value(whole, "darkroom_store_fetched_bytes_total", model="m") == 5


def test_gauges_are_what_is_true_of_all_together() -> None:
    texts = [_worker(3, 1), _worker(2, 1, state="LOADING")]
    whole = _merged(texts)
    assert _value(whole, "darkroom_http_requests_in_flight") == 5
    assert _value(whole, "darkroom_device_memory_bytes") == 14
    assert _value(whole, "darkroom_store_failing", model="m") == 1
    assert _value(whole, "darkroom_build_info", version="1") == 1
    assert _value(whole, "darkroom_model_state", state="AVAILABLE") == 1
    assert _value(whole, "darkroom_model_state", state="LOADING") == 1
    assert _value(whole, "darkroom_model_state", state="END") == 0
    assert _value(whole, START_S) == min(_value(text, START_S) or 0 for text in texts)


def test_every_gauge_has_its_rule() -> None:
    families = [*text_string_to_metric_families(_worker(1, 1)), *worker_families(ready=1, absent=0, restarts=0)]
    assert {family.name for family in families if family.type == "gauge"} == set(GAUGES)


def test_one_worker_s_exposition_stays_as_it_is() -> None:
    text = _worker(2, 1, 2)
    assert sorted(_merged([text]).splitlines()) == sorted(text.splitlines())


def test_no_counter_goes_back_when_a_worker_is_gone_and_its_gauges_go_with_it() -> None:
    texts = [_worker(3, 1), _worker(2, 1)]
    after = _merged(texts[1:], ended=counts("", texts[0]))
    assert _value(after, "darkroom_requests_total", outcome="ok") == 5
    assert _value(after, "darkroom_http_requests_in_flight") == 2
    again = _merged(texts[1:], ended=counts(counts(texts[0]), texts[0]))
    assert _value(again, "darkroom_requests_total", outcome="ok") == 8


def test_a_version_that_nobody_has_any_more_takes_its_past_along() -> None:
    after = _merged([_worker(2, 2)], ended=counts(_worker(3, 1)))
    assert _value(after, "darkroom_requests_total", outcome="ok", version="1") is None
    assert _value(after, "darkroom_requests_total", outcome="ok", version="2") == 2
    assert _value(after, "darkroom_http_requests_total", route="/") == 2


def test_the_supervisor_s_own_families_stand_beside_them() -> None:
    async def own() -> str:
        return generate_latest(Supervisor(Settings(workers=2), [])).decode()

    whole = _merged([asyncio.run(own()), _worker(1, 1), ""])
    assert _value(whole, "darkroom_workers", state="absent") == 2
    assert _value(whole, "darkroom_worker_restarts_total") == 0
    assert _value(whole, "darkroom_requests_total", outcome="ok") == 1


def test_what_all_processes_read_of_their_one_group_is_not_summed() -> None:
    text = "".join(f"# TYPE {name}_total counter\n{name}_total 7.0\n" for name in sorted(SHARED))
    whole = _merged([text, text], ended=counts(text))
    assert {_value(whole, f"{name}_total") for name in SHARED} == {7}
    exported = {family.name for family in Metrics(version="1", tensorflow="2").collect()}
    assert exported >= SHARED


def test_merged_metrics_are_openmetrics_for_who_accepts_it() -> None:
    text, content_type = merge([_worker(3, 1), _worker(2, 1)], accept="application/openmetrics-text;version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics_families(text)}  # raises if it breaks a rule
    (ok,) = (each for each in families["darkroom_requests"].samples if each.labels["outcome"] == "ok")
    assert ok.value == 5
    assert families["darkroom_request_duration_seconds"].type == "histogram"
