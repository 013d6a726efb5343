"""What an operator reads of a version that came, and what is run of it before anybody asks."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from darkroom.models.engines.fakes import ECHO, EchoEngine, fake_model
from darkroom.models.rows import Rows
from darkroom.service.config.settings import Settings
from darkroom.service.serving.servable import Servable, describe_loaded
from darkroom.service.telemetry.metrics import ModelMetrics
from tests.pictures import picture
from tests.serving import running


class Recorder(EchoEngine):
    """Notes the size of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def run(self, rows: Rows) -> Rows:
        self.sizes.append(len(rows))
        return super().run(rows)


def test_the_story_of_a_version_names_the_devices_of_each_signature() -> None:
    model = fake_model()
    assert "batched=True devices=cpu:0 " in str(describe_loaded(model)["serving_default"])
    model.replicas = {"serving_default": dict.fromkeys(("gpu:0", "gpu:1"), model.engines["serving_default"])}
    assert "batched=True devices=gpu:0,gpu:1 " in str(describe_loaded(model)["serving_default"])


@pytest.mark.parametrize(
    ("device", "allowed", "wanted"),
    [("gpu", (), {1, 2, 3, 4, 5, 6, 7}), ("gpu", (3, 7), {3, 7}), ("cpu", (), {1, 2, 3, 4, 6, 7})],
)
def test_on_a_gpu_each_engine_has_met_every_size_before_anybody_asks(
    device: str, allowed: tuple[int, ...], wanted: set[int]
) -> None:
    engines = [Recorder(), Recorder()]
    model = fake_model()
    model.engines = {"serving_default": engines[0]}
    model.samples = {"serving_default": (Rows({"images": [picture(1)]}),)}
    model.replicas = {"serving_default": {f"{device}:{place}": engine for place, engine in enumerate(engines)}}
    with running(model, max_batch_images=7, allowed_batch_sizes=allowed):
        assert [set(engine.sizes) for engine in engines] == [wanted, wanted]


def test_signatures_that_are_one_function_share_a_warm_up_and_a_batcher() -> None:
    engine, model = Recorder(), fake_model()
    first = model.spec.signatures["serving_default"]
    signatures = {"serve": replace(first, name="serve", same_as="serving_default"), "serving_default": first}
    model.spec = replace(model.spec, signatures=signatures)
    model.engines = dict.fromkeys(signatures, engine)
    model.samples = dict.fromkeys(signatures, (Rows({"images": [picture(1)]}),))

    async def main() -> None:
        metrics = ModelMetrics("m", 1, slo_s=0.0, max_batch_images=1)
        servable = Servable(model, Settings(max_batch_images=1, max_inflight_batches=1), metrics)
        await servable.open()
        serve, default = servable.targets["serve"], servable.targets["serving_default"]
        assert serve.batcher is default.batcher
        assert (serve.spec.name, default.spec.name) == ("serve", "serving_default")
        assert len(metrics.queues) == 1
        await servable.retire(1.0)
        assert metrics.queues == []

    asyncio.run(main())


def test_of_a_signature_that_is_not_batched_the_log_says_why_and_the_metrics_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = replace(ECHO, batched=False, unbatched_reason="node 'sum' joins rows")
    metrics = ModelMetrics("m", 1)

    async def main() -> None:
        servable = Servable(fake_model(EchoEngine(spec)), Settings(), metrics)
        await servable.open()
        await servable.retire(1.0)

    asyncio.run(main())
    assert metrics.batched == {"serving_default": False}
    (told,) = [record for record in caplog.records if record.levelname == "WARNING"]
    fields = {"model": "fake", "version": 1, "signature": "serving_default", "reason": "node 'sum' joins rows"}
    assert told.__dict__["fields"] == fields


def test_the_end_of_the_process_frees_no_engine_while_its_warm_up_runs() -> None:
    freed = []
    model = fake_model()
    model.samples = {"serving_default": (Rows({"images": [picture(1)]}),)}
    model.free = lambda: freed.append(1)

    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        servable = Servable(model, Settings(), ModelMetrics("m", 1), in_thread=never)
        opening = asyncio.create_task(servable.open())
        await asyncio.sleep(0)
        servable.close()
        assert not freed
        opening.cancel()

    asyncio.run(main())
