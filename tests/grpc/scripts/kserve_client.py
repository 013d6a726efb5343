"""What users of KServe's SDK do, unmodified: with its gRPC client, raw and typed contents; over HTTP, V1 and V2."""

import asyncio
import json
import sys
from base64 import b64encode
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def ask_v1(url: str, data: bytes) -> list[Any]:
    """Whether the model is ready, and its answer, by the V1 protocol."""
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        sent = {"instances": [{"b64": b64encode(data).decode()}]}
        answer: Any = await client.infer(url, sent, model_name="default")
        ready = await client.is_model_ready(url, "default")
        return [ready, [each["digest"] for each in answer["predictions"]]]


async def ask_v2(url: str, sent: InferInput) -> list[Any]:
    """Whether server and model are ready, and the answer, by the V2 protocol."""
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        answer: Any = await client.infer(url, InferRequest("default", [sent]), model_name="default")
        ready = [await client.is_server_live(url), await client.is_server_ready(url)]
        found = {output.name: output.as_numpy().tolist() for output in answer.outputs}
        return [*ready, await client.is_model_ready(url, "default"), found["digest"]]


async def main(address: str, picture: str, url: str) -> None:
    """Calls the methods and prints what came."""
    with open(picture, "rb") as file:  # noqa: ASYNC230, PTH123 - a test
        data = file.read()
    client = InferenceGRPCClient(address)
    raw = InferInput("images", [1], "BYTES")
    raw.set_data_from_numpy(np.array([data], object), binary_data=True)
    x, text = InferInput("x", [1, 2], "FP32", data=[0.5, 2.0]), InferInput("text", [1], "BYTES", data=["hi"])
    answer = await client.infer(InferRequest("default", [raw], request_id="7"))
    typed = await client.infer(InferRequest("tensors", [x, text]))
    ready = [await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("default")]
    told = {
        "v1": await ask_v1(url, data),
        "v2": await ask_v2(url, raw),
        "ready": ready,
        "id": answer.id,
        "digest": {output.name: output.as_numpy() for output in answer.outputs}["digest"].tolist(),
        "x": {output.name: list(output.data) for output in typed.outputs}["x"],
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
