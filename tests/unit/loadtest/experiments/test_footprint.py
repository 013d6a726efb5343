"""The steps of a model's life in memory."""

from __future__ import annotations

from loadtest.experiments.footprint import MemoryStep, draw_table


def test_a_line_tells_what_a_step_added_and_what_there_is_in_all() -> None:
    lines = draw_table([MemoryStep("imported", 100.0, 300.0), MemoryStep("opened", 250.0, 310.0)]).splitlines()[-2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [["imported", "100", "100", "300", "400"], ["opened", "250", "150", "310", "560"]]
