"""`darkroom export`, as a person types it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.pictures import picture
from tests.serving import serving

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

FACTORY = """
import keras

def tiny():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
"""


def _export(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "darkroom.service", "export", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_model_of_one_s_own_is_exported_and_served_with_its_labels(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    made = _export("mine:tiny", "--size=8x8", "--labels=labels.txt", "--wire=bytes", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    with serving(f"--model_base_path={tmp_path / 'model' / 'tiny'}") as url:
        answer = httpx.post(f"{url}/?top_k=2", content=picture(3), headers={"Content-Type": "image/png"}, timeout=60)
    assert answer.status_code == 200
    assert {score["label"] for score in answer.json()["probability"][0]} == {"cat", "dog"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], "no model named 'nosuch' ships"),
        (["mine:missing", "--size=8x8"], "mine"),
        (["mine:tiny", "--size=8"], "isn't HxW"),
    ],
)
def test_what_can_not_be_built_ends_with_1_and_words(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    failed = _export(*arguments, cwd=tmp_path)
    assert failed.returncode == 1
    assert words in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "model").exists() or not any((tmp_path / "model").rglob("saved_model.pb"))


@pytest.mark.parametrize("name", ["mine:tiny", "efficientnet_lite0"])
def test_large_jpegs_are_decoded_at_a_reduced_scale_where_that_is_asked_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    made = _export(name, "--size=8x8", "--reduced_scale", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    (graph,) = tmp_path.rglob("saved_model.pb")
    assert b"ExtractJpegShape" in graph.read_bytes()


def test_the_models_that_ship_are_listed(tmp_path: Path) -> None:
    listed = _export("--list", cwd=tmp_path)
    assert listed.returncode == 0
    assert "efficientnet_lite0" in listed.stdout
