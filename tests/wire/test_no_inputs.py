"""A signature without inputs, asked in every dialect over a real socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.models.rows import Rows
from darkroom.models.spec import SignatureSpec, TensorSpec
from tests.pictures import picture
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.models.engine import PassReport

COUNT = SignatureSpec(
    "serving_default", (), (TensorSpec("count", "float32", ()),), batched=False, unbatched_reason="it has no input"
)


class CountEngine:
    """Answers 7.0, whoever asks."""

    spec = COUNT
    passes: tuple[PassReport, ...] = ()

    def run(self, rows: Rows) -> Rows:
        """One scalar; the call has no column."""
        assert (rows.columns, len(rows)) == ({}, 1)
        return Rows({"count": np.asarray(7.0, np.float32)})

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    loaded = fake_model(CountEngine(), name="default")
    loaded.samples["serving_default"] = (Rows({}),)
    loaded.spec.refused["python"] = "it calls Python code"
    loaded.spec.unserved["python"] = {"inputs": {}, "outputs": {}, "method_name": "", "defaults": {}}
    with running(loaded) as server:
        yield server.url


TFS, V2, STS = "/v1/models/default:predict", "/v2/models/default/infer", "/"


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        (TFS, {"inputs": {}}, {"outputs": 7.0}),
        (TFS, {"inputs": {"unknown": 1}}, {"outputs": 7.0}),
        (STS, {"data": {}}, {"count": 7.0}),
        (STS, {}, {"count": 7.0}),
        (STS, {"data": None}, {"count": 7.0}),
        (V2, {"inputs": []}, [7.0]),
        (V2, {}, [7.0]),
    ],
)
def test_it_is_served(url: str, path: str, body: dict[str, Any], answer: Any) -> None:
    said = httpx.post(url + path, json=body)
    assert said.status_code == 200
    told = said.json()
    assert (told["outputs"][0]["data"] if path == V2 else told) == answer


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (TFS, {"inputs": [1.0]}, "has no inputs; send an empty object"),
        (TFS, {"inputs": None}, "has no inputs; send an empty object"),
        (TFS, {"instances": [{}]}, 'has no inputs, and so no rows; send {"inputs": {}}'),
        (TFS, {"instances": []}, "has no inputs"),
        (TFS, {}, "Missing 'inputs' or 'instances' key"),
        (V2, {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}, "there are: none"),
        (V2, {"inputs": None}, "inputs: expected a list"),
    ],
)
def test_what_is_sent_to_it_nevertheless_is_refused(url: str, path: str, body: dict[str, Any], words: str) -> None:
    said = httpx.post(url + path, json=body)
    assert said.status_code == 400
    assert words in said.json()["error"]


@pytest.mark.parametrize("path", [TFS, STS])
def test_it_takes_no_picture(url: str, path: str) -> None:
    said = httpx.post(url + path, content=picture(1), headers={"Content-Type": "image/jpeg"})
    assert (said.status_code, said.json()["error"]) == (
        400,
        "signature 'serving_default' takes no picture: its inputs are none",
    )


@pytest.mark.parametrize(
    "path",
    ["/v1/models/default/metadata", "/v2/models/default", "/v1/models", "/openapi.json", "/v1/models/default/gen_json"],
)
def test_it_is_described(url: str, path: str) -> None:
    assert httpx.get(url + path).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (TFS, {"signature_name": "python", "inputs": {}}),
        (STS, {"signature_name": "python", "data": {}}),
        (V2, {"parameters": {"signature_name": "python"}, "inputs": []}),
    ],
)
def test_a_refused_signature_says_why_it_is_not_served(url: str, path: str, body: dict[str, Any]) -> None:
    said = httpx.post(url + path, json=body)
    assert said.status_code == 400
    assert "can't be served: it calls Python code" in said.json()["error"]


def test_the_metadata_has_the_refused_signature_with_the_reason(url: str) -> None:
    told = httpx.get(url + "/v1/models/default/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert list(told) == ["serving_default", "python"]
    assert told["python"]["refused"] == "it calls Python code"
    assert httpx.get(url + "/v1/models/default").json()["refused_signatures"] == {"python": "it calls Python code"}
