"""Signatures with several pictures a row, in two inputs or in one, by a real model: decoded, proven and batched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests import savedmodels
from tests.pictures import picture, standard, url_safe
from tests.serving import serving

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
GREYS = [picture(seed, kind="PNG", mode="L", size=(9 + seed, 7)) for seed in (10, 200, 30, 90)]
PAIR = {"left": GREYS[:2], "right": GREYS[2:]}
SIGNATURES: dict[str, dict[str, list[Any]]] = {
    "pair": PAIR, "texts": PAIR, "mixed": PAIR, "views": {"views": [GREYS[:2], GREYS[2:]]}
}  # fmt: skip
ANSWERS = {"views": {"means": [[10.0, 200.0], [30.0, 90.0]]}}
PAIR_ANSWER = {"left_mean": [10.0, 200.0], "right_mean": [30.0, 90.0]}


def written(value: Any, write: Any) -> Any:
    return [written(each, write) for each in value] if isinstance(value, list) else write(value)


def test_rows_of_several_pictures_get_their_answers_and_may_share_calls(tmp_path: Path) -> None:
    savedmodels.several_pictures(tmp_path / "m" / "1")
    with serving(f"--model_base_path={tmp_path / 'm'}") as url, httpx.Client(base_url=url, timeout=60) as client:
        described = client.get("/v1/models/default").json()["signatures"]
        assert {name: each["unbatched_reason"] for name, each in described.items()} == dict.fromkeys(SIGNATURES, "")
        for name, inputs in SIGNATURES.items():
            expected = ANSWERS.get(name, PAIR_ANSWER)
            for write in (url_safe, standard):
                data = {each: written(values, write) for each, values in inputs.items()}
                assert client.post("/", json={"signature_name": name, "data": data}).json() == expected
            columns = {each: written(values, lambda one: {"b64": standard(one)}) for each, values in inputs.items()}
            answer = client.post("/v1/models/default:predict", json={"signature_name": name, "inputs": columns}).json()
            assert answer["outputs"] in (expected, *expected.values())
