"""Partial answers: some rows are refused, the others are answered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.models.errors import InvalidInput
from darkroom.service.errors import CodecError
from darkroom.service.predict.partial import PartialResult, wants_per_image


@given(st.lists(st.sampled_from(["good", "unreadable", "outsized", "guilty"]), max_size=12))
def test_every_row_is_either_answered_at_its_index_or_told_of_once(kinds: list[str]) -> None:
    def refuse(kind: str) -> object:
        def judge(item: tuple[int, str], index: int) -> tuple[int, str]:
            assert item[0] == index
            if item[1] == kind:
                raise CodecError(f"x[{index}]: {kind}")
            return item

        return judge

    partial = PartialResult()
    rows = list(enumerate(kinds))
    for kind in ("unreadable", "outsized"):
        rows = partial.keep_good(rows, refuse(kind))  # type: ignore[arg-type] # the closure's type is told by its use
    guilty = {row: InvalidInput("guilty") for row, (_, kind) in enumerate(rows) if kind == "guilty"}
    partial.refuse(guilty, "x")
    answered = np.array([index for index, kind in rows if kind == "good"], dtype=np.int64)
    answer = partial.answer({"out": answered})
    assert answer["out"] == [index if kind == "good" else None for index, kind in enumerate(kinds)]
    bad = [(index, kind) for index, kind in enumerate(kinds) if kind != "good"]
    assert answer["errors"] == [{"index": index, "error": f"x[{index}]: {kind}"} for index, kind in bad]


@pytest.mark.parametrize(("value", "is_asked"), [(None, False), ("fail", False), ("per_image", True)])
def test_per_image_is_asked_for_by_its_name(value: object, is_asked: bool) -> None:
    assert wants_per_image(value) is is_asked


@pytest.mark.parametrize("value", ["", "all", 1, True, ["per_image"], {"a": 1}])
def test_any_other_word_is_refused(value: object) -> None:
    with pytest.raises(CodecError, match="on_error: expected"):
        wants_per_image(value)
