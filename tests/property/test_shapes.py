"""No shape of an input ends the process or is the server's fault, whatever op the model begins with.

`SHAPES_REQUESTS` is the number of requests: some hundreds by default, 20,000 by `make shapes`.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests import savedmodels
from tests.pictures import picture, standard
from tests.serving import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUESTS = int(os.environ.get("SHAPES_REQUESTS", "400"))
CLIENTS = 4
SIZES = (1, 1, 2, 3, 4, 5, 8, 9, 16, 33)
ODD_SIZES = (0, 0, 1, 2, 7, 10, 100)
ABSURD_SIZES = (-1, -(2**31), 2**31, 2**31 - 1, 2**32, 2**40, 2**63, 2**64, 1.5, "3", None, True)
MAX_ELEMENTS = 30_000
DATATYPES = {"float32": "FP32", "uint8": "UINT8", "int32": "INT32", "string": "BYTES"}
DIALECTS = ("simple", "instances", "inputs", "infer", "binary")

_log = logging.getLogger("tests.shapes")
Layers = dict[str, tuple[list[int | None] | None, str]]


@pytest.fixture(scope="module")
def layers() -> Layers:
    return {name: (shape, dtype) for name, (shape, dtype, _) in savedmodels._layers().items()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("models")
    savedmodels.every_first_layer(folder / "1")
    process = Process(f"--model_base_path={folder}", "--max_batch_images=4", "--access_log=false")
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


class Client:
    """Makes requests of random shapes; `seed` decides all of them."""

    def __init__(self, url: str, layers: Layers, seed: int) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.connection = HTTPConnection(host, int(port), timeout=60)
        self.rng = np.random.default_rng(seed)
        self.layers = layers
        self.files = [standard(picture(size=(side, side))) for side in (1, 8, 30)]

    def pick(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def shape(self, declared: list[int | None] | None) -> list[int]:
        """A shape that the signature allows, or one that it does not."""
        rank = int(self.rng.integers(0, 6))
        sizes = (
            [self.pick(SIZES) for _ in range(rank)] if declared is None else [n or self.pick(SIZES) for n in declared]
        )
        for _ in range(self.pick((0, 0, 1, 1, 2))):
            match self.pick(("size", "drop", "add", "none", "long")):
                case "size" if sizes:
                    sizes[int(self.rng.integers(len(sizes)))] = self.pick(ODD_SIZES)
                case "drop" if sizes:
                    del sizes[int(self.rng.integers(len(sizes)))]
                case "add":
                    sizes.insert(int(self.rng.integers(len(sizes) + 1)), self.pick(ODD_SIZES))
                case "none":
                    sizes = []
                case "long" if sizes:
                    sizes = [1] * len(sizes)
                    sizes[int(self.rng.integers(len(sizes)))] = 9_000
        return sizes if prod(sizes) <= MAX_ELEMENTS else sizes[:1]

    def values(self, dtype: str, sizes: list[int]) -> Any:
        """An array of this shape; strings are pictures in base64."""
        if dtype == "string":
            return np.full(sizes, self.pick(self.files), object)
        return (self.rng.random(sizes) * 4).astype(dtype)

    def request(self, signature: str, dialect: str) -> tuple[str, bytes, dict[str, str]]:
        """Path, body and headers."""
        declared, dtype = self.layers[signature]
        sizes = self.shape(declared)
        values = self.values(dtype, sizes)
        fields: dict[str, Any] = {"signature_name": signature}
        if dialect == "simple":
            return "/", json.dumps(fields | {"data": {"x": values.tolist()}}).encode(), {}
        if dialect in {"instances", "inputs"}:
            sent = (
                np.vectorize(lambda text: {"b64": text}, otypes=[object])(values)
                if dtype == "string" and values.size
                else values
            )
            form: Any = {dialect: sent.tolist()}
            return "/v1/models/default:predict", json.dumps(fields | form).encode(), {}
        item: dict[str, Any] = {"name": "x", "shape": sizes, "datatype": DATATYPES[dtype]}
        if sizes and self.rng.random() < 0.1:
            item["shape"] = [*sizes[:-1], self.pick(ABSURD_SIZES)]
        if dialect == "infer" or dtype == "string":
            item["data"] = values.ravel().tolist()
            tail = b""
        else:
            tail = values.tobytes()
            item["parameters"] = {"binary_data_size": len(tail)}
        head = json.dumps({"inputs": [item], "parameters": fields}).encode()
        return "/v2/models/default/infer", head + tail, {"Inference-Header-Content-Length": str(len(head))}

    def run(self, count: int) -> Counter[tuple[str, str, int]]:
        """Sends `count` requests; counts their statuses, and keeps the messages of what is the server's fault."""
        found: Counter[tuple[str, str, int]] = Counter()
        names = list(self.layers)
        for index in range(count):
            signature, dialect = names[index % len(names)], self.pick(DIALECTS)
            path, body, headers = self.request(signature, dialect)
            self.connection.request("POST", path, body, {"Content-Type": "application/json"} | headers)
            answer = self.connection.getresponse()
            text = answer.read()
            assert answer.status < 500, (answer.status, signature, dialect, body[:300], text[:300])
            found[signature, dialect, answer.status] += 1
        self.connection.close()
        return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_shape_in_every_dialect_is_answered_or_refused_and_the_process_lives(
    server: Process, layers: Layers
) -> None:
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [Client(server.url, layers, seed) for seed in range(CLIENTS)]
        found = sum(threads.map(Client.run, clients, [REQUESTS // CLIENTS] * CLIENTS), Counter())
    assert server.process.poll() is None, "".join(server.lines[-20:])
    statuses = Counter[int]()
    for (_, _, status), count in found.items():
        statuses[status] += count
    _log.info("%d requests, %d graphs: %s", sum(found.values()), len(layers), dict(statuses))
    assert {signature for signature, _, status in found if status == 200} == set(layers)
    assert set(statuses) <= {200, 400, 413}, statuses
