"""`darkroom export`, as a person types it; in this process where that shows the same, since TensorFlow takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from darkroom.service.cli.main import main
from tests.pictures import picture
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

pytestmark = pytest.mark.slow

FACTORY = """
import keras

def tiny():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
"""

TINY = ("mine:tiny", "--preprocess=unit", "--answers=logits")  # its size it says itself


def _export(*arguments: str, cwd: Path, start: Sequence[str] = ("-m", "darkroom")) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *start, "export", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command in this process, in a folder with a module of one's own; returns the exit status."""
    (tmp_path / "mine.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return lambda *arguments: main(["export", *arguments])


def test_a_model_of_one_s_own_is_exported_and_served_with_its_labels(
    export: Callable[..., int], tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert export(*TINY, "--labels=labels.txt", "--wire=bytes") == 0
    with serving(f"--model_base_path={tmp_path / 'model' / 'tiny'}") as url:
        answer = httpx.post(f"{url}/?top_k=2", content=picture(3), headers={"Content-Type": "image/png"}, timeout=60)
    assert answer.status_code == 200
    assert {score["label"] for score in answer.json()["probability"][0]} == {"cat", "dog"}


OWN_PACKAGE = """
import tensorflow as tf
from darkroom.models.export import Recipe

from service.layers import SCALE

def build():
    assert Recipe(size=(8, 8)).size == (8, 8)
    return lambda x: SCALE * tf.reduce_mean(x, axis=[1, 2])
"""


@pytest.mark.parametrize("by_script", [False, True], ids=["module", "script"])
@pytest.mark.parametrize("has_init", [True, False], ids=["packages", "folders without __init__.py"])
def test_a_user_s_own_packages_may_have_the_names_of_ours(tmp_path: Path, has_init: bool, by_script: bool) -> None:
    """This project's folder is on the import path too, as in an editable installation."""
    for package, module, text in (("models", "mynet.py", OWN_PACKAGE), ("service", "layers.py", "SCALE = 2.0\n")):
        (tmp_path / package).mkdir()
        (tmp_path / package / module).write_text(text)
        if has_init:
            (tmp_path / package / "__init__.py").touch()
    script = tmp_path / "bin" / "darkroom"  # as an installation writes it: Python then puts its folder on the path
    script.parent.mkdir()
    script.write_text("import sys\nfrom darkroom.service.cli.main import main\nsys.exit(main())\n")
    start = (str(script),) if by_script else ("-m", "darkroom")
    stated = ("--size=8x8", "--preprocess=unit", "--answers=values")
    made = _export("models.mynet:build", *stated, "--as=mine", cwd=tmp_path, start=start)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "model" / "mine" / "1" / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], "no model named 'nosuch' ships"),
        (["mine:missing", "--size=8x8"], "mine"),
        (["mine:tiny", "--size=8"], "isn't HxW"),
        (["mine:tiny"], "--preprocess=tf|torch|caffe|unit|raw"),
        (["mine:tiny", "--preprocess=unit"], "--answers=logits"),
        (["mine", "--from=nowhere", "--preprocess=tf"], "nowhere"),
    ],
)
def test_what_can_not_be_built_ends_with_1_and_words(
    export: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert export(*arguments) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "model").exists() or not any((tmp_path / "model").rglob("saved_model.pb"))


@pytest.mark.parametrize("names", [TINY, ("efficientnet_lite0",)], ids=["mine", "efficientnet_lite0"])
def test_large_jpegs_are_decoded_at_a_reduced_scale_where_that_is_asked_for(
    export: Callable[..., int], tmp_path: Path, names: tuple[str, ...]
) -> None:
    assert export(*names, "--reduced_scale") == 0
    (graph,) = tmp_path.rglob("saved_model.pb")
    assert b"ExtractJpegShape" in graph.read_bytes()


def test_the_models_that_ship_are_listed(tmp_path: Path) -> None:
    listed = _export("--list", cwd=tmp_path)
    assert listed.returncode == 0
    assert "efficientnet_lite0" in listed.stdout
