"""The example that the server makes for a model is one that the model answers, whatever kind it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
import tensorflow as tf

from darkroom.models.engines.open import load_model
from tests import savedmodels
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

KINDS: dict[str, Callable[[Path], Path]] = {
    "classic": savedmodels.classic,
    "classic of bytes": lambda folder: savedmodels.classic(folder, base64="never"),
    "pictures": savedmodels.pictures,
    "decoders": savedmodels.decoders,
    "two signatures": savedmodels.two_signatures,
    "keys and features": savedmodels.keys_and_features,
    "estimator": savedmodels.estimator,
    "table": savedmodels.table,
    "counter": savedmodels.counter,
    "numbers": lambda folder: savedmodels.numbers(folder, lambda x: x + 1.0),
    "any size": lambda folder: savedmodels.numbers(folder, tf.math.reduce_mean, shape=(None, None, None, 3)),
    "eight at once": lambda folder: savedmodels.numbers(folder, lambda x: x * 2.0, shape=(8, 2)),
    "a scalar": lambda folder: savedmodels.numbers(folder, lambda x: x * 2.0, shape=()),
}


def test_every_example_is_answered(tmp_path: Path) -> None:
    loaded = [load_model(make(tmp_path / name), name=name, version=1) for name, make in KINDS.items()]
    with running(*loaded) as server:
        answers = {}
        for model in loaded:
            for signature in model.engines:
                query = {"signature_name": signature}
                body = httpx.get(f"{server.url}/v1/models/{model.spec.name}/gen_json", params=query).json()
                answers[model.spec.name, signature] = httpx.post(server.url, json=body, timeout=60)
    assert {key: answer.text for key, answer in answers.items() if answer.status_code != 200} == {}
    assert len(answers) >= len(KINDS) + 2
