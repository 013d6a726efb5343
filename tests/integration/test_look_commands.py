"""`darkroom check` and `darkroom profile`, as a person types them; in this process where that shows the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from darkroom.service.cli.main import main
from tests import savedmodels
from tests.pictures import picture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.slow


def darkroom(*arguments: object, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; `before` starts it."""
    return subprocess.run(
        [*before, sys.executable, "-m", "darkroom", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_check_tells_what_a_model_wants_and_runs_a_request(tmp_path: Path) -> None:
    savedmodels.classic(tmp_path / "dogs" / "3")
    (tmp_path / "dog.jpg").write_bytes(picture(1, kind="JPEG"))
    done = darkroom("check", tmp_path / "dogs", "--picture", tmp_path / "dog.jpg")
    assert done.returncode == 0
    assert "dogs version 3" in done.stdout
    assert "input   images: string[-1]" in done.stdout
    assert "wire    base64" in done.stdout
    assert "pass    hoist_base64: in force" in done.stdout
    assert """-d '{"data": {"images": ["'$(base64 -w0 picture.jpg)'"]}}'""" in done.stdout
    assert "prediction: [" in done.stdout


def test_check_shows_a_request_of_numbers_that_can_be_sent_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    savedmodels.keys_and_features(tmp_path / "1")
    assert main(["check", str(tmp_path / "1")]) == 0
    body = json.loads(capsys.readouterr().out.split("-d '")[1].split("'")[0])
    assert {name: len(rows[0]) for name, rows in body["data"].items()} == {"keys": 1, "features": 9}


def test_check_says_why_a_signature_is_not_run_or_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    savedmodels.counter(tmp_path / "counter" / "1")
    assert main(["check", str(tmp_path / "counter")]) == 0
    counter = capsys.readouterr().out
    assert "batched no: it changes a resource" in counter
    assert "request none could be generated" in counter
    savedmodels.sparse(tmp_path / "sparse" / "1")
    assert main(["check", str(tmp_path / "sparse")]) == 1
    assert "only plain tensors can be served" in capsys.readouterr().err


def test_profile_recommends_writes_and_draws(tmp_path: Path) -> None:
    savedmodels.classic(tmp_path / "dogs" / "3")
    flags = ["--sizes=1,4", "--inflight=1", "--seconds=0.01", "--compare"]
    files = f"--json={tmp_path}/p.json", f"--png={tmp_path}/p.png"
    one_core = ("taskset", "-c", str(min(os.sched_getaffinity(0))))  # each number of threads is two processes more
    done = darkroom("profile", tmp_path / "dogs", *flags, *files, before=one_core)
    assert done.returncode == 0, done.stderr
    assert "serve it with: --" in done.stdout or "keep the defaults: " in done.stdout
    assert "answers to 4 rows beside the plain signature's: equal" in done.stdout
    found = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert {(point["way"], point["images"]) for point in found["points"]} >= {
        ("plain signature", 1),
        ("plain signature", 4),
        ("intra=1 inter=-1", 4),
    }
    assert found["settings"].get("max_batch_images", 4) in {1, 4}
    assert all(f"--{name}={value}" in done.stdout for name, value in found["settings"].items())
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["check", "nowhere"], 1, "nowhere: the model's folder cannot be listed"),
        (["profile", "nowhere"], 1, "nowhere: the model's folder cannot be listed"),
        (["profile", "nowhere", "--sizes=0"], 2, "start at 1"),
        (["profile", "nowhere", "--sizes=x"], 2, "--sizes"),
        (["profile"], 2, "MODEL"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(
    arguments: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        ended: object = main(arguments)
    except SystemExit as err:
        ended = err.code
    assert ended == status
    assert words in capsys.readouterr().err
