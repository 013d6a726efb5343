"""The version folder is written completely or not at all, and is the same each time."""

import hashlib
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from darkroom.models.export.export import export_image_model, version_folder
from darkroom.models.export.zoo import ExportFailed
from darkroom.models.saved_model.front.recipe import Recipe

RECIPE = Recipe(size=(4, 4))
LABELS = ("red", "green", "blue")


def mean_colour(x: Any) -> Any:
    return tf.reduce_mean(x, axis=[1, 2])


def refuses(_x: Any) -> Any:
    raise RuntimeError("this model can't be traced")


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_version_holds_the_model_and_its_labels_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    folder = export_image_model(mean_colour, tmp_path / "colours", RECIPE, version=12, labels=LABELS)
    assert folder == tmp_path / "colours" / "12"
    assert (folder / "assets.extra" / "labels.txt").read_text() == "red\ngreen\nblue\n"
    assert {"saved_model.pb", "variables/variables.index"} <= content(folder).keys()
    assert list((tmp_path / "colours").iterdir()) == [folder]


def test_the_folder_can_be_read_by_others(tmp_path: Path) -> None:
    folder = export_image_model(mean_colour, tmp_path, RECIPE)
    plain = tmp_path / "plain"
    plain.mkdir()
    assert folder.stat().st_mode == plain.stat().st_mode


def test_no_version_is_seen_before_it_is_whole(tmp_path: Path) -> None:
    seen: list[str] = []

    def looks_around(x: Any) -> Any:
        seen.extend(path.name for path in tmp_path.iterdir())
        return mean_colour(x)

    export_image_model(looks_around, tmp_path, RECIPE)
    assert len(seen) == 1
    assert seen[0].startswith(".1-")


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="can't be traced"):
        export_image_model(refuses, tmp_path, RECIPE)
    assert list(tmp_path.iterdir()) == []


def test_labels_that_do_not_fit_the_classes_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="2 labels for 3 classes"):
        export_image_model(mean_colour, tmp_path, RECIPE, labels=LABELS[:2])
    assert list(tmp_path.iterdir()) == []


def test_a_label_of_two_lines_becomes_one(tmp_path: Path) -> None:
    folder = export_image_model(mean_colour, tmp_path, RECIPE, labels=("dark\nred", "green", "blue"))
    assert (folder / "assets.extra" / "labels.txt").read_text().splitlines() == ["dark red", "green", "blue"]


def test_a_version_that_exists_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    before = content(export_image_model(mean_colour, tmp_path, RECIPE))
    with pytest.raises(ExportFailed, match=r"exists; .* --force"):
        export_image_model(mean_colour, tmp_path, RECIPE, labels=LABELS)
    assert content(tmp_path / "1") == before


def test_force_replaces_a_version_whole(tmp_path: Path) -> None:
    old = export_image_model(mean_colour, tmp_path, RECIPE)
    (old / "stray").touch()
    new = export_image_model(mean_colour, tmp_path, RECIPE, labels=LABELS, force=True)
    assert "assets.extra/labels.txt" in content(new)
    assert "stray" not in content(new)
    assert list(tmp_path.iterdir()) == [new]


def test_force_keeps_the_old_version_where_the_new_one_fails(tmp_path: Path) -> None:
    before = content(export_image_model(mean_colour, tmp_path, RECIPE))
    with pytest.raises(RuntimeError):
        export_image_model(refuses, tmp_path, RECIPE, force=True)
    assert content(tmp_path / "1") == before
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_version_that_appears_meanwhile_wins(tmp_path: Path) -> None:
    def slower_than_another(x: Any) -> Any:
        (tmp_path / "1").mkdir()
        return mean_colour(x)

    with pytest.raises(ExportFailed, match="exists"):
        export_image_model(slower_than_another, tmp_path, RECIPE)
    assert content(tmp_path / "1") == {}


def test_a_new_version_that_cannot_take_its_place_gives_it_back_to_the_old(tmp_path: Path) -> None:
    before = content(export_image_model(mean_colour, tmp_path, RECIPE))
    with pytest.raises(ExportFailed, match="can't be put in its place"), version_folder(tmp_path, 1, force=True) as new:
        new.rmdir()
    assert content(tmp_path / "1") == before
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("version", [0, -3])
def test_a_version_below_one_is_refused(tmp_path: Path, version: int) -> None:
    with pytest.raises(ExportFailed, match="whole number"):
        export_image_model(mean_colour, tmp_path, RECIPE, version=version)


PROGRAM = """
import sys
from pathlib import Path
from darkroom.models.export.export import export_image_model
from darkroom.models.export.zoo.digits import load_pictures, recipe, train

training, _ = load_pictures()
export_image_model(train(training, print, epochs=1), Path(sys.argv[1]), recipe())
"""


@pytest.mark.slow
def test_two_processes_train_and_export_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / name)], check=True, capture_output=True)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_the_recipe_is_imported_without_tensorflow_and_the_functions_bring_it() -> None:
    program = (
        "import sys; from darkroom.models.export import Recipe; assert 'tensorflow' not in sys.modules; "
        "from darkroom.models.export import export_from_reference, export_image_model, load_reference; "
        "assert 'tensorflow' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        importlib.import_module("darkroom.models.export").nosuch  # noqa: B018 - it raises
