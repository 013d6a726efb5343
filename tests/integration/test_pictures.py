"""Models that take tensors, served to clients that send pictures, in every dialect and form."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from darkroom.models.runtime.tensorflow import tf
from darkroom.service.cli.main import main
from tests import savedmodels
from tests.pictures import photograph, standard, url_safe
from tests.serving import metric, serving

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
PICTURE = photograph("rocket")
JPEG = {"Content-Type": "image/jpeg"}


def test_every_dialect_and_form_gets_the_answer_of_a_client_that_makes_the_tensor_itself(tmp_path: Path) -> None:
    source = savedmodels.pixels(tmp_path / "mine" / "1")
    savedmodels.pixels_of_tf1(tmp_path / "old" / "1")
    models = [
        {"name": "mine", "base_path": str(tmp_path / "mine"), "pictures": {"preprocess": "raw"}},
        {"name": "old", "base_path": str(tmp_path / "old"), "pictures": {"preprocess": "torch", "fit": "crop"}},
    ]
    (tmp_path / "models.json").write_text(json.dumps({"model_config_list": models}))
    flags = [f"--model_config_file={tmp_path / 'models.json'}", '--pictures={"mine": {"preprocess": "tf"}}']
    side = savedmodels.SIZE
    tensor = tf.image.resize(tf.io.decode_jpeg(PICTURE, 3), [side, side])[tf.newaxis] / 127.5 - 1.0
    expected = tf.saved_model.load(str(source)).signatures["serving_default"](x=tensor)["scores"].numpy()[0]
    v2 = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [standard(PICTURE)]}
    with serving(*flags) as url, httpx.Client(base_url=url, timeout=60) as client:

        def post(path: str, **request: Any) -> dict[str, Any]:
            answer = client.post(path, **request)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

        simple = {"model_name": "mine", "data": {"images": [url_safe(PICTURE)]}}
        answers = [
            post("/", json=simple)["scores"][0],
            post("/", data={"model_name": "mine"}, files={"image": PICTURE})["scores"][0],
            post("/?model_name=mine", content=PICTURE, headers=JPEG)["scores"][0],
            post("/v1/models/mine:predict", json={"instances": [{"b64": standard(PICTURE)}]})["predictions"][0][
                "scores"
            ],
            post("/v1/models/mine:predict", content=PICTURE, headers=JPEG)["predictions"][0]["scores"],
            post("/v2/models/mine/infer", json={"inputs": [v2], "outputs": [{"name": "scores"}]})["outputs"][0]["data"],
        ]
        for answer in answers:
            np.testing.assert_allclose(answer, expected, rtol=1e-5)
        kept = {"signature_name": "serving_tensors", "inputs": {"x": tensor.numpy().tolist()}}
        np.testing.assert_allclose(
            post("/v1/models/mine:predict", json=kept)["outputs"]["scores"][0], expected, rtol=1e-5
        )
        assert post("/?model_name=old", content=PICTURE, headers=JPEG)["label"][0] in {"a", "b", "c", "d", "e"}
        refused = client.post("/?model_name=mine&signature_name=serving_tensors", content=PICTURE, headers=JPEG)
        assert refused.status_code == 400
        assert """--pictures='{"mine": {"preprocess": …}}'""" in refused.json()["error"]
        assert metric(url, "darkroom_requests_total", model="mine", outcome="ok") == len(answers) + 1


def test_export_and_check_say_what_they_did_and_what_to_type_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = savedmodels.pixels(tmp_path / "mine" / "1", scale=1 / 255)
    (tmp_path / "cat.jpg").write_bytes(PICTURE)

    def darkroom(*arguments: object) -> tuple[int, str, str]:
        return main(list(map(str, arguments))), *capsys.readouterr()

    status, _, asked = darkroom("export", "mine", f"--from={source}", f"--out={tmp_path / 'out'}")
    assert (status, "x * 0.003922" in asked, "Traceback" in asked) == (1, True, False)
    status, made, _ = darkroom(
        "export", "mine", f"--from={tmp_path / 'mine'}", "--preprocess=raw", f"--out={tmp_path / 'out'}"
    )
    assert status == 0
    assert f"darkroom serve --model_base_path={tmp_path / 'out' / 'mine'}" in made
    status, checked, _ = darkroom("check", source, "--picture", tmp_path / "cat.jpg")
    assert status == 0
    assert "seems to take pixels from 0 to 255: raw" in checked
    assert [line.split()[0] for line in checked.splitlines() if " scores: class " in line] == [
        "tf", "torch", "caffe", "unit", "raw",
    ]  # fmt: skip
    request = next(line for line in checked.splitlines() if "python3 -c" in line)
    assert len(request) < 500
    shown = subprocess.run(
        ["bash", "-c", request.split("request ", 1)[1].replace("python3", sys.executable).split(" | curl")[0]],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert np.shape(json.loads(shown.stdout)["data"]["x"]) == (1, savedmodels.SIZE, savedmodels.SIZE, 3)
