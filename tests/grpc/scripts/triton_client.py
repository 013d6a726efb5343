"""What users of tritonclient.grpc do, unmodified, with its blocking and its asyncio client."""

import asyncio
import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as blocking
import tritonclient.grpc.aio as awaiting


def pictures(data: bytes) -> list[Any]:
    """The input of one picture."""
    sent = blocking.InferInput("images", [1], "BYTES")
    sent.set_data_from_numpy(np.array([data], object))
    return [sent]


async def infer_many(address: str, data: bytes) -> list[Any]:
    """64 calls at the same time by the asyncio client; then what its extensions say."""
    async with awaiting.InferenceServerClient(address) as client:
        answers = await asyncio.gather(*(client.infer("default", pictures(data)) for _ in range(64)))
        digests = sorted({int(answer.as_numpy("digest")[0]) for answer in answers})
        config = (await client.get_model_config("default")).config
        stats = (await client.get_inference_statistics("default")).model_stats
        return [*digests, config.name, config.max_batch_size, [each.inference_count >= 64 for each in stats]]


def main(address: str, picture: str) -> None:
    """Calls every method and prints what came."""
    with open(picture, "rb") as file:  # noqa: PTH123 - as the documentation has it
        data = file.read()
    client = blocking.InferenceServerClient(address)
    x = np.array([[0.1, -0.0, 3e38]], np.float32)
    sent = [blocking.InferInput("x", list(x.shape), "FP32"), blocking.InferInput("text", [1], "BYTES")]
    sent[0].set_data_from_numpy(x)
    sent[1].set_data_from_numpy(np.array([b"\xff\0"], object))
    back = client.infer("tensors", sent, request_id="7")
    asked = [blocking.InferRequestedOutput("length")]
    only = client.infer("default", pictures(data), outputs=asked, client_timeout=60, headers={"x-request-id": "mine"})
    config = client.get_model_config("tensors", "1").config
    classes = client.infer("tensors", sent, outputs=[blocking.InferRequestedOutput("x", class_count=2)])
    statistics = client.get_inference_statistics()
    told = {
        "config": [config.platform, config.backend, [[each.name, list(each.dims)] for each in config.input]],
        "classes": [each.decode() for each in classes.as_numpy("x").ravel().tolist()],
        "statistics": sorted(each.name for each in statistics.model_stats),
        "succeeded": [
            each.inference_stats.success.count > 0 for each in statistics.model_stats if each.name == "tensors"
        ],
        "live": [client.is_server_live(), client.is_server_ready(), client.is_model_ready("default")],
        "name": client.get_server_metadata().name,
        "inputs": [tensor.name for tensor in client.get_model_metadata("tensors").inputs],
        "index": sorted(model.name for model in client.get_model_repository_index().models),
        "digest": client.infer("default", pictures(data)).as_numpy("digest").tolist(),
        "many": asyncio.run(infer_many(address, data)),
        "length": only.as_numpy("length").tolist(),
        "no digest": only.as_numpy("digest") is None,
        "same": back.as_numpy("x").tobytes() == x.tobytes() and back.as_numpy("text").tolist() == [b"\xff\0"],
        "id": back.get_response().id,
    }
    try:
        client.infer("nosuch", pictures(data))
    except blocking.InferenceServerException as err:
        told["refusal"] = [str(err.status()), err.message()]
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
