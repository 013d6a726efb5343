"""Sources: what the settings make of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from darkroom.models.versions.loader import Loader
from darkroom.service.config.settings import Settings
from darkroom.service.serving.sources import Sources

if TYPE_CHECKING:
    from pathlib import Path

    from darkroom.models.rewriting.job import Job


@pytest.mark.parametrize(("precision", "max_drift"), [("fp32", None), ("bf16", 0.02)])
def test_a_job_may_round_to_bfloat16_where_the_settings_say_so(
    precision: str, max_drift: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(Loader, "load", lambda _, job: jobs.append(job))
    version = tmp_path / "model" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").touch()
    given = {"cache_dir": tmp_path, "model_base_path": version.parent, "precision": precision, "max_drift": 0.02}
    settings = Settings.model_validate(given)
    Sources(settings).of(settings.models[0]).load(1)
    assert [job.max_drift for job in jobs] == [max_drift]
