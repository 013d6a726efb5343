"""Versions on disk: which folders are versions, and when their files have stood still."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_a_version_may_have_its_saved_model_one_folder_deeper_as_in_triton_s_repositories(tmp_path: Path) -> None:
    make(tmp_path, "1/model.savedmodel", "2", "3/other", "04/model.savedmodel", "4")
    found = {version: str(path.relative_to(tmp_path)) for version, path in versions(tmp_path).items()}
    assert found == {1: "1/model.savedmodel", 2: "2", 4: "4"}
    assert list(versions(tmp_path, "other")) == [2, 3, 4]
    assert locate(tmp_path / "1") == (tmp_path / "1" / "model.savedmodel", tmp_path.name, 1)
    with pytest.raises(LoadFailed, match=r"with saved_model\.pb or model\.savedmodel/saved_model\.pb in it"):
        versions(tmp_path / "3")


def test_a_folder_without_versions_says_what_a_version_is(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="a folder named by a number"):
        versions(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"), [("1", "give the folder above"), ("mobilenet", "move its files into mobilenet/1")]
)
def test_a_saved_model_given_as_the_base_says_what_to_do(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(LoadFailed, match=f"it is a SavedModel itself: {words}$"):
        versions(make(tmp_path, name) / name)


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
        (("variables.index", "variables.data-00001-of-00002", "variables.data-000001-of-000002"), False),
        (("variables.index", "variables.data-00000-of-00001", "variables.data-00001-of-00009"), True),
        (("variables.index", "variables.data-00007-of-00001"), False),
        (("variables.index", "variables.data-1-of-many", "variables.data--of-"), False),
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
    with pytest.raises(LoadFailed, match="must be a folder of this machine: copy the version from its store first"):
        locate(Path("s3://bucket/dogs"))


COPYING = [
    ".{}.Xa9Zk2",  # rsync
    "{}.6eF6aBcD",  # aws s3 cp
    "{}_.gstmp",  # gsutil
    "{}.gstmp",
    "{}.part",
    "{}.partial",
    "{}.a1b2c3d4.partial",  # rclone
    "{}.crdownload",
    "{}.tmp",
    "{}~",
    "{}._COPYING_",  # hadoop
    "{}.filepart",  # WinSCP
    ".azDownload-0d2b8a6e-{}",  # azcopy
    ".syncthing.{}.tmp",
]


@pytest.mark.parametrize("tool", COPYING)
@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
def test_a_file_under_the_name_that_a_tool_gives_it_meanwhile_is_waited_for(
    tmp_path: Path, name: str, tool: str
) -> None:
    make(tmp_path, "1")
    (tmp_path / "1" / "variables").mkdir()
    for each in ("variables.index", "variables.data-00000-of-00001"):
        (tmp_path / "1" / "variables" / each).write_bytes(b"x")
    whole = tmp_path / "1" / name
    part = whole.with_name(tool.format(whole.name))
    whole.rename(part)
    found = source(tmp_path, ahead_s=LONG_AGO).scan()[1]
    assert (found.is_settled, found.missing) == (False, f"{whole.name} is being copied, as {part.name!s}")
    shutil.copy(part, whole)  # what a copy that was broken off leaves behind does no harm
    assert settled(source(tmp_path, ahead_s=LONG_AGO)) == {1: True}


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
def test_an_empty_file_is_waited_for(tmp_path: Path, name: str) -> None:
    make(tmp_path, "1")
    (tmp_path / "1" / "variables").mkdir()
    for each in ("variables.index", "variables.data-00000-of-00001"):
        (tmp_path / "1" / "variables" / each).write_bytes(b"x")
    (tmp_path / "1" / name).write_bytes(b"")
    found = source(tmp_path, ahead_s=LONG_AGO).scan()[1]
    assert (found.is_settled, found.missing) == (False, f"{Path(name).name} is empty")


def test_only_what_a_load_needs_is_waited_for(tmp_path: Path) -> None:
    make(tmp_path, "1")
    (tmp_path / "1" / "assets").mkdir()
    for name in ("assets/vocab.20240101", "assets/variables.index.part", "fingerprint.pb.bak", "assets/empty", "x.tmp"):
        (tmp_path / "1" / name).write_bytes(b"")
    assert settled(source(tmp_path, ahead_s=LONG_AGO)) == {1: True}


def test_links_that_lead_nowhere_and_files_where_a_folder_should_be_are_ignored(tmp_path: Path) -> None:
    make(tmp_path, "1")
    (tmp_path / "2").symlink_to(tmp_path / "nowhere")
    (tmp_path / "3").symlink_to(tmp_path / "3")
    (tmp_path / "4").write_text("a file")
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "saved_model.pb").symlink_to("saved_model.pb")
    (tmp_path / "6" / "saved_model.pb").mkdir(parents=True)
    (tmp_path / str(1 << 63)).symlink_to(tmp_path / "1")
    (tmp_path / "1" / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "1" / "circle").symlink_to(tmp_path / "1")
    assert settled(source(tmp_path, ahead_s=LONG_AGO)) == {1: True}
    with pytest.raises(LoadFailed, match="Not a directory; `darkroom export` makes one of a Keras file"):
        versions(tmp_path / "4")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
@pytest.mark.parametrize("path", ["", "/saved_model.pb", "/variables"])
def test_a_version_that_cannot_be_entered_is_found_beside_the_others_and_its_load_fails(
    tmp_path: Path, path: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as root, whom no mode stops, so the refusal is played: every look below `path` meets it."""
    make(tmp_path, "1", "2")
    (tmp_path / "2" / "variables").mkdir()
    closed = f"{tmp_path}/2{path}"

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(target: Any, *arguments: Any, **named: Any) -> Any:
            if str(target) == closed or str(target).startswith(f"{closed}/"):
                raise OSError(number, os.strerror(number), str(target))
            return real(target, *arguments, **named)

        return look

    for name in ("stat", "scandir", "listdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    found = source(tmp_path, ahead_s=LONG_AGO).scan()
    assert {version: each.is_settled for version, each in found.items()} == {1: True, 2: True}
    assert found[2].stamp == ("unreadable", number)
