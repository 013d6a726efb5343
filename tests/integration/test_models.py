"""The models that ship behind a real server process, with real TensorFlow."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from darkroom.service.config.machine import usable_cores
from tests.pictures import photograph, standard, url_safe
from tests.serving import metric, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

BUILT = Path(__file__).parents[2] / "model"


@pytest.fixture(scope="module")
def digits() -> Iterator[str]:
    with serving(f"--model_base_path={BUILT / 'digits'}") as url:
        yield url


def _noise(seed: int, tmp_path: Path) -> bytes:
    """A picture unlike any other: so is its answer."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20 + seed % 7, 18 + seed % 5), np.uint8)
    path = tmp_path / f"{seed}.png"
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def _directly(model: str, pictures: list[bytes]) -> np.ndarray[Any, Any]:
    """What the original signature answers, called eagerly by TensorFlow itself."""
    loaded = tf.saved_model.load(str(BUILT / model / "1"))
    encoded = tf.constant([url_safe(data) for data in pictures])
    return np.asarray(loaded.signatures["serving_default"](images=encoded)["probability"])


def test_sixty_four_clients_at_once_get_each_its_own_answer(digits: str, tmp_path: Path) -> None:
    pictures = [_noise(seed, tmp_path) for seed in range(64)]
    expected = _directly("digits", pictures)
    assert len({row.tobytes() for row in expected}) == 64
    batches_before = metric(digits, "darkroom_batch_images_count")
    images_before = metric(digits, "darkroom_batch_images_sum")

    def ask(index: int) -> list[tuple[int, list[float]]]:
        body = json.dumps({"data": {"images": [standard(pictures[index])]}})
        with httpx.Client(headers={"Content-Type": "application/json"}) as client:
            answers = [client.post(digits, content=body) for _ in range(5)]
        return [(index, answer.json()["probability"][0]) for answer in answers]

    with ThreadPoolExecutor(64) as threads:
        answers = [answer for found in threads.map(ask, range(64)) for answer in found]
    assert len(answers) == 320
    for index, probability in answers:
        assert np.abs(np.array(probability) - expected[index]).max() < 1e-5
    images = metric(digits, "darkroom_batch_images_sum") - images_before
    batches = metric(digits, "darkroom_batch_images_count") - batches_before
    assert images == 320
    assert batches < images  # some rode together


def test_json_form_and_raw_give_the_same_answer(digits: str, tmp_path: Path) -> None:
    data = _noise(3, tmp_path)
    by_json = httpx.post(digits, json={"data": {"images": [url_safe(data)]}})
    by_form = httpx.post(digits, files={"image": ("a.png", data)})
    by_body = httpx.post(digits, content=data, headers={"Content-Type": "image/png"})
    assert by_json.status_code == by_form.status_code == by_body.status_code == 200
    assert by_json.text == by_form.text == by_body.text


def test_a_truncated_picture_fails_alone_among_its_batch_mates(digits: str) -> None:
    good = photograph("coffee")
    bad = good[:3000]
    expected = _directly("digits", [good])[0]

    def ask(index: int) -> httpx.Response:
        data = bad if index % 8 == 3 else good
        return httpx.post(digits, content=data, headers={"Content-Type": "image/jpeg"}, timeout=60)

    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(ask, range(96)))
    for index, answer in enumerate(answers):
        if index % 8 == 3:
            assert answer.status_code == 400
            assert answer.json()["error"].startswith("images[0]: ")
        else:
            assert answer.status_code == 200
            assert np.abs(np.array(answer.json()["probability"][0]) - expected).max() < 1e-5


def test_a_cat_is_a_cat_and_coffee_is_coffee(efficientnet: str) -> None:
    for name, words in (("chelsea", ("Egyptian", "tabby", "tiger cat")), ("coffee", ("espresso",))):
        answer = httpx.post(
            f"{efficientnet}/?top_k=3", content=photograph(name), headers={"Content-Type": "image/jpeg"}, timeout=60
        )
        best = answer.json()["probability"][0][0]
        assert any(word in best["label"] for word in words), best
        assert best["value"] > 0.6


def test_a_model_that_needs_every_core_itself_is_served_by_one_process(efficientnet: str) -> None:
    assert metric(efficientnet, "darkroom_workers", state="ready") == (usable_cores() > 1)
    assert metric(efficientnet, "darkroom_workers", state="absent") == 0


def test_thirty_two_pictures_of_one_request_come_back_in_order(efficientnet: str) -> None:
    names = ["chelsea", "coffee", "rocket", "astronaut"] * 8
    body = {"data": {"images": [standard(photograph(name)) for name in names]}}
    predicted = httpx.post(efficientnet, json=body, timeout=120).json()["predict"]
    assert predicted == predicted[:4] * 8
    assert len(set(predicted[:4])) == 4
