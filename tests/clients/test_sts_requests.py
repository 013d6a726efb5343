"""What users of Simple TensorFlow Serving have in their scripts, sent as its page sends it: requests and curl."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import requests
import tensorflow as tf

from darkroom.models.engines.open import load_model
from tests import savedmodels
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.slow

SAMPLE = Path(__file__).parents[1] / "data" / "sts"
FEATURES = [[10, 10, 10, 8, 6, 1, 8, 9, 1], [6, 2, 1, 1, 1, 1, 7, 1, 1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def endpoint(folder: Path) -> Iterator[str]:
    """A server of the kinds of model that STS shipped as samples, without a slash at the end as its page writes it."""
    models = {
        "default": savedmodels.keys_and_features(folder / "template"),
        "estimator": savedmodels.estimator(folder / "estimator", floats=1),
        "deep_image_model": SAMPLE / "deep_image_model" / "1",
    }
    with running(*(load_model(path, name=name, version=1) for name, path in models.items())) as server:
        yield server.url


def _eagerly(path: Path, **inputs: Any) -> dict[str, Any]:
    """What TensorFlow itself answers."""
    answer = tf.saved_model.load(str(path)).signatures["serving_default"](**inputs)
    return {name: value.numpy() for name, value in answer.items()}


def test_keys_and_features_by_requests(endpoint: str, folder: Path) -> None:
    keys, features = [[11.0], [2.0]], FEATURES  # whole numbers for floats, and floats for an int32, as it shows them
    answer = requests.post(
        endpoint, json={"model_version": 1, "data": {"keys": keys, "features": features}}, timeout=30
    )
    assert answer.status_code == 200
    expected = _eagerly(
        folder / "template", keys=tf.constant([[11], [2]]), features=tf.constant(features, dtype=tf.float32)
    )
    assert answer.json()["keys"] == [[11], [2]]
    assert answer.json()["prediction"] == expected["prediction"].tolist()
    np.testing.assert_allclose(answer.json()["softmax"], expected["softmax"], rtol=1e-5)


def test_keys_and_features_by_curl_with_d(endpoint: str) -> None:
    body = json.dumps({"data": {"keys": [[1.0], [2.0]], "features": FEATURES}})
    command = [
        "curl",
        "-s",
        "--noproxy",
        "*",
        "-H",
        "Content-Type: application/json",
        "-X",
        "POST",
        "-d",
        body,
        endpoint,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert sorted(json.loads(done.stdout)) == ["keys", "prediction", "softmax"]


def test_a_picture_in_url_safe_base64_by_requests(endpoint: str) -> None:
    picture = (SAMPLE / "inputs" / "mew.jpg").read_bytes()
    data = {"images": [base64.urlsafe_b64encode(picture).decode()]}
    answer = requests.post(endpoint, json={"model_name": "deep_image_model", "data": data}, timeout=30)
    assert answer.json()["prediction"] == [6]


def test_a_picture_s_file_by_curl_with_f(endpoint: str) -> None:
    picture = f"image=@{SAMPLE / 'inputs' / 'mew.jpg'}"
    named = ["-F", "model_name=deep_image_model", "-F", "model_version=1"]
    command = ["curl", "-s", "--noproxy", "*", "-X", "POST", "-F", picture, *named, endpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(done.stdout)["prediction"] == [6]


def test_serialized_examples_of_an_estimator_with_base64_decode(endpoint: str) -> None:
    example = tf.train.Example()
    example.features.feature["b"].float_list.value.append(0.5)
    text = base64.urlsafe_b64encode(example.SerializeToString()).decode()
    body = {"model_name": "estimator", "base64_decode": True, "data": {"inputs": [text, text]}}
    answer = requests.post(endpoint, json=body, timeout=30).json()
    assert answer["classes"] == [["0", "1"], ["0", "1"]]
    np.testing.assert_allclose(answer["scores"], [[0.7310586, 0.2689414]] * 2, rtol=1e-5)


def test_basic_auth_by_requests(folder: Path) -> None:
    path = savedmodels.keys_and_features(folder / "guarded")
    guarded = {"enable_auth": True, "auth_username": "admin", "auth_password": "admin"}
    with running(load_model(path, name="default", version=1), **guarded) as server:
        body = {"data": {"keys": [[11.0], [2.0]], "features": FEATURES}}
        auth = requests.auth.HTTPBasicAuth("admin", "admin")
        assert requests.post(server.url, json=body, auth=auth, timeout=30).status_code == 200
        assert requests.post(server.url, json=body, timeout=30).status_code == 401
