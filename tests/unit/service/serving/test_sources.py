"""Sources: what the settings make of a job, and what they warn of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from darkroom.models.versions.loader import Loader
from darkroom.service.config.settings import Settings
from darkroom.service.serving.sources import Sources

if TYPE_CHECKING:
    from pathlib import Path

    from darkroom.models.rewriting.job import Job


@pytest.mark.parametrize(
    ("flags", "is_warned"),
    [
        ({}, False),
        ({"xla": True}, True),
        ({"xla": True, "allowed_batch_sizes": "1,8,32"}, False),
    ],
)
def test_xla_without_few_batch_sizes_is_warned_of(
    flags: dict[str, object], is_warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Sources(Settings.model_validate({"cache_dir": tmp_path, **flags}))
    assert ("--xla without --allowed_batch_sizes" in caplog.text) is is_warned


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_job_asks_for_xla_where_the_settings_do(
    is_asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(Loader, "load", lambda _, job: jobs.append(job))
    version = tmp_path / "model" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").touch()
    settings = Settings(cache_dir=tmp_path, model_base_path=version.parent, xla=is_asked)
    Sources(settings).of(settings.models[0]).load(1)
    assert [job.xla for job in jobs] == [is_asked]
