from __future__ import annotations

import re

import pytest

import darkroom.batching.errors
import darkroom.models.errors
import darkroom.service.errors
from darkroom.batching.errors import BatchingError, QueueFull
from darkroom.models.errors import InvalidInput, ModelError
from darkroom.service.errors import (
    TABLE,
    UNKNOWN,
    CodecError,
    NotReady,
    Verdict,
    describe,
    http_code,
    judge,
    quote,
    retry_after_s,
)

OUTCOMES = {
    "ok",
    "invalid_input",
    "queue_full",
    "predicted_late",
    "expired",
    "cancelled",
    "model_error",
    "out_of_memory",
    "draining",
}


def _tree(root: type[Exception]) -> list[type[Exception]]:
    return [root, *(cls for child in root.__subclasses__() for cls in _tree(child))]


def test_every_exception_of_the_house_stands_in_the_table_itself() -> None:
    named = [
        cls
        for module in (darkroom.batching.errors, darkroom.models.errors, darkroom.service.errors)
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Exception) and cls.__module__ == module.__name__
    ]
    assert len(named) > 12
    assert [cls for cls in named if cls not in TABLE] == []


def test_every_outcome_is_one_of_the_label_s_values() -> None:
    assert {verdict.outcome for verdict in TABLE.values()} <= OUTCOMES


@pytest.mark.parametrize("verdict", [*TABLE.values(), UNKNOWN])
def test_every_exception_has_a_code_for_programs(verdict: Verdict) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", verdict.code)


def test_a_code_means_one_kind_of_status_so_that_a_program_may_go_by_either() -> None:
    for code in {verdict.code for verdict in TABLE.values()}:
        assert len({verdict.status // 100 for verdict in TABLE.values() if verdict.code == code}) == 1


@pytest.mark.parametrize("status", range(400, 600))
def test_every_http_status_of_an_error_has_a_code(status: int) -> None:
    code = http_code(status)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    if code in (codes := {verdict.code: verdict.status for verdict in TABLE.values()}):
        assert status // 100 == codes[code] // 100


def test_a_subclass_is_judged_as_its_nearest_parent() -> None:
    class Odd(InvalidInput):
        pass

    assert judge(Odd("x")).status == 400
    assert all(judge(cls("x")).status != UNKNOWN.status or TABLE for cls in _tree(NotReady))


def test_an_unknown_exception_is_a_500_that_tells_nothing_of_its_inside() -> None:
    assert judge(KeyError("secret")).status == 500
    assert "secret" not in describe(KeyError("secret"))
    assert describe(CodecError("images[2]: is empty")) == "images[2]: is empty"


@pytest.mark.parametrize("root", [BatchingError, ModelError])
def test_the_roots_are_a_500(root: type[Exception]) -> None:
    assert TABLE[root].status == 500


def test_only_an_error_that_knows_says_when_to_try_again() -> None:
    assert retry_after_s(QueueFull("full", retry_after_s=1.5)) == 1.5
    assert retry_after_s(CodecError("x")) is None


def test_a_client_s_value_is_cut_at_256_characters() -> None:
    assert len(quote("x" * 10_000)) == 257
    assert quote("x") == "'x'"
    assert len(quote("é😀" * 10_000).encode()) <= 256 + len("…".encode())
