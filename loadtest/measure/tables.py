"""Numbers and Markdown tables for the output of the programs. Standard library only: the Locust image has little else."""

import math
import statistics
from collections.abc import Iterable, Sequence


def number(value: float | None, *, digits: int = 1) -> str:
    """Formats a number for a table; None is a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"


def ratio(ratios: Sequence[float]) -> str:
    """The median; of six or more also the interval in which the true median lies with 95 % certainty, by the sign test."""
    median, count = statistics.median(ratios), len(ratios)
    outside = 0  # the largest number of values that may be cut off at each end
    while 2 * sum(math.comb(count, k) for k in range(outside + 1)) / 2**count <= 0.05:
        outside += 1
    if not outside:
        return f"{median:.3f}"
    inside = sorted(ratios)[outside - 1 : count - outside + 1]
    return f"{median:.3f} ({inside[0]:.3f} to {inside[-1]:.3f})"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; the first column is aligned to the left, the others to the right."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(heads))]
    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]

    def draw(line: Sequence[str]) -> str:
        cells = (
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        return "| " + " | ".join(cells) + " |"

    return "\n".join([draw(lines[0]), draw(rule), *(draw(line) for line in lines[1:])])
