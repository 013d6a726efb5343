"""Archives, hostile ones among them: they are refused in one line, and nothing outside their folder is written."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from darkroom.models.versions.stores.archive import Refused, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODEL = {"saved_model.pb": b"graph", "variables/variables.index": b"i", "variables/variables.data-00000-of-00001": b"w"}
LIMIT = 1 << 20


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname, info.mode, info.uid = len(data), kind, link, 0o6777, 0
    return info, data


def packed(*members: tuple[tarfile.TarInfo, bytes], files: Mapping[str, bytes] = MODEL, prefix: str = "") -> bytes:
    """A tar archive of the files below `prefix` and of other members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in [*(member(prefix + name, data) for name, data in files.items()), *members]:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def wrong_header(kind: bytes, size: int) -> bytes:
    """An archive whose first header says that so many bytes follow."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 21)


@pytest.mark.parametrize("prefix", ["", "./", "digits/", "digits/1/model.savedmodel/"])
@pytest.mark.parametrize("is_zipped", [True, False])
def test_a_model_is_found_at_the_top_or_in_the_only_folder(tmp_path: Path, prefix: str, is_zipped: bool) -> None:
    data = packed(member("._junk", b"x"), prefix=prefix)
    (tmp_path / "archive").write_bytes(gzip.compress(data) if is_zipped else data)
    folder = unpack(tmp_path / "archive", tmp_path / "out", max_bytes=LIMIT)
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items() if name != "._junk"} == MODEL
    assert {path.stat().st_mode & 0o7111 for path in found.values()} == {0}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (packed(member("../evil", b"x")), "a file whose name leads elsewhere: '../evil'"),
        (packed(member("a/../../evil", b"x")), "leads elsewhere"),
        (packed(member("/nonexistent/evil", b"x")), "leads elsewhere"),
        (packed(member("..\\evil", b"x")), "leads elsewhere"),
        (packed(member("out", kind=tarfile.SYMTYPE, link="/etc"), member("out/evil", b"x")), "a link: 'out'"),
        (packed(member("variables/x", kind=tarfile.SYMTYPE, link="../../evil")), "a link: 'variables/x'"),
        (packed(member("x", kind=tarfile.LNKTYPE, link="/etc/passwd")), "a link: 'x'"),
        (packed(member("x", kind=tarfile.CHRTYPE)), "a device or a pipe: 'x'"),
        (packed(member("x", kind=tarfile.BLKTYPE)), "a device or a pipe: 'x'"),
        (packed(member("x", kind=tarfile.FIFOTYPE)), "a device or a pipe: 'x'"),
        (gzip.compress(packed(member("zeros", bytes(LIMIT)))), f"more than {LIMIT} bytes, which --store_cache_bytes"),
        (wrong_header(tarfile.XHDTYPE, 1 << 33), "a header of 8589934592 bytes"),
        (wrong_header(tarfile.XHDTYPE, -1024), "archive"),
        (wrong_header(tarfile.GNUTYPE_LONGNAME, -1024), "archive"),
        (wrong_header(tarfile.REGTYPE, -512), "archive"),
        (wrong_header(tarfile.REGTYPE, -1024), "archive"),
        (wrong_header(tarfile.GNUTYPE_SPARSE, -1024), "archive"),
        (packed(member("saved_model.pb", b"again")), "two files of one name: 'saved_model.pb'"),
        (packed(member("saved_model.pb/x", b"again")), "two files of one name: 'saved_model.pb/x'"),
        (packed(files={"readme.txt": b"x"}), "has no SavedModel: saved_model.pb at its top, or in its only folder"),
        (packed(files={"a/x": b"x", "b/x": b"x"}), "has no SavedModel"),
        (packed(files={"saved_model.pb": b"x", "variables/variables.index": b"i"}), "is not whole: the variables.data"),
        (b"<html>not found</html>" * 100, "the archive is damaged: "),
        (gzip.compress(packed())[:-30], "the archive is damaged: "),
        (gzip.compress(os.urandom(3000)), "the archive is damaged: "),
        (packed()[:700], "the archive is damaged: "),
        (b"", "the archive is damaged: "),
    ],
)
def test_an_archive_that_is_hostile_or_damaged_is_refused_in_one_line(tmp_path: Path, data: bytes, words: str) -> None:
    inner = tmp_path / "mirror"
    inner.mkdir()
    (inner / "archive").write_bytes(data)
    with pytest.raises(Refused) as told:
        unpack(inner / "archive", inner / "out", max_bytes=LIMIT)
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert {path.name for path in inner.iterdir()} == {"archive", "out"}
    assert {path.name for path in tmp_path.iterdir()} == {"mirror"}
    assert not any(path.is_symlink() for path in inner.rglob("*"))
