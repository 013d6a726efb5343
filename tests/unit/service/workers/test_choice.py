"""How many processes `--workers=auto` serves with: a matter of what a request takes, of cores and of memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.service.workers.choice import (
    BUSY,
    ENGINE,
    LOOP,
    LOOP_S,
    MAX_BYTES,
    MAX_WORKERS,
    MEMORY,
    UNKNOWN,
    Resources,
    choose_workers,
)

PLENTY = 1 << 40
SMALL = 250 << 20
DIGITS_S, EFFICIENTNET_S = 25e-6, 10e-3


def machine(cores: int, *, own: int = SMALL, free: int = PLENTY, is_compiled: bool = True) -> Resources:
    return Resources(cores, own, free, is_compiled)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_two_cores_get_two_processes_for_a_model_that_costs_less_than_its_requests_and_one_for_a_large_one(
    is_compiled: bool,
) -> None:
    two = machine(2, is_compiled=is_compiled)
    assert choose_workers({"digits": DIGITS_S}, two)[:2] == (2, LOOP)
    assert choose_workers({"efficientnet": EFFICIENTNET_S}, two)[:2] == (1, ENGINE)


@pytest.mark.parametrize(
    ("row_s", "workers"),
    [
        (30e-6, [1, 2, 4, 8, 15, 16, 16]),  # the 28x28 model
        (0.5e-3, [1, 1, 1, 2, 3, 6, 11]),
        (5.5e-3, [1, 1, 1, 1, 1, 1, 2]),  # EfficientNet-Lite0
    ],
)
def test_many_cores_get_as_many_processes_as_decision_50_says(row_s: float, workers: list[int]) -> None:
    assert [choose_workers({"m": row_s}, machine(1 << power)).workers for power in range(7)] == workers


def test_of_several_models_the_one_whose_loop_is_the_bound_counts_and_the_log_can_name_it() -> None:
    found = choose_workers({"large": EFFICIENTNET_S, "small": DIGITS_S}, machine(2))
    assert (found.workers, found.fields["model"], found.fields["engine_us"]) == (2, "small", 25)


def test_a_model_that_was_not_measured_gets_one_process() -> None:
    assert choose_workers({"m": math.inf}, machine(8))[:2] == (1, UNKNOWN)
    assert choose_workers({}, machine(8))[:2] == (1, UNKNOWN)


def test_what_has_no_room_is_not_started() -> None:
    model = {"m": 0.0}
    assert choose_workers(model, machine(8, free=6 * SMALL))[:2] == (4, LOOP)  # half of the free memory: three more
    assert choose_workers(model, machine(8, free=SMALL))[:2] == (1, MEMORY)
    assert choose_workers(model, machine(8, own=MAX_BYTES + 1))[:2] == (1, MEMORY)
    assert choose_workers(model, machine(8, own=0)).workers == 8  # a system that does not say


machines = st.builds(Resources, st.integers(1, 256), st.integers(0, 1 << 33), st.integers(0, 1 << 36), st.booleans())


@given(machines, st.floats(0, 1), st.floats(0, 1))
def test_cores_memory_and_the_work_of_the_loops_bound_the_number(found: Resources, row_s: float, more_s: float) -> None:
    workers = choose_workers({"m": row_s}, found).workers
    assert 1 <= workers <= min(found.cores, MAX_WORKERS)
    assert found.own_bytes * (workers - 1) <= found.free_bytes / 2
    loop_s = LOOP_S[found.is_compiled]
    assert workers < found.cores * loop_s / (loop_s + row_s) / BUSY + 1
    assert choose_workers({"m": row_s + more_s}, found).workers <= workers
