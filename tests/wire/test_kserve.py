"""KServe's own Python client, unmodified, where it is installed.

It is none of the pinned requirements: its 26 further packages (kubernetes, pandas, fastapi, …) hold protobuf, psutil
and python-dateutil back a major version. With `pip install kserve` in a virtual environment of one's own these run.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from zlib import crc32

import httpx
import numpy as np
import pytest

from darkroom.models.engines.fakes import fake_model
from tests.echo import TensorEcho
from tests.pictures import picture, standard
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator

kserve = pytest.importorskip("kserve", reason="KServe's client is not installed")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(fake_model(name="default"), fake_model(TensorEcho(), name="tensors")) as server:
        yield server.url


def _client() -> Any:
    return kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))


def _picture(data: bytes, *, is_binary: bool) -> Any:
    sent = kserve.InferInput("images", [1], "BYTES", data=None if is_binary else [standard(data)])
    if is_binary:
        sent.set_data_from_numpy(np.array([data], object), binary_data=True)
    return kserve.InferRequest("default", [sent], request_id="7")


def test_it_finds_the_server_and_its_models_ready(url: str) -> None:
    async def ask() -> list[bool]:
        async with _client() as client:
            return [
                await client.is_server_live(url),
                await client.is_server_ready(url),
                await client.is_model_ready(url, "default"),
                await client.is_model_ready(url, "nosuch"),
            ]

    assert asyncio.run(ask()) == [True, True, True, False]


@pytest.mark.parametrize("is_binary", [True, False])
def test_it_sends_a_picture_raw_and_as_base64(url: str, is_binary: bool) -> None:
    data = picture(3)

    async def ask() -> Any:
        async with _client() as client:
            return await client.infer(url, _picture(data, is_binary=is_binary), model_name="default")

    answer = asyncio.run(ask())
    assert (answer.id, answer.model_name) == ("7", "default")
    assert {output.name: output.as_numpy().tolist() for output in answer.outputs} == {
        "digest": [crc32(data)],
        "length": [len(data)],
    }


def test_it_reads_binary_outputs(url: str) -> None:
    x = np.array([[0.1, 2.0]], np.float32)
    first, second = kserve.InferInput("x", [1, 2], "FP32"), kserve.InferInput("text", [1], "BYTES")
    first.set_data_from_numpy(x, binary_data=True)
    second.set_data_from_numpy(np.array([b"hi"], object), binary_data=True)
    request = kserve.InferRequest("tensors", [first, second], parameters={"binary_data_output": True})

    async def ask() -> Any:
        async with _client() as client:
            return await client.infer(url, request, model_name="tensors")

    outputs = {output.name: output.as_numpy() for output in asyncio.run(ask()).outputs}
    assert outputs["x"].tobytes() == x.tobytes()
    assert outputs["text"].tolist() in (["hi"], [b"hi"])


def test_it_shows_what_was_wrong(url: str) -> None:
    async def ask() -> None:
        async with _client() as client:
            await client.infer(url, _picture(b"junk", is_binary=True), model_name="default")

    with pytest.raises(httpx.HTTPStatusError, match=r"images\[0\]: not a JPEG.*400 Bad Request"):
        asyncio.run(ask())
