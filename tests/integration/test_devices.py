"""One queue in front of two devices: both work, and each caller gets its own answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from tests import savedmodels
from tests.pictures import picture, url_safe
from tests.serving import Process, metric, serving

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
CALLS = 120


def _predict(url: str, seed: int) -> int:
    body = {"data": {"images": [url_safe(picture(seed, kind="JPEG"))]}}
    answer = httpx.post(url, json=body, timeout=60)
    assert answer.status_code == 200
    (number,) = answer.json()["predict"]
    return int(number)


def test_two_logical_devices_are_fed_by_one_queue_and_answer_alike(tmp_path: Path) -> None:
    savedmodels.pictures(tmp_path / "1")
    flags = [f"--model_base_path={tmp_path}", "--max_inflight_batches=1", "--max_batch_images=2"]
    with serving(*flags, "--device=cpu:2") as url, ThreadPoolExecutor(16) as callers:
        numbers = list(callers.map(lambda seed: _predict(url, seed), range(CALLS)))
        counts = [metric(url, "darkroom_device_batches_total", device=device) for device in ("cpu:0", "cpu:1")]
        assert min(counts) > 0
        assert sum(counts) == metric(url, "darkroom_batches_total")
    with serving(*flags, "--device=cpu") as url, ThreadPoolExecutor(16) as callers:
        assert list(callers.map(lambda seed: _predict(url, seed), range(CALLS))) == numbers


def test_a_gpu_that_is_not_there_stops_the_start_and_says_so(tmp_path: Path) -> None:
    savedmodels.pictures(tmp_path / "1")
    process = Process(f"--model_base_path={tmp_path}", "--device=gpu:7")
    assert process.process.wait(120) == 1
    process.stop()
    assert "--device=gpu:7: TensorFlow sees" in "".join(process.lines)
