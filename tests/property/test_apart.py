"""A backend that fails every call whose rows differ in size: each caller still has its own answer, and it is learned."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.batching.entry import Entry
from darkroom.batching.limits import Limits
from darkroom.batching.observer import Observer
from tests.property.rig import BadPictureError, EchoBackend, batcher_of, is_row
from tests.vclock import run

if TYPE_CHECKING:
    from darkroom.batching.entry import Answer
    from tests.property.rig import Call, FakeReport


@dataclass
class StackBackend(EchoBackend):
    """Rows are `size/number`; those of one call must have one size, or, with `alone`, there must be one."""

    alone: bool = False

    def report(self, call: Call, seconds: float) -> FakeReport:
        """As the graph that stacks them."""
        report = super().report(call, seconds)
        if not self.is_mixed(call):
            return report
        return replace(report, results=None, error=BadPictureError("shapes differ"))

    def is_mixed(self, call: Call) -> bool:
        """Whether the call fails though each of its rows may be fine."""
        return len(call.rows) > 1 if self.alone else len({size_of(row) for row in call.rows}) > 1


@dataclass
class Heard(Observer):
    """What was told of keeping rows apart."""

    told: list[bool] = field(default_factory=list)

    def kept_apart(self, is_alone: bool) -> None:
        self.told.append(is_alone)


def size_of(row: str) -> str:
    return row.partition("/")[0]


def entry_of(rows: list[str]) -> Entry:
    sizes = set(map(size_of, rows))
    return Entry(rows, len(rows), key="k", kind=sizes.pop() if len(sizes) == 1 else None, keep_going=True)


async def _live(backend: EchoBackend, rounds: list[list[list[str]]], heard: Heard) -> list[list[Answer]]:
    batcher = batcher_of(backend, Limits(max_batch_images=8, max_inflight_batches=2), observer=heard)
    return [await asyncio.gather(*(batcher.predict(entry_of(rows)) for rows in entries)) for entries in rounds]


ROWS = st.lists(st.sampled_from(["a/1", "a/2", "b/1", "c/1", "poison/1"]), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(ROWS, min_size=1, max_size=8), min_size=1, max_size=12), st.booleans())
def test_each_caller_has_its_own_rows_whatever_fails_together(rounds: list[list[list[str]]], alone: bool) -> None:
    backend: Any = StackBackend(alone=alone)
    lived = run(_live(backend, rounds, Heard()))
    for entries, answers in zip(rounds, lived, strict=True):
        for rows, answer in zip(entries, answers, strict=True):
            assert answer.error is None
            assert [row for piece in answer.pieces for row in cast("list[str]", piece)] == [
                row for row in rows if not is_row(row, "poison")
            ]
            assert sorted(answer.errors) == [at for at, row in enumerate(rows) if is_row(row, "poison")]


@pytest.mark.parametrize("alone", [False, True])
def test_after_a_while_no_call_fails_any_more(alone: bool) -> None:
    backend, heard = StackBackend(alone=alone), Heard()
    mixed = [[f"{size}/{number}"] for number in range(3) for size in "abc"] + [["a/7", "b/7"]]
    run(_live(backend, [mixed] * 12, heard))
    assert heard.told == ([False, True] if alone else [False])
    late = backend.calls[-40:] if alone else backend.calls[-20:]
    assert not any(backend.is_mixed(call) for call in late)
    assert alone or max(len(call.rows) for call in late) == 3
