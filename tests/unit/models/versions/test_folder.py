"""Versions on disk: which folders are versions, and when their files have stood still."""

import shutil
import time
from pathlib import Path

import pytest

from darkroom.models.engine import LoadedModel
from darkroom.models.engines.fakes import fake_model
from darkroom.models.errors import LoadFailed
from darkroom.models.versions.folder import FolderSource, locate, versions

LONG_AGO = 3600.0  # the source's clock ahead of the file system's: every change is long ago


def make(base: Path, *names: str) -> Path:
    """Folders with something called saved_model.pb in them."""
    for name in names:
        (base / name).mkdir(parents=True)
        (base / name / "saved_model.pb").write_bytes(b"\xff")
    return base


def source(base: Path, *, ahead_s: float = 0.0) -> FolderSource:
    def load(_: Path, version: int) -> LoadedModel:
        return fake_model(version=version)

    return FolderSource(base, load, settle_s=60.0, clock=lambda: time.time() + ahead_s)


def settled(found: FolderSource) -> dict[int, bool]:
    return {version: each.is_settled for version, each in found.scan().items()}


def test_versions_are_numeric_folders_with_a_saved_model(tmp_path: Path) -> None:
    make(tmp_path, "1", "00000123", "20", "latest", "1.5", "-3", "٣", "2x")
    (tmp_path / "4").mkdir()
    (tmp_path / "5").write_text("a stray file")
    (tmp_path / "saved_model.pb").write_text("a stray file")
    assert {version: path.name for version, path in versions(tmp_path).items()} == {1: "1", 20: "20", 123: "00000123"}
    assert list(versions(tmp_path)) == [1, 20, 123]


def test_the_plainer_name_of_a_version_wins(tmp_path: Path) -> None:
    assert versions(make(tmp_path, "01", "1", "001"))[1].name == "1"


def test_a_folder_without_versions_says_what_a_version_is(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="a folder named by a number"):
        versions(tmp_path)


def test_a_saved_model_given_as_the_base_says_to_give_the_folder_above(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="give the folder above"):
        versions(make(tmp_path, "1") / "1")


def test_a_folder_that_is_not_there_is_a_failed_load(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="No such file"):
        versions(tmp_path / "nowhere")


def test_what_changed_a_moment_ago_is_settled_when_two_scans_found_it_the_same(tmp_path: Path) -> None:
    folder = source(make(tmp_path, "1"))
    assert settled(folder) == {1: False}
    (tmp_path / "1" / "more").write_text("still being copied")
    assert settled(folder) == {1: False}
    assert settled(folder) == {1: True}


def test_what_changed_long_ago_is_settled_at_once(tmp_path: Path) -> None:
    assert settled(source(make(tmp_path, "1"), ahead_s=LONG_AGO)) == {1: True}


def test_a_copy_that_keeps_the_times_of_its_files_is_as_new_as_any(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "1")
    file = tmp_path / "elsewhere" / "1" / "saved_model.pb"
    shutil.copystat("/", file)
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "model")  # keeps modification times
    assert settled(source(tmp_path / "model")) == {1: False}


@pytest.mark.parametrize(
    ("names", "is_whole"),
    [
        ((), True),
        (("variables.index",), False),
        (("variables.data-00000-of-00001",), False),
        (("variables.index", "variables.data-00000-of-00002"), False),
        (("variables.index", "variables.data-00000-of-00001"), True),
        (("variables.index", "variables.data-00000-of-00002", "variables.data-00001-of-00002"), True),
    ],
)
def test_variables_are_whole_when_their_index_and_every_piece_is_there(
    tmp_path: Path, names: tuple[str, ...], is_whole: bool
) -> None:
    make(tmp_path, "1")
    (tmp_path / "1" / "variables").mkdir()
    for name in names:
        (tmp_path / "1" / "variables" / name).write_bytes(b"x")
    assert settled(source(tmp_path, ahead_s=LONG_AGO)) == {1: is_whole}


def test_the_stamp_changes_with_a_file_and_only_with_one(tmp_path: Path) -> None:
    folder = source(make(tmp_path, "1"))
    before = folder.scan()[1].stamp
    assert folder.scan()[1].stamp == before
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"longer")
    assert folder.scan()[1].stamp != before


def test_a_version_that_went_before_it_was_loaded_is_a_failed_load(tmp_path: Path) -> None:
    folder = source(make(tmp_path, "1", "2"))
    shutil.rmtree(tmp_path / "2")
    with pytest.raises(LoadFailed, match="gone"):
        folder.load(2)


def test_a_version_is_found_from_its_own_folder_and_from_the_models(tmp_path: Path) -> None:
    for name in ("9", "10", "notes"):
        (tmp_path / "dogs" / name).mkdir(parents=True)
        (tmp_path / "dogs" / name / "saved_model.pb").touch()
    assert locate(tmp_path / "dogs") == (tmp_path / "dogs" / "10", "dogs", 10)
    assert locate(tmp_path / "dogs" / "9") == (tmp_path / "dogs" / "9", "dogs", 9)
    assert locate(tmp_path / "dogs" / "notes") == (tmp_path / "dogs" / "notes", "notes", 1)
    with pytest.raises(LoadFailed, match="cannot be listed"):
        locate(tmp_path / "cats")
