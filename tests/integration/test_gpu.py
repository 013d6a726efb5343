"""On a GPU: batches form, pictures are decoded on the CPU's cores, and each caller gets the answer that a CPU gives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests import savedmodels
from tests.pictures import picture, url_safe
from tests.serving import metric, serving

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/driver/nvidia").exists(), reason="there is no NVIDIA GPU"),
]
CALLS = 120
DRIFT = 2e-2  # TF32's, as models/rewriting/verify.py allows it; the model's outputs are at most 1


def ask(url: str, image: bytes) -> Any:
    answer = httpx.post(url, json={"data": {"images": [url_safe(image)]}}, timeout=60)
    return answer.json() if answer.status_code == 200 else answer.status_code


def ask_all(url: str, images: Sequence[bytes]) -> list[Any]:
    with ThreadPoolExecutor(16) as callers:
        return list(callers.map(lambda image: ask(url, image), images))


def test_a_gpu_answers_as_the_cpu_does_in_batches_and_a_corrupt_picture_fails_alone(tmp_path: Path) -> None:
    savedmodels.pictures(tmp_path / "1")
    images = [picture(seed, kind="JPEG") for seed in range(CALLS)]
    flags = [f"--model_base_path={tmp_path}", "--max_inflight_batches=1"]
    with serving(*flags, "--device=gpu:0") as url:
        found = ask_all(url, images)
        batches = metric(url, "darkroom_device_batches_total", device="gpu:0")
        assert batches == metric(url, "darkroom_batches_total")
        assert batches < CALLS
        assert metric(url, "darkroom_rewrite_applied", **{"pass": "screen"}) == 1
        assert metric(url, "darkroom_device_memory_bytes", device="gpu:0", kind="peak") > 0
        images[7] = images[7][:100]
        statuses = [answer if isinstance(answer, int) else 200 for answer in ask_all(url, images)]
        assert statuses == [400 if place == 7 else 200 for place in range(CALLS)]
    images[7] = picture(7, kind="JPEG")
    with serving(*flags, "--device=cpu") as url:
        wanted = ask_all(url, images)
    for one, other in zip(found, wanted, strict=True):
        (classes,) = one["probability"]
        assert classes == pytest.approx(other["probability"][0], abs=DRIFT)
        assert one["predict"] == [classes.index(max(classes))]
