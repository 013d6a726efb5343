"""A way of calling a signature in a process of its own: what it loaded, its timings, its answers, its end."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from darkroom.models.errors import LoadFailed
from darkroom.models.profile import trial
from darkroom.models.profile.trial import Subject, Trial, Way
from darkroom.models.rows import Rows
from tests import savedmodels
from tests.pictures import picture
from tests.unit.models.conftest import Build

Built = Callable[[Build], Path]
pytestmark = pytest.mark.slow


def test_both_ways_take_the_same_rows_and_give_the_same_answer(built: Built) -> None:
    pictures = tuple(picture(seed, kind="JPEG") for seed in range(3))
    subject = Subject(built(savedmodels.classic), pictures=pictures)
    with Trial(subject, Way(1, -1)) as engine:
        assert [rows.columns["images"] for rows in engine.loaded.rows] == [[each] for each in pictures]
        assert engine.seconds(2, 2, 2) > 0
        answer = engine.answer(4)
        assert len(answer) == 4
        with Trial(replace(subject, loaded=engine.loaded), Way(is_plain=True)) as plain:
            assert plain.seconds(4, 1) > 0
            assert plain.difference(4, answer) == ""
            wrong = Rows(answer.columns | {"softmax": np.asarray(answer.columns["softmax"]) * 2})
            assert "'softmax' differs" in plain.difference(4, wrong)


def test_what_fails_in_the_process_is_told_here(built: Built) -> None:
    with pytest.raises(LoadFailed, match="unknown signature 'other'; there are: serving_default"):
        Trial(Subject(built(savedmodels.classic), signature="other"), Way())


def test_what_cannot_be_timed_says_why(built: Built, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="cannot be read"):
        trial._engine(Subject(tmp_path), Way())
    with pytest.raises(LoadFailed, match="not one picture a row"):
        trial._engine(Subject(built(savedmodels.keys_and_features), pictures=(b"a",)), Way())
