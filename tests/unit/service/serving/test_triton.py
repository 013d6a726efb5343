"""What a config.pbtxt asks of a loaded version: its tensors, its labels, its warm-up."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.models.errors import LoadFailed
from darkroom.service.config.triton import FILE, read_entry
from darkroom.service.serving.triton import apply_config
from tests.echo import TensorEcho

if TYPE_CHECKING:
    from pathlib import Path

    from darkroom.models.engine import LoadedModel
    from darkroom.models.rows import Rows

INPUTS = "input [ { name: 'x' data_type: TYPE_FP32 dims: [ -1 ] }, { name: 'text' data_type: TYPE_STRING } ]"
WARM = (
    "model_warmup [ { name: 'w' batch_size: 3 inputs { key: 'x' value { %s } } inputs { key: 'text' value { %s } } } ]"
)


class NotedEcho(TensorEcho):
    """Notes what it was fed, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fed: list[Rows] = []
        self.is_closed = False

    def run(self, rows: Rows) -> Rows:
        self.fed.append(rows)
        return super().run(rows)

    def close(self) -> None:
        self.is_closed = True


def applied(folder: Path, text: str, engine: NotedEcho | None = None) -> LoadedModel:
    (folder / FILE).write_text(text)
    return apply_config(fake_model(engine or NotedEcho(), name=folder.name), read_entry(folder))


def test_a_config_that_fits_changes_nothing(tmp_path: Path) -> None:
    loaded = applied(tmp_path, f"max_batch_size: 4 {INPUTS} output [ {{ name: 'x' dims: [ -1 ] }} ]")
    assert loaded.spec.output_labels == {}
    assert loaded.samples == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("input [ { name: 'y' } ]", "input 'y': the signature has only x, text"),
        ("output [ { name: 'y' } ]", "output 'y': the signature has only x, text"),
        ("input [ { name: 'x' data_type: TYPE_INT32 } ]", "data_type is TYPE_INT32, the signature has TYPE_FP32"),
        ("input [ { name: 'x' dims: [ 3 ] } ]", "dims are [3]; the signature has [-1, -1]"),
        ("max_batch_size: 4 input [ { name: 'x' dims: [ -1, 3 ] } ]", "with the batch before it"),
        ("output [ { name: 'x' label_filename: 'none.txt' } ]", "label_filename 'none.txt': No such file"),
        (WARM % ("dims: [ 2 ]", "dims: [ 1 ] input_data_file: 'none'"), "No such file"),
        (
            WARM % ("dims: [ 2 ] data_type: TYPE_INT32", "zero_data: true"),
            "data_type is TYPE_INT32, the signature has TYPE_FP32",
        ),
        (WARM % ("dims: [ 99999, 99999 ]", "zero_data: true"), "are no sample of at most"),
        ("model_warmup [ { inputs { key: 'z' value { zero_data: true } } } ]", "input 'z': the signature has only"),
        ("model_warmup [ { inputs { key: 'x' value { zero_data: true dims: [ 1 ] } } } ]", "'text' is missing"),
    ],
)
def test_one_that_does_not_fit_says_which_field_and_frees_the_version(tmp_path: Path, text: str, words: str) -> None:
    engine = NotedEcho()
    with pytest.raises(LoadFailed) as caught:
        applied(tmp_path, text, engine)
    assert words in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert engine.is_closed


def test_labels_are_those_of_their_output_and_the_model_s_if_all_share_them(tmp_path: Path) -> None:
    (tmp_path / "cats.txt").write_text("tabby\r\nmanx\n")
    (tmp_path / "dogs.txt").write_text("pug\n")
    both = "output [ { name: 'x' label_filename: '%s' }, { name: 'text' label_filename: '%s' } ]"
    loaded = applied(tmp_path, both % ("cats.txt", "cats.txt"))
    assert loaded.spec.labels == ("tabby", "manx")
    loaded = applied(tmp_path, both % ("cats.txt", "dogs.txt"))
    assert loaded.spec.labels == ()
    assert loaded.spec.output_labels == {"x": ("tabby", "manx"), "text": ("pug",)}


def test_a_sample_runs_as_often_as_it_says_and_one_row_of_it_stands_for_the_traffic(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "words").write_bytes(struct.pack("<I", 2) + b"hi")
    engine = NotedEcho()
    text = WARM % ("dims: [ 2 ] random_data: true", "dims: [ 1 ] input_data_file: 'words'")
    loaded = applied(tmp_path, text.replace("batch_size", "count: 2 batch_size"), engine)
    assert [len(rows) for rows in engine.fed] == [3, 3]
    assert engine.fed[0].columns["text"] == [b"hi"] * 3
    x = engine.fed[0].columns["x"]
    assert isinstance(x, np.ndarray)
    assert x.shape == (3, 2)
    assert ((x >= 0) & (x <= 1)).all()
    assert [len(rows) for rows in loaded.samples["serving_default"]] == [1]


def test_numbers_come_from_a_file_in_row_major_order(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "raw").write_bytes(np.array([1.5, -2.0], np.float32).tobytes())
    engine = NotedEcho()
    applied(tmp_path, WARM % ("dims: [ 2 ] data_type: TYPE_FP32 input_data_file: 'raw'", "zero_data: true"), engine)
    x = engine.fed[0].columns["x"]
    assert isinstance(x, np.ndarray)
    assert x.tolist() == [[1.5, -2.0]] * 3
    with pytest.raises(LoadFailed, match=r"its file has 8 bytes, dims \[3\] need 12"):
        applied(tmp_path, WARM % ("dims: [ 3 ] data_type: TYPE_FP32 input_data_file: 'raw'", "zero_data: true"))
    with pytest.raises(LoadFailed, match="ends within a string"):
        applied(tmp_path, WARM % ("dims: [ 2 ]", "dims: [ 1 ] input_data_file: 'raw'"))
