"""The job as a line of text, and its cache key."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from darkroom.models.errors import LoadFailed
from darkroom.models.rewriting.job import Job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    for name in ("1/saved_model.pb", "1/variables/variables.index", "ops/mine.so"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return Job(tmp_path / "1", "m", 1, 2, -1, {"allow_growth": True}, (tmp_path / "ops",))


def test_a_job_is_the_same_on_the_other_side(job: Job) -> None:
    assert "\n" not in job.dump()
    assert Job.parse(job.dump()) == job


def test_the_place_the_name_and_the_number_of_a_version_do_not_matter(job: Job, tmp_path: Path) -> None:
    copytree(job.path, tmp_path / "7")
    assert replace(job, path=tmp_path / "7", name="n", version=7).key() == job.key()


def test_what_is_settled_where_the_artifact_is_opened_does_not_matter(job: Job) -> None:
    assert replace(job, device="cpu:2").key() == job.key()


@pytest.mark.parametrize(
    "change",
    [
        lambda job: replace(job, intra_op_threads=1),
        lambda job: replace(job, session_config={}),
        lambda job: replace(job, custom_op_paths=()),
        lambda job: (job.path / "saved_model.pb").write_text("other content!!") and job,
        lambda job: (job.path / "variables" / "more").write_text("") or job,
        lambda job: (job.path / "saved_model.pb").rename(job.path / "renamed") and job,
        lambda job: (job.custom_op_paths[0] / "mine.so").write_text("other") and job,
    ],
)
def test_all_else_does(job: Job, change: Callable[[Job], Job]) -> None:
    before = job.key()
    assert change(job).key() != before


def test_a_file_that_can_not_be_read_is_a_failed_load(job: Job) -> None:
    (job.path / "broken").symlink_to("/proc/self/mem")  # a file whose first byte can't be read
    with pytest.raises(LoadFailed, match="cannot be read"):
        job.key()
