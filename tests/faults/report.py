"""The table of a run: on the terminal, as Markdown between two markers of a page, and as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from loadtest.measure.tables import number, table
from tests.faults.checked_clients import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.faults.result import Result

HEADS = (
    "fault", "promised to good requests", "faulty requests", "right", "refused", "lost before", "lost after", "wrong", "hung",
    "gap s", "back s", "MB", "files", "threads", "verdict",
)  # fmt: skip
BEGIN, END = "<!-- the table of `make faults` begins -->", "<!-- the table of `make faults` ends -->"


def row(result: Result) -> list[str]:
    """One result as cells of the table."""
    fault, name = result.fault, _name(result)
    if result.skipped:
        return [name, fault.promise, *["-"] * 12, f"skipped: {result.skipped}"]
    before, after = result.before, result.after
    return [
        name,
        fault.promise,
        _counts(result.faulty),
        str(result.count(Outcome.RIGHT)),
        _counts(result.refusals),
        str(result.count(Outcome.LOST_BEFORE)),
        str(result.count(Outcome.LOST_AFTER)),
        str(result.count(Outcome.WRONG)),
        str(result.count(Outcome.HUNG)),
        number(result.gap_s),
        number(result.recovery_s),
        f"{before.memory_mb:.0f} → {after.memory_mb:.0f}",
        f"{before.descriptors} → {after.descriptors}",
        f"{before.threads} → {after.threads}",
        result.verdict.replace("\n", " ").replace("|", "/")[:300],
    ]


def markdown(results: Sequence[Result], circumstances: Mapping[str, str]) -> str:
    """A table for each group, the totals first."""
    lines = [totals(results), "", *(f"* {name}: {text}" for name, text in circumstances.items())]
    for group in dict.fromkeys(result.fault.group for result in results):
        mine = [result for result in results if result.fault.group == group]
        lines += ["", f"### {group}", "", table(HEADS, [row(result) for result in mine]), ""]
        lines += [f"* **{_name(result)}**: {result.fault.does}" for result in mine]
    return "\n".join(lines)


def totals(results: Sequence[Result]) -> str:
    """One sentence for the whole run."""
    done = [result for result in results if not result.skipped]
    counts = {outcome: sum(result.count(outcome) for result in done) for outcome in Outcome}
    said = ", ".join(f"{count:,} {outcome.value}" for outcome, count in counts.items())
    broken = sum(bool(result.problems) for result in done)
    return f"{len(done)} faults, {len(results) - len(done)} skipped, {broken} broken. Good requests: {said}."


def as_json(results: Sequence[Result], circumstances: Mapping[str, str]) -> str:
    """The same for programs."""
    rows: list[dict[str, Any]] = [
        {
            "group": result.fault.group, "name": result.fault.name, "does": result.fault.does,
            "promise": result.fault.promise, "verdict": result.verdict, "skipped": result.skipped,
            "clients": {outcome.value: result.count(outcome) for outcome in Outcome},
            "refused": {str(status): count for status, count in result.refusals.items()},
            "faulty": dict(result.faulty), "gap_s": round(result.gap_s, 3),
            "recovery_s": None if result.recovery_s is None else round(result.recovery_s, 3),
            "before": result.before._asdict(), "after": result.after._asdict(), "examples": result.examples,
        }
        for result in results
    ]  # fmt: skip
    return json.dumps({"circumstances": dict(circumstances), "faults": rows}, indent=1, ensure_ascii=False)


def put_between_markers(page: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replaces what stands between two markers of a page."""
    old = page.read_text(encoding="utf-8")
    head, _, rest = old.partition(begin)
    page.write_text(f"{head}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def _name(result: Result) -> str:
    """The name of a fault as people write it."""
    return result.fault.name.replace("_", " ")


def _counts(found: Mapping[Any, int]) -> str:
    """`200: 12, 400: 3`, or 0."""
    return ", ".join(f"{word}: {count}" for word, count in sorted(found.items(), key=str)) or "0"
