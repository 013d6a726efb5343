"""Puts back bugs that published batchers have or had, one at a time, and sees the property of generated days find them.

A mutant is the package's source with a few lines changed, loaded under another name.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import invalidate_caches
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from darkroom import batching
from tests.property.schedules import Day, days, live_through, load

SOURCE = Path(batching.__file__).parent

# Enough that each bug is found many times over; the search stops at the first.
HUNT = settings(
    max_examples=1500,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)


@dataclass(frozen=True)
class Bug:
    """What to change: (file, what stands there, what stands there in the mutant), and which requests show it."""

    name: str
    edits: tuple[tuple[str, str, str], ...]


FIELD_BUGS = [
    Bug(
        "the result is set on a cancelled future, and the rest of the batch hangs",
        (
            ("batcher.py", "if not answered.done():", "if True:"),
            ("batcher.py", "        finally:\n            self.withdraw(entry)", "        finally:\n            pass"),
            ("driver/delivery.py", "_FOREIGN = (Exception, asyncio.CancelledError)", "_FOREIGN = ()"),
        ),
    ),
    Bug(
        "the window is re-armed by each entry",
        (("scheduler/deadline_fit.py", "min(fifo.head.arrived_s +", "min(next(reversed(fifo.entries)).arrived_s +"),),
    ),
    Bug(
        "the outputs are not counted",
        (
            ("driver/settlement.py", "error = report.error or _misfit(batch, results)", "error = report.error"),
            (
                "driver/settlement.py",
                "zip(spans, results, strict=True)",
                "zip(spans, results, strict=False)",
            ),
        ),
    ),
    Bug(
        "one bad row fails the whole batch",
        (("driver/settlement.py", "if spans and is_fault and not spans[0][0].whole:", "if False:"),),
    ),
    Bug(
        "an expired row is executed",
        (("scheduler/deadlines.py", "        if entry.due_s < math.inf:\n", "        if False:\n"),),
    ),
]


def mutate(bug: Bug, folder: Path, name: str) -> None:
    """Writes the package with `bug` in it to `folder`, under `name`."""
    edits = {file: [(old, new) for other, old, new in bug.edits if other == file] for file, _, _ in bug.edits}
    for path in SOURCE.rglob("*.py"):
        file = str(path.relative_to(SOURCE))
        text = path.read_text()
        for old, new in edits.get(file, []):
            assert old in text, f"{file} no longer has {old!r}: the mutant must follow the source"
            text = text.replace(old, new)
        (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_text(text.replace("from darkroom.batching", f"from {name}"))


@pytest.mark.parametrize("number", range(len(FIELD_BUGS)), ids=[bug.name for bug in FIELD_BUGS])
@pytest.mark.filterwarnings("ignore")  # a mutant may leave futures behind
def test_the_property_finds_the_bug(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"mutant_{number}"
    mutate(FIELD_BUGS[number], tmp_path, name)
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    mutant = load(name)
    examples = 0

    @seed(1)
    @HUNT
    @given(day=days())
    def day_with_the_bug(day: Day) -> None:
        nonlocal examples
        examples += 1
        live_through(day, mutant)

    with pytest.raises((AssertionError, RuntimeError, TimeoutError, BaseExceptionGroup)):
        day_with_the_bug()
    assert examples <= HUNT.max_examples
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def test_the_unmutated_source_passes_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading it under another name is not what makes the mutants fail."""
    mutate(Bug("none", ()), tmp_path, "mutant_none")
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    copy = load("mutant_none")

    @seed(1)
    @settings(HUNT, max_examples=50)
    @given(day=days())
    def any_day(day: Day) -> None:
        live_through(day, copy)

    any_day()
