"""More models than may be in memory, behind two real worker processes, with real TensorFlow."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import mul
from typing import TYPE_CHECKING

import httpx
import pytest

from tests import savedmodels
from tests.held import wait_for
from tests.serving import metric, serving

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
FACTORS = (1, 2, 3, 4)
LIMIT, WORKERS = 2, 2
ROW = [1.0, 2.0, 3.0, 4.0]


def test_four_models_under_a_limit_of_two_lose_no_request_and_go_when_nobody_asks(tmp_path: Path) -> None:
    entries = []
    for factor in FACTORS:
        savedmodels.numbers(tmp_path / str(factor) / "1", partial(mul, float(factor)))
        entries.append({"name": f"times-{factor}", "base_path": str(tmp_path / str(factor)), "load": "lazy"})
    config = tmp_path / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    limits = (f"--max_loaded_models={LIMIT}", "--unload_idle_ms=3000", f"--workers={WORKERS}")

    with serving(f"--model_config_file={config}", *limits, "--request_timeout_ms=120000") as url:

        def ask(factor: int) -> list[list[float]]:
            body = {"model_name": f"times-{factor}", "data": {"x": [ROW]}}
            answer = httpx.post(url, json=body, timeout=180)
            assert answer.status_code == 200, answer.text
            rows: list[list[float]] = answer.json()["y"]
            return rows

        asked = random.Random(2).choices(FACTORS, k=24)  # noqa: S311 - no secret
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(ask, asked)) == [[[factor * value for value in ROW]] for factor in asked]
        assert 0 < metric(url, "darkroom_models_loaded") <= LIMIT * WORKERS
        wait_for(lambda: metric(url, "darkroom_models_loaded") == 0)
        assert metric(url, "darkroom_model_unloads_total", reason="idle") > 0
        assert httpx.get(f"{url}/v2/health/ready", timeout=60).status_code == 200
        assert ask(3) == [[3.0 * value for value in ROW]]
