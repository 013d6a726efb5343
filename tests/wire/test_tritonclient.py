"""Triton's own Python client, unmodified: synchronous and asyncio, JSON and binary, compressed, in company."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from zlib import crc32

import httpx
import numpy as np
import pytest
from tritonclient import http, utils
from tritonclient.http import aio

from darkroom.models.engines.fakes import EchoEngine, FailingEngine, fake_model
from darkroom.models.rows import Rows
from tests.echo import TensorEcho
from tests.held import Held
from tests.pictures import picture, standard
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Iterator

GUILTY = picture(99)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    model = fake_model(FailingEngine(EchoEngine(), lambda data: data == GUILTY), name="default")
    with running(model, fake_model(TensorEcho(), name="a b"), compress_answers=True) as server:
        yield server.url.removeprefix("http://")


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with http.InferenceServerClient(address) as made:
        yield made


def _pictures(*pictures: bytes | str, is_binary: bool = True) -> list[Any]:
    sent = http.InferInput("images", [len(pictures)], "BYTES")
    sent.set_data_from_numpy(np.array(pictures, object), binary_data=is_binary)
    return [sent]


def _tensors(x: np.ndarray[Any, Any], text: list[bytes], *, is_binary: bool) -> list[Any]:
    first, second = http.InferInput("x", list(x.shape), "FP32"), http.InferInput("text", [len(text)], "BYTES")
    first.set_data_from_numpy(x, binary_data=is_binary)
    second.set_data_from_numpy(np.array(text, object), binary_data=is_binary)
    return [first, second]


def test_it_finds_the_server_and_its_models_ready_and_described(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("default")
    assert client.is_model_ready("default", "1")
    assert not client.is_model_ready("default", "2")
    assert not client.is_model_ready("nosuch")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("a b")["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, -1]}
    assert [model["name"] for model in client.get_model_repository_index()] == ["default", "a b"]


def test_it_sends_pictures_raw_and_as_base64_text_in_binary_and_in_json(client: Any) -> None:
    data = picture(3)
    text = standard(data)
    for sent in (_pictures(data), _pictures(text), _pictures(text, is_binary=False)):
        answer = client.infer("default", sent, request_id="7")
        assert answer.get_response()["id"] == "7"
        assert answer.as_numpy("digest").tolist() == [crc32(data)]
        assert answer.as_numpy("length").tolist() == [len(data)]


def test_it_asks_for_some_outputs_in_the_form_it_wants(client: Any) -> None:
    asked = [http.InferRequestedOutput("length", binary_data=False), http.InferRequestedOutput("digest")]
    data = picture(4)
    answer = client.infer("default", _pictures(data), outputs=asked)
    assert answer.get_output("length")["data"] == [len(data)]
    assert answer.as_numpy("digest").tolist() == [crc32(data)]
    only = client.infer("default", _pictures(data), model_version="1", outputs=asked[:1])
    assert only.as_numpy("digest") is None


@pytest.mark.parametrize("is_binary", [True, False])
def test_numbers_and_text_come_back_to_the_bit(client: Any, is_binary: bool) -> None:
    x = np.array([[0.1, -0.0, 3e38], [1e-45, np.pi, 7]], np.float32)
    text = [b"plain", "ü".encode()]
    outputs = [http.InferRequestedOutput(name, binary_data=is_binary) for name in ("text", "x")]
    answer = client.infer("a b", _tensors(x, text, is_binary=is_binary), outputs=outputs)
    assert answer.as_numpy("x").tobytes() == x.tobytes()
    got = answer.as_numpy("text").tolist()
    assert [item if is_binary else item.encode() for item in got] == text


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_and_answers_travel_compressed(client: Any, algorithm: str) -> None:
    x = np.zeros((200, 40), np.float32)
    text = [b""] * 200
    answer = client.infer(
        "a b",
        _tensors(x, text, is_binary=True),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert answer.as_numpy("x").tobytes() == x.tobytes()
    assert answer.as_numpy("text").tolist() == text


def test_it_gets_the_names_of_the_largest_values(client: Any) -> None:
    x = np.array([[1, 5, 3]], np.float32)
    asked = [http.InferRequestedOutput("x", class_count=2)]
    answer = client.infer("a b", _tensors(x, [b""], is_binary=True), outputs=asked)
    assert answer.as_numpy("x").tolist() == [[b"5.000000:1", b"3.000000:2"]]


def test_it_reads_the_configuration_that_the_server_decided(client: Any) -> None:
    config = client.get_model_config("a b", model_version="1")
    assert (config["name"], config["platform"], config["backend"]) == ("a b", "tensorflow_savedmodel", "tensorflow")
    assert config["max_batch_size"] == 32
    assert config["version_policy"] == {"all": {}}
    assert [(each["name"], each["data_type"], each["dims"]) for each in config["input"]] == [
        ("x", "TYPE_FP32", [-1]),
        ("text", "TYPE_STRING", []),
    ]
    assert [each["kind"] for each in config["instance_group"]] == ["KIND_CPU"]
    assert "dynamic_batching" in config
    assert {"model_configuration", "statistics"} <= set(client.get_server_metadata()["extensions"])
    for wrong in ({"model_name": "nosuch"}, {"model_name": "default", "model_version": "9"}):
        with pytest.raises(utils.InferenceServerException) as caught:
            client.get_model_config(**wrong)
        assert caught.value.status() == "404"


def test_it_reads_counts_and_times_of_one_version_one_model_and_all(client: Any) -> None:
    def counts(before: Any, after: Any, *path: str) -> int:
        for key in path:
            before, after = before[key], after[key]
        return int(after - before)

    (before,) = client.get_inference_statistics("default", "1")["model_stats"]
    client.infer("default", _pictures(picture(1), picture(2)))
    with pytest.raises(utils.InferenceServerException):
        client.infer("default", _pictures(b"junk"))
    (after,) = client.get_inference_statistics("default")["model_stats"]
    assert (after["name"], after["version"]) == ("default", "1")
    assert counts(before, after, "inference_count") == 2
    assert counts(before, after, "execution_count") == 1
    assert counts(before, after, "inference_stats", "success", "count") == 1
    assert counts(before, after, "inference_stats", "fail", "count") == 1
    assert counts(before, after, "inference_stats", "compute_infer", "ns") > 0
    assert counts(before, after, "inference_stats", "success", "ns") >= counts(
        before, after, "inference_stats", "compute_infer", "ns"
    )
    assert [each["batch_size"] for each in after["batch_stats"]].count(2) == 1
    assert after["last_inference"] > 1_600_000_000_000
    assert [each["name"] for each in client.get_inference_statistics()["model_stats"]] == ["default", "a b"]
    for wrong in ({"model_name": "nosuch"}, {"model_name": "default", "model_version": "9"}):
        with pytest.raises(utils.InferenceServerException) as caught:
            client.get_inference_statistics(**wrong)
        assert caught.value.status() == "404"


@pytest.mark.parametrize(
    ("model", "pictures", "status", "words"),
    [
        ("nosuch", [picture()], "404", "unknown model 'nosuch'"),
        ("default", [picture(), b"junk"], "400", "images[1]: not a JPEG"),
        ("default", [picture(), GUILTY], "400", "images[1]: the graph refused"),
    ],
)
def test_it_shows_what_was_wrong(client: Any, model: str, pictures: list[bytes], status: str, words: str) -> None:
    with pytest.raises(utils.InferenceServerException) as caught:
        client.infer(model, _pictures(*pictures))
    assert caught.value.status() == status
    assert words in caught.value.message()


def test_it_unloads_and_loads_models() -> None:
    with (
        running(fake_model(name="default")) as server,
        http.InferenceServerClient(server.url.removeprefix("http://")) as client,
    ):
        client.unload_model("default")
        assert not client.is_model_ready("default")
        assert client.get_model_repository_index()[0]["state"] == "UNAVAILABLE"
        with pytest.raises(utils.InferenceServerException) as caught:
            client.infer("default", _pictures(picture()))
        assert caught.value.status() == "503"
        client.load_model("default")
        assert client.infer("default", _pictures(picture())).as_numpy("length").tolist() == [len(picture())]


def test_its_asyncio_face_has_many_requests_in_flight(address: str) -> None:
    async def ask(client: Any, seed: int) -> list[int]:
        answer = await client.infer("default", _pictures(picture(seed), is_binary=True))
        return answer.as_numpy("digest").tolist()  # type: ignore[no-any-return]

    async def ask_all() -> list[list[int]]:
        async with aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("default"))["versions"] == ["1"]
            assert len(await client.get_model_repository_index()) == 2
            with pytest.raises(utils.InferenceServerException, match="unknown model"):
                await client.infer("nosuch", _pictures(picture()))
            return await asyncio.gather(*(ask(client, seed) for seed in range(20)))

    assert asyncio.run(ask_all()) == [[crc32(picture(seed))] for seed in range(20)]


class CheapTogether(EchoEngine):
    """Its outputs take longer alone, so that the warm-up finds on any machine that they may share a call.

    No call is quick enough for the event loop, which a held one would hold.
    """

    def run(self, rows: Rows) -> Rows:
        time.sleep(0.04 if rows.asked else 0.01)
        return super().run(rows)


def test_its_requests_ride_in_one_batch_with_those_of_other_clients_whatever_outputs_they_name() -> None:
    held = Held(fake_model(CheapTogether(), name="default"), [Rows({"images": [picture(1)]})])
    with running(held.model, max_inflight_batches=1, warmup_budget_ms=5_000) as server:  # time to find it out

        def ask_triton(seed: int) -> int:
            with http.InferenceServerClient(server.url.removeprefix("http://")) as client:
                wanted = [http.InferRequestedOutput("digest")]
                answer = client.infer("default", _pictures(picture(seed)), outputs=wanted)
                assert answer.as_numpy("length") is None
                return int(answer.as_numpy("digest")[0])

        def ask_sts(seed: int) -> int:
            answer = httpx.post(server.url, content=picture(seed), headers={"Content-Type": "image/png"})
            return int(answer.json()["digest"][0])

        asks = [lambda ask=ask, seed=seed: ask(seed) for seed in range(4) for ask in (ask_triton, ask_sts)]
        digests = held.ride(server.url, lambda: ask_sts(100), asks)
        assert digests == [crc32(picture(seed)) for seed in range(4) for _ in range(2)]
        assert metric(server.url, "darkroom_batches_total") == 2
