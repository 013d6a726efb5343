"""What users of KServe's SDK do, unmodified, with its gRPC client: raw and typed contents."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


async def main(address: str, picture: str) -> None:
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
        "ready": ready,
        "id": answer.id,
        "digest": {output.name: output.as_numpy() for output in answer.outputs}["digest"].tolist(),
        "x": {output.name: list(output.data) for output in typed.outputs}["x"],
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
