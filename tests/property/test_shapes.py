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

import httpx
import numpy as np
import pytest

from darkroom.models.runtime.tensorflow import tf
from tests import savedmodels
from tests.pictures import picture, standard
from tests.serving import Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


KERNEL = np.ones((3, 3, 3, 4), np.float32)
OPEN_RANKS = {
    "conv2d": ([1, 8, 8, 3], lambda x: tf.nn.conv2d(x, KERNEL, 1, "SAME")),
    "max_pool": ([1, 8, 8, 3], lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME")),
    "matmul": ([2, 3], lambda x: tf.raw_ops.MatMul(a=x, b=KERNEL[0, 0])),
    "resize": ([1, 8, 8, 3], lambda x: tf.raw_ops.ResizeBilinear(images=x, size=[4, 4])),
}


def two_inputs(folder: Path) -> Path:
    spec = tf.TensorSpec([None, 3], tf.float32)
    return savedmodels._save(folder, lambda _, a, b: {"y": tf.concat([a, b], 1)}, a=spec, b=spec)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rank_or_rows_that_the_graph_cannot_take_are_refused_in_every_dialect(tmp_path: Path) -> None:
    layers = {name: (None, "float32", function) for name, (_, function) in OPEN_RANKS.items()}
    savedmodels.each(tmp_path / "ranks" / "1", layers)
    two_inputs(tmp_path / "pairs" / "1")
    config = tmp_path / "models.json"
    models = [{"name": name, "base_path": str(tmp_path / name)} for name in ("ranks", "pairs")]
    config.write_text(json.dumps({"model_config_list": models}), "utf-8")
    process = Process(f"--model_config_file={config}", "--max_batch_images=4")
    try:
        url = process.wait_ready()
        for name, (shape, _) in OPEN_RANKS.items():
            for rank in (0, 1, 2, 3, 4, 5):
                sizes = shape if rank == len(shape) else [3] * rank
                expected = 200 if rank == len(shape) else 400
                assert _statuses(url, "ranks", name, x=sizes) == {expected}, (name, rank)
        assert _statuses(url, "pairs", "serving_default", a=[2, 3], b=[2, 3]) == {200}
        assert _statuses(url, "pairs", "serving_default", a=[2, 3], b=[3, 3]) == {400}
        assert process.process.poll() is None
    finally:
        assert process.stop() == 0


def _statuses(url: str, model: str, signature: str, **shapes: list[int]) -> set[int]:
    """What the three dialects answer to ones of these shapes."""
    ones = {name: np.ones(shape) for name, shape in shapes.items()}
    inputs = {name: value.tolist() for name, value in ones.items()}
    fields: dict[str, Any] = {"signature_name": signature}
    items = [
        {"name": name, "shape": list(value.shape), "datatype": "FP32", "data": value.ravel().tolist()}
        for name, value in ones.items()
    ]
    answers = [
        httpx.post(f"{url}/", json=fields | {"model_name": model, "data": inputs}),
        httpx.post(f"{url}/v1/models/{model}:predict", json=fields | {"inputs": inputs}),
        httpx.post(f"{url}/v2/models/{model}/infer", json={"inputs": items, "parameters": fields}),
    ]
    return {answer.status_code for answer in answers}
