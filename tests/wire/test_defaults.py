"""An input with a default may be left out, in every dialect; a request that has it is answered by its own value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.models.rows import Rows
from darkroom.models.spec import SignatureSpec, TensorSpec
from darkroom.service.api.grpc.protos import message
from tests.grpc.calls import PREDICT, ask, refusal, served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.models.engine import PassReport

FLOATS = TensorSpec("x", "float32", (None,))
SCALE = TensorSpec("scale", "float32", (), default=3.0)
WORD = TensorSpec("word", "string", (), default="times")


class Scales:
    """Multiplies."""

    spec = SignatureSpec(
        "serving_default", (SCALE, WORD, FLOATS), (TensorSpec("y", "float32", (None,)),), batched=False,
        unbatched_reason="it has an input without rows",
    )  # fmt: skip
    passes: tuple[PassReport, ...] = ()

    def run(self, rows: Rows) -> Rows:
        """One product for each number."""
        assert np.asarray(rows.columns["word"], dtype=object).ravel().tolist() == [b"times"]
        return Rows({"y": np.asarray(rows.columns["x"]) * np.asarray(rows.columns["scale"])}, count=1, aligned=False)

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[str, Any]]:
    loaded = fake_model(Scales(), name="default")
    with served(loaded) as (server, channel):
        yield server.url, channel


def v2(*inputs: tuple[str, list[int], list[float]]) -> dict[str, Any]:
    return {
        "inputs": [{"name": name, "datatype": "FP32", "shape": shape, "data": data} for name, shape, data in inputs]
    }


TFS, V2, STS = "/v1/models/default:predict", "/v2/models/default/infer", "/"


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        (TFS, {"inputs": {"x": [1, 2]}}, {"outputs": [3.0, 6.0]}),
        (TFS, {"inputs": {"x": [1, 2], "scale": 2}}, {"outputs": [2.0, 4.0]}),
        (STS, {"data": {"x": [1, 2]}}, {"y": [3.0, 6.0]}),
        (STS, {"data": {"x": [1, 2], "scale": 2}}, {"y": [2.0, 4.0]}),
        (V2, v2(("x", [2], [1, 2])), [3.0, 6.0]),
        (V2, v2(("x", [2], [1, 2]), ("scale", [], [2])), [2.0, 4.0]),
    ],
)
def test_it_may_be_left_out(ends: tuple[str, Any], path: str, body: dict[str, Any], answer: Any) -> None:
    said = httpx.post(ends[0] + path, json=body)
    assert said.status_code == 200, said.text
    assert (said.json()["outputs"][0]["data"] if path == V2 else said.json()) == answer


@pytest.mark.parametrize(
    ("path", "body"), [(TFS, {"inputs": {"scale": 2}}), (STS, {"data": {"scale": 2}}), (V2, v2(("scale", [], [2])))]
)
def test_one_without_a_default_may_not(ends: tuple[str, Any], path: str, body: dict[str, Any]) -> None:
    said = httpx.post(ends[0] + path, json=body)
    assert said.status_code == 400
    assert "x" in said.json()["error"]


def test_it_may_be_left_out_over_grpc(ends: tuple[str, Any]) -> None:
    request = message("tensorflow.serving.PredictRequest")()
    request.model_spec.name = "default"
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add().size = 2
    request.inputs["x"].float_val.extend([1, 2])
    assert list(ask(ends[1], PREDICT, request).outputs["y"].float_val) == [3.0, 6.0]
    request.inputs["scale"].dtype = 1
    request.inputs["scale"].float_val.append(2)
    assert list(ask(ends[1], PREDICT, request).outputs["y"].float_val) == [2.0, 4.0]
    del request.inputs["x"]
    assert "is missing" in refusal(ends[1], PREDICT, request)[1]
