"""Mosec with the model, as its guide shows: one worker, dynamic batches, JSON by orjson in and out.

    PEER_MODEL=model/digits/1 .bench/mosec/bin/python loadtest/bench/peers/mosec_server.py --address 127.0.0.1 --port 8000

A body is JSON, `{"data": {"images": [base64]}}`, or the base64 text alone, which the graph takes as it is. PEER_BATCH,
PEER_WAIT_MS and PEER_WORKERS tune it; the command line takes Mosec's own flags.
"""

import os
from typing import Any

import orjson
from mosec import Server, Worker
from saved_model import open_model

BATCH = int(os.environ.get("PEER_BATCH", "64"))
WAIT_MS = int(os.environ.get("PEER_WAIT_MS", "1"))
WORKERS = int(os.environ.get("PEER_WORKERS", "1"))


class Classifier(Worker):  # type: ignore[misc]  # Mosec is not installed here
    """A worker that answers one row per request, `{output: [value]}`, as Darkroom does."""

    def __init__(self) -> None:
        self._model = open_model()

    def deserialize(self, data: bytes) -> bytes:
        """Returns the picture as base64 text in bytes; Mosec passes a memoryview, which TensorFlow would read as numbers."""
        if data[:1] == b"{":
            picture: str = orjson.loads(data)["data"]["images"][0]
            return picture.encode()
        return bytes(data)

    def forward(self, data: list[bytes]) -> list[dict[str, Any]]:
        """Calls the model once; row i of the answer belongs to `data[i]`."""
        answer = self._model(data)
        return [{name: column[row : row + 1] for name, column in answer.items()} for row in range(len(data))]

    def serialize(self, data: dict[str, Any]) -> bytes:
        """Returns one row as JSON."""
        return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classifier, num=WORKERS, max_batch_size=BATCH, max_wait_time=WAIT_MS)
    server.run()
